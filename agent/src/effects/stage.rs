//! Stages a release: download, verify and unpack, link, sync, and only then give it its name (I1, I3).
//!
//! ```text
//!  shared files there? ─ room? ─ download ▶ verify ▶ unpack into releases/.staging-<id>
//!    ─ link shared paths ─ proof ─ one syncfs ─ rename to releases/<id> ─ fsync releases/
//! ```
//!
//! A crash anywhere leaves a hidden directory that the next try or the next start removes. A release that has its name is complete.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coord_proto::ids::ReleaseId;
use coord_proto::manifest::Manifest;
use coord_proto::report::FailureCode;

use super::fetch::{FetchError, Fetched, Fetcher, Progress};
use super::link::{LinkError, Ownership, check_shared_files, link};
use super::pieces::{self, PieceReader};
use super::preflight::{self, PreflightError};
use super::unpack::{UnpackError, unpack};
use super::verify::{part_file, remove_other_parts};
use crate::durable::{DurableError, ensure_dir_durably, remove_if_there, remove_tree, rename_durably, sync_filesystem};
use crate::layout::{AppDir, LayoutError};

mod lock;

pub use lock::StagingLock;

/// What to stage, whence and where to.
pub struct StageRequest<'a> {
    pub dir: &'a AppDir,
    pub manifest: &'a Manifest,
    pub fetcher: &'a Fetcher,
    /// Tried in this order: `GET <base>/artifacts/<digest>`.
    pub bases: Vec<String>,
    pub ownership: Ownership,
    /// Where verified pieces wait for a resume; of this app alone.
    pub parts_dir: &'a Path,
    /// Called with bytes verified, of how many.
    pub progress: Progress<'a>,
}

/// What staging came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// Downloaded and unpacked now.
    Unpacked(Fetched),
    /// It was there, complete, with this digest.
    AlreadyThere,
}

/// Why a release was not staged. What runs is untouched.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("release {release} is in {} already and did not come from this artifact; move it away or publish under another id", path.display())]
    Occupied { release: ReleaseId, path: PathBuf },
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
    #[error("cannot unpack release {release}")]
    Unpack {
        release: ReleaseId,
        #[source]
        source: UnpackError,
    },
    #[error("a working thread ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
    #[error(transparent)]
    Io(#[from] DurableError),
}

impl StageError {
    /// For the status record.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Occupied { .. } | Self::Thread(_) => FailureCode::Io,
            Self::Layout(e) => e.code(),
            Self::Link(e) => e.code(),
            Self::Preflight(e) => e.code(),
            Self::Fetch { source, .. } => source.code(),
            Self::Unpack { source, .. } => source.code(),
            Self::Io(e) => e.code(),
        }
    }
}

impl LinkError {
    fn code(&self) -> FailureCode {
        match self {
            Self::SharedFileMissing { .. } => FailureCode::SharedFileMissing,
            Self::NotADirectory { .. } => FailureCode::Io,
            Self::Io(e) => e.code(),
        }
    }
}

impl PreflightError {
    fn code(&self) -> FailureCode {
        match self {
            Self::DiskFull { .. } => FailureCode::DiskFull,
            Self::InodesExhausted { .. } => FailureCode::InodesExhausted,
            Self::Io(e) => e.code(),
        }
    }
}

impl FetchError {
    fn code(&self) -> FailureCode {
        match self {
            Self::NoStores | Self::GaveUp { .. } | Self::UnpackingStopped => FailureCode::Download,
            Self::NoHonestStore(_) | Self::WholeDigest => FailureCode::DigestMismatch,
            Self::Options(_) | Self::Thread(_) => FailureCode::Io,
            Self::Part(e) => e.code(),
        }
    }
}

impl UnpackError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Archive(_) => FailureCode::ArchiveRefused,
            Self::Io(e) => e.code(),
        }
    }
}

