//! Every state with every event: what is in flight afterwards.

use super::*;

/// `load2`, `drain2`, `switch-r1`: an action in one word.
pub fn name(action: &Action) -> String {
    match action {
        Action::Load(seq) => format!("load{seq}"),
        Action::LoadServed(seq) => format!("served{seq}"),
        Action::Stage(seq) => format!("stage{seq}"),
        Action::Prepare(seq) => format!("prepare{seq}"),
        Action::EnsureTasks { seq, phase: Phase::Before, .. } => format!("tasks{seq}"),
        Action::EnsureTasks { seq, .. } => format!("after{seq}"),
        Action::RunHooks { seq, phase } => format!("{}{seq}", phase.name()),
        Action::Switch(release) => format!("switch-{release}"),
        Action::Probe(seq) => format!("probe{seq}"),
        Action::Prune { .. } => "prune".into(),
    }
}

/// What is in flight, `!` where it should give way, or `rest`, or `-` for nothing.
fn now(m: &Machine) -> String {
    match &m.in_flight {
        Some(action) => name(action) + if m.must_yield() { "!" } else { "" },
        None if m.wants_retry() => "rest".into(),
        None => "-".into(),
    }
}

fn told(generation: u64) -> Goal {
    Goal { after: Some(Seq(2)), ..goal(2, Some(2), generation) }
}

fn full(seq: u64) -> Arc<Manifest> {
    with_cleanup(seq, 0, r#","migrate":{"command":["m"],"after":{"command":["a"]}}"#)
}

fn step(m: &mut Machine) -> bool {
    let event = match &m.in_flight {
        None => return false,
        Some(Action::Load(seq) | Action::LoadServed(seq)) => Event::ManifestLoaded(full(seq.0)),
        Some(Action::Prune { .. }) => Event::Pruned(vec![]),
        Some(_) => Event::Finished,
    };
    m.handle(event);
    true
}

/// On release 1, told to run 2, up to the moment that `state` names; `back-` after a failed probe, `lone-` on an empty
/// server.
fn at(state: &str) -> Machine {
    let (way, state) = state.split_once(':').unwrap_or(("", state));
    let mut m = machine();
    if way != "lone" {
        m.handle(Event::GoalSeen(goal(1, None, 1)));
        while step(&mut m) {}
    }
    if state == "idle" {
        return m;
    }
    m.handle(Event::GoalSeen(told(2)));
    if way == "back" {
        while now(&m) != "probe2" {
            assert!(step(&mut m), "never at the probe");
        }
        m.handle(Event::Failed(failure(2, FailureCode::Unhealthy)));
    }
    if state == "rest" {
        m.handle(Event::Failed(failure(2, FailureCode::Store)));
        return m;
    }
    while now(&m) != state {
        assert!(step(&mut m), "never at {way}:{state}");
    }
    m
}

const EVENTS: [&str; 11] =
    ["goal", "other", "loaded", "foreign", "finished", "pruned", "refused", "passing", "unmoved", "interrupted", "retry"];

fn event(name: &str, m: &Machine) -> Event {
    let seq = m.in_flight.as_ref().and_then(Action::seq).unwrap_or(Seq(2)).0;
    match name {
        "goal" => Event::GoalSeen(m.goal.clone().unwrap_or_else(|| told(2))),
        "other" => Event::GoalSeen(goal(3, None, 9)),
        "loaded" => Event::ManifestLoaded(full(seq)),
        "foreign" => Event::ManifestLoaded(full(77)),
        "finished" => Event::Finished,
        "pruned" => Event::Pruned(vec![]),
        "refused" => Event::Failed(failure(seq, FailureCode::NotAllowed)),
        "passing" => Event::Failed(failure(seq, FailureCode::Store)),
        "unmoved" => Event::NotSwitched(failure(seq, FailureCode::Io)),
        "interrupted" => Event::Interrupted,
        "retry" => Event::RetryDue,
        other => panic!("no event {other}"),
    }
}

#[test]
fn every_event_in_every_state_has_its_answer() {
    let mut wrong = vec![];
    for line in include_str!("table.txt").lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells.len(), EVENTS.len() + 1, "{line}");
        let found: Vec<String> = EVENTS
            .iter()
            .map(|e| {
                let mut m = at(cells[0]);
                let event = event(e, &m);
                m.handle(event);
                now(&m)
            })
            .collect();
        if found != cells[1..] {
            wrong.push(format!("{} {}", cells[0], found.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "the machine answers:\n{}", wrong.join("\n"));
}
