use std::fs;
use std::os::unix::fs::MetadataExt;

use coord_proto::archive::Problem;
use coord_proto::manifest::Compression;

use super::super::fixture::{CREATED, artifact_of, noise, tar, zstd};
use super::*;

fn unpack_in(temp: &tempfile::TempDir, packed: &[u8], artifact: &Artifact) -> Result<std::path::PathBuf, UnpackError> {
    let root = temp.path().join("release");
    unpack(packed, artifact, CREATED, &root).map(|()| root)
}

fn unpack_new(packed: &[u8]) -> (tempfile::TempDir, Result<std::path::PathBuf, UnpackError>) {
    let temp = tempfile::tempdir().expect("temp dir");
    let result = unpack_in(&temp, packed, &artifact_of(packed, Compression::Zstd));
    (temp, result)
}

#[test]
fn the_tree_has_the_content_normal_modes_and_one_time() {
    let big = noise(3, 300_000);
    let (_temp, root) = unpack_new(&zstd(&tar(&[
        ("empty/", b""),
        ("bin/run", b"#!/bin/sh"),
        ("a/b/small", b"small"),
        ("a/big", &big),
        ("a/link -> b/small", b""),
        ("zero", b""),
    ])));
    let root = root.expect("unpacked");
    let seen = |path: &str| fs::symlink_metadata(root.join(path)).expect("there");
    assert_eq!(fs::read(root.join("a/link")).expect("read"), b"small");
    assert!(fs::read(root.join("a/big")).expect("read") == big);
    for (path, mode) in [("bin/run", 0o755), ("a/b/small", 0o644), ("a/big", 0o644), ("zero", 0o644), ("empty", 0o755), ("a/b", 0o755)] {
        assert_eq!(seen(path).mode() & 0o7777, mode, "{path}");
    }
    for path in ["bin", "bin/run", "a", "a/b", "a/b/small", "a/big", "a/link", "zero", "empty"] {
        assert_eq!((seen(path).mtime(), seen(path).mtime_nsec()), (CREATED, 0), "{path}");
        assert_eq!(seen(path).uid(), nix::unistd::Uid::effective().as_raw(), "{path}: the archive's owner is ignored");
    }
    assert_eq!(fs::metadata(&root).expect("there").mode() & 0o777, 0o700, "closed until it is finished");
}

#[test]
fn more_directories_than_may_be_open() {
    let names: Vec<String> = (0..400).map(|i| format!("d{}/e{i}/f", i % 7)).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), n.as_bytes())).collect();
    let (_temp, root) = unpack_new(&zstd(&tar(&entries)));
    let root = root.expect("unpacked");
    for name in &names {
        assert_eq!(fs::read(root.join(name)).expect("read"), name.as_bytes());
        assert_eq!(fs::metadata(root.join(name).parent().expect("a directory")).expect("there").mtime(), CREATED);
    }
}

#[test]
fn the_signed_numbers_must_be_met_exactly() {
    let packed = zstd(&tar(&[("a", b"12345"), ("b", b"")]));
    let right = artifact_of(&packed, Compression::Zstd);
    for (entries, bytes) in [(1, 5), (3, 5), (2, 4), (2, 6)] {
        let temp = tempfile::tempdir().expect("temp dir");
        let wrong = Artifact { entries, unpacked_size: bytes, ..right.clone() };
        assert!(matches!(unpack_in(&temp, &packed, &wrong), Err(UnpackError::Archive(_))), "{entries} {bytes}");
    }
    let temp = tempfile::tempdir().expect("temp dir");
    unpack_in(&temp, &packed, &right).expect("exactly these");
}

