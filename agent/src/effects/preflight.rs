//! Is there room for a release? Asked before a byte is downloaded.

use std::io;
use std::path::{Path, PathBuf};

use coord_proto::manifest::Artifact;
use coord_proto::room::{Lack, Room};
use nix::sys::statvfs::statvfs;

use crate::durable::DurableError;

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

/// What is free for this user on the file system that holds `path`.
///
/// # Errors
/// `path` cannot be looked at.
pub fn available(path: &Path) -> Result<Room, DurableError> {
    let vfs = statvfs(path).map_err(io::Error::from).map_err(DurableError::on("ask for the free space of", path))?;
    let bytes = vfs.blocks_available().saturating_mul(vfs.fragment_size());
    // btrfs and others make inodes as needed and say that they have none at all.
    let inodes = if vfs.files() == 0 { u64::MAX } else { vfs.files_available() };
    Ok(Room { bytes, inodes })
}

/// The same where `path` may not have been made yet: the directory that will hold it is asked. None: nobody knows.
pub fn available_for(path: &Path) -> Option<Room> {
    path.ancestors().find(|there| there.is_dir()).and_then(|there| available(there).ok())
}

/// Does `needed` fit into what is `free` at `path`?
fn compare(needed: Room, free: Room, path: &Path) -> Result<(), PreflightError> {
    let path = path.to_owned();
    match needed.lacks(free) {
        None => Ok(()),
        Some(Lack::Bytes) => Err(PreflightError::DiskFull { path, needed: needed.bytes, available: free.bytes }),
        Some(Lack::Inodes) => Err(PreflightError::InodesExhausted { path, needed: needed.inodes, available: free.inodes }),
    }
}

/// Is there room in `releases` for this artifact?
///
/// # Errors
/// Too few bytes or inodes, or the path cannot be looked at.
pub fn check(releases: &Path, artifact: &Artifact) -> Result<(), PreflightError> {
    compare(Room::needed(artifact), available(releases)?, releases)
}

#[cfg(test)]
mod tests;
