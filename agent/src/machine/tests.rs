use super::*;
use coord_proto::ids::Digest;
use coord_proto::manifest::Manifest;
use coord_proto::report::{FailureCode, HealthState, Running, Step};

use crate::journal::Leg;

mod random;
mod standing;
mod table;

fn manifest(seq: u64, floor: u64, migrate: bool) -> Arc<Manifest> {
    let extra = if migrate { r#","migrate":{"command":["migrate"]}"# } else { "" };
    manifest_of(seq, floor, &format!("r{seq}"), extra)
}

/// Something to do in every leg of an activity.
const LEGS: &str = r#""drain":[{"command":["h"]}],"restart":[{"command":["h"]}],"undrain":[{"command":["h"]}]"#;
const HEALTH: &str = r#","health":{"tcp":"127.0.0.1:1"}"#;
const CLEANUP: &str = r#""cleanup":[{"command":["tidy"]}]"#;

fn manifest_of(seq: u64, floor: u64, release: &str, extra: &str) -> Arc<Manifest> {
    bare(seq, floor, release, &format!(r#","hooks":{{{LEGS}}}{HEALTH}{extra}"#))
}

/// The same with cleanup hooks.
fn with_cleanup(seq: u64, floor: u64, extra: &str) -> Arc<Manifest> {
    bare(seq, floor, &format!("r{seq}"), &format!(r#","hooks":{{{LEGS},{CLEANUP}}}{HEALTH}{extra}"#))
}

fn bare(seq: u64, floor: u64, release: &str, extra: &str) -> Arc<Manifest> {
    let digest = Digest::of(release.as_bytes());
    let json = format!(
        r#"{{"version":1,"app":"a","environment":"e","release":"{release}","seq":{seq},"floor":{floor},"created":{seq},"revision":"x",
        "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}{extra}}}"#
    );
    Arc::new(Manifest::decode(json.as_bytes()).expect("a valid manifest"))
}

fn goal(run: u64, stage: Option<u64>, generation: u64) -> Goal {
    Goal {
        run: Seq(run),
        stage: stage.map(Seq),
        after: None,
        stable: None,
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
            Action::Load(seq) | Action::LoadServed(seq) => m.handle(Event::ManifestLoaded(manifest(seq.0, seq.0.saturating_sub(1), true))),
            Action::Prune { .. } => m.handle(Event::Pruned(vec![])),
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
    let mut done = play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    assert_eq!(m.journal().floor, Seq(0), "accepted is not yet proven");
    let next = m.handle(Event::Finished);
    done.extend(play_until(&mut m, next, |a| matches!(a, Action::Prune { .. })));
    assert_eq!((m.status(0).step, m.status(0).health), (Step::Idle, HealthState::Healthy), "pruning is nobody's wait");
    let Some(Action::Prune { keep: 5, .. }) = done.pop() else { panic!("no prune after {done:?}") };
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
        hooks(HookPhase::Undrain),
    ];
    assert_eq!(done, expected);
    assert_eq!(m.journal().floor, Seq(2));
}

#[test]
fn staging_changes_nothing_that_the_app_can_see() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(1, Some(2), 2)));
    let done = play(&mut m, first);
    assert_eq!(done, [Action::Load(Seq(2)), Action::Stage(Seq(2)), Action::Prepare(Seq(2))]);
    assert_eq!(m.status(0).staged, Some(Seq(2)));
    assert_eq!(m.status(0).held.get(&"r2".parse().expect("release")), Some(&Digest::of(b"r2")), "it is there whole");
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
fn who_runs_the_task_does_not_say_that_it_waits() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::EnsureTasks { .. }));
    assert_eq!(m.status(0).words, "seeing who migrates for r1", "it may be another server");
    m.handle(Event::Waiting("waiting for the presence".into()));
    assert_eq!(m.status(0).step, Step::WaitingForMigration);
    m.handle(Event::TaskStarted);
    assert_eq!((m.status(0).step, m.status(0).words.as_str()), (Step::Migrating, "migrating for r1"));
}

