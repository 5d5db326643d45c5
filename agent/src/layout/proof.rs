//! The proof that a directory below `releases/` is ours and complete: `<app>/.coord/<release>.json`, the digest that it was unpacked
//! from, written once, just before the directory gets its name.
//!
//! Not inside the release: its tree is exactly what was signed, and hooks may change it. Not in the agent's state directory: it lies on
//! the file system of the release, so one `syncfs` makes both durable, and an app volume that moves to a new server brings its proofs
//! along. What changes (the number, how it fared, whether it is prepared) is in the journal and nowhere else.

use std::fs;
use std::io;
use std::path::PathBuf;

use coord_proto::ids::{Digest, ReleaseId};
use serde::{Deserialize, Serialize};

use super::{AppDir, LayoutError};
use crate::durable::{DurableError, remove_if_there, write_file_durably};

const SUFFIX: &str = ".json";

#[derive(Serialize, Deserialize)]
struct Proof {
    digest: Digest,
}

impl AppDir {
    /// `<app>/.coord`.
    pub fn proofs(&self) -> PathBuf {
        self.path().join(".coord")
    }

    fn proof_file(&self, release: &ReleaseId) -> PathBuf {
        self.proofs().join(format!("{release}{SUFFIX}"))
    }

    /// The digest that a release was unpacked from; none for one that another tool made, or whose proof cannot be understood.
    ///
    /// # Errors
    /// The proof is there and cannot be read.
    pub fn proof(&self, release: &ReleaseId) -> Result<Option<Digest>, LayoutError> {
        let path = self.proof_file(release);
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => Ok(serde_json::from_slice::<Proof>(&read.map_err(DurableError::on("read", &path))?).ok().map(|p| p.digest)),
        }
    }

    /// Writes the proof of a release that is about to get its name, durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn prove(&self, release: &ReleaseId, digest: &Digest) -> Result<(), LayoutError> {
        let bytes = serde_json::to_vec(&Proof { digest: digest.clone() }).expect("a proof holds only a string");
        Ok(write_file_durably(&self.proof_file(release), &bytes, 0o644)?)
    }

    /// Removes the proof of a release that was removed.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_proof(&self, release: &ReleaseId) -> Result<(), LayoutError> {
        Ok(remove_if_there(&self.proof_file(release))?)
    }

    /// The releases that have a proof and no directory: a crash came between the two.
    pub(super) fn stray_proofs(&self) -> Result<Vec<ReleaseId>, LayoutError> {
        let dir = self.proofs();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            read => read.map_err(DurableError::on("list", &dir))?,
        };
        let mut stray = vec![];
        for entry in entries {
            let name = entry.map_err(DurableError::on("list", &dir))?.file_name();
            let release: Option<ReleaseId> = name.to_str().and_then(|n| n.strip_suffix(SUFFIX)).and_then(|id| id.parse().ok());
            stray.extend(release.filter(|r| !self.release(r).is_dir()));
        }
        Ok(stray)
    }
}
