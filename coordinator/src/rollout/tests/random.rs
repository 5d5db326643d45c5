//! Servers that do as they please, in any order: what must hold whatever they do.

use std::time::Duration;

use coord_proto::ids::Seq;
use coord_proto::manifest::OnUnknown;
use coord_proto::migration::TaskState;
use coord_proto::report::{FailureCode, HealthState};
use coord_proto::rollout::{Amount, OnFailure, Outcome, RolloutKind, RolloutPhase, Serial, Verb, Verdict};
use proptest::prelude::*;

use super::super::Duty;
use super::world::World;

/// What one server does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    Obey,
    Fail,
    FallBack,
    Sicken,
    Vanish,
    Return,
    /// A server that nobody has seen before.
    Join,
    /// Time passes and nobody does anything.
    Wait,
    /// Another coordinator takes over.
    NewLeader,
    /// Takes the run-once task, if it may.
    Claim,
    /// Ends the task that it holds.
    Settle,
    /// Its lease ends: presence and lock at once.
    Die,
    /// An operator says how an unknown task ended.
    Resolve,
    /// An operator wishes something.
    Wish(Verb),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => Just(Act::Obey),
        1 => Just(Act::Fail),
        1 => Just(Act::FallBack),
        1 => Just(Act::Sicken),
        1 => Just(Act::Vanish),
        3 => Just(Act::Return),
        1 => Just(Act::Join),
        6 => Just(Act::Wait),
        1 => Just(Act::NewLeader),
        3 => Just(Act::Claim),
        3 => Just(Act::Settle),
        1 => Just(Act::Die),
        1 => Just(Act::Resolve),
        1 => Just(Act::Wish(Verb::Pause)),
        2 => Just(Act::Wish(Verb::Resume)),
        1 => Just(Act::Wish(Verb::Promote)),
    ]
}

fn perform(world: &mut World, act: Act, name: &str) -> Duration {
    let present = world.node_mut(name).present;
    match act {
        Act::Obey if present => world.obey(name),
        Act::Fail | Act::FallBack if present && world.slot_mut(name).desired.is_some() => {
            world.fail(name, FailureCode::HookFailed);
            let failure = world.status_mut(name).failure.as_mut().expect("it failed");
            failure.fell_back = matches!(act, Act::FallBack);
        }
        Act::Sicken if present && world.slot_mut(name).status.is_some() => world.status_mut(name).health = HealthState::Unhealthy,
        Act::Vanish => world.vanish(name),
        Act::Return => world.come_back(name),
        Act::Join if world.fleet.nodes.len() < 12 => world.join(&format!("m{}", world.fleet.nodes.len())),
        Act::NewLeader => world.new_leader(),
        Act::Claim if present && may_claim(world, name) => world.task(2, "before", TaskState::Claimed, name),
        Act::Settle if holds(world, name) => world.task(2, "before", TaskState::Succeeded, name),
        Act::Die => {
            world.vanish(name);
            if holds(world, name) {
                world.app_mut().lock = None;
            }
        }
        Act::Resolve if task(world) == Some(TaskState::Unknown) => world.task(2, "before", TaskState::Succeeded, name),
        Act::Wish(verb) => world.wish(verb),
        Act::Wait => return Duration::from_secs(4),
        _ => {}
    }
    Duration::ZERO
}

fn task(world: &World) -> Option<TaskState> {
    world.app().tasks.first().map(|r| r.state)
}

fn may_claim(world: &World, name: &str) -> bool {
    let told = world.state().targets.iter().any(|t| t.node.as_str() == name && t.told);
    told && world.phase() == RolloutPhase::Running && matches!(task(world), None | Some(TaskState::Pending))
}

fn holds(world: &World, name: &str) -> bool {
    task(world) == Some(TaskState::Claimed) && world.app().lock.as_ref().is_some_and(|l| l.holder.as_str() == name)
}