/// `retry` and `restart` begin another rollout of the same release: who waits under the old one may claim under the new one.
#[test]
fn a_task_waited_for_under_another_rollout_is_begun_again() {
    let mut m = machine();
    let told = |rollout: &str, generation| Goal { rollout: Some(rollout.parse().expect("rollout")), ..goal(1, None, generation) };
    let first = m.handle(Event::GoalSeen(told("r1", 1)));
    play_until(&mut m, first, |a| matches!(a, Action::EnsureTasks { .. }));
    m.handle(Event::GoalSeen(told("r1", 2)));
    assert!(!m.must_yield(), "asked by the same rollout");
    m.handle(Event::GoalSeen(told("r2", 3)));
    assert!(m.must_yield());
    assert!(matches!(m.handle(Event::Interrupted), Some(Action::EnsureTasks { .. })));
    assert!(!m.must_yield());
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
fn what_the_fleet_was_taken_back_from_counts_as_good_no_more() {
    let mut m = deployed(1);
    for (run, generation, expected) in [(2, 2, ReleaseOutcome::Good), (1, 3, ReleaseOutcome::Staged), (2, 4, ReleaseOutcome::Good)] {
        let first = m.handle(Event::GoalSeen(goal(run, None, generation)));
        play(&mut m, first);
        assert_eq!(m.status(0).running.map(|r| r.seq), Some(Seq(run)));
        assert_eq!(m.journal().releases[&"r2".parse::<ReleaseId>().expect("release")].outcome, expected, "while {run} runs");
    }
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

/// The machine as an agent that was killed and started again finds it.
fn restarted(m: &Machine) -> Machine {
    Machine::new("n".parse().expect("node"), "a".parse().expect("app"), m.journal().clone())
}

/// On release 1, on its way to 2, up to the action that `stop` names.
fn activating(stop: impl Fn(&Action) -> bool) -> Machine {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    play_until(&mut m, first, stop);
    m
}

fn is_hook(action: &Action, wanted: HookPhase) -> bool {
    matches!(action, Action::RunHooks { phase, .. } if *phase == wanted)
}

fn names(actions: &[Action]) -> Vec<String> {
    actions.iter().map(table::name).collect()
}

#[test]
fn every_failed_hook_after_the_switch_goes_back() {
    for phase in [HookPhase::Restart, HookPhase::Undrain] {
        for code in [FailureCode::HookFailed, FailureCode::HookTimedOut] {
            let mut m = activating(|a| is_hook(a, phase));
            let next = m.handle(Event::Failed(failure(2, code)));
            let done = play(&mut m, next);
            assert_eq!(names(&done), ["switch-r1", "restart1", "probe1", "undrain1"]);
            assert!(m.status(0).failure.is_some_and(|f| f.fell_back && f.code == code));
            assert_eq!(m.status(0).health, HealthState::Healthy);
        }
    }
}

#[test]
fn a_way_back_that_fails_is_unhealthy_also_after_a_restart() {
    for leg in ["switch-r1", "restart1", "probe1", "undrain1"] {
        let mut m = activating(|a| matches!(a, Action::Probe(_)));
        let next = m.handle(Event::Failed(failure(2, FailureCode::Unhealthy)));
        play_until(&mut m, next, |a| table::name(a) == leg);
        assert_eq!(m.handle(Event::Failed(failure(1, FailureCode::HookFailed))), None, "{leg}");
        for m in [&m, &restarted(&m)] {
            assert_eq!(m.status(0).health, HealthState::Unhealthy, "{leg}");
            assert!(!crate::run::is_ready(&m.status(0)), "{leg}: a drained server");
        }
        assert!(m.status(0).failure.is_some_and(|f| f.code == FailureCode::Unhealthy && !f.fell_back), "the first failure stays");
        let next = m.handle(Event::GoalSeen(goal(1, None, 3)));
        play(&mut m, next);
        assert_eq!(m.status(0).health, HealthState::Healthy, "{leg}: told to run it again, it is brought up");
    }
}

#[test]
fn an_adopted_tree_is_gone_back_to_without_the_newcomers_health_check() {
    let adopted = Running { seq: Seq(0), release: "20200101000000".parse().expect("release") };
    for failing in ["restart1", "probe1", "undrain1"] {
        let mut m = machine();
        m.journal.running = Some(adopted.clone());
        let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
        play_until(&mut m, first, |a| table::name(a) == failing);
        let next = m.handle(Event::Failed(failure(1, FailureCode::Unhealthy)));
        let done = play(&mut m, next);
        assert_eq!(names(&done), ["switch-20200101000000", "restart1", "undrain1"], "{failing}");
        let status = m.status(0);
        assert_eq!((status.running.as_ref(), status.health), (Some(&adopted), HealthState::Unproven));
        assert!(status.failure.is_some_and(|f| f.fell_back));
    }
    let mut m = machine();
    (m.journal.running, m.journal.floor) = (Some(adopted), Seq(1));
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    assert_eq!(m.handle(Event::Failed(failure(1, FailureCode::Unhealthy))), None, "the floor is above every adopted tree");
}

#[test]
fn a_switch_that_changed_nothing_undrains() {
    let mut m = activating(|a| matches!(a, Action::Switch(_)));
    let next = m.handle(Event::NotSwitched(failure(2, FailureCode::DiskFull)));
    let done = play(&mut m, next);
    assert_eq!(names(&done), ["undrain1"]);
    let status = m.status(0);
    assert_eq!((status.running.map(|r| r.seq), status.health), (Some(Seq(1)), HealthState::Healthy));
    assert!(status.failure.is_some_and(|f| f.code == FailureCode::DiskFull && f.fell_back), "also one that could pass stays told");
    let next = m.handle(Event::GoalSeen(goal(2, None, 3)));
    assert_eq!(names(&play(&mut m, next))[..2], ["stage2", "prepare2"], "the disk is looked at again");
}

#[test]
fn a_fresh_server_whose_drain_failed_is_not_healthy() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| is_hook(a, HookPhase::Drain));
    let next = m.handle(Event::Failed(failure(1, FailureCode::HookFailed)));
    play(&mut m, next);
    assert_eq!(m.status(0).health, HealthState::Unproven);
}

