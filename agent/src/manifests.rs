//! Manifests that this server verified, kept on disk: with the store away it can still restart and fall back (I7).
//!
//! What is read back is verified again: the disk is trusted no more than the store.

use std::io;
use std::path::PathBuf;

use coord_proto::ids::{AppName, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::manifest::Manifest;
use coord_proto::report::FailureCode;
use coord_proto::store::{SharedStore, StoreError};
use coord_proto::trust::{Trust, TrustError, gather};

use crate::durable::{DurableError, ensure_dir_durably, write_file_durably};

/// Loads manifests of one environment.
#[derive(Clone)]
pub struct Manifests {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub trust: Trust,
    /// `<state>/apps`.
    pub apps: PathBuf,
}

/// Why a manifest could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the store has no manifest number {seq} of {app}")]
    Missing { app: AppName, seq: Seq },
    #[error("manifest number {seq} of {app} is not trusted")]
    Untrusted {
        app: AppName,
        seq: Seq,
        #[source]
        source: TrustError,
    },
    #[error("cannot read manifest number {seq} of {app}")]
    Store {
        app: AppName,
        seq: Seq,
        #[source]
        source: StoreError,
    },
    #[error("cannot keep manifest number {seq} of {app}")]
    Keep {
        app: AppName,
        seq: Seq,
        #[source]
        source: DurableError,
    },
}

impl LoadError {
    /// For the status record. What the store could not say yet may pass.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Missing { .. } => FailureCode::ManifestMissing,
            Self::Untrusted { source: TrustError::Signatures { .. } | TrustError::Envelope { .. }, .. } => FailureCode::SignatureInvalid,
            Self::Untrusted { source: TrustError::Environment { .. }, .. } => FailureCode::WrongEnvironment,
            Self::Untrusted { .. } => FailureCode::ManifestRefused,
            Self::Store { source, .. } if source.passing() => FailureCode::Store,
            // What is stored there cannot be read: waiting does not change it.
            Self::Store { .. } => FailureCode::Io,
            Self::Keep { source, .. } => source.code(),
        }
    }
}

impl Manifests {
    /// From the disk, else from the store; verified either way.
    ///
    /// # Errors
    /// Missing, not trusted, or not to be read or kept.
    pub async fn load(&self, app: &AppName, seq: Seq) -> Result<Manifest, LoadError> {
        // Reading, checking a signature and syncing a file take their time: not on the thread of the loop.
        let (here, name) = (self.clone(), app.clone());
        let kept = tokio::task::spawn_blocking(move || here.kept(&name, seq)).await.expect("reading does not panic");
        if let Some(manifest) = kept {
            return Ok(manifest);
        }
        let (bytes, manifest) = self.fetch(app, seq).await?;
        let (here, name) = (self.clone(), app.clone());
        let kept = tokio::task::spawn_blocking(move || here.keep(&name, seq, &bytes)).await.expect("writing does not panic");
        kept.map_err(|source| LoadError::Keep { app: app.clone(), seq, source })?;
        Ok(manifest)
    }

    /// From the store, verified, and not kept: of a release that may not be meant for this server.
    ///
    /// # Errors
    /// Missing, not trusted, or not to be read.
    pub async fn look_at(&self, app: &AppName, seq: Seq) -> Result<Manifest, LoadError> {
        self.fetch(app, seq).await.map(|(_, manifest)| manifest)
    }

    /// The stored bytes with all their signatures, and what they are once enough of these were checked (I3).
    async fn fetch(&self, app: &AppName, seq: Seq) -> Result<(Vec<u8>, Manifest), LoadError> {
        // The keys of signatures that were added later begin with the manifest's own.
        let key = self.keys.key(&Key::Manifest(app.clone(), seq));
        let store = |source| LoadError::Store { app: app.clone(), seq, source };
        let untrusted = |source| LoadError::Untrusted { app: app.clone(), seq, source };
        let listed = self.store.list(&key).await.map_err(store)?.entries;
        let envelope = gather(&listed, &self.keys, app, seq).map_err(untrusted)?;
        let envelope = envelope.ok_or_else(|| LoadError::Missing { app: app.clone(), seq })?;
        let manifest = self.trust.open(&envelope.manifest, &envelope.signatures).map_err(untrusted)?;
        Ok((envelope.encode(), manifest))
    }

    fn path(&self, app: &AppName, seq: Seq) -> PathBuf {
        self.apps.join(app.as_str()).join("manifests").join(seq.to_string())
    }

    /// A damaged or no longer trusted copy is as good as none.
    fn kept(&self, app: &AppName, seq: Seq) -> Option<Manifest> {
        let bytes = std::fs::read(self.path(app, seq)).ok()?;
        self.trust.open_envelope(&bytes).ok().filter(|m| &m.app == app && m.seq == seq)
    }

    fn keep(&self, app: &AppName, seq: Seq, bytes: &[u8]) -> Result<(), DurableError> {
        let path = self.path(app, seq);
        let dir = path.parent().expect("made by joining names");
        ensure_dir_durably(dir)?;
        write_file_durably(&path, bytes, 0o600)
    }

    /// Forgets manifests that are not named.
    ///
    /// # Errors
    /// The directory cannot be read or a file not be removed.
    pub fn retain(&self, app: &AppName, keep: &[Seq]) -> io::Result<()> {
        let dir = self.apps.join(app.as_str()).join("manifests");
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let seq = entry.file_name().to_str().and_then(|n| n.parse().ok()).map(Seq);
            if seq.is_some_and(|s| !keep.contains(&s)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
