//! Archives that a thief of a build machine could sign: one function for each attack, named after it. Their digests are right, so only the
//! reader's own rules stand between them and a server.
//!
//! In reading order: `tar` writes whatever it is told; `names`, `kinds`, `headers` and `streams` hold the attacks.

use std::path::Path;

use coord_proto::ids::Digest;
use coord_proto::limits::PIECE_BYTES;
use coord_proto::manifest::{Artifact, Compression};

mod headers;
mod kinds;
mod names;
mod streams;
mod tar;

pub use tar::Tar;

/// A directory with something precious that no archive may reach.
#[derive(Debug, Clone, Copy)]
pub struct Outside<'a> {
    /// From the root.
    pub absolute: &'a str,
    /// From the directory that the archive is unpacked into.
    pub relative: &'a str,
}

/// One attack.
#[derive(Debug, Clone)]
pub struct Attack {
    /// The function's.
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub compression: Compression,
    /// Signed numbers; an honest archive of this kind stays below them.
    pub entries: u64,
    pub unpacked_size: u64,
    pub allow_symlinks_to: Vec<String>,
    /// Words of its refusal.
    pub says: &'static str,
}

impl Attack {
    /// A tar stream, compressed as `coordctl` does it.
    fn new(tar: Tar, says: &'static str) -> Self {
        Self::raw(zstd(&tar.end()), Compression::Zstd, says)
    }

    fn raw(bytes: Vec<u8>, compression: Compression, says: &'static str) -> Self {
        Self { name: "", bytes, compression, entries: 1000, unpacked_size: 1 << 20, allow_symlinks_to: vec![], says }
    }

    fn allowing(self, target: &str) -> Self {
        Self { allow_symlinks_to: vec![target.to_owned()], ..self }
    }

    /// What is signed of it.
    pub fn artifact(&self) -> Artifact {
        Artifact {
            digest: Digest::of(&self.bytes),
            compression: self.compression,
            size: self.bytes.len() as u64,
            unpacked_size: self.unpacked_size,
            entries: self.entries,
            piece_size: PIECE_BYTES,
            pieces: self.bytes.chunks(PIECE_BYTES as usize).map(Digest::of).collect(),
            strip_components: 0,
            allow_symlinks_to: self.allow_symlinks_to.clone(),
        }
    }
}

type Make = fn(Outside<'_>) -> Attack;

/// `(name of the function, the function)`.
macro_rules! attacks {
    ($($module:ident: $($name:ident),+;)+) => {
        &[$($((stringify!($name), $module::$name as Make)),+),+]
    };
}

const ALL: &[(&str, Make)] = attacks! {
    names: parent_directory, parent_directory_inside, path_from_the_root, windows_drive, empty_name, dot_as_a_file, nul_in_a_name,
        component_of_5000_bytes, name_that_is_not_utf8, same_path_twice, directory_in_place_of_a_file, depth_of_10000, depth_of_65;
    kinds: link_from_the_root, link_out, link_to_proc_self, link_through_a_link, file_through_a_link, link_replaced_by_a_directory,
        hard_link_outside, hard_link_to_a_link, hard_link_to_what_comes_later, character_device, block_device, fifo, contiguous_file,
        unknown_kind, sparse_file, content_of_a_directory;
    headers: extended_size_larger, extended_size_smaller, extended_name_before_a_gnu_name, gnu_name_before_an_extended_name,
        extended_path_twice, extended_record_without_end, extended_size_negative, size_negative, size_of_no_number, size_base256_negative,
        size_beyond_64_bits, size_of_8_eib, gnu_name_of_one_gib, extended_header_of_one_gib, global_header_with_a_path, sparse_0_0,
        sparse_0_1, sparse_1_0, wrong_checksum;
    streams: data_after_the_end, two_archives, no_end, second_gzip_member, gzip_with_trailing_garbage, gzip_with_a_bad_sum,
        gzip_with_a_bad_size, second_zstd_frame, zstd_with_trailing_garbage, zstd_window_of_2_gib, not_compressed_at_all, bomb_of_bytes,
        bomb_of_entries, more_than_was_signed, less_than_was_signed;
};

/// Every attack, aimed at `outside`.
pub fn all(outside: Outside<'_>) -> Vec<Attack> {
    ALL.iter().map(|(name, make)| Attack { name, ..make(outside) }).collect()
}

/// Archives of `whole` cut at every block of 512 bytes, compressed again.
pub fn cut_at_every_block(whole: &[u8]) -> Vec<Attack> {
    let cut = |at| Attack { name: "cut_at_every_block", ..Attack::raw(zstd(&whole[..at]), Compression::Zstd, "was cut off") };
    (0..whole.len()).step_by(512).map(cut).collect()
}

/// Bits, owners and attributes that are not refused but not taken over: set-uid files, a directory without a right, a root's xattrs.
pub fn untamed() -> Tar {
    let attributes: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", b"\x01\x00\x00\x02\x00\x20\x00\x00"),
        ("SCHILY.xattr.user.coord", b"attack"),
        ("LIBARCHIVE.xattr.user.coord", b"YXR0YWNr"),
        ("RHT.security.selinux", b"unconfined_u:object_r:bin_t:s0"),
        ("uid", b"0"),
        ("uname", b"root"),
    ];
    Tar::default()
        .with_mode(0o7777)
        .file("bin/set-uid", b"#!/bin/sh\n")
        .with_mode(0o666)
        .file("for-all", b"x")
        .with_mode(0)
        .dir("closed/")
        .file("closed/in", b"x")
        .with_mode(0o1777)
        .dir("open/")
        .with_mode(0o644)
        .with_owner(4242, "root")
        .pax(b'x', attributes)
        .file("attributes", b"x")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.include_checksum(true).expect("set");
    std::io::Write::write_all(&mut encoder, bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

/// Packs a tar stream that is to be accepted.
pub fn packed(tar: Tar) -> Vec<u8> {
    zstd(&tar.end())
}

/// The directory of [`Outside`], with a file and a link.
///
/// # Errors
/// The file system's.
pub fn make_outside(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("precious"), "not yours")?;
    std::os::unix::fs::symlink("precious", dir.join("link"))
}