/// Nobody knows how the task ended, or its record does not say yet that nobody does.
fn in_doubt(world: &World) -> bool {
    task(world) == Some(TaskState::Unknown) || (task(world) == Some(TaskState::Claimed) && world.app().lock.is_none())
}

/// A pass, and what the leader does about tasks in it.
fn pass(world: &mut World, elapsed: Duration) {
    let doubt = in_doubt(world) && world.phase() == RolloutPhase::Running;
    let decision = world.pass(elapsed);
    if doubt {
        assert!(matches!(world.phase(), RolloutPhase::Running | RolloutPhase::AwaitingDecision), "{:?}", world.state());
    }
    for duty in decision.duties {
        let holder = world.app().tasks[0].holder.to_string();
        let state = if matches!(duty, Duty::MarkUnknown(_)) { TaskState::Unknown } else { TaskState::Pending };
        world.task(2, "before", state, &holder);
    }
}

/// Servers that were told and have neither finished nor failed nor gone.
fn in_transition(world: &World) -> usize {
    world.state().targets.iter().filter(|t| t.told && t.outcome == Outcome::Pending).count()
}

fn count(world: &World, outcome: Outcome) -> usize {
    world.state().targets.iter().filter(|t| t.told && t.outcome == outcome).count()
}

fn check(world: &World, serial: &Serial, stable_before: Option<Seq>) {
    let state = world.state();
    let forward = matches!(state.phase, RolloutPhase::Staging | RolloutPhase::Running | RolloutPhase::Finishing);
    if forward {
        let largest = (0..state.batches).map(|b| serial.size(b, state.targets.len())).max().unwrap_or(1);
        assert!(in_transition(world) <= largest, "{} at once, {largest} allowed: {state:?}", in_transition(world));
        // While a task that was begun is undecided, whoever is away does not count yet, and the budget waits for what it comes to.
        let undecided = task(world).is_some_and(|t| t != TaskState::Succeeded);
        assert!(undecided || count(world, Outcome::Failed) <= state.max_failed, "over the budget: {state:?}");
        assert!(undecided || count(world, Outcome::Unreachable) <= state.max_unreachable, "over the budget: {state:?}");
    }
    check_the_way_back(world);
    let told: Vec<&str> = state.targets.iter().filter(|t| t.told).map(|t| t.node.as_str()).collect();
    if state.phase != RolloutPhase::Succeeded {
        let orders = world.running_orders(2);
        assert!(orders.iter().all(|n| told.contains(n)), "{orders:?} told beside {told:?}");
    }
    if world.stable() != stable_before {
        assert_eq!(state.phase, RolloutPhase::Succeeded);
        assert!(state.whole && count(world, Outcome::Done) > 0, "{state:?}");
        assert!(state.targets.len() - count(world, Outcome::Done) <= state.max_failed + state.max_unreachable, "{state:?}");
    }
}

/// Once it turned back, nobody is told to run the release again; those that were told go back to what they had.
fn check_the_way_back(world: &World) {
    let state = world.state();
    if !(state.turned_back || state.phase == RolloutPhase::RolledBack) {
        return;
    }
    for target in &state.targets {
        let run = world.desired(target.node.as_str()).run;
        match (target.told, target.prior.0) {
            (true, 0) => assert_ne!(state.phase, RolloutPhase::RolledBack, "{target:?} has nothing to go back to"),
            (true, _) => assert_eq!(run, target.prior, "{target:?} in {state:?}"),
            (false, _) => assert_ne!(run, Seq(2), "{target:?} in {state:?}"),
        }
    }
}

