//! Each verb in each phase, and the rollouts that operators ask for beside new releases.

use coord_proto::ids::NodeName;
use coord_proto::migration::Phase;
use coord_proto::rollout::{RolloutKind as K, Serial, Verb as V};

use super::*;

const PHASES: [P; 10] = [
    P::Staging,
    P::Running,
    P::AwaitingPromotion,
    P::AwaitingDecision,
    P::Finishing,
    P::RollingBack,
    P::Succeeded,
    P::Halted,
    P::RolledBack,
    P::Aborted,
];

/// A rollout of release 2 on three servers, in this phase.
fn in_phase(phase: P) -> World {
    let mut world = match phase {
        P::Staging => second_release(),
        P::Finishing | P::Succeeded => {
            let mut world = second_release();
            world.policy().serial = all();
            if phase == P::Finishing {
                world.add_task(2, "after");
            }
            drive(&mut world);
            world
        }
        P::AwaitingPromotion => {
            let mut world = second_release();
            world.policy().promote = Promote::Manual;
            drive(&mut world);
            world
        }
        P::Halted => {
            let mut world = second_release();
            world.policy().on_failure = OnFailure::Halt;
            world.settle();
            world.obey_all();
            world.settle();
            world.fail("n1", FailureCode::HookFailed);
            world
        }
        _ => first_batch(),
    };
    match phase {
        P::AwaitingDecision => world.task(2, "before", TaskState::Unknown, "n1"),
        P::RollingBack | P::RolledBack => world.fail("n1", FailureCode::HookFailed),
        P::Aborted => world.wish(V::Abort),
        _ => {}
    }
    world.settle();
    if matches!(phase, P::RolledBack | P::Aborted) {
        world.obey_all();
        world.settle();
    }
    assert_eq!(world.phase(), phase, "{:?}", world.state());
    world
}

fn all() -> Serial {
    "100%".parse().expect("serial")
}

/// Everybody obeys and time passes until nothing is left to do.
fn drive(world: &mut World) {
    for _ in 0..20 {
        world.settle();
        world.obey_all();
        world.pass(BAKE);
    }
    world.settle();
}

fn run(world: &World, name: &str) -> Seq {
    world.desired(name).run
}

#[test]
fn every_verb_in_every_phase() {
    for phase in PHASES {
        for verb in [V::Pause, V::Resume, V::Promote, V::Abort] {
            let mut world = in_phase(phase);
            let before = world.state().clone();
            world.wish(verb);
            world.settle();
            let state = world.state();
            let paused = verb == V::Pause && matches!(phase, P::Staging | P::Running | P::AwaitingPromotion | P::AwaitingDecision);
            assert_eq!(state.paused, paused, "{verb:?} in {phase:?}");
            assert_eq!(state.promoted, verb == V::Promote && phase == P::AwaitingPromotion, "{verb:?} in {phase:?}");
            let then = match (verb, phase) {
                (V::Promote, P::AwaitingPromotion) => P::Running,
                (V::Abort, P::Staging) => P::Aborted,
                (V::Abort, P::Running | P::AwaitingPromotion | P::AwaitingDecision) => P::RollingBack,
                (V::Abort, P::Finishing) => P::Halted,
                _ => phase,
            };
            assert_eq!(state.phase, then, "{verb:?} in {phase:?}");
            let turned = (state.turned_back, state.aborted);
            if phase == P::RollingBack {
                assert_eq!(turned, (true, false), "{verb:?}: it goes back by itself");
            }
            if phase.ended() {
                assert_eq!(*state, before, "{verb:?} in {phase:?}: what has ended is not touched");
            } else {
                assert!(state.wish_revision > before.wish_revision, "{verb:?} in {phase:?}: who wished it sees that it was read");
            }
        }
    }
}

#[test]
fn a_promotion_of_a_paused_rollout_opens_the_next_batch_when_it_is_resumed() {
    let mut world = in_phase(P::AwaitingPromotion);
    world.wish(V::Pause);
    world.settle();
    world.wish(V::Promote);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::AwaitingPromotion, vec!["n1"]));
    world.wish(V::Resume);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]));
}

#[test]
fn an_abort_waits_for_the_servers_that_go_back_and_names_the_one_that_does_not() {
    let mut world = in_phase(P::Running);
    world.obey("n1");
    world.wish(V::Abort);
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1")), (P::RollingBack, Seq(1)));
    world.pass(DEADLINE - Duration::from_secs(1));
    world.wish(V::Abort);
    world.settle();
    assert_eq!(world.phase(), P::RollingBack, "the second time changes nothing, not even the deadline");
    world.pass(Duration::from_secs(1));
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Halted, "aborted by ann; n1 did not return"));
}