/// Stages a release. May be repeated: verified pieces are used again, a complete release is left as it is.
///
/// # Errors
/// Nothing that the app can see was changed.
pub async fn stage(request: StageRequest<'_>) -> Result<Staged, StageError> {
    let plan = Plan::of(&request);
    let lock = StagingLock::take(request.dir).await?;
    let ready = plan.clone();
    if blocking(move || ready.prepare()).await? == Prepared::Complete {
        return Ok(Staged::AlreadyThere);
    }
    let (sender, reader) = pieces::channel();
    let unpacking = plan.clone();
    // The lock goes with the thread: should this future be dropped, nobody stages here until that thread has ended.
    let unpacked = tokio::task::spawn_blocking(move || (unpacking.unpack(reader), lock));
    let artifact = &request.manifest.artifact;
    let fetched = request.fetcher.fetch(artifact, &request.bases, request.parts_dir, sender, request.progress).await;
    let (unpacked, lock) = unpacked.await?;
    let ended = settle(&request.manifest.release, fetched, unpacked);
    blocking(move || {
        let _lock = lock;
        match ended {
            Ok(fetched) => plan.finish().inspect_err(|_| plan.clean_up()).map(|()| Staged::Unpacked(fetched)),
            Err(e) => {
                plan.clean_up();
                Err(e)
            }
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StageError> + Send + 'static) -> Result<T, StageError> {
    tokio::task::spawn_blocking(work).await?
}

/// Download and unpacking stop each other: the one that stopped first says why.
fn settle(release: &ReleaseId, fetched: Result<Fetched, FetchError>, unpacked: Result<(), UnpackError>) -> Result<Fetched, StageError> {
    let release = release.clone();
    match (fetched, unpacked) {
        (Ok(fetched), Ok(())) => Ok(fetched),
        (Ok(_) | Err(FetchError::UnpackingStopped), Err(source)) => Err(StageError::Unpack { release, source }),
        (Err(source), _) => Err(StageError::Fetch { release, source }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Prepared {
    Ready,
    Complete,
}

/// The blocking half of staging.
#[derive(Clone)]
struct Plan {
    dir: AppDir,
    manifest: Manifest,
    ownership: Ownership,
    parts: PathBuf,
    tree: PathBuf,
}

impl Plan {
    fn of(request: &StageRequest<'_>) -> Self {
        Self {
            dir: request.dir.clone(),
            manifest: request.manifest.clone(),
            ownership: request.ownership,
            parts: request.parts_dir.to_owned(),
            tree: request.dir.staging(&request.manifest.release),
        }
    }

    /// Everything that can be refused before a byte is downloaded.
    fn prepare(&self) -> Result<Prepared, StageError> {
        self.dir.ensure_directories()?;
        check_shared_files(&self.dir, &self.manifest.layout)?;
        if self.is_complete()? {
            return Ok(Prepared::Complete);
        }
        ensure_dir_durably(&self.parts)?;
        remove_other_parts(&self.parts, &self.manifest.artifact.digest)?;
        remove_tree(&self.tree)?;
        preflight::check(&self.dir.releases(), &self.manifest.artifact)?;
        Ok(Prepared::Ready)
    }

    /// A release got its name last, and its proof just before that: name and proof together say that it is ours and complete.
    fn is_complete(&self) -> Result<bool, StageError> {
        let (release, digest) = (&self.manifest.release, &self.manifest.artifact.digest);
        if self.dir.is_complete(release, digest)? {
            return Ok(true);
        }
        let path = self.dir.release(release);
        // Whatever has the name and no proof is not ours to replace.
        if path.symlink_metadata().is_ok() { Err(StageError::Occupied { release: release.clone(), path }) } else { Ok(false) }
    }

    fn unpack(&self, compressed: PieceReader) -> Result<(), UnpackError> {
        unpack(compressed, &self.manifest.artifact, self.manifest.created, &self.tree)
    }

    fn finish(&self) -> Result<(), StageError> {
        // Before the sync, so that the kept pieces need not be written out.
        remove_if_there(&part_file(&self.parts, &self.manifest.artifact.digest))?;
        link(&self.dir, &self.tree, &self.manifest, self.ownership)?;
        let open_to_all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&self.tree, open_to_all).map_err(DurableError::on("set the mode of", &self.tree))?;
        self.dir.prove(&self.manifest.release, &self.manifest.artifact.digest)?;
        sync_filesystem(&self.tree)?;
        Ok(rename_durably(&self.tree, &self.dir.release(&self.manifest.release))?)
    }

    /// Frees the disk at once; what cannot be removed now goes with the next try or the next start.
    fn clean_up(&self) {
        if let Err(error) = remove_tree(&self.tree) {
            tracing::warn!(error = coord_proto::chain::inline(&error), "a half-unpacked release stays for now");
        }
    }
}

#[cfg(test)]
mod tests;
