use super::super::tests::{actor, app, fleet, follower, release, report, spec, state, target};
use super::*;
use crate::exit::Exit;

fn lines(teller: &mut Teller, fleet: &Fleet) -> String {
    let lines: Vec<String> =
        teller.news(&follower(), fleet).iter().map(|event| serde_json::to_string(event).expect("an event is JSON")).collect();
    lines.join("\n")
}

#[test]
fn a_rollout_is_a_stream_of_what_changed() {
    let mut teller = Teller::default();
    let mut seen = fleet(state(RolloutPhase::Staging, vec![target("web-1", 0, Outcome::Pending), target("web-2", 1, Outcome::Pending)]));
    report(&mut seen, "web-1", "staging r7", None);
    insta::assert_snapshot!(lines(&mut teller, &seen), @r#"
    {"event":"watching","app":"mootube","rollout":"7-a","release":"r7","by":"alice"}
    {"event":"connection","etcd":true,"leader":true}
    {"event":"phase","phase":"staging","paused":false}
    {"event":"server","server":"web-1","batch":1,"step":"probing","words":"staging r7"}
    "#);
    assert_eq!(lines(&mut teller, &seen), "", "nothing changed");
    let rollout = |seen: &mut Fleet, change: &dyn Fn(&mut RolloutState)| {
        change(seen.apps.get_mut(&app()).and_then(|app| app.state.as_mut()).expect("state"));
    };
    rollout(&mut seen, &|state| state.phase = RolloutPhase::Running);
    report(&mut seen, "web-1", "switching to r7", None);
    insta::assert_snapshot!(lines(&mut teller, &seen), @r#"
    {"event":"phase","phase":"running","paused":false}
    {"event":"batch-opened","batch":1,"of":2,"servers":["web-1"]}
    {"event":"server","server":"web-1","batch":1,"step":"probing","words":"switching to r7"}
    "#);
    rollout(&mut seen, &|state| {
        state.targets[0].outcome = Outcome::Done;
        state.batch = 1;
    });
    report(&mut seen, "web-1", "switching to r7", None);
    report(&mut seen, "web-2", "running r6", Some("the restart hook ended with status 1"));
    insta::assert_snapshot!(lines(&mut teller, &seen), @r#"
    {"event":"outcome","server":"web-1","batch":1,"outcome":"done"}
    {"event":"batch-opened","batch":2,"of":2,"servers":["web-2"]}
    {"event":"server","server":"web-2","batch":2,"step":"probing","words":"running r6","failure":"the restart hook ended with status 1"}
    "#);
    rollout(&mut seen, &|state| state.targets[1].outcome = Outcome::Failed);
    insta::assert_snapshot!(lines(&mut teller, &seen), @r#"
    {"event":"outcome","server":"web-2","batch":2,"outcome":"failed","failure":"the restart hook ended with status 1"}
    "#);
    // It went back, and reports no failure any more: no other outcome.
    report(&mut seen, "web-2", "running r6", None);
    assert!(!lines(&mut teller, &seen).contains("outcome"));
}

#[test]
fn what_cannot_be_seen_is_told_and_nothing_else_is() {
    let mut teller = Teller::default();
    let mut seen = fleet(state(RolloutPhase::Running, vec![target("web-1", 0, Outcome::Pending)]));
    teller.news(&follower(), &seen);
    seen.fresh = false;
    seen.apps.get_mut(&app()).and_then(|app| app.state.as_mut()).expect("state").phase = RolloutPhase::Halted;
    assert_eq!(lines(&mut teller, &seen), r#"{"event":"connection","etcd":false,"leader":true}"#);
    seen.fresh = true;
    assert!(lines(&mut teller, &seen).ends_with(r#"{"event":"phase","phase":"halted","paused":false}"#));
}

#[test]
fn the_first_and_the_last_event_say_what_was_watched_and_how_it_ended() {
    let ending = Ending { exit: Exit::Partial, servers: "x".into(), recap: "r".into(), words: "w".into(), hint: String::new() };
    let json = serde_json::to_value(Event::end(&ending)).expect("JSON");
    assert_eq!(json, serde_json::json!({"event": "end", "exit": 8, "words": "w", "recap": "r", "hint": ""}));
    let spec = spec("7-a".parse().expect("rollout"), "r7", &actor("alice").user);
    let accepted = Event::Accepted { app: spec.app, rollout: spec.id, release: release("r7"), seq: spec.seq };
    let json = serde_json::to_value(accepted).expect("JSON");
    assert_eq!(json, serde_json::json!({"event": "accepted", "app": "mootube", "rollout": "7-a", "release": "r7", "seq": 7}));
}
