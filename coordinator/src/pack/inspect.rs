//! Reads an archive as servers do, and measures what the manifest says of it: digests, sizes, entries.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use coord_proto::archive::{ArchiveRules, scan};
use coord_proto::ids::Digest;
use coord_proto::limits::{PIECE_BYTES, PIECES_MAX};
use coord_proto::manifest::{Artifact, Compression};
use sha2::{Digest as _, Sha256};

use super::PackError;
use crate::deploy_file::ArtifactSection;

/// First bytes of a zstd frame (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// First bytes of a gzip member (RFC 1952, 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Measures and checks the archive at `path`.
///
/// # Errors
/// Not an archive, or one that servers would refuse.
pub fn inspect(path: &Path, section: &ArtifactSection) -> Result<Artifact, PackError> {
    let mut file = File::open(path).map_err(PackError::file("read", path))?;
    let compression = compression_of(&mut file).map_err(PackError::file("read", path))?;
    let compression = compression.ok_or_else(|| PackError::NotAnArchive { path: path.into() })?;
    let sums = Sums::of(&mut file).map_err(PackError::file("read", path))?;
    let limit = PIECES_MAX as u64 * PIECE_BYTES;
    if sums.size > limit {
        return Err(PackError::TooLarge { size: sums.size, limit });
    }
    file.rewind().map_err(PackError::file("read", path))?;
    let rules = ArchiveRules {
        strip_components: section.strip_components,
        allow_symlinks_to: section.allow_symlinks_to.clone(),
        ..ArchiveRules::default()
    };
    let totals = scan(compression, &mut file, rules).map_err(|source| PackError::Refused { path: path.into(), source })?;
    if totals.entries == 0 {
        return Err(PackError::Empty { path: path.into() });
    }
    Ok(Artifact {
        digest: sums.whole,
        compression,
        size: sums.size,
        unpacked_size: totals.unpacked_size,
        entries: totals.entries,
        piece_size: PIECE_BYTES,
        pieces: sums.pieces,
        strip_components: section.strip_components,
        allow_symlinks_to: section.allow_symlinks_to.clone(),
    })
}

/// By its first bytes: names lie.
fn compression_of(file: &mut File) -> io::Result<Option<Compression>> {
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok(match magic.as_slice() {
        bytes if bytes == ZSTD_MAGIC => Some(Compression::Zstd),
        bytes if bytes.starts_with(&GZIP_MAGIC) => Some(Compression::Gzip),
        _ => None,
    })
}

/// SHA-256 of the whole and of each piece, in one pass.
struct Sums {
    whole: Digest,
    pieces: Vec<Digest>,
    size: u64,
}

impl Sums {
    fn of(input: &mut impl Read) -> io::Result<Self> {
        let mut whole = Sha256::new();
        let mut pieces = Vec::new();
        let mut size = 0;
        let mut piece = Vec::with_capacity(PIECE_BYTES as usize);
        loop {
            piece.clear();
            input.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)?;
            if piece.is_empty() {
                break;
            }
            whole.update(&piece);
            pieces.push(Digest::of(&piece));
            size += piece.len() as u64;
        }
        Ok(Self { whole: Digest::from_bytes(whole.finalize().into()), pieces, size })
    }
}
