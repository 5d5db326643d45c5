//! Room for a release on a server's disk: the same arithmetic before a download, and in a plan.

use serde::{Deserialize, Serialize};

use crate::manifest::Artifact;

/// Bytes that stay free beyond what a release needs: a full disk harms the app that runs there.
pub const MARGIN_BYTES: u64 = 32 * 1024 * 1024;
/// The same for inodes.
pub const MARGIN_INODES: u64 = 128;
/// What a file rounds up to.
const BLOCK: u64 = 4096;

/// What a release takes, or what a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub bytes: u64,
    pub inodes: u64,
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    Bytes,
    Inodes,
}

impl Room {
    /// What staging takes: the unpacked files (each rounds up to a block), the pieces kept for a resume, and the margin.
    pub fn needed(artifact: &Artifact) -> Self {
        let slack = artifact.entries.saturating_mul(BLOCK);
        let bytes = artifact.unpacked_size.saturating_add(slack).saturating_add(artifact.size).saturating_add(MARGIN_BYTES);
        Self { bytes, inodes: artifact.entries.saturating_add(MARGIN_INODES) }
    }

    /// What `available` lacks for this; none: it fits.
    pub fn lacks(self, available: Self) -> Option<Lack> {
        if self.bytes > available.bytes {
            return Some(Lack::Bytes);
        }
        (self.inodes > available.inodes).then_some(Lack::Inodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::manifest::Compression;

    #[test]
    fn what_is_needed_comes_from_the_signed_sizes() {
        let artifact = Artifact {
            digest: Digest::of(b""),
            compression: Compression::Zstd,
            size: 100,
            unpacked_size: 1000,
            entries: 10,
            piece_size: 100,
            pieces: vec![],
            strip_components: 0,
            allow_symlinks_to: vec![],
        };
        let needed = Room::needed(&artifact);
        assert_eq!(needed, Room { bytes: 100 + 1000 + 10 * BLOCK + MARGIN_BYTES, inodes: 10 + MARGIN_INODES });
    }

    #[test]
    fn just_enough_is_enough_and_bytes_are_named_before_inodes() {
        let needed = Room { bytes: 10, inodes: 5 };
        let lack = |bytes, inodes| needed.lacks(Room { bytes, inodes });
        assert_eq!(lack(10, 5), None);
        assert_eq!(lack(9, 4), Some(Lack::Bytes));
        assert_eq!(lack(10, 4), Some(Lack::Inodes));
    }
}