#[test]
fn an_abort_past_a_migration_without_a_way_back_leaves_the_servers() {
    let mut world = in_phase(P::Running);
    world.facts_mut(2).reversible = false;
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.wish(V::Abort);
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1"), run(&world, "n2")), (P::Halted, Seq(2), Seq(1)));
    assert!(world.state().reason.contains("no way back"), "{}", world.state().reason);
}

/// The very first release, told to n1 and n2 of three; both are at this step.
fn first_release_at(step: Step) -> World {
    let mut world = World::empty(3);
    world.publish(1);
    world.policy().serial = "2".parse().expect("serial");
    world.settle();
    world.obey_all();
    world.settle();
    for name in ["n1", "n2"] {
        let generation = world.desired(name).generation;
        let status = world.status_mut(name);
        (status.step, status.generation, status.running) = (step, generation, None);
    }
    world
}

/// The server is idle, told to run nothing, and runs nothing.
fn rests_without(world: &mut World, name: &str) {
    let generation = world.desired(name).generation;
    let status = world.status_mut(name);
    (status.step, status.generation, status.running) = (Step::Idle, generation, None);
}

#[test]
fn an_abort_of_the_very_first_release_calls_back_whoever_has_not_switched() {
    let mut world = first_release_at(Step::Preparing);
    world.wish(V::Abort);
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1"), run(&world, "n2")), (P::RollingBack, Seq(0), Seq(0)));
    assert_eq!((world.desired("n1").may_migrate, world.desired("n3").stage), (false, None));
    rests_without(&mut world, "n1");
    world.settle();
    assert_eq!(world.phase(), P::RollingBack, "n2 is still at its step");
    rests_without(&mut world, "n2");
    world.settle();
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Aborted, "aborted by ann"));
    assert_eq!((run(&world, "n1"), world.target("n1").outcome, world.stable()), (Seq(0), Outcome::Pending, None));
    world.publish(2);
    drive(&mut world);
    assert_eq!((world.phase(), world.running_orders(2).len()), (P::Succeeded, 3), "the next one is not held up");
}

#[test]
fn an_abort_of_the_very_first_release_leaves_a_server_on_it_that_has_switched_or_finishes_that() {
    let mut world = first_release_at(Step::Draining);
    world.obey("n1");
    world.wish(V::Abort);
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1"), run(&world, "n2")), (P::RollingBack, Seq(1), Seq(0)));
    let on_one = world.status_mut("n1").running.clone();
    world.obey("n1");
    // The step that it was at was the switch: its end is that it runs the release, and it does nothing more.
    rests_without(&mut world, "n2");
    world.status_mut("n2").running = on_one;
    world.settle();
    let stays = "aborted by ann; with nothing to go back to, n1, n2 stay on release r1";
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Aborted, stays));
    assert_eq!((run(&world, "n1"), run(&world, "n2"), run(&world, "n3")), (Seq(1), Seq(0), Seq(0)));
    assert_eq!((world.target("n1").outcome, world.target("n2").outcome), (Outcome::Done, Outcome::Done));
}

#[test]
fn an_abort_of_the_very_first_release_waits_no_longer_than_a_batch_for_a_step_to_end() {
    let mut world = first_release_at(Step::Restarting);
    world.vanish("n2");
    world.wish(V::Abort);
    world.settle();
    world.pass(DEADLINE);
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Halted, "aborted by ann; n1 did not return"));
}

/// Releases 1, 2 and 3 were rolled out, one after the other.
fn on_release_three(servers: usize) -> World {
    let mut world = World::with_stable(servers);
    for seq in [2, 3] {
        world.publish(seq);
        world.policy().serial = all();
        world.app_mut().seq = Some(coord_proto::rollout::SeqRecord { seq: Seq(seq), created: 0 });
        drive(&mut world);
        assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(seq))));
    }
    world
}

#[test]
fn a_rollback_goes_batch_by_batch_and_moves_stable_back() {
    let mut world = on_release_three(3);
    world.ask(K::Rollback, 2);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(3).len()), (P::Staging, 3));
    world.obey_all();
    world.settle();
    assert_eq!((run(&world, "n1"), run(&world, "n2"), world.stable()), (Seq(2), Seq(3), Some(Seq(3))));
    drive(&mut world);
    assert_eq!((world.phase(), world.stable(), world.running_orders(2).len()), (P::Succeeded, Some(Seq(2)), 3));
    assert_eq!((world.verdict(2), world.verdict(3)), (Verdict::Good, Verdict::Good));
    world.join("n4");
    world.settle();
    assert_eq!(run(&world, "n4"), Seq(2), "a newcomer takes what is stable now");
    world.obey("n4");
    let stable = world.app().stable.clone();
    world.ask(K::Restart, 2);
    drive(&mut world);
    assert_eq!((world.phase(), &world.app().stable), (P::Succeeded, &stable), "a restart does not forget what was left");
}

