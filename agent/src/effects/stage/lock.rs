//! One staging at a time in one app's directory, also between an agent that was killed and the one that replaced it.

use std::fs::{File, OpenOptions};
use std::io;

use nix::fcntl::{Flock, FlockArg};

use super::StageError;
use crate::durable::DurableError;
use crate::layout::AppDir;

/// Held while something is unpacked; the kernel gives it back when the holder ends.
#[derive(Debug)]
pub struct StagingLock {
    _file: Flock<File>,
}

impl StagingLock {
    /// Waits for the lock of `dir`, whose directories are made where missing.
    ///
    /// # Errors
    /// The directory is unusable, or the lock file cannot be opened.
    pub async fn take(dir: &AppDir) -> Result<Self, StageError> {
        let dir = dir.clone();
        super::blocking(move || {
            dir.ensure_directories()?;
            let path = dir.proofs().join("lock");
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(DurableError::on("open", &path))?;
            let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| io::Error::from(e));
            Ok(Self { _file: locked.map_err(DurableError::on("lock", &path))? })
        })
        .await
    }
}
