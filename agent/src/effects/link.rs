//! Joins a staged release to what outlives it: shared directories and files, writable directories, `REVISION`.

use std::path::{Path, PathBuf};

use coord_proto::manifest::{Layout, Manifest};

use crate::durable::DurableError;
use crate::layout::AppDir;

/// Who owns what the app may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// The app's user; none: the agent's own.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Mode of shared directories, e.g. 0o2770.
    pub shared_mode: u32,
}

/// Why a release could not be linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the shared file {} is missing on this server; put it there, the deploy goes on by itself", path.display())]
    SharedFileMissing { path: PathBuf },
    #[error("{} is a link or a file; it must be a directory of its own", path.display())]
    NotADirectory { path: PathBuf },
    #[error(transparent)]
    Io(#[from] DurableError),
}

/// Is every shared file there? Asked before anything changes.
///
/// # Errors
/// Names the first one that is missing.
pub fn check_shared_files(dir: &AppDir, layout: &Layout) -> Result<(), LinkError> {
    let _ = (dir, layout);
    todo!()
}

/// Links shared paths into the unpacked tree at `tree`, makes the writable directories, writes `REVISION`.
///
/// # Errors
/// The first path that cannot be made.
pub fn link(dir: &AppDir, tree: &Path, manifest: &Manifest, ownership: Ownership) -> Result<(), LinkError> {
    let _ = (dir, tree, manifest, ownership);
    todo!()
}