#[test]
fn a_server_outside_a_rollback_leaves_what_was_rolled_back_and_keeps_a_later_canary() {
    let mut world = on_release_three(3);
    world.node_mut("n3").cordoned = true;
    world.ask(K::Rollback, 2);
    drive(&mut world);
    assert_eq!((world.phase(), world.stable(), run(&world, "n3")), (P::Succeeded, Some(Seq(2)), Seq(3)));
    world.node_mut("n3").cordoned = false;
    world.settle();
    assert_eq!((run(&world, "n3"), world.desired("n3").may_migrate), (Seq(2), false));
    world.obey("n3");
    world.publish(4);
    world.spec_mut().limit = Some("node=n1".parse().expect("selector"));
    drive(&mut world);
    assert_eq!((world.phase(), run(&world, "n1"), run(&world, "n3")), (P::Succeeded, Seq(4), Seq(2)));
    world.ask(K::Restart, 2);
    drive(&mut world);
    assert_eq!(
        (run(&world, "n1"), world.app().stable.as_ref().and_then(|s| s.back_from)),
        (Seq(4), Some(Seq(3))),
        "it was put there since"
    );
}

#[test]
fn what_was_rolled_back_from_is_no_place_to_stay_at_or_to_go_back_to() {
    let mut world = on_release_three(3);
    world.node_mut("n3").cordoned = true;
    world.ask(K::Rollback, 2);
    drive(&mut world);
    world.node_mut("n3").cordoned = false;
    world.publish(4);
    world.settle();
    assert_eq!((run(&world, "n3"), world.target("n3").prior), (Seq(2), Seq(2)));
}

#[test]
fn a_rollback_starts_no_after_task_and_what_it_goes_back_to_is_not_bad() {
    let mut world = World::with_stable(2);
    world.publish(2);
    world.add_task(2, "after");
    world.policy().serial = all();
    drive(&mut world);
    world.wish(V::Abort);
    world.settle();
    assert_eq!((world.phase(), world.stable()), (P::Halted, Some(Seq(2))), "its after task never ran");
    world.publish(3);
    world.policy().serial = all();
    drive(&mut world);
    world.ask(K::Rollback, 2);
    world.policy().serial = all();
    let mut failing = World { name: world.name.clone(), fleet: world.fleet.clone(), timers: world.timers.clone(), now: world.now };
    drive(&mut world);
    assert_eq!((world.phase(), world.stable(), world.desired("n1").after), (P::Succeeded, Some(Seq(2)), None));
    failing.settle();
    failing.obey_all();
    failing.settle();
    failing.fail("n1", FailureCode::HookFailed);
    failing.settle();
    assert_eq!((failing.phase(), failing.verdict(2), failing.stable()), (P::Halted, Verdict::Good, Some(Seq(3))));
}

#[test]
fn an_aborted_rollback_takes_the_told_ones_forward_again_whatever_ran_after_the_older_release() {
    let mut world = on_release_three(2);
    world.task(2, "after", TaskState::Succeeded, "n1");
    world.ask(K::Rollback, 2);
    world.settle();
    world.obey_all();
    world.settle();
    world.wish(V::Abort);
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1")), (P::RollingBack, Seq(3)));
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.stable()), (P::Aborted, Some(Seq(3))));
}

#[test]
fn a_restart_goes_batch_by_batch_on_the_same_release_and_moves_nothing() {
    let mut world = on_release_three(3);
    let stable = world.app().stable.clone();
    world.ask(K::Restart, 3);
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!((world.desired("n1").restart, world.desired("n2").restart), (1, 0));
    world.join("n4");
    let restarted = world.status_mut("n1").restarted;
    world.settle();
    assert_eq!(world.target("n1").outcome, Outcome::Pending, "told to restart {restarted} times so far");
    drive(&mut world);
    let restarts: Vec<u64> = ["n1", "n2", "n3"].iter().map(|n| world.desired(n).restart).collect();
    assert_eq!((world.phase(), restarts), (P::Succeeded, vec![1, 1, 1]));
    assert_eq!(world.app().stable, stable);
    assert!(!world.state().targets.iter().any(|t| t.node.as_str() == "n4"), "what has just come needs no restart");
    assert_eq!((run(&world, "n4"), world.desired("n4").restart), (Seq(3), 0));
}

