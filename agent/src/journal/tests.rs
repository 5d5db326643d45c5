use coord_proto::report::{FailureCode, Step};

use super::*;

#[test]
fn what_was_saved_is_loaded() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal { version: VERSION, floor: Seq(3), accepted: Seq(5), ..Journal::default() };
    journal.save(dir.path(), &Journal::default()).expect("saved");
    assert_eq!(load(dir.path(), Seq(0)).expect("loaded").journal, journal);
}

#[test]
fn a_damaged_journal_is_set_aside_and_the_floor_stays() {
    let dir = tempfile::tempdir().expect("dir");
    Journal { floor: Seq(3), ..Journal::default() }.save(dir.path(), &Journal::default()).expect("saved");
    std::fs::write(dir.path().join(JOURNAL), b"{").expect("damage");
    std::fs::write(dir.path().join(FLOORS[0]), b"").expect("damage");
    let loaded = load(dir.path(), Seq(1)).expect("loaded");
    assert_eq!(loaded.journal.floor, Seq(3));
    assert!(loaded.alarms[0].contains("damaged"), "{:?}", loaded.alarms);
    assert!(dir.path().join("journal.damaged").exists());
}

#[test]
fn the_baked_floor_is_the_least() {
    let dir = tempfile::tempdir().expect("dir");
    assert_eq!(load(dir.path(), Seq(9)).expect("loaded").journal.floor, Seq(9));
}

#[test]
fn a_lost_copy_of_the_floor_is_told_and_written_again() {
    let dir = tempfile::tempdir().expect("dir");
    let journal = Journal { floor: Seq(3), ..Journal::default() };
    journal.save(dir.path(), &Journal::default()).expect("saved");
    std::fs::remove_file(dir.path().join(FLOORS[1])).expect("removed");
    let alarms = load(dir.path(), Seq(0)).expect("loaded").alarms;
    assert!(alarms.len() == 1 && alarms[0].contains("floor.copy"), "{alarms:?}");
    assert_eq!(std::fs::read_to_string(dir.path().join(FLOORS[1])).expect("written again"), "3");
    assert!(load(dir.path(), Seq(0)).expect("loaded").alarms.is_empty(), "told once");
}

#[test]
fn a_journal_of_a_newer_agent_is_left_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let newer = r#"{"version":2,"running":"something else"}"#;
    std::fs::write(dir.path().join(JOURNAL), newer).expect("written");
    assert!(matches!(load(dir.path(), Seq(0)), Err(JournalError::Newer { found: 2, .. })));
    assert_eq!(std::fs::read_to_string(dir.path().join(JOURNAL)).expect("there"), newer);
}

/// As the first agent wrote it, before some of the fields were there: every later one must read it.
#[test]
fn a_journal_of_version_1_is_read() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::write(dir.path().join(JOURNAL), include_str!("version-1.json")).expect("written");
    let journal = load(dir.path(), Seq(0)).expect("loaded").journal;
    let expected = Journal {
        previous_good: None,
        health: HealthState::Unproven,
        activity: version_1().activity.map(|a| Activity { restart: 0, ..a }),
        cleanup: None,
        restarted: 0,
        ..version_1()
    };
    assert_eq!(journal, expected);
}

/// With every field, and no value that an absent field would be read as: a name that changed is noticed.
#[test]
fn every_field_of_a_journal_of_version_1_is_read() {
    let dir = tempfile::tempdir().expect("dir");
    std::fs::write(dir.path().join(JOURNAL), include_str!("version-1-all.json")).expect("written");
    assert_eq!(load(dir.path(), Seq(0)).expect("loaded").journal, version_1());
}

fn version_1() -> Journal {
    let id = |text: &str| text.parse::<ReleaseId>().expect("a release id");
    let (old, new) = (id("20260101000000"), id("20260102000000"));
    let on = |seq, release: &ReleaseId| Some(Running { seq: Seq(seq), release: release.clone() });
    let facts = |seq, digit: &str, created, outcome| {
        let digest = digit.repeat(64).parse().expect("a digest");
        ReleaseFacts { seq: Seq(seq), digest, created, outcome, prepared: true }
    };
    let failure = Failure {
        seq: Seq(2),
        step: Step::Probing,
        code: FailureCode::Unhealthy,
        chain: vec!["not healthy within 30s: the answer was 503".to_owned()],
        hint: String::new(),
        log_tail: String::new(),
        fell_back: true,
        attempt: 1,
    };
    Journal {
        version: 1,
        running: on(4, &new),
        previous_good: on(1, &id("20251231000000")),
        last_healthy: on(3, &old),
        health: HealthState::Unhealthy,
        accepted: Seq(4),
        floor: Seq(3),
        activity: Some(Activity {
            seq: Seq(4),
            release: new.clone(),
            previous: on(3, &old),
            leg: Leg::Probe,
            direction: Direction::Forward,
            restart: 5,
        }),
        failed: BTreeMap::from([(Seq(2), Generation(7))]),
        failure: Some((Generation(7), failure)),
        after_done: Some(Seq(3)),
        cleanup: Some(Seq(3)),
        restarted: 6,
        releases: BTreeMap::from([
            (old.clone(), facts(3, "1", 1_767_225_600, ReleaseOutcome::Good)),
            (new.clone(), facts(4, "2", 1_767_312_000, ReleaseOutcome::Staged)),
        ]),
    }
}

#[test]
fn the_previous_release_is_never_the_release_itself() {
    let id = |text: &str| text.parse::<ReleaseId>().expect("a release id");
    let running = |seq, release| Some(Running { seq: Seq(seq), release: id(release) });
    let mut journal = Journal { running: running(1, "r1"), ..Journal::default() };
    let before = |j: &Journal, release: &str| j.before(&id(release)).map(ToString::to_string);
    assert_eq!(before(&journal, "r2").as_deref(), Some("r1"), "prepare and the migration");
    journal.activity = Some(Activity {
        seq: Seq(2),
        release: id("r2"),
        previous: running(1, "r1"),
        leg: Leg::Restart,
        direction: Direction::Forward,
        restart: 0,
    });
    journal.running = running(2, "r2");
    assert_eq!(before(&journal, "r2").as_deref(), Some("r1"), "restart, undrain and health");
    assert_eq!(before(&journal, "r1").as_deref(), Some("r2"), "the way back");
    journal.activity = None;
    journal.previous_good = running(1, "r1");
    assert_eq!(before(&journal, "r2").as_deref(), Some("r1"), "cleanup and what comes after");
    assert_eq!(before(&Journal::default(), "r2"), None);
}
