use super::*;
use coord_proto::ids::Digest;
use coord_proto::manifest::Manifest;
use coord_proto::report::{FailureCode, Step};

use crate::journal::Leg;

fn manifest(seq: u64, floor: u64, migrate: bool) -> Arc<Manifest> {
    let migrate = if migrate { r#","migrate":{"command":["migrate"]}"# } else { "" };
    let digest = Digest::of(&seq.to_be_bytes());
    let json = format!(
        r#"{{"version":1,"app":"a","environment":"e","release":"r{seq}","seq":{seq},"floor":{floor},"created":{seq},"revision":"x",
        "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}{migrate}}}"#
    );
    Arc::new(Manifest::decode(json.as_bytes()).expect("a valid manifest"))
}

fn goal(run: u64, stage: Option<u64>, generation: u64) -> Goal {
    Goal {
        run: Seq(run),
        stage: stage.map(Seq),
        after: None,
        generation: Generation(generation),
        rollout: None,
        may_migrate: true,
        restart: 0,
    }
}

fn failure(seq: u64, code: FailureCode) -> Failure {
    Failure {
        seq: Seq(seq),
        step: Step::Probing,
        code,
        chain: vec!["no".into()],
        hint: String::new(),
        log_tail: String::new(),
        fell_back: false,
        attempt: 1,
    }
}

fn machine() -> Machine {
    Machine::new("n".parse().expect("node"), "a".parse().expect("app"), Journal::default())
}

/// Plays a perfect world: every action ends well. Returns the actions in order.
fn play(m: &mut Machine, first: Option<Action>) -> Vec<Action> {
    play_until(m, first, |_| false)
}

fn play_until(m: &mut Machine, first: Option<Action>, stop: impl Fn(&Action) -> bool) -> Vec<Action> {
    let mut done = vec![];
    let mut next = first;
    while let Some(action) = next {
        done.push(action.clone());
        assert!(done.len() < 100, "it does not come to rest: {done:?}");
        if stop(&action) {
            break;
        }
        next = match &action {
            Action::Load(seq) => m.handle(Event::ManifestLoaded(manifest(seq.0, seq.0.saturating_sub(1), true))),
            _ => m.handle(Event::Finished),
        };
    }
    done
}

fn deployed(seq: u64) -> Machine {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(seq, None, 1)));
    play(&mut m, first);
    assert_eq!(m.journal().running.as_ref().map(|r| r.seq), Some(Seq(seq)));
    m
}

#[test]
fn an_empty_server_goes_all_the_way_and_raises_its_floor_at_the_end() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(3, None, 1)));
    let done = play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    assert_eq!(m.journal().floor, Seq(0), "accepted is not yet proven");
    let next = m.handle(Event::Finished);
    play(&mut m, next);
    let hooks = |phase| Action::RunHooks { seq: Seq(3), phase };
    let expected = [
        Action::Load(Seq(3)),
        Action::Stage(Seq(3)),
        Action::Prepare(Seq(3)),
        Action::EnsureTasks { seq: Seq(3), phase: Phase::Before, may_claim: true },
        hooks(HookPhase::Drain),
        Action::Switch("r3".parse().expect("release")),
        hooks(HookPhase::Restart),
        Action::Probe(Seq(3)),
    ];
    assert_eq!(done, expected);
    assert_eq!(m.journal().floor, Seq(2));
    assert_eq!(m.status(0).health, HealthState::Healthy);
    assert_eq!(m.status(0).step, Step::Idle);
}

#[test]
fn staging_changes_nothing_that_the_app_can_see() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(1, Some(2), 2)));
    let done = play(&mut m, first);
    assert_eq!(done, [Action::Load(Seq(2)), Action::Stage(Seq(2)), Action::Prepare(Seq(2))]);
    assert_eq!(m.status(0).staged, Some(Seq(2)));
    assert_eq!(m.journal().running.as_ref().map(|r| r.seq), Some(Seq(1)));
}

#[test]
fn a_staged_release_is_activated_without_another_download() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(1, Some(2), 2)));
    play(&mut m, first);
    let first = m.handle(Event::GoalSeen(goal(2, None, 3)));
    let done = play(&mut m, first);
    assert!(!done.iter().any(|a| matches!(a, Action::Stage(_) | Action::Prepare(_) | Action::Load(_))), "{done:?}");
    assert_eq!(m.journal().previous_good.as_ref().map(|r| r.seq), Some(Seq(1)));
}

#[test]
fn failed_health_goes_back_to_what_was_healthy_here() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    let next = m.handle(Event::Failed(failure(2, FailureCode::Unhealthy)));
    assert_eq!(next, Some(Action::Switch("r1".parse().expect("release"))));
    assert_eq!(m.status(0).step, Step::FallingBack);
    let done = play(&mut m, next);
    let status = m.status(0);
    assert_eq!(status.running.map(|r| r.seq), Some(Seq(1)));
    assert!(status.failure.is_some_and(|f| f.fell_back && f.code == FailureCode::Unhealthy));
    assert_eq!(status.health, HealthState::Healthy);
    assert!(!done.iter().any(|a| matches!(a, Action::Prune { .. })), "a failure prunes nothing");
    assert_eq!(m.handle(Event::GoalSeen(goal(2, None, 2))), None, "what failed is not tried again for the same generation");
    assert!(m.handle(Event::GoalSeen(goal(2, None, 3))).is_some(), "asked anew, it is");
}