#[test]
fn a_restart_and_a_retry_that_no_server_is_left_for_end() {
    let mut world = on_release_three(1);
    world.ask(K::Restart, 3);
    world.node_mut("n1").cordoned = true;
    world.settle();
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Halted, "no server is left that it was asked for"));
    world.retry();
    world.settle();
    assert_eq!(world.phase(), P::Halted);
}

#[test]
fn a_restart_leaves_a_canary_where_it_is() {
    let mut world = on_release_three(3);
    world.publish(4);
    world.spec_mut().limit = Some("node=n2".parse().expect("selector"));
    drive(&mut world);
    world.ask(K::Restart, 3);
    drive(&mut world);
    assert_eq!((world.phase(), run(&world, "n2"), world.desired("n2").restart), (P::Succeeded, Seq(4), 0));
    assert_eq!(world.state().targets.iter().map(|t| t.node.as_str()).collect::<Vec<_>>(), ["n1", "n3"]);
}

#[test]
fn a_restart_that_fails_halts_and_the_stable_release_is_not_bad() {
    let mut world = on_release_three(2);
    world.ask(K::Restart, 3);
    world.spec_mut().policy.on_failure = OnFailure::Rollback;
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.verdict(3), world.desired("n2").restart), (P::Halted, Verdict::Good, 0));
    let generation = world.desired("n1").generation;
    world.retry();
    world.settle();
    world.obey_all();
    world.settle();
    assert!(world.desired("n1").generation > generation, "it is asked again");
    assert_eq!((world.desired("n1").restart, world.desired("n2").restart), (1, 0), "and only it");
    world.obey_all();
    drive(&mut world);
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(3))));
}

/// Four servers, two at a time, `on_failure = "halt"`: n2 fails, and `tolerated` servers may.
fn one_failed(tolerated: u32) -> World {
    let mut world = World::with_stable(4);
    world.publish(2);
    let policy = world.policy();
    (policy.serial, policy.on_failure, policy.max_failed) = ("2".parse().expect("serial"), OnFailure::Halt, Amount::Count(tolerated));
    world.settle();
    world.obey_all();
    world.settle();
    world.obey("n1");
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    world.pass(BAKE);
    for _ in 0..3 {
        let up: Vec<NodeName> = world.fleet.nodes.keys().filter(|n| n.as_str() != "n2").cloned().collect();
        up.iter().for_each(|n| world.obey(n.as_str()));
        world.pass(BAKE);
        world.settle();
    }
    world
}

#[test]
fn a_retry_is_for_the_failed_server_and_the_others_keep_what_they_run() {
    let mut world = one_failed(0);
    assert_eq!((world.phase(), world.verdict(2), world.running_orders(2)), (P::Halted, Verdict::Bad, vec!["n1", "n2"]));
    world.retry();
    world.settle();
    assert_eq!(world.running_orders(2), ["n1"], "n1 keeps it, bad or not; n2 stages it first");
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]));
    drive(&mut world);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Succeeded, vec!["n1", "n2"]), "n3 and n4 were never told");
    assert_eq!((world.stable(), world.verdict(2)), (Some(Seq(1)), Verdict::Good), "not all servers run it");
}

#[test]
fn a_retry_after_which_all_servers_run_it_moves_stable() {
    let mut world = World::with_stable(2);
    world.publish(2);
    world.policy().serial = all();
    world.policy().on_failure = OnFailure::Halt;
    world.settle();
    world.obey_all();
    world.settle();
    world.obey("n1");
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.stable()), (P::Halted, Some(Seq(1))));
    world.retry();
    drive(&mut world);
    assert_eq!((world.phase(), world.stable(), world.verdict(2)), (P::Succeeded, Some(Seq(2)), Verdict::Good));
}

#[test]
fn a_retry_waits_for_a_server_that_was_still_at_it_when_the_rollout_halted() {
    let mut world = World::with_stable(2);
    world.publish(2);
    world.policy().serial = all();
    world.policy().on_failure = OnFailure::Halt;
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.target("n1").outcome), (P::Halted, Outcome::Pending));
    world.retry();
    world.settle();
    world.obey("n2");
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1"), run(&world, "n2")), (P::Staging, Seq(2), Seq(1)), "n1 is not called back");
    drive(&mut world);
    assert_eq!((world.phase(), world.stable(), world.running_orders(2).len()), (P::Succeeded, Some(Seq(2)), 2));
}

