//! What is known of each unpacked release: `<app>/.coord/<release>.json`.
//!
//! Not inside the release: its tree is exactly what was signed, and hooks may change it. Not in the agent's state directory: the record
//! lies on the file system of the release it speaks of, so one `syncfs` makes both durable, and an app volume that moves to a new server
//! brings its facts along. Nothing here is trusted for more than housekeeping; the floor is kept elsewhere.

use std::fs;
use std::io;
use std::path::PathBuf;

use coord_proto::ids::{Digest, ReleaseId, Seq};
use coord_proto::manifest::Manifest;
use serde::{Deserialize, Serialize};

use super::{AppDir, LayoutError};
use crate::durable::{DurableError, remove_if_there, write_file_durably};

const SUFFIX: &str = ".json";

/// How a release fared on this server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Staged, not yet proven.
    #[default]
    Untried,
    /// Was healthy here.
    Good,
    /// Failed here.
    Failed,
}

/// One release, as it was staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub seq: Seq,
    pub release: ReleaseId,
    pub digest: Digest,
    /// From the manifest, Unix seconds.
    pub created: i64,
    #[serde(default)]
    pub outcome: Outcome,
}

impl Facts {
    /// For a release that is being staged.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            seq: manifest.seq,
            release: manifest.release.clone(),
            digest: manifest.artifact.digest.clone(),
            created: manifest.created,
            outcome: Outcome::Untried,
        }
    }
}

impl AppDir {
    /// `<app>/.coord`.
    pub fn facts_dir(&self) -> PathBuf {
        self.path().join(".coord")
    }

    fn facts_file(&self, release: &ReleaseId) -> PathBuf {
        self.facts_dir().join(format!("{release}{SUFFIX}"))
    }

    /// The facts of a release; none for one that another tool made, or whose record cannot be understood.
    ///
    /// # Errors
    /// The record is there and cannot be read.
    pub fn facts(&self, release: &ReleaseId) -> Result<Option<Facts>, LayoutError> {
        let path = self.facts_file(release);
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                Ok(serde_json::from_slice(&read.map_err(DurableError::on("read", &path))?).ok().filter(|f: &Facts| f.release == *release))
            }
        }
    }

    /// Writes the facts of a release, durably.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn record_facts(&self, facts: &Facts) -> Result<(), LayoutError> {
        let bytes = serde_json::to_vec(facts).expect("facts hold only strings and numbers");
        Ok(write_file_durably(&self.facts_file(&facts.release), &bytes, 0o644)?)
    }

    /// Notes how a release fared; one without facts (adopted from another tool) is left without.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn record_outcome(&self, release: &ReleaseId, outcome: Outcome) -> Result<(), LayoutError> {
        match self.facts(release)? {
            Some(facts) if facts.outcome != outcome => self.record_facts(&Facts { outcome, ..facts }),
            _ => Ok(()),
        }
    }

    /// Forgets a release that was removed.
    ///
    /// # Errors
    /// The record cannot be removed.
    pub fn forget_facts(&self, release: &ReleaseId) -> Result<(), LayoutError> {
        Ok(remove_if_there(&self.facts_file(release))?)
    }

    /// Facts are written just before the rename that finishes a release: those without a release come from a crash in between.
    pub(super) fn sweep_facts(&self) -> Result<(), LayoutError> {
        let dir = self.facts_dir();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(DurableError::on("list", &dir))?,
        };
        for entry in entries {
            let name = entry.map_err(DurableError::on("list", &dir))?.file_name();
            let release: Option<ReleaseId> = name.to_str().and_then(|n| n.strip_suffix(SUFFIX)).and_then(|id| id.parse().ok());
            if let Some(release) = release.filter(|r| !self.release(r).is_dir()) {
                self.forget_facts(&release)?;
            }
        }
        Ok(())
    }
}
