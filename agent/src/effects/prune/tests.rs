use std::os::unix::fs::symlink;

use coord_proto::ids::{Digest, Seq};
use proptest::prelude::*;

use super::*;

fn id(text: &str) -> ReleaseId {
    text.parse().expect("a release id")
}

/// `g1 f2 u3`: good, failed and untried releases with their age.
fn releases(text: &str) -> Vec<Kept> {
    let one = |word: &str| {
        let outcome = match word.as_bytes()[0] {
            b'g' => ReleaseOutcome::Good,
            b'f' => ReleaseOutcome::Failed,
            _ => ReleaseOutcome::Staged,
        };
        Kept { release: id(word), created: word[1..].parse().expect("a number"), outcome }
    };
    text.split_whitespace().map(one).collect()
}

fn gone(text: &str, keep: usize, protected: &[&str]) -> String {
    let protected = protected.iter().map(|p| id(p)).collect();
    choose(&releases(text), keep, &protected).iter().map(ReleaseId::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_newest_good_ones_stay_and_the_oldest_go_first() {
    assert_eq!(gone("g1 g2 g3 g4 g5", 3, &[]), "g1 g2");
    assert_eq!(gone("g3 g1 g5 g2 g4", 3, &[]), "g1 g2", "by age, not by the order on disk");
    assert_eq!(gone("g1 g2", 5, &[]), "");
}

#[test]
fn failed_releases_never_push_out_good_ones() {
    assert_eq!(gone("g1 g2 f3 f4 f5 f6", 2, &[]), "f3 f4");
    assert_eq!(gone("g1 f2 g3 u4", 2, &[]), "f2", "a failed one older than a good one goes");
    assert_eq!(gone("f1 f2 f3", 2, &[]), "f1");
}

#[test]
fn protected_releases_stay_whatever_their_age() {
    assert_eq!(gone("g1 f2 g3 g4 g5", 2, &["g1", "f2"]), "g3");
}

#[test]
fn the_age_is_the_creation_time_not_the_name() {
    let mut all = releases("g9 g1");
    all[0].created = 0;
    assert_eq!(choose(&all, 1, &BTreeSet::new()), [id("g9")]);
}

proptest! {
    #[test]
    fn enough_good_ones_and_all_protected_ones_stay(
        outcomes in prop::collection::vec(0..3u8, 0..30),
        keep in 1..6usize,
        protect in prop::collection::vec(any::<bool>(), 30),
    ) {
        let all: Vec<Kept> = outcomes.iter().enumerate().map(|(i, o)| Kept {
            release: id(&format!("r{i}")),
            created: i as i64,
            outcome: [ReleaseOutcome::Good, ReleaseOutcome::Failed, ReleaseOutcome::Staged][usize::from(*o)],
        }).collect();
        let protected: BTreeSet<ReleaseId> = all.iter().zip(&protect).filter(|(_, p)| **p).map(|(r, _)| r.release.clone()).collect();
        let gone = choose(&all, keep, &protected);
        let good = |r: &&Kept| r.outcome == ReleaseOutcome::Good;
        let stayed = all.iter().filter(good).filter(|r| !gone.contains(&r.release)).count();
        prop_assert!(stayed >= keep.min(all.iter().filter(good).count()));
        prop_assert!(gone.iter().all(|r| !protected.contains(r)));
        prop_assert!(all.len() - gone.len() <= 2 * keep + protected.len(), "old ones do not pile up");
    }
}

fn app(releases: &[&str]) -> (tempfile::TempDir, AppDir) {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = AppDir::new(temp.path().to_owned());
    dir.ensure_directories().expect("made");
    for release in releases {
        fs::create_dir_all(dir.release(&id(release)).join("sub")).expect("made");
        dir.prove(&id(release), &Digest::of(b"")).expect("written");
    }
    (temp, dir)
}

fn facts(created: i64) -> ReleaseFacts {
    ReleaseFacts { seq: Seq(1), digest: Digest::of(b""), created, outcome: ReleaseOutcome::Staged, prepared: true }
}

#[test]
fn a_release_is_removed_with_its_proof_and_current_is_not() {
    let (_temp, dir) = app(&["1", "2", "3"]);
    symlink("releases/2", dir.current_link()).expect("linked");
    let known = BTreeMap::from([(id("1"), facts(10)), (id("2"), facts(5))]);
    let seen: Vec<_> = survey(&dir, &known).expect("read").into_iter().map(|k| (k.created, k.outcome)).collect();
    let (staged, good) = (ReleaseOutcome::Staged, ReleaseOutcome::Good);
    assert_eq!(seen, [(10, staged), (5, staged), (0, good)], "what the journal does not know counts as good and old");
    remove(&dir, &id("1")).expect("removed");
    assert!(matches!(remove(&dir, &id("2")), Err(PruneError::Current { .. })));
    assert_eq!(dir.list_releases().expect("listed"), [id("2"), id("3")]);
    assert_eq!(dir.proof(&id("1")).expect("read"), None);
    assert!(!dir.trash(&id("1")).exists());
}

#[test]
fn what_an_earlier_removal_left_is_not_in_the_way() {
    let (_temp, dir) = app(&["1"]);
    fs::create_dir_all(dir.trash(&id("1")).join("half")).expect("left by a removal that failed");
    remove(&dir, &id("1")).expect("removed");
    assert!(!dir.trash(&id("1")).exists() && !dir.release(&id("1")).exists());
}

#[test]
fn one_release_that_stays_does_not_keep_the_others() {
    let (_temp, dir) = app(&["1", "2", "3", "4"]);
    let known =
        ["1", "2", "3", "4"].map(|r| (id(r), ReleaseFacts { outcome: ReleaseOutcome::Good, ..facts(r.parse().expect("a number")) }));
    // `current` is the last word, whatever the caller protects: it stays and is told.
    symlink("releases/2", dir.current_link()).expect("linked");
    let (gone, problems) = prune(&dir, &known.into(), 1, &BTreeSet::new());
    assert_eq!(gone, [id("1"), id("3")]);
    assert!(matches!(problems[..], [PruneError::Current { .. }]), "{problems:?}");
    assert_eq!(dir.list_releases().expect("listed"), [id("2"), id("4")]);
}
