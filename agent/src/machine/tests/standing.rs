//! Where the app stands, for whoever starts it at boot.

use super::*;
use crate::machine::Standing;

fn in_place(release: &str) -> Standing {
    Standing::InPlace { release: release.parse().expect("release") }
}

fn underway(m: &Machine) -> bool {
    matches!(m.standing(), Standing::Underway { .. })
}

/// The restart hook waits for the application's unit, which waits for this: health must have no part in it.
#[test]
fn it_is_in_place_from_the_switch_on_and_before_any_restart() {
    let mut m = machine();
    assert_eq!(m.standing(), Standing::Untold { release: None });
    let mut next = m.handle(Event::GoalSeen(goal(3, None, 1)));
    loop {
        let action = next.expect("it goes on to the restart");
        if matches!(action, Action::RunHooks { phase: HookPhase::Restart, .. }) {
            break;
        }
        assert!(underway(&m), "{action:?}: {:?}", m.standing());
        next = match action {
            Action::Load(seq) => m.handle(Event::ManifestLoaded(manifest(seq.0, 0, true))),
            _ => m.handle(Event::Finished),
        };
    }
    assert_eq!(m.standing(), in_place("r3"));
    m.handle(Event::Finished);
    assert_eq!(m.standing(), in_place("r3"), "while it is probed");
}

#[test]
fn what_runs_is_not_in_place_while_another_release_is_due() {
    let mut m = deployed(3);
    assert_eq!(m.standing(), in_place("r3"));
    m.handle(Event::GoalSeen(goal(4, None, 2)));
    assert!(underway(&m), "{:?}", m.standing());
    let mut m = deployed(3);
    m.handle(Event::GoalSeen(goal(3, Some(4), 2)));
    assert_eq!(m.standing(), in_place("r3"), "staging the next one changes nothing");
}

#[test]
fn what_it_went_back_to_is_in_place_before_that_is_restarted() {
    let mut m = deployed(3);
    let first = m.handle(Event::GoalSeen(goal(4, None, 2)));
    play_until(&mut m, first, |a| matches!(a, Action::Probe(_)));
    assert_eq!(m.standing(), in_place("r4"));
    let back = m.handle(Event::Failed(failure(4, FailureCode::Unhealthy)));
    assert!(matches!(back, Some(Action::Switch(_))), "{back:?}");
    assert!(underway(&m), "`current` still is the release that failed: {:?}", m.standing());
    let next = m.handle(Event::Finished);
    assert!(matches!(next, Some(Action::RunHooks { phase: HookPhase::Restart, .. })), "{next:?}");
    assert_eq!(m.standing(), in_place("r3"));
    play(&mut m, next);
    assert_eq!(m.standing(), in_place("r3"), "and stays so: number 4 is given up");
}

#[test]
fn a_first_release_that_fails_leaves_nothing_to_start() {
    let mut m = machine();
    let first = m.handle(Event::GoalSeen(goal(3, None, 1)));
    play_until(&mut m, first, |a| matches!(a, Action::Stage(_)));
    m.handle(Event::Failed(failure(3, FailureCode::DigestMismatch)));
    assert!(matches!(m.standing(), Standing::Failed { .. }), "{:?}", m.standing());
    m.handle(Event::GoalSeen(goal(4, None, 2)));
    assert!(underway(&m), "a new wish");
}

#[test]
fn before_the_first_batch_there_is_nothing_and_after_a_restart_nobody_said_anything() {
    let mut m = machine();
    m.handle(Event::GoalSeen(goal(0, Some(3), 1)));
    assert!(underway(&m), "{:?}", m.standing());
    let again = Machine::new("n".parse().expect("node"), "a".parse().expect("app"), deployed(3).journal().clone());
    assert_eq!(again.standing(), Standing::Untold { release: Some("r3".parse().expect("release")) });
}