#[test]
fn a_manifest_that_no_longer_passes_is_no_way_back_and_no_barrier() {
    let mut m = restarted(&deployed(1));
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    play_until(&mut m, first, |a| matches!(a, Action::LoadServed(_)));
    let next = m.handle(Event::Failed(failure(1, FailureCode::SignatureInvalid)));
    assert_eq!(next.as_ref().map(table::name).as_deref(), Some("drain2"));
    assert_eq!(m.status(0).failure, None, "nobody waits for the old release");
    play_until(&mut m, next, |a| matches!(a, Action::Probe(_)));
    assert_eq!(m.handle(Event::Failed(failure(2, FailureCode::Unhealthy))), None);
    assert_eq!(m.status(0).health, HealthState::Unhealthy);
}

#[test]
fn what_served_here_is_asked_again_before_it_is_taken_anew() {
    let mut m = restarted(&deployed(1));
    let first = m.handle(Event::GoalSeen(goal(2, None, 2)));
    play(&mut m, first);
    let first = m.handle(Event::GoalSeen(goal(1, None, 3)));
    assert_eq!(first, Some(Action::Load(Seq(1))), "that it served is no leave to run it again");
}

#[test]
fn a_load_in_mid_activity_rests_or_goes_back() {
    for (code, expected) in [
        (FailureCode::Store, vec![]),
        (FailureCode::UnitNotAllowed, vec!["served1", "switch-r1", "restart1", "probe1", "undrain1"]),
        (FailureCode::ManifestMissing, vec!["served1", "switch-r1", "restart1", "probe1", "undrain1"]),
    ] {
        let mut m = restarted(&activating(|a| matches!(a, Action::Probe(_))));
        assert_eq!(m.handle(Event::RetryDue), Some(Action::Load(Seq(2))));
        let next = m.handle(Event::Failed(failure(2, code)));
        assert_eq!(m.wants_retry(), expected.is_empty(), "{code:?}");
        assert!(!crate::run::is_ready(&m.status(0)), "it may be drained");
        assert_eq!(names(&play(&mut m, next)), expected, "{code:?}");
    }
    let mut m = restarted(&activating(|a| matches!(a, Action::Switch(_))));
    m.handle(Event::RetryDue);
    let next = m.handle(Event::Failed(failure(2, FailureCode::UnitNotAllowed)));
    assert_eq!(names(&play(&mut m, next)), ["served1", "undrain1"], "`current` was not moved");
}

