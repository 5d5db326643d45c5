//! Attacks by the stream around the entries: what follows its end, and what it grows to (70–72). An archive in the archive is a file like
//! any other: nobody unpacks it.

use std::io::Write as _;

use coord_proto::manifest::Compression;

use super::{Attack, Outside, Tar, zstd};

const AFTER: &str = "there is data after its end";
/// What the decoder says follows, and is its own.
const UNREADABLE: &str = "cannot be read";

fn good() -> Tar {
    Tar::default().file("good", b"x")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

fn gzipped(bytes: Vec<u8>, says: &'static str) -> Attack {
    exact(Attack::raw(bytes, Compression::Gzip, says))
}

/// With the right numbers, so that nothing else refuses it.
fn exact(attack: Attack) -> Attack {
    Attack { entries: 1, unpacked_size: 1, ..attack }
}

pub fn data_after_the_end(_: Outside<'_>) -> Attack {
    exact(Attack::raw(zstd(&[&good().end()[..], b"more"].concat()), Compression::Zstd, AFTER))
}

pub fn two_archives(_: Outside<'_>) -> Attack {
    exact(Attack::raw(zstd(&[good().end(), good().end()].concat()), Compression::Zstd, AFTER))
}

pub fn no_end(_: Outside<'_>) -> Attack {
    exact(Attack::raw(zstd(&good().open()), Compression::Zstd, "was cut off"))
}

/// Most readers of gzip stop after the first member and are content.
pub fn second_gzip_member(_: Outside<'_>) -> Attack {
    gzipped([gzip(&good().end()), gzip(b"more")].concat(), AFTER)
}

pub fn gzip_with_trailing_garbage(_: Outside<'_>) -> Attack {
    gzipped([&gzip(&good().end())[..], b"garbage"].concat(), AFTER)
}

/// The last eight bytes are the sum and the size (RFC 1952, 2.3.1).
pub fn gzip_with_a_bad_sum(_: Outside<'_>) -> Attack {
    let mut bytes = gzip(&good().end());
    let sum = bytes.len() - 8;
    bytes[sum] ^= 1;
    gzipped(bytes, UNREADABLE)
}

pub fn gzip_with_a_bad_size(_: Outside<'_>) -> Attack {
    let mut bytes = gzip(&good().end());
    let size = bytes.len() - 4;
    bytes[size] ^= 1;
    gzipped(bytes, UNREADABLE)
}

pub fn second_zstd_frame(_: Outside<'_>) -> Attack {
    exact(Attack::raw([zstd(&good().end()), zstd(b"more")].concat(), Compression::Zstd, AFTER))
}

pub fn zstd_with_trailing_garbage(_: Outside<'_>) -> Attack {
    exact(Attack::raw([&zstd(&good().end())[..], b"garbage"].concat(), Compression::Zstd, AFTER))
}

/// A frame header that asks for 2 GiB (RFC 8878, 3.1.1.1.2): magic, descriptor without flags, window descriptor, one empty last block.
pub fn zstd_window_of_2_gib(_: Outside<'_>) -> Attack {
    let greedy = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    Attack::raw(greedy, Compression::Zstd, "much memory")
}

pub fn not_compressed_at_all(_: Outside<'_>) -> Attack {
    exact(Attack::raw(good().end(), Compression::Zstd, UNREADABLE))
}

pub fn bomb_of_bytes(_: Outside<'_>) -> Attack {
    let zeros = vec![0; 64 << 20];
    Attack { entries: 1, ..Attack::new(Tar::default().file("zeros", &zeros), "it has more than 1048576 bytes unpacked") }
}

pub fn bomb_of_entries(_: Outside<'_>) -> Attack {
    let tar = (0..20_000).fold(Tar::default(), |tar, i| tar.file(&format!("{i}"), b""));
    Attack::new(tar, "it has more than 1000 entries")
}

pub fn more_than_was_signed(_: Outside<'_>) -> Attack {
    exact(Attack::new(good().file("stowaway", b""), "it has more than 1 entries"))
}

pub fn less_than_was_signed(_: Outside<'_>) -> Attack {
    Attack { entries: 2, ..exact(Attack::new(good(), "it has 1 entries, its manifest says 2")) }
}
