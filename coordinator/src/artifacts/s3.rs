//! Artifacts in an S3-compatible bucket; the coordinator passes the bytes on.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use coord_proto::chain::inline;
use coord_proto::ids::Digest;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Location;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use tokio::io::AsyncReadExt;

use super::{ArtifactError, Artifacts, ByteStream};
use crate::config::ArtifactsConfig;

/// One part of a multipart upload; S3 allows 10,000 of them.
const PART_BYTES: usize = 16 * 1024 * 1024;
/// Parts on their way at once.
const PARTS_MAX: usize = 4;

/// Its time is the bucket's own clock.
const CLOCK: &str = "clock";
/// After an artifact's name: an empty object whose time says when the artifact was touched. Large objects cannot be copied onto themselves.
const TOUCHED: &str = ".touched";

/// Artifacts in a bucket.
#[derive(Debug, Clone)]
pub struct BucketArtifacts {
    bucket: Arc<dyn ObjectStore>,
    prefix: String,
}

impl BucketArtifacts {
    /// An S3-compatible bucket; credentials come from `AWS_*` or the instance.
    ///
    /// # Errors
    /// The settings contradict each other. The bucket itself is not contacted.
    pub fn connect(bucket: &str, prefix: &str, config: &ArtifactsConfig) -> Result<Self, ArtifactError> {
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_allow_http(config.allow_http);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &config.region {
            builder = builder.with_region(region);
        }
        let store = builder.build().map_err(|source| ArtifactError::SetUp { url: format!("s3://{bucket}/{prefix}"), source })?;
        Ok(Self::over(Arc::new(store), prefix))
    }

    /// Any object store.
    pub fn over(bucket: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { bucket, prefix: prefix.to_owned() }
    }

    fn location(&self, digest: &Digest) -> Location {
        self.named(&digest.to_string())
    }

    fn named(&self, name: &str) -> Location {
        Location::from(format!("{}/{name}", self.prefix))
    }

    fn touched(&self, digest: &Digest) -> Location {
        self.named(&format!("{digest}{TOUCHED}"))
    }

    async fn ages_now(&self) -> Result<BTreeMap<Digest, Duration>, Error> {
        let clock = self.named(CLOCK);
        self.bucket.put(&clock, PutPayload::new()).await?;
        let now = self.bucket.head(&clock).await?.last_modified;
        let mut artifacts: BTreeMap<Digest, Duration> = BTreeMap::new();
        let mut touched: BTreeMap<Digest, Duration> = BTreeMap::new();
        let prefix = Location::from(self.prefix.as_str());
        let mut objects = self.bucket.list(Some(&prefix));
        while let Some(object) = objects.try_next().await? {
            // Whatever is not named by a digest is not ours.
            let name = object.location.filename().unwrap_or_default();
            let age = (now - object.last_modified).to_std().unwrap_or_default();
            match (name.parse(), name.strip_suffix(TOUCHED).map(str::parse)) {
                (Ok(digest), _) => drop(artifacts.insert(digest, age)),
                (_, Some(Ok(digest))) => drop(touched.insert(digest, age)),
                _ => {}
            }
        }
        for (digest, age) in &mut artifacts {
            *age = touched.get(digest).copied().unwrap_or(*age).min(*age);
        }
        Ok(artifacts)
    }

    async fn copy(&self, digest: &Digest, file: &Path) -> Result<(), ArtifactError> {
        let failed = |source| ArtifactError::Bucket { doing: "storing", digest: digest.to_string(), source };
        let mut source = tokio::fs::File::open(file).await.map_err(ArtifactError::file("opening", file))?;
        let upload = self.bucket.put_multipart(&self.location(digest)).await.map_err(failed)?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        if let Err(error) = send(&mut source, file, &mut parts, failed).await {
            // Parts of an upload that nobody finishes are paid for until somebody removes them.
            if let Err(e) = parts.abort().await {
                tracing::warn!(%digest, error = %inline(&e), "the parts of a failed upload stay in the bucket; its lifecycle rule may remove them");
            }
            return Err(error);
        }
        // The object appears only now, whole; a failed finish removes its parts by itself.
        parts.finish().await.map(drop).map_err(failed)
    }
}

/// Sends a file in parts.
async fn send(
    source: &mut tokio::fs::File,
    file: &Path,
    parts: &mut WriteMultipart,
    failed: impl Fn(Error) -> ArtifactError,
) -> Result<(), ArtifactError> {
    loop {
        let mut part = BytesMut::with_capacity(PART_BYTES);
        let mut window = (&mut *source).take(PART_BYTES as u64);
        while window.read_buf(&mut part).await.map_err(ArtifactError::file("reading", file))? > 0 {}
        if part.is_empty() {
            return Ok(());
        }
        parts.wait_for_capacity(PARTS_MAX).await.map_err(&failed)?;
        parts.put(part.freeze());
    }
}

#[async_trait]
impl Artifacts for BucketArtifacts {
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, ArtifactError> {
        match self.bucket.head(&self.location(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ArtifactError::Bucket { doing: "looking at", digest: digest.to_string(), source }),
        }
    }

    async fn read(&self, digest: &Digest, range: Range<u64>) -> Result<Option<ByteStream>, ArtifactError> {
        if range.is_empty() {
            return Ok(self.size(digest).await?.map(|_| futures::stream::empty().boxed()));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.bucket.get_opts(&self.location(digest), options).await {
            Ok(result) => Ok(Some(result.into_stream().map_err(io::Error::other).boxed())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(ArtifactError::Bucket { doing: "reading", digest: digest.to_string(), source }),
        }
    }

    async fn keep(&self, digest: &Digest, file: &Path) -> Result<(), ArtifactError> {
        self.copy(digest, file).await?;
        tokio::fs::remove_file(file).await.map_err(ArtifactError::file("removing", file))
    }

    async fn ages(&self) -> Result<BTreeMap<Digest, Duration>, ArtifactError> {
        self.ages_now().await.map_err(|source| ArtifactError::Bucket { doing: "listing", digest: "the bucket".into(), source })
    }

    async fn touch(&self, digest: &Digest) -> Result<(), ArtifactError> {
        if self.size(digest).await?.is_none() {
            return Ok(());
        }
        let touched = self.bucket.put(&self.touched(digest), PutPayload::new()).await;
        touched.map(drop).map_err(|source| ArtifactError::Bucket { doing: "touching", digest: digest.to_string(), source })
    }

    async fn remove(&self, digest: &Digest) -> Result<u64, ArtifactError> {
        let size = self.size(digest).await?.unwrap_or(0);
        for location in [self.location(digest), self.touched(digest)] {
            match self.bucket.delete(&location).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(source) => return Err(ArtifactError::Bucket { doing: "removing", digest: digest.to_string(), source }),
            }
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests;
