use coord_proto::manifest::Compression;

use super::*;
use crate::effects::fixture::{PIECE, artifact_of, noise};

fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.chunks(PIECE as usize).map(<[u8]>::to_vec).collect()
}

fn open(bytes: &[u8], parts: &Path) -> Verifier {
    Verifier::open(artifact_of(bytes, Compression::Zstd), parts).expect("opened")
}

fn resumed(verifier: &mut Verifier) -> usize {
    std::iter::from_fn(|| verifier.resume_next().expect("read")).count()
}

#[test]
fn pieces_pass_in_order_and_the_whole_is_checked() {
    let temp = tempfile::tempdir().expect("temp dir");
    let bytes = noise(1, 2500);
    let mut verifier = open(&bytes, temp.path());
    for piece in pieces(&bytes) {
        assert_eq!(verifier.verify(piece.clone()).expect("written"), Some(piece));
    }
    assert!(verifier.is_whole().expect("checked"));
}

#[test]
fn a_wrong_piece_is_neither_passed_on_nor_kept() {
    let temp = tempfile::tempdir().expect("temp dir");
    let bytes = noise(1, 2500);
    let mut verifier = open(&bytes, temp.path());
    let all = pieces(&bytes);
    verifier.verify(all[0].clone()).expect("written").expect("right");
    for wrong in [all[2].clone(), all[0].clone(), vec![], all[1][1..].to_vec()] {
        assert_eq!(verifier.verify(wrong).expect("checked"), None);
    }
    assert_eq!((verifier.next(), resumed(&mut open(&bytes, temp.path()))), (1, 1));
    assert!(!verifier.is_whole().expect("checked"), "two pieces are missing");
}

#[test]
fn what_was_kept_is_verified_again_and_cut_at_the_first_wrong_byte() {
    let temp = tempfile::tempdir().expect("temp dir");
    let bytes = noise(1, 5000);
    let mut verifier = open(&bytes, temp.path());
    for piece in pieces(&bytes) {
        verifier.verify(piece).expect("written");
    }
    assert_eq!(resumed(&mut open(&bytes, temp.path())), 5);

    let path = part_file(temp.path(), &Digest::of(&bytes));
    let mut kept = fs::read(&path).expect("read");
    kept[2 * PIECE as usize + 7] ^= 1;
    fs::write(&path, kept).expect("written");
    assert_eq!(resumed(&mut open(&bytes, temp.path())), 2);
    assert_eq!(fs::metadata(&path).expect("there").len(), 2 * PIECE);
    fs::write(&path, &bytes[..PIECE as usize + 100]).expect("torn");
    assert_eq!(resumed(&mut open(&bytes, temp.path())), 1);
}

#[test]
fn a_whole_that_contradicts_its_pieces_is_refused_and_not_kept() {
    let temp = tempfile::tempdir().expect("temp dir");
    let bytes = noise(1, 100);
    let artifact = Artifact { digest: Digest::of(b"other"), ..artifact_of(&bytes, Compression::Zstd) };
    let mut verifier = Verifier::open(artifact, temp.path()).expect("opened");
    verifier.verify(bytes).expect("written").expect("right");
    assert!(!verifier.is_whole().expect("checked"));
    assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 0);
}

#[test]
fn parts_of_other_artifacts_are_removed() {
    let temp = tempfile::tempdir().expect("temp dir");
    let keep = Digest::of(b"keep");
    for name in [part_file(temp.path(), &keep), part_file(temp.path(), &Digest::of(b"old")), temp.path().join("other")] {
        fs::write(name, "").expect("written");
    }
    remove_other_parts(temp.path(), &keep).expect("removed");
    assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 2);
    assert!(part_file(temp.path(), &keep).exists());
}
