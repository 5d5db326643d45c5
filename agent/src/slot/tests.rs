use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use coord_proto::ids::{Digest, Generation};

use super::*;
use crate::journal::ReleaseOutcome;

fn id(text: &str) -> ReleaseId {
    text.parse().expect("a release id")
}

fn place(temp: &Path) -> Place {
    let dir = AppDir::new(temp.join("app"));
    dir.ensure_directories().expect("made");
    Place { node: "n".parse().expect("node"), app: "a".parse().expect("app"), state: temp.join("state"), dir, baked: Seq(0) }
}

/// A journal that knows r1 (running, healthy) and r2; both are on the disk.
async fn opened(place: &Place) -> Slot {
    for release in ["r1", "r2"] {
        fs::create_dir_all(place.dir.release(&id(release))).expect("made");
        place.dir.prove(&id(release), &Digest::of(b"x")).expect("written");
    }
    symlink("releases/r1", place.dir.current_link()).expect("linked");
    let facts = |seq| ReleaseFacts { seq: Seq(seq), digest: Digest::of(b"x"), created: 1, outcome: ReleaseOutcome::Good, prepared: true };
    let running = Some(Running { seq: Seq(1), release: id("r1") });
    let journal = Journal {
        version: 1,
        running: running.clone(),
        last_healthy: running,
        health: HealthState::Healthy,
        releases: [(id("r1"), facts(1)), (id("r2"), facts(2))].into(),
        ..Journal::default()
    };
    fs::create_dir_all(&place.state).expect("made");
    journal.save(&place.state, &Journal::default()).expect("saved");
    Slot::open(place.clone()).await.expect("opened")
}

#[tokio::test]
async fn what_is_still_there_is_still_known() {
    let temp = tempfile::tempdir().expect("dir");
    let slot = opened(&place(temp.path())).await;
    assert_eq!(slot.machine.journal().releases.len(), 2);
    assert_eq!(slot.machine.journal().health, HealthState::Healthy);
}

/// A crash between the removal and the journal, or an administrator with `rm -rf`: it can be staged again.
#[tokio::test]
async fn a_release_that_is_gone_is_forgotten() {
    let temp = tempfile::tempdir().expect("dir");
    let place = place(temp.path());
    opened(&place).await;
    fs::remove_dir_all(place.dir.release(&id("r2"))).expect("removed");
    let slot = Slot::open(place).await.expect("opened");
    assert_eq!(slot.machine.journal().releases.keys().collect::<Vec<_>>(), [&id("r1")]);
}

#[tokio::test]
async fn a_current_that_was_moved_is_adopted_and_unproven() {
    let temp = tempfile::tempdir().expect("dir");
    let place = place(temp.path());
    opened(&place).await;
    for (target, seq) in [("r2", 2), ("20200101000000", 0)] {
        fs::create_dir_all(place.dir.release(&id(target))).expect("made");
        fs::remove_file(place.dir.current_link()).expect("removed");
        symlink(place.dir.release(&id(target)), place.dir.current_link()).expect("linked");
        let slot = Slot::open(place.clone()).await.expect("opened");
        assert_eq!(slot.machine.journal().running, Some(Running { seq: Seq(seq), release: id(target) }));
        assert_eq!(slot.machine.journal().health, HealthState::Unproven);
    }
}

#[tokio::test]
async fn a_directory_that_will_not_do_does_not_keep_the_app_shut() {
    let temp = tempfile::tempdir().expect("dir");
    let place = place(temp.path());
    opened(&place).await;
    fs::remove_dir_all(temp.path().join("app")).expect("removed");
    fs::write(temp.path().join("app"), "a file where a volume was mounted").expect("written");
    let slot = Slot::open(place).await.expect("opened");
    assert_eq!(slot.machine.journal().running, Some(Running { seq: Seq(1), release: id("r1") }), "a failed look is no word");
}

/// A unit that was not allowed may be allowed now; a release that failed its health check here may not work better.
#[tokio::test]
async fn what_was_refused_before_anything_changed_is_tried_once_more() {
    let temp = tempfile::tempdir().expect("dir");
    let place = place(temp.path());
    let saved = opened(&place).await.machine.journal().clone();
    let mut journal = saved.clone();
    journal.releases.get_mut(&id("r2")).expect("r2").outcome = ReleaseOutcome::Failed;
    journal.failed = [(Seq(2), Generation(4)), (Seq(3), Generation(5))].into();
    journal.save(&place.state, &saved).expect("saved");
    let slot = Slot::open(place).await.expect("opened");
    assert_eq!(slot.machine.journal().failed, [(Seq(2), Generation(4))].into());
}
