//! Is there room for a release? Asked before a byte is downloaded.

use std::io;
use std::path::{Path, PathBuf};

use coord_proto::manifest::Artifact;
use nix::sys::statvfs::statvfs;

use crate::durable::DurableError;

/// Bytes that stay free beyond what a release needs: a full disk harms the app that runs there.
pub const MARGIN_BYTES: u64 = 32 * 1024 * 1024;
/// The same for inodes.
pub const MARGIN_INODES: u64 = 128;

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("not enough disk space in {}: {needed} bytes are needed, {available} are free", path.display())]
    DiskFull { path: PathBuf, needed: u64, available: u64 },
    #[error("not enough inodes in {}: {needed} are needed, {available} are free", path.display())]
    InodesExhausted { path: PathBuf, needed: u64, available: u64 },
    #[error(transparent)]
    Io(#[from] DurableError),
}

/// What a release takes, or what a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub bytes: u64,
    pub inodes: u64,
}

impl Room {
    /// What staging takes: the unpacked files (each rounds up to a block), the pieces kept for a resume, and the margin.
    pub fn needed(artifact: &Artifact) -> Self {
        const BLOCK: u64 = 4096;
        let slack = artifact.entries.saturating_mul(BLOCK);
        let bytes = artifact.unpacked_size.saturating_add(slack).saturating_add(artifact.size).saturating_add(MARGIN_BYTES);
        Self { bytes, inodes: artifact.entries.saturating_add(MARGIN_INODES) }
    }

    /// What is free for this user on the file system that holds `path`.
    ///
    /// # Errors
    /// `path` cannot be looked at.
    pub fn available(path: &Path) -> Result<Self, PreflightError> {
        let vfs = statvfs(path).map_err(io::Error::from).map_err(DurableError::on("ask for the free space of", path))?;
        let bytes = vfs.blocks_available().saturating_mul(vfs.fragment_size());
        // btrfs and others make inodes as needed and say that they have none at all.
        let inodes = if vfs.files() == 0 { u64::MAX } else { vfs.files_available() };
        Ok(Self { bytes, inodes })
    }

    /// Does `self` fit into `available`?
    ///
    /// # Errors
    /// Bytes or inodes do not suffice.
    pub fn check(self, available: Self, path: &Path) -> Result<(), PreflightError> {
        let path = path.to_owned();
        if self.bytes > available.bytes {
            return Err(PreflightError::DiskFull { path, needed: self.bytes, available: available.bytes });
        }
        if self.inodes > available.inodes {
            return Err(PreflightError::InodesExhausted { path, needed: self.inodes, available: available.inodes });
        }
        Ok(())
    }
}

/// Is there room in `releases` for this artifact?
///
/// # Errors
/// Too few bytes or inodes, or the path cannot be looked at.
pub fn check(releases: &Path, artifact: &Artifact) -> Result<(), PreflightError> {
    Room::needed(artifact).check(Room::available(releases)?, releases)
}

#[cfg(test)]
mod tests;
