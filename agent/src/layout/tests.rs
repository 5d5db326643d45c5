use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

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
    dir.prove(&id("1"), &Digest::of(b"x")).expect("written");
    dir.prove(&id("3"), &Digest::of(b"x")).expect("written");
    assert!(dir.sweep().is_empty());
    let mut left: Vec<_> = fs::read_dir(dir.releases()).expect("listed").map(|e| e.expect("entry").file_name()).collect();
    left.sort();
    assert_eq!(left, [".keep", "1"]);
    assert!(dir.proof(&id("1")).expect("read").is_some());
    assert_eq!(dir.proof(&id("3")).expect("read"), None);
}

#[test]
fn a_leftover_that_stays_is_told_and_the_others_go() {
    let (_temp, dir) = app();
    // Root may remove anything but a proof that is a directory.
    fs::create_dir_all(dir.proofs().join("7.json/in the way")).expect("made");
    fs::create_dir_all(dir.releases().join(".trash-4/sub")).expect("made");
    dir.prove(&id("3"), &Digest::of(b"x")).expect("written");
    let problems: Vec<String> = dir.sweep().iter().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("7.json"), "{problems:?}");
    assert!(!dir.trash(&id("4")).exists());
    assert_eq!(dir.proof(&id("3")).expect("read"), None);
}

#[test]
fn a_release_is_complete_with_its_name_and_its_proof() {
    let (_temp, dir) = app();
    let (release, digest) = (id("1"), Digest::of(b"x"));
    let complete = || dir.is_complete(&release, &digest).expect("looked");
    dir.prove(&release, &digest).expect("written");
    assert!(!complete(), "no directory");
    fs::create_dir(dir.release(&release)).expect("made");
    assert!(complete());
    assert!(!dir.is_complete(&release, &Digest::of(b"y")).expect("looked"), "another artifact");
    fs::write(dir.proofs().join("1.json"), "{torn").expect("written");
    assert!(!complete(), "what cannot be understood proves nothing");
}

#[test]
fn a_current_that_points_elsewhere_is_refused_before_anything_is_made() {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = AppDir::new(temp.path().to_owned());
    symlink("/opt/app/v1", dir.current_link()).expect("linked");
    assert!(matches!(dir.ensure_directories(), Err(LayoutError::CurrentElsewhere { .. })));
    assert!(!dir.releases().exists());
}
