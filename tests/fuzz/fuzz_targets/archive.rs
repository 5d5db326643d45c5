//! The archive reader, with and without its decompression. The first byte says which.
#![no_main]

use std::io::{Read as _, sink};

use coord_proto::archive::{ArchiveReader, ArchiveRules, Kind, scan};
use coord_proto::manifest::Compression;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;
const UNPACKED_MAX: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let rules = ArchiveRules {
        entries_max: 1000,
        unpacked_bytes_max: UNPACKED_MAX,
        strip_components: u32::from(how >> 4) & 1,
        allow_symlinks_to: vec!["/usr/bin/python3*".into()],
    };
    match how & 3 {
        0 => drop(scan(Compression::Zstd, bytes, rules)),
        1 => drop(scan(Compression::Gzip, bytes, rules)),
        2 => read(bytes, rules),
        _ => read(&with_right_sums(bytes), rules),
    }
});

/// Nothing may come out that could leave a release, or be larger than agreed.
fn read(bytes: &[u8], rules: ArchiveRules) {
    let mut archive = ArchiveReader::new(bytes, rules);
    let mut size = 0;
    while let Ok(Some(entry)) = archive.next_entry() {
        assert!(entry.path.split('/').all(|c| !matches!(c, "" | "." | "..")) && !entry.path.contains('\0'), "{entry:?}");
        if let Kind::File { size: told, .. } = entry.kind {
            size += told;
            let mut content = archive.by_ref().take(told);
            drop(std::io::copy(&mut content, &mut sink()));
        }
    }
    assert!(size <= UNPACKED_MAX);
    drop(archive.finish());
}

/// A sum that no mutation would hit is written into every block that looks like a header.
fn with_right_sums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}
