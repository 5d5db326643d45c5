//! Points `current` at a release (I1).

use std::io;

use coord_proto::ids::ReleaseId;
use coord_proto::report::FailureCode;

use crate::durable::{DurableError, replace_symlink};
use crate::layout::{AppDir, LayoutError};

/// Why `current` was not switched.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("cannot switch to release {release}: it is not on this server")]
    NotStaged { release: ReleaseId },
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl SwitchError {
    /// For the status record.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::NotStaged { .. } => FailureCode::Io,
            Self::Layout(e) => e.code(),
        }
    }
}

/// Points `current` at a complete release, durably. May be repeated.
///
/// # Errors
/// The release is not there, or `current` is not a link into `releases/`: nothing was changed.
pub fn switch(dir: &AppDir, release: &ReleaseId) -> Result<(), SwitchError> {
    dir.current()?;
    let path = dir.release(release);
    match std::fs::symlink_metadata(&path) {
        Ok(m) if m.is_dir() => {}
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(LayoutError::from(DurableError::on("look at", &path)(e)).into()),
        _ => return Err(SwitchError::NotStaged { release: release.clone() }),
    }
    // Also when it points there already: the text may be absolute, or not yet durable.
    Ok(replace_symlink(&AppDir::current_target(release), &dir.current_link()).map_err(LayoutError::from)?)
}

#[cfg(test)]
mod tests;
