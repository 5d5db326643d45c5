use coord_proto::ids::Digest;
use coord_proto::manifest::Compression;

use super::*;

fn artifact(size: u64, unpacked_size: u64, entries: u64) -> Artifact {
    Artifact {
        digest: Digest::of(b""),
        compression: Compression::Zstd,
        size,
        unpacked_size,
        entries,
        piece_size: size,
        pieces: vec![],
        strip_components: 0,
        allow_symlinks_to: vec![],
    }
}

#[test]
fn too_few_bytes_or_inodes_are_told_with_numbers_and_path() {
    let needed = Room { bytes: 10, inodes: 5 };
    let check = |bytes, inodes| compare(needed, Room { bytes, inodes }, Path::new("/srv/app"));
    check(10, 5).expect("just enough");
    let error = check(9, 5).expect_err("too few bytes");
    assert_eq!(error.to_string(), "not enough disk space in /srv/app: 10 bytes are needed, 9 are free");
    let error = check(10, 4).expect_err("too few inodes");
    assert_eq!(error.to_string(), "not enough inodes in /srv/app: 5 are needed, 4 are free");
}

#[test]
fn a_real_file_system_is_asked() {
    let temp = tempfile::tempdir().expect("temp dir");
    check(temp.path(), &artifact(1, 1, 1)).expect("room for one byte");
    assert!(matches!(check(temp.path(), &artifact(1, u64::MAX / 2, 1)), Err(PreflightError::DiskFull { .. })));
    assert!(matches!(check(Path::new("/nonexistent"), &artifact(1, 1, 1)), Err(PreflightError::Io(_))));
}

#[test]
fn a_directory_that_is_not_made_yet_has_the_room_of_the_one_above() {
    let temp = tempfile::tempdir().expect("temp dir");
    let room = available_for(&temp.path().join("app/releases")).expect("asked");
    assert!(room.bytes > 0 && room.inodes > 0, "{room:?}");
}