#[test]
fn a_retry_within_the_budget_of_a_rollout_that_succeeded_takes_nothing_back() {
    let mut world = one_failed(1);
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(2))));
    world.retry();
    world.spec_mut().policy.max_failed = Amount::Count(0);
    world.spec_mut().policy.on_failure = OnFailure::Rollback;
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2).len()), (P::Halted, 4));
    assert_eq!((world.verdict(2), world.stable()), (Verdict::Good, Some(Seq(2))), "what is stable is not bad");
    world.retry();
    drive(&mut world);
    assert_eq!(world.phase(), P::Succeeded, "a retry of a retry");
}

#[test]
fn a_retry_of_what_was_rolled_back_tells_nobody_else() {
    let mut world = in_phase(P::RolledBack);
    world.retry();
    drive(&mut world);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Succeeded, vec!["n1"]));
    assert_eq!(world.stable(), Some(Seq(1)));
}

#[test]
fn a_retry_does_not_count_on_a_server_that_went_away_on_the_way_back() {
    let mut world = second_release();
    world.policy().serial = all();
    world.settle();
    world.obey_all();
    world.settle();
    ["n1", "n3"].iter().for_each(|n| world.obey(n));
    world.settle();
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    world.vanish("n3");
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.target("n3").outcome), (P::RolledBack, Outcome::Done));
    world.retry();
    world.settle();
    assert_eq!(world.state().targets.iter().map(|t| t.node.as_str()).collect::<Vec<_>>(), ["n2"]);
    world.come_back("n3");
    drive(&mut world);
    assert_eq!((world.running_orders(2), world.stable()), (vec!["n2"], Some(Seq(1))));
}

#[test]
fn a_retry_that_fails_takes_back_all_that_run_it() {
    let mut world = one_failed(0);
    world.retry();
    world.spec_mut().policy.on_failure = OnFailure::Rollback;
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), run(&world, "n1"), run(&world, "n2")), (P::RollingBack, Seq(1), Seq(1)));
}

#[test]
fn a_superseded_server_brings_its_step_to_an_end_and_waits_there_for_its_turn() {
    let mut world = first_batch();
    for (step, held) in [(Step::Switching, 2), (Step::Probing, 2), (Step::Preparing, 1), (Step::WaitingForMigration, 1)] {
        let mut world = World { name: world.name.clone(), fleet: world.fleet.clone(), timers: world.timers.clone(), now: world.now };
        let generation = world.desired("n1").generation;
        let status = world.status_mut("n1");
        (status.step, status.generation) = (step, generation);
        world.publish(3);
        world.settle();
        assert_eq!((run(&world, "n1"), world.desired("n1").stage), (Seq(held), Some(Seq(3))), "{step:?}");
        drive(&mut world);
        assert_eq!((world.phase(), world.running_orders(3).len()), (P::Succeeded, 3), "{step:?}");
    }
    world.publish(3);
    world.settle();
    assert!(world.app().manifests[&Seq(3)].tasks_of(Phase::Before).next().is_some(), "its migration comes after the older one's");
}

/// Release 2 for n1 in zone b and n2 in zone a, at once and with `on_failure = "halt"`.
fn in_two_zones() -> World {
    let mut world = World::with_stable(2);
    world.label("n1", "zone", "b");
    world.label("n2", "zone", "a");
    world.publish(2);
    let policy = world.policy();
    (policy.serial, policy.spread, policy.on_failure, policy.max_failed) = (all(), Spread::Zone, OnFailure::Halt, Amount::Count(1));
    world
}

/// Both servers fail; then they are tried again.
fn fail_both_and_retry(world: &mut World) {
    for failed in ["n2", "n1"] {
        world.settle();
        world.fail(failed, FailureCode::HookFailed);
    }
    world.settle();
    assert_eq!(world.phase(), P::Halted);
    world.retry();
    world.settle();
}

#[test]
fn a_retry_keeps_zones_apart() {
    let mut world = in_two_zones();
    world.settle();
    world.obey_all();
    fail_both_and_retry(&mut world);
    assert_eq!((world.target("n2").batch, world.target("n1").batch), (0, 1));
}

#[test]
fn a_retry_keeps_those_that_may_migrate_first_across_zones() {
    let mut world = in_two_zones();
    world.label("n1", "role", "db");
    world.add_task(2, "before");
    world.facts_mut(2).tasks[0].on = [("role".to_owned(), "db".to_owned())].into();
    fail_both_and_retry(&mut world);
    assert_eq!((world.target("n1").batch, world.target("n2").batch), (0, 1));
}
