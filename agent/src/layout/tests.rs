use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::facts::{Facts, Outcome};
use super::*;

fn app() -> (TempDir, AppDir) {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = AppDir::new(temp.path().join("app"));
    dir.ensure_directories().expect("made");
    (temp, dir)
}

fn id(text: &str) -> ReleaseId {
    text.parse().expect("a release id")
}

fn facts(release: &str) -> Facts {
    Facts {
        seq: coord_proto::ids::Seq(3),
        release: id(release),
        digest: coord_proto::ids::Digest::of(b"x"),
        created: 7,
        outcome: Outcome::Untried,
    }
}

#[test]
fn directories_are_made_once_and_may_be_there() {
    let (_temp, dir) = app();
    dir.ensure_directories().expect("again");
    assert!(dir.releases().is_dir() && dir.shared().is_dir());
    assert_eq!(dir.current().expect("read"), None);
}

#[test]
fn a_current_that_is_a_real_directory_or_file_is_refused_and_untouched() {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = AppDir::new(temp.path().to_owned());
    fs::create_dir(dir.current_link()).expect("made");
    fs::write(dir.current_link().join("index.php"), "x").expect("written");
    assert!(matches!(dir.ensure_directories(), Err(LayoutError::CurrentNotALink { kind: "directory", .. })));
    assert!(!dir.releases().exists(), "refused before anything was made");
    assert!(dir.current_link().join("index.php").exists());

    fs::remove_dir_all(dir.current_link()).expect("removed");
    fs::write(dir.current_link(), "").expect("written");
    assert!(matches!(dir.current(), Err(LayoutError::CurrentNotALink { kind: "file", .. })));
}

#[test]
fn a_current_of_another_tool_is_read_relative_or_absolute() {
    let (temp, dir) = app();
    let release = dir.releases().join("20240101101010");
    fs::create_dir(&release).expect("made");
    let reads = |target: &Path| {
        let _ = fs::remove_file(dir.current_link());
        symlink(target, dir.current_link()).expect("linked");
        dir.current()
    };
    let expected = Some(id("20240101101010"));
    assert_eq!(reads(Path::new("releases/20240101101010")).expect("Ansistrano"), expected);
    assert_eq!(reads(Path::new("./releases/20240101101010")).expect("relative"), expected);
    assert_eq!(reads(&release).expect("Capistrano"), expected);
    // The same tree, named through another path.
    symlink(dir.path(), temp.path().join("alias")).expect("linked");
    assert_eq!(reads(&temp.path().join("alias/releases/20240101101010")).expect("alias"), expected);
    for elsewhere in ["/srv/other/releases/1", "releases", "../x", "releases/1/sub", "releases/../releases/1", "/"] {
        assert!(matches!(reads(Path::new(elsewhere)), Err(LayoutError::CurrentElsewhere { .. })), "{elsewhere}");
    }
}

#[test]
fn only_complete_releases_are_listed() {
    let (_temp, dir) = app();
    for name in ["2", "1", ".staging-3", ".trash-4", "bad name"] {
        fs::create_dir(dir.releases().join(name)).expect("made");
    }
    fs::write(dir.releases().join("5"), "a file").expect("written");
    symlink("1", dir.releases().join("6")).expect("linked");
    assert_eq!(dir.list_releases().expect("listed"), [id("1"), id("2")]);
}

#[test]
fn the_sweep_removes_what_a_crash_left_and_nothing_else() {
    let (_temp, dir) = app();
    for name in ["1", ".staging-3", ".trash-4", ".keep"] {
        fs::create_dir_all(dir.releases().join(name).join("sub")).expect("made");
    }
    dir.record_facts(&facts("1")).expect("recorded");
    dir.record_facts(&facts("3")).expect("recorded");
    dir.sweep().expect("swept");
    let mut left: Vec<_> = fs::read_dir(dir.releases()).expect("listed").map(|e| e.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, [".keep", "1"]);
    assert!(dir.facts(&id("1")).expect("read").is_some());
    assert_eq!(dir.facts(&id("3")).expect("read"), None);
}

#[test]
fn facts_survive_and_outcomes_are_noted() {
    let (_temp, dir) = app();
    dir.record_facts(&facts("1")).expect("recorded");
    dir.record_outcome(&id("1"), Outcome::Good).expect("noted");
    assert_eq!(dir.facts(&id("1")).expect("read"), Some(Facts { outcome: Outcome::Good, ..facts("1") }));
    dir.record_outcome(&id("adopted"), Outcome::Good).expect("nothing to note");
    assert_eq!(dir.facts(&id("adopted")).expect("read"), None);
    fs::write(dir.facts_dir().join("1.json"), "{torn").expect("written");
    assert_eq!(dir.facts(&id("1")).expect("read"), None, "what cannot be understood is not ours");
}