/// The next rollout leaves all servers but one out: who runs a release that did not prove itself leaves it.
fn check_the_next_rollout(world: &mut World, stable: Option<Seq>) {
    let good = world.verdict(2) == Verdict::Good;
    world.publish(3);
    world.spec_mut().limit = Some("node=n1".parse().expect("selector"));
    world.settle();
    // Few at a time, and not while they are away.
    for _ in 0..world.fleet.nodes.len() {
        world.obey_all();
        world.settle();
    }
    let outside = |name: &&str| *name != "n1" && world.fleet.nodes.iter().any(|(n, node)| n.as_str() == *name && node.present);
    if stable.is_some() && !good {
        assert_eq!(world.running_orders(2).into_iter().filter(outside).count(), 0, "{:?}", world.state());
    }
}

/// What operators ask for next must end too, and leaves stable where it is, or moves it to where all servers are.
fn check_a_second_word(world: &mut World, kind: RolloutKind) {
    let before = world.stable();
    match kind {
        RolloutKind::Retry => world.retry(),
        _ => world.ask(kind, before.map_or(2, |s| s.0)),
    }
    world.settle();
    run_to_the_end(world);
    world.settle();
    if world.stable() != before {
        assert!(world.phase() == RolloutPhase::Succeeded && kind != RolloutKind::Restart, "{:?}", world.state());
        let stable = world.stable().expect("it moved");
        assert_eq!(world.running_orders(stable.0).len(), world.fleet.nodes.len(), "{:?}", world.state());
    }
}

/// From here on everybody does as told: the rollout must end.
fn run_to_the_end(world: &mut World) {
    world.wish(Verb::Resume);
    for _ in 0..200 {
        if world.state().phase.ended() {
            return;
        }
        let names: Vec<String> = world.fleet.nodes.keys().map(ToString::to_string).collect();
        names.iter().for_each(|name| world.come_back(name));
        world.obey_all();
        if task(world).is_some_and(|t| t != TaskState::Succeeded) {
            world.task(2, "before", TaskState::Succeeded, "n1");
        }
        pass(world, Duration::from_secs(5));
    }
    panic!("the rollout does not end: {:?}", world.state());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_servers_do_batches_and_budgets_hold_and_it_ends(
        servers in 1usize..8,
        first in any::<bool>(),
        sizes in prop::collection::vec(1u32..4, 1..3),
        max_failed in 0u32..3,
        max_unreachable in 0u32..3,
        halt in any::<bool>(),
        repeat in any::<bool>(),
        abort in any::<bool>(),
        next in 0usize..3,
        acts in prop::collection::vec((act(), 0usize..12), 0..120),
    ) {
        let mut world = if first { World::empty(servers) } else { World::with_stable(servers) };
        world.publish(2);
        let serial = Serial(sizes.into_iter().map(Amount::Count).collect());
        let policy = world.policy();
        policy.serial = serial.clone();
        policy.max_failed = Amount::Count(max_failed);
        policy.max_unreachable = Amount::Count(max_unreachable);
        policy.on_failure = if halt { OnFailure::Halt } else { OnFailure::Rollback };
        if repeat {
            world.facts_mut(2).tasks[0].on_unknown = OnUnknown::Retry;
        }
        let stable_before = world.stable();
        world.settle();
        for (act, index) in acts {
            let names: Vec<String> = world.fleet.nodes.keys().map(ToString::to_string).collect();
            let elapsed = perform(&mut world, act, &names[index % names.len()]);
            pass(&mut world, elapsed);
            check(&world, &serial, stable_before);
            world.settle();
            check(&world, &serial, stable_before);
        }
        if abort {
            world.wish(Verb::Abort);
        }
        run_to_the_end(&mut world);
        check(&world, &serial, stable_before);
        world.settle();
        let succeeded = world.phase() == RolloutPhase::Succeeded;
        prop_assert_eq!(world.stable() == Some(Seq(2)), succeeded && world.state().whole);
        let mut other = World { name: world.name.clone(), fleet: world.fleet.clone(), timers: world.timers.clone(), now: world.now };
        check_the_next_rollout(&mut world, stable_before);
        check_a_second_word(&mut other, [RolloutKind::Retry, RolloutKind::Restart, RolloutKind::Rollback][next]);
    }
}