#[test]
fn nothing_to_go_back_to_takes_stable() {
    let told = |generation| Goal { stable: Some(Seq(1)), ..goal(2, None, generation) };
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(told(1)));
    play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    let next = m.handle(Event::Failed(failure(2, FailureCode::Unhealthy)));
    let done = play_until(&mut m, next, |a| matches!(a, Action::EnsureTasks { .. }));
    assert_eq!(done.last(), Some(&Action::EnsureTasks { seq: Seq(1), phase: Phase::Before, may_claim: false }), "{done:?}");
    assert!(!m.must_yield());
    let next = m.handle(Event::Finished);
    play(&mut m, next);
    let status = m.status(0);
    assert_eq!((status.running.map(|r| r.seq), status.health), (Some(Seq(1)), HealthState::Healthy));
    assert!(status.failure.is_some_and(|f| f.seq == Seq(2) && f.fell_back), "why it is not on 2");
    assert_eq!(m.handle(Event::RetryDue), None, "2 is not tried again for this generation");
}

#[test]
fn an_older_healthy_release_is_a_way_back_from_two_bad_ones() {
    let mut m = activating(|a| matches!(a, Action::Probe(_)));
    let next = m.handle(Event::Failed(failure(2, FailureCode::Unhealthy)));
    play_until(&mut m, next, |a| matches!(a, Action::Switch(_)));
    m.handle(Event::NotSwitched(failure(2, FailureCode::Io)));
    assert_eq!(m.status(0).running.map(|r| r.seq), Some(Seq(2)), "the way back failed");
    let next = m.handle(Event::GoalSeen(goal(3, None, 3)));
    play_until(&mut m, next, |a| matches!(a, Action::Probe(_)));
    let next = m.handle(Event::Failed(failure(3, FailureCode::Unhealthy)));
    assert_eq!(names(&play(&mut m, next)), ["switch-r1", "restart1", "probe1", "undrain1"]);
}

#[test]
fn what_failed_without_a_way_back_is_tried_again_when_asked_anew() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    assert_eq!(m.handle(Event::Failed(failure(1, FailureCode::Unhealthy))), None);
    assert_eq!(m.handle(Event::GoalSeen(Goal { stage: Some(Seq(1)), ..goal(1, None, 1) })), None, "not for the same generation");
    let next = m.handle(Event::GoalSeen(goal(1, None, 2)));
    play(&mut m, next);
    assert_eq!(m.status(0).health, HealthState::Healthy);
    let next = m.handle(Event::GoalSeen(goal(2, None, 1)));
    assert!(next.is_some(), "a desired record that was made anew counts from the beginning");
}

#[test]
fn a_release_that_a_later_manifest_names_is_staged_under_the_later_number() {
    let mut m = deployed(1);
    let first = m.handle(Event::GoalSeen(goal(1, Some(9), 2)));
    assert_eq!(first, Some(Action::Load(Seq(9))));
    assert_eq!(m.handle(Event::ManifestLoaded(manifest_of(9, 0, "r1", ""))), None, "it is here");
    assert_eq!(m.status(0).staged, Some(Seq(9)));
    let seqs: Vec<Seq> = m.journal().releases.values().map(|f| f.seq).collect();
    assert_eq!(seqs, [Seq(9)], "pruning keeps what this number names");
    let first = m.handle(Event::GoalSeen(goal(9, None, 3)));
    let done = play(&mut m, first);
    assert_eq!(names(&done)[..2], ["drain9", "switch-r1"]);
    assert_eq!(m.journal().previous_good, None, "it is the same release");
    assert_eq!(m.journal().releases.len(), 1);
}