#[test]
fn a_bad_entry_refuses_the_archive_and_touches_nothing_outside() {
    let outside = tempfile::tempdir().expect("temp dir");
    let target = format!("l -> {}", outside.path().display());
    let packed = zstd(&tar(&[(target.as_str(), b""), ("l/owned", b"x")]));
    let (_temp, result) = unpack_new(&packed);
    // Judged by rules that allow this much, the link itself is what refuses it.
    let rules = Artifact { entries: 10, unpacked_size: 10, ..artifact_of(&packed, Compression::Zstd) };
    assert!(result.is_err());
    let temp = tempfile::tempdir().expect("temp dir");
    let error = unpack_in(&temp, &packed, &rules).expect_err("refused");
    assert!(matches!(error, UnpackError::Archive(ArchiveError::Entry { problem: Problem::LinkAbsolute(_), .. })), "{error:?}");
    // Even where the link is allowed, nothing is written through it.
    let temp = tempfile::tempdir().expect("temp dir");
    let rules = Artifact { allow_symlinks_to: vec![outside.path().display().to_string()], ..rules };
    let error = unpack_in(&temp, &packed, &rules).expect_err("refused");
    assert!(matches!(error, UnpackError::Archive(ArchiveError::Entry { problem: Problem::BelowNonDirectory(_), .. })), "{error:?}");
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let whole = tar(&[("a/", b""), ("a/small", &[1; 700]), ("a/big", &noise(5, 200_000)), ("l -> a", b"")]);
    let rules = artifact_of(&zstd(&whole), Compression::Zstd);
    // Every block around the headers, and a few inside the big file; the last block is one of the two that mark the end.
    let cuts = (0..whole.len()).step_by(512).filter(|at| *at < 5_000 || *at > whole.len() - 5_000 || at % 51_200 == 0);
    for at in cuts {
        let temp = tempfile::tempdir().expect("temp dir");
        let result = unpack_in(&temp, &zstd(&whole[..at]), &rules);
        assert!(matches!(result, Err(UnpackError::Archive(_))), "cut at {at}: {result:?}");
    }
}

#[test]
fn a_root_that_exists_is_not_unpacked_into() {
    let temp = tempfile::tempdir().expect("temp dir");
    let packed = zstd(&tar(&[("a", b"")]));
    fs::create_dir(temp.path().join("release")).expect("made");
    let error = unpack_in(&temp, &packed, &artifact_of(&packed, Compression::Zstd)).expect_err("refused");
    assert!(matches!(error, UnpackError::Io(DurableError { what: "create", .. })), "{error:?}");
}

/// Someone swaps a directory for a link while the archive is being unpacked: the file still lands in the directory that was opened,
/// or nowhere, never behind the link.
#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let outside = tempfile::tempdir().expect("temp dir");
    let temp = tempfile::tempdir().expect("temp dir");
    let root = temp.path().join("release");
    let mut tree = Tree::create(&root, Stamp::new(CREATED)).expect("made");
    tree.make_dir("d").expect("made");
    fs::rename(root.join("d"), root.join("moved")).expect("moved");
    std::os::unix::fs::symlink(outside.path(), root.join("d")).expect("linked");
    assert!(tree.place("d/file").is_err(), "a link is not entered");
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
}

#[test]
fn a_file_that_is_there_is_never_written_over() {
    let temp = tempfile::tempdir().expect("temp dir");
    let root = temp.path().join("release");
    let stamp = Stamp::new(CREATED);
    let mut tree = Tree::create(&root, stamp).expect("made");
    fs::write(root.join("f"), "there").expect("written");
    std::os::unix::fs::symlink("target", root.join("l")).expect("linked");
    for name in ["f", "l"] {
        let place = tree.place(name).expect("a place");
        assert!(stamp.create(&place, false).is_err());
    }
    assert!(!root.join("target").exists());
}

/// The writers' error reaches the caller: here the disk says no because the directory was removed under it.
#[test]
fn a_writer_that_fails_stops_everything() {
    let temp = tempfile::tempdir().expect("temp dir");
    let stamp = Stamp::new(CREATED);
    let mut tree = Tree::create(&temp.path().join("release"), stamp).expect("made");
    tree.make_dir("d").expect("made");
    let place = || -> Place { Tree::place(&mut tree, "d/f").expect("a place") };
    let mut places: Vec<Place> = std::iter::repeat_with(place).take(200).collect();
    fs::remove_dir(temp.path().join("release/d")).expect("removed");
    let result = with_writers(stamp, |files| {
        while let Some(place) = places.pop() {
            let file = SmallFile { place, bytes: vec![], executable: false };
            files.send(file).map_err(|_| place_less("hand over"))?;
        }
        Ok(())
    });
    let error = result.expect_err("nothing could be written");
    assert!(matches!(&error, UnpackError::Io(e) if e.what == "create" && e.path.ends_with("d/f")), "{error:?}");
}
