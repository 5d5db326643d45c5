//! Stages a release: download, verify and unpack, link, sync, and only then give it its name (I1, I3).

use std::path::Path;

use coord_proto::ids::ReleaseId;
use coord_proto::manifest::Manifest;
use coord_proto::report::FailureCode;

use super::fetch::{FetchError, Fetcher};
use super::link::{LinkError, Ownership};
use super::preflight::PreflightError;
use crate::durable::DurableError;
use crate::layout::{AppDir, LayoutError};

/// What to stage, whence and where to.
pub struct StageRequest<'a> {
    pub dir: &'a AppDir,
    pub manifest: &'a Manifest,
    pub fetcher: &'a Fetcher,
    /// Tried in this order: `GET <base>/<digest>`.
    pub bases: Vec<String>,
    pub ownership: Ownership,
    /// Where verified pieces wait for a resume.
    pub parts_dir: &'a Path,
    /// Called with bytes verified, of how many.
    pub progress: &'a (dyn Fn(u64, u64) + Send + Sync),
}

/// What staging came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// Downloaded and unpacked now.
    Unpacked { downloaded: u64, resumed: u64 },
    /// It was there, complete, with this digest.
    AlreadyThere,
}

/// Why a release was not staged. What runs is untouched.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("release {release} is in {} already and did not come from this artifact; move it away or publish under another id", path.display())]
    Occupied { release: ReleaseId, path: std::path::PathBuf },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("cannot download release {release}")]
    Fetch {
        release: ReleaseId,
        #[source]
        source: FetchError,
    },
    #[error(transparent)]
    Io(#[from] DurableError),
}

impl StageError {
    /// For the status record.
    pub fn code(&self) -> FailureCode {
        FailureCode::Io
    }
}

/// Stages a release. May be repeated: verified pieces are used again, a complete release is left as it is.
///
/// # Errors
/// Nothing that the app can see was changed.
pub async fn stage(request: StageRequest<'_>) -> Result<Staged, StageError> {
    let _ = request;
    todo!()
}
