use coord_proto::ids::Seq;
use coord_proto::report::Progress;

use super::super::tests::{app, fleet, follower, report, state, target};
use super::*;

/// With what each line looks like: `+` good, `!` bad, `.` quiet, `=` the head.
fn screen(fleet: &Fleet) -> String {
    let mark = |tone| match tone {
        Tone::Head => '=',
        Tone::Plain => ' ',
        Tone::Good => '+',
        Tone::Bad => '!',
        Tone::Quiet => '.',
    };
    lines(&follower(), fleet).iter().map(|line| format!("{}|{}\n", mark(line.tone), line.text)).collect()
}

fn at(fleet: &mut Fleet, node: &str, change: impl Fn(&mut Status)) {
    let slot = fleet.nodes.get_mut(&node.parse::<NodeName>().expect("node")).and_then(|n| n.apps.get_mut(&app()));
    change(slot.and_then(|slot| slot.status.as_mut()).expect("status"));
}

#[test]
fn staging_shows_every_servers_download() {
    let targets = (1..=4).map(|n| target(&format!("web-{n}"), n - 1, Outcome::Pending)).collect();
    let mut seen = fleet(state(RolloutPhase::Staging, targets));
    for (node, words) in [("web-1", "running r6"), ("web-2", "staging r7"), ("web-3", "running r6")] {
        report(&mut seen, node, words, None);
    }
    at(&mut seen, "web-1", |status| (status.step, status.staged) = (Step::Idle, Some(Seq(7))));
    at(&mut seen, "web-2", |status| (status.step, status.progress) = (Step::Staging, Some(Progress { done: 3 << 20, total: 24 << 20 })));
    at(&mut seen, "web-3", |status| status.step = Step::Idle);
    insta::assert_snapshot!(screen(&seen), @r"
    =|release r7 of mootube: staging
     |staging    ██████░░░░░░░░░░░░░░░░░░  1 of 4 servers are ready, 3.00 MiB so far
     |  › web-2  staging r7  3.00 MiB of 24.00 MiB
    .|  · web-3  running r6
    .|  · web-4  waits
    +|  ✓ web-1  is ready
    ");
}

#[test]
fn the_open_batch_has_its_servers_and_the_next_ones_wait() {
    let outcomes = [Outcome::Done, Outcome::Done, Outcome::Failed, Outcome::Pending, Outcome::Unreachable];
    let mut targets: Vec<Target> =
        outcomes.iter().enumerate().map(|(n, outcome)| target(&format!("web-{n}"), usize::from(n > 0), *outcome)).collect();
    targets.extend((5..17).map(|n| target(&format!("web-{n}"), n - 3, Outcome::Pending)));
    let mut opened = state(RolloutPhase::Running, targets);
    (opened.batch, opened.batches) = (1, 14);
    let mut seen = fleet(opened);
    report(&mut seen, "web-2", "running r6", Some("the restart hook ended with status 1"));
    report(&mut seen, "web-3", "switching to r7", None);
    at(&mut seen, "web-3", |status| status.step = Step::Switching);
    insta::assert_snapshot!(screen(&seen), @r"
    =|release r7 of mootube: batch 2 of 14
    !|batch 2    ██████████████████░░░░░░  1 done, 1 failed, 1 unreachable of 4
    .|batch 3    ░░░░░░░░░░░░░░░░░░░░░░░░  1 server waits
    .|batch 4    ░░░░░░░░░░░░░░░░░░░░░░░░  1 server waits
    .|batch 5    ░░░░░░░░░░░░░░░░░░░░░░░░  1 server waits
    .|batch 6    ░░░░░░░░░░░░░░░░░░░░░░░░  1 server waits
    .|and 8 more batches with 8 servers
    !|  ✗ web-2  failed: the restart hook ended with status 1
    !|  ✗ web-4  unreachable
     |  › web-3  switching to r7
    +|  ✓ web-1  runs release r7
    ");
}

#[test]
fn a_fleet_of_thousands_fits_on_a_screen() {
    let targets: Vec<Target> = (0..10_000).map(|n| target(&format!("web-{n:04}"), n / 100, Outcome::Pending)).collect();
    let mut opened = state(RolloutPhase::Running, targets);
    opened.batches = 100;
    let shown = lines(&follower(), &fleet(opened.clone()));
    assert_eq!(shown.len(), 1 + BATCHES_MAX + 1 + SERVERS_MAX + 1);
    assert_eq!(shown[BATCHES_MAX + 1].text, "and 95 more batches with 9500 servers");
    assert_eq!(shown.last().map(|line| line.text.as_str()), Some("  and 80 servers more"));
    // The one that failed is seen, wherever it stands.
    opened.targets[99].outcome = Outcome::Failed;
    let shown = lines(&follower(), &fleet(opened));
    assert!(shown[BATCHES_MAX + 2].text.contains("✗ web-0099"), "{:?}", shown[BATCHES_MAX + 2]);
}

#[test]
fn the_way_back_and_the_end_have_their_pictures() {
    let outcomes = [Outcome::RolledBack, Outcome::Failed, Outcome::Done];
    let mut targets: Vec<Target> = outcomes.iter().enumerate().map(|(n, outcome)| target(&format!("web-{n}"), 0, *outcome)).collect();
    targets.push(Target { told: false, ..target("web-3", 1, Outcome::Pending) });
    let mut back = state(RolloutPhase::RollingBack, targets);
    back.reason = "web-1 failed; 0 tolerated".into();
    let mut seen = fleet(back);
    report(&mut seen, "web-1", "running r6 again: r7 failed", None);
    at(&mut seen, "web-1", |status| status.step = Step::Idle);
    report(&mut seen, "web-2", "running the restart hooks of r6", None);
    insta::assert_snapshot!(screen(&seen), @r"
    =|release r7 of mootube: rolling back
    .|web-1 failed; 0 tolerated
    !|going back ████████████████░░░░░░░░  2 of 3 servers are back
     |  › web-2  running the restart hooks of r6
    +|  ✓ web-0  rolled back
    +|  ✓ web-1  running r6 again: r7 failed
    ");
    let mut after = state(RolloutPhase::Finishing, vec![target("web-1", 0, Outcome::Done), target("web-2", 1, Outcome::Done)]);
    (after.batch, after.reason) = (2, "the after tasks wait for web-3".into());
    let mut seen = fleet(after);
    report(&mut seen, "web-1", "running what comes after r7", None);
    at(&mut seen, "web-1", |status| status.step = Step::AfterTasks);
    insta::assert_snapshot!(screen(&seen), @r"
    =|release r7 of mootube: finishing
    .|the after tasks wait for web-3
     |  › web-1  running what comes after r7
    ");
    seen.apps.get_mut(&app()).expect("app").state = None;
    insta::assert_snapshot!(screen(&seen), @r"
    =|release r7 of mootube: waiting for the coordinator
    ");
}

#[test]
fn a_batch_that_is_over_shrinks_to_a_line() {
    let outcomes = [Outcome::Done, Outcome::Done, Outcome::Failed, Outcome::Pending];
    let targets = outcomes.iter().enumerate().map(|(n, outcome)| target(&format!("web-{n}"), n, *outcome)).collect();
    let mut running = state(RolloutPhase::Running, targets);
    running.batches = 4;
    assert_eq!(closed(&running, 0), None);
    running.batch = 1;
    assert_eq!(closed(&running, 0), Some(Line::new(Tone::Good, "✓ batch 1 of 4: 1 done".into())));
    running.batch = 3;
    assert_eq!(closed(&running, 1), Some(Line::new(Tone::Bad, "✗ batches 2 to 3 of 4: 1 done, 1 failed".into())));
    running.phase = RolloutPhase::Succeeded;
    assert_eq!(closed(&running, 3), Some(Line::new(Tone::Good, "✓ batch 4 of 4: 1 not reached".into())));
    assert_eq!(closed(&running, 4), None);
}