#[test]
fn cleanup_runs_after_everything_once_and_its_failure_is_only_noted() {
    for ended in [Event::Finished, Event::Failed(failure(1, FailureCode::HookFailed))] {
        let mut m = machine();
        m.handle(Event::GoalSeen(goal(1, None, 1)));
        let next = m.handle(Event::ManifestLoaded(with_cleanup(1, 0, "")));
        let done = play_until(&mut m, next, |a| is_hook(a, HookPhase::Cleanup));
        assert_eq!(names(&done)[2..], ["drain1", "switch-r1", "restart1", "probe1", "undrain1", "cleanup1"]);
        assert_eq!((m.status(0).step, m.status(0).failure), (Step::Idle, None), "the release serves");
        assert!(crate::run::is_ready(&m.status(0)));

        let mut after = restarted(&m);
        assert_eq!(after.handle(Event::GoalSeen(goal(1, None, 1))), Some(Action::LoadServed(Seq(1))), "a crash does not lose it");
        assert_eq!(after.handle(Event::ManifestLoaded(with_cleanup(1, 0, ""))).map(|a| table::name(&a)).as_deref(), Some("cleanup1"));

        let next = m.handle(ended);
        assert_eq!(names(&play(&mut m, next)), ["prune"]);
        assert_eq!((m.status(0).health, m.status(0).failure), (HealthState::Healthy, None));
        assert_eq!(m.journal().cleanup, None);
    }
}

#[test]
fn a_failed_prune_changes_nothing_that_is_told() {
    let mut m = activating(|a| matches!(a, Action::Prune { .. }));
    let before = m.status(0);
    assert_eq!(m.handle(Event::Failed(failure(0, FailureCode::Io))), None);
    assert_eq!(m.status(0), before);
    assert_eq!((before.step, before.health, before.failure), (Step::Idle, HealthState::Healthy, None));
}

#[test]
fn stable_is_never_offered_for_pruning() {
    let mut m = deployed(1);
    for seq in 2..=4 {
        let first = m.handle(Event::GoalSeen(Goal { stable: Some(Seq(1)), ..goal(seq, None, seq) }));
        let done = play(&mut m, first);
        let Some(Action::Prune { protected, manifests, .. }) = done.last() else { panic!("no prune in {done:?}") };
        assert!(protected.contains(&"r1".parse::<ReleaseId>().expect("release")) && manifests.contains(&Seq(1)), "{protected:?}");
    }
}

#[test]
fn what_it_remembers_of_manifests_and_failures_does_not_grow() {
    let mut m = deployed(1);
    for seq in 2..40 {
        let first = m.handle(Event::GoalSeen(goal(seq, Some(seq + 100), seq)));
        play_until(&mut m, first, |a| matches!(a, Action::Stage(s) if s.0 > 100));
        let next = m.handle(Event::Failed(failure(seq + 100, FailureCode::ArchiveRefused)));
        play(&mut m, next);
    }
    assert_eq!(m.journal.running.as_ref().map(|r| r.seq), Some(Seq(39)));
    assert!(m.manifests.len() <= 6 && m.journal.failed.len() <= 1, "{:?} {:?}", m.manifests.keys(), m.journal.failed);
}

#[test]
fn a_failure_that_comes_again_is_counted() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(1, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::Stage(_)));
    for attempt in 1..=3 {
        m.handle(Event::Failed(failure(1, FailureCode::Download)));
        assert_eq!(m.status(0).failure.map(|f| f.attempt), Some(attempt));
        m.handle(Event::RetryDue);
    }
}

/// Each leg would cost a journal entry of its own.
#[test]
fn legs_in_which_nothing_is_asked_for_are_passed_at_once() {
    let mut m = machine();
    m.handle(Event::GoalSeen(goal(1, None, 1)));
    m.handle(Event::ManifestLoaded(bare(1, 0, "r1", "")));
    m.handle(Event::Finished);
    assert_eq!(m.handle(Event::Finished), Some(Action::Switch("r1".parse().expect("release"))));
    assert_eq!(m.journal().activity.as_ref().map(|a| a.leg), Some(Leg::Switch), "journaled before it is done");
    assert!(matches!(m.handle(Event::Finished), Some(Action::Prune { .. })));
    assert_eq!((&m.journal().activity, m.journal().health), (&None, HealthState::Healthy));
}
