//! Artifacts under their digests: one trait, kept in a directory or in an S3-compatible bucket.
//!
//! Whatever lies under a digest was compared with it before it got there. Nothing here is trusted by a server: the
//! signed manifest names digest and pieces, and the agent checks both (I3).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_proto::ids::Digest;
use futures::stream::BoxStream;

pub mod local;
pub mod s3;
pub mod server;
pub mod sweep;
pub mod upload;

/// Artifacts that tasks share.
pub type SharedArtifacts = Arc<dyn Artifacts>;

/// The bytes of an artifact, or of a range of it.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Why an artifact was not kept, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("{doing} {} failed", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the artifact store failed at {doing} {digest}")]
    Bucket {
        doing: &'static str,
        digest: String,
        #[source]
        source: object_store::Error,
    },
    #[error("the artifact store {url} cannot be set up")]
    SetUp {
        url: String,
        #[source]
        source: object_store::Error,
    },
}

impl ArtifactError {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// Is there no room left?
    pub fn full(&self) -> bool {
        matches!(self, Self::File { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// What [`Artifacts::sweep`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub removed: usize,
    pub bytes: u64,
}

/// Artifacts under their digests.
#[async_trait]
pub trait Artifacts: Send + Sync + 'static {
    /// Length in bytes; `None` when it is not there.
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, ArtifactError>;

    /// The bytes of `range`, which must lie within the artifact; `None` when it is not there.
    async fn read(&self, digest: &Digest, range: Range<u64>) -> Result<Option<ByteStream>, ArtifactError>;

    /// Takes over a complete file whose digest was checked and which is durable; afterwards the file is gone.
    /// Keeping what is there already is no error.
    async fn keep(&self, digest: &Digest, file: &Path) -> Result<(), ArtifactError>;

    /// All that are there, with the time since each was kept or touched, by the store's own clock.
    async fn ages(&self) -> Result<BTreeMap<Digest, Duration>, ArtifactError>;

    /// Somebody is about to name it: its age begins again. One that is gone is no error.
    async fn touch(&self, digest: &Digest) -> Result<(), ArtifactError>;

    /// Removes one; one that is gone is no error. Returns its length.
    async fn remove(&self, digest: &Digest) -> Result<u64, ArtifactError>;

    /// Removes everything but `keep` and what is younger than `age_min`: an artifact is there before a manifest names it. An empty `keep` is
    /// a caller's failed read, never a wish: nothing is removed (I6).
    async fn sweep(&self, keep: &BTreeSet<Digest>, age_min: Duration) -> Result<Swept, ArtifactError> {
        let mut swept = Swept::default();
        if keep.is_empty() {
            return Ok(swept);
        }
        let ages = self.ages().await?;
        for (digest, _) in ages.iter().filter(|(digest, age)| **age >= age_min && !keep.contains(digest)) {
            swept.bytes += self.remove(digest).await?;
            swept.removed += 1;
        }
        Ok(swept)
    }
}