#[test]
fn it_never_goes_back_below_the_floor_or_to_what_was_not_healthy() {
    for spoil in [|m: &mut Machine| m.journal.floor = Seq(2), |m: &mut Machine| m.journal.last_healthy = None] {
        let mut m = deployed(1);
        let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
        play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
        spoil(&mut m);
        assert_eq!(m.handle(Event::Failed(failure(2, FailureCode::Unhealthy))), None);
        assert_eq!(m.status(0).health, HealthState::Unhealthy);
    }
}

#[test]
fn a_failed_drain_switches_nothing_and_undrains() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    play_until(&mut m, first, |a| matches!(a, Action::RunHooks { phase: HookPhase::Drain, .. }));
    let next = m.handle(Event::Failed(failure(2, FailureCode::HookFailed)));
    assert_eq!(next, Some(Action::RunHooks { seq: Seq(1), phase: HookPhase::Undrain }));
    let done = play(&mut m, next);
    assert!(!done.iter().any(|a| matches!(a, Action::Switch(_))));
}

#[test]
fn below_the_floor_is_refused_even_when_told_so() {
    let mut m = deployed(5);
    let first = m.handle(Event::GoalSeen(goal(3, None, 2)));
    let done = play(&mut m, first);
    assert_eq!(done, [Action::Load(Seq(3))]);
    assert_eq!(m.status(0).failure.map(|f| f.code), Some(FailureCode::BelowFloor));
    assert_eq!(m.status(0).running.map(|r| r.seq), Some(Seq(5)));
}

#[test]
fn a_passing_failure_rests_until_the_retry() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::Stage(_)));
    assert_eq!(m.handle(Event::Failed(failure(1, FailureCode::Download))), None);
    assert!(m.wants_retry());
    assert_eq!(m.handle(Event::RetryDue), Some(Action::Stage(Seq(1))));
}

#[test]
fn a_restart_goes_on_with_the_leg_that_was_journaled() {
    for leg in [Leg::Drain, Leg::Switch, Leg::Restart, Leg::Probe, Leg::Undrain] {
        let mut before = deployed(1);
        let first = before.handle(Event::GoalSeen(goal(2, None, 2)));
        play_until(&mut before, first, |a| {
            matches!(
                (a, leg),
                (Action::RunHooks { phase: HookPhase::Drain, .. }, Leg::Drain)
                    | (Action::Switch(_), Leg::Switch)
                    | (Action::RunHooks { phase: HookPhase::Restart, .. }, Leg::Restart)
                    | (Action::Probe(_), Leg::Probe)
                    | (Action::RunHooks { phase: HookPhase::Undrain, .. }, Leg::Undrain)
            )
        });
        let mut after = Machine::new("n".parse().expect("node"), "a".parse().expect("app"), before.journal().clone());
        // The store is away: no goal is known, and yet the change is brought to its end.
        let first = after.handle(Event::RetryDue);
        assert_eq!(first, Some(Action::Load(Seq(2))), "{leg:?}");
        play(&mut after, first);
        assert_eq!(after.journal().last_healthy.as_ref().map(|r| r.seq), Some(Seq(2)), "{leg:?}");
    }
}

#[test]
fn a_changed_mind_interrupts_what_nobody_sees_and_only_that() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(1, Some(2), 2)));
    play_until(&mut m, first, |a| matches!(a, Action::Stage(_)));
    assert!(!m.must_yield());
    assert_eq!(m.handle(Event::GoalSeen(goal(1, None, 3))), None);
    assert!(m.must_yield());
    assert_eq!(m.handle(Event::Interrupted), None);
    let first = m.handle(Event::GoalSeen(goal(2, None, 4)));
    play_until(&mut m, first, |a| matches!(a, Action::Switch(_)));
    m.handle(Event::GoalSeen(goal(1, None, 5)));
    assert!(!m.must_yield(), "a switch is brought to its end");
}

#[test]
fn protected_releases_are_never_offered_for_pruning() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    let done = play(&mut m, first);
    let Some(Action::Prune { protected, .. }) = done.last() else { panic!("no prune in {done:?}") };
    let names: Vec<&str> = protected.iter().map(ReleaseId::as_str).collect();
    assert_eq!(names, ["r1", "r2"]);
}

#[test]
fn what_was_pruned_is_forgotten() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    play_until(&mut m, first, |a| matches!(a, Action::Prune { .. }));
    m.handle(Event::Pruned(vec!["r1".parse().expect("release")]));
    assert_eq!(m.journal().releases.keys().map(ReleaseId::as_str).collect::<Vec<_>>(), ["r2"]);
}

#[test]
fn a_failure_is_told_again_after_a_restart_and_cleared_when_asked_anew() {
    let mut before = deployed(1);
    let first = before.handle(Event::GoalSeen(goal(2, None, 2)));
    play_until(&mut before, first, |a| matches!(a, Action::Probe(_)));
    let next = before.handle(Event::Failed(failure(2, FailureCode::Unhealthy)));
    play(&mut before, next);
    let mut after = Machine::new("n".parse().expect("node"), "a".parse().expect("app"), before.journal().clone());
    assert_eq!(after.handle(Event::GoalSeen(goal(2, None, 2))), None, "it is not tried again");
    assert!(after.status(0).failure.is_some_and(|f| f.fell_back));
    after.handle(Event::GoalSeen(goal(1, None, 3)));
    assert_eq!(after.status(0).failure, None);
}

#[test]
fn a_failure_that_passed_is_no_longer_told() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::Stage(_)));
    m.handle(Event::Failed(failure(1, FailureCode::Download)));
    assert!(m.status(0).failure.is_some());
    m.handle(Event::RetryDue);
    m.handle(Event::Finished);
    assert_eq!(m.status(0).failure, None);
}
