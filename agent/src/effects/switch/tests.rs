use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn app(releases: &[&str]) -> (tempfile::TempDir, AppDir) {
    // In memory where there is such a place: ten thousand syncs of a busy disk take a minute.
    let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temp dir");
    let dir = AppDir::new(temp.path().to_owned());
    dir.ensure_directories().expect("made");
    for release in releases {
        fs::create_dir(dir.releases().join(release)).expect("made");
        fs::write(dir.releases().join(release).join("REVISION"), release).expect("written");
    }
    (temp, dir)
}

fn id(text: &str) -> ReleaseId {
    text.parse().expect("a release id")
}

#[test]
fn current_is_the_relative_text() {
    let (_temp, dir) = app(&["1", "2"]);
    for release in ["1", "2", "2"] {
        switch(&dir, &id(release)).expect("switched");
    }
    assert_eq!(fs::read_link(dir.current_link()).expect("read"), Path::new("releases/2"));
}

#[test]
fn an_adopted_absolute_link_becomes_relative() {
    let (_temp, dir) = app(&["1"]);
    symlink(dir.release(&id("1")), dir.current_link()).expect("linked");
    switch(&dir, &id("1")).expect("switched");
    assert_eq!(fs::read_link(dir.current_link()).expect("read"), Path::new("releases/1"));
}

#[test]
fn what_cannot_be_switched_is_left_alone() {
    let (_temp, dir) = app(&["1"]);
    switch(&dir, &id("1")).expect("switched");
    assert!(matches!(switch(&dir, &id("2")), Err(SwitchError::NotStaged { .. })));
    assert_eq!(dir.current().expect("read"), Some(id("1")));

    fs::remove_file(dir.current_link()).expect("removed");
    fs::create_dir(dir.current_link()).expect("made");
    let error = switch(&dir, &id("1")).expect_err("refused");
    assert_eq!(error.code(), FailureCode::CurrentNotALink);
    assert!(dir.current_link().is_dir());
}

/// I1: one writer, ten thousand switches, and readers that never miss a file.
#[test]
fn readers_never_find_current_missing() {
    let (_temp, dir) = app(&["1", "2"]);
    switch(&dir, &id("1")).expect("switched");
    let stop = AtomicBool::new(false);
    let file = dir.current_link().join("REVISION");
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut reads = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let text = fs::read_to_string(&file).expect("current always leads to a complete release");
                    assert!(text == "1" || text == "2");
                    reads += 1;
                }
                reads
            })
        });
        for i in 0..10_000 {
            switch(&dir, &id(if i % 2 == 0 { "2" } else { "1" })).expect("switched");
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("never missing") > 0);
        }
    });
}
