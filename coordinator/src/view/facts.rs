//! What the coordinator takes from a manifest **without checking its signature**.
//!
//! The coordinator is not trusted: it chooses targets and shows names, and every server verifies the signed bytes itself
//! before it parses them (I3). A forged manifest can make the coordinator ask the wrong servers; they refuse.

use coord_proto::ids::{Digest, ReleaseId, Seq};
use coord_proto::labels::{Labels, Selector};
use coord_proto::manifest::{Manifest, OnUnknown};
use coord_proto::migration::{Phase, TaskName};
use coord_proto::trust::{Envelope, TrustError};
use serde::Serialize;

/// A manifest in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ManifestFacts {
    pub seq: Seq,
    pub release: ReleaseId,
    pub floor: Seq,
    pub created: i64,
    pub revision: String,
    pub digest: Digest,
    pub size: u64,
    pub targets: Selector,
    /// Run-once tasks of both phases, in their order.
    pub tasks: Vec<TaskFacts>,
    pub reversible: bool,
    /// Does it say how a server knows that the release works?
    pub probed: bool,
}

/// A run-once task in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskFacts {
    pub name: TaskName,
    /// Who may run it.
    pub on: Labels,
    pub on_unknown: OnUnknown,
}

impl ManifestFacts {
    /// From the bytes under `manifests/<seq>`; the signatures are not looked at.
    ///
    /// # Errors
    /// A malformed envelope or manifest.
    pub fn unverified(bytes: &[u8]) -> Result<Self, TrustError> {
        let envelope = Envelope::decode(bytes)?;
        Ok(Self::of(&Manifest::decode(&envelope.manifest)?))
    }

    /// The facts of a manifest.
    pub fn of(manifest: &Manifest) -> Self {
        let tasks = [Phase::Before, Phase::After].into_iter().flat_map(|phase| manifest.once_tasks(phase));
        Self {
            seq: manifest.seq,
            release: manifest.release.clone(),
            floor: manifest.floor,
            created: manifest.created,
            revision: manifest.revision.clone(),
            digest: manifest.artifact.digest.clone(),
            size: manifest.artifact.size,
            targets: manifest.targets.clone(),
            tasks: tasks.map(|t| TaskFacts { name: t.name, on: t.on, on_unknown: t.on_unknown }).collect(),
            reversible: manifest.reversible(),
            probed: manifest.health.is_some(),
        }
    }

    /// The tasks of one phase.
    pub fn tasks_of(&self, phase: Phase) -> impl Iterator<Item = &TaskFacts> {
        self.tasks.iter().filter(move |t| t.name.phase == phase)
    }
}
