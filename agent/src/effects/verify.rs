//! Checks pieces against their signed digests, in order, and keeps them for a resume.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coord_proto::ids::Digest;
use coord_proto::manifest::Artifact;
use sha2::{Digest as _, Sha256};

use crate::durable::DurableError;

const SUFFIX: &str = ".part";

/// Verifies pieces 0, 1, 2, …; each one that passes is appended to the part file.
///
/// The part file is never synced and never trusted: what is read back is verified again, so a torn one costs a download and nothing else.
pub struct Verifier {
    artifact: Artifact,
    part: File,
    path: PathBuf,
    whole: Sha256,
    next: usize,
}

/// The file that keeps the verified pieces of an artifact.
pub fn part_file(parts: &Path, digest: &Digest) -> PathBuf {
    parts.join(format!("{digest}{SUFFIX}"))
}

/// Removes what other artifacts left in an app's parts directory: one unfinished download per app is kept.
///
/// # Errors
/// The directory cannot be read or a file not removed.
pub fn remove_other_parts(parts: &Path, digest: &Digest) -> Result<(), DurableError> {
    let keep = part_file(parts, digest);
    for entry in fs::read_dir(parts).map_err(DurableError::on("list", parts))? {
        let path = entry.map_err(DurableError::on("list", parts))?.path();
        if path != keep && path.extension().is_some_and(|e| e == "part") {
            fs::remove_file(&path).map_err(DurableError::on("remove", &path))?;
        }
    }
    Ok(())
}

impl Verifier {
    /// Opens the part file, or makes it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(artifact: Artifact, parts: &Path) -> Result<Self, DurableError> {
        let path = part_file(parts, &artifact.digest);
        let part = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(DurableError::on("open", &path))?;
        Ok(Self { artifact, part, path, whole: Sha256::new(), next: 0 })
    }

    /// Index of the piece that comes next.
    pub fn next(&self) -> usize {
        self.next
    }

    /// The next piece from the part file, if it is there and still right; what follows a wrong one is cut off.
    ///
    /// # Errors
    /// The part file cannot be read.
    pub fn resume_next(&mut self) -> Result<Option<Vec<u8>>, DurableError> {
        if self.next == self.artifact.pieces.len() {
            return Ok(None);
        }
        let (start, end) = self.artifact.piece_range(self.next);
        let length = self.part.metadata().map_err(self.failed("look at"))?.len();
        if length >= end {
            let mut piece = vec![0; (end - start) as usize];
            self.part.read_exact_at(&mut piece, start).map_err(self.failed("read"))?;
            if self.accept(&piece) {
                return Ok(Some(piece));
            }
        }
        self.part.set_len(start).map_err(self.failed("shorten"))?;
        Ok(None)
    }

    /// Is this the next piece? `None`: it is not, and nothing was noted or written.
    ///
    /// # Errors
    /// The part file cannot be written.
    pub fn verify(&mut self, piece: Vec<u8>) -> Result<Option<Vec<u8>>, DurableError> {
        let (start, _) = self.artifact.piece_range(self.next);
        if !self.accept(&piece) {
            return Ok(None);
        }
        self.part.write_all_at(&piece, start).map_err(self.failed("write"))?;
        Ok(Some(piece))
    }

    /// After the last piece: is the whole the signed artifact? If not, the part file goes: pieces and whole contradict each other.
    ///
    /// # Errors
    /// The part file cannot be removed.
    pub fn is_whole(self) -> Result<bool, DurableError> {
        let whole = Digest::from_bytes(self.whole.finalize().into());
        let right = self.next == self.artifact.pieces.len() && whole == self.artifact.digest;
        if !right {
            crate::durable::remove_if_there(&self.path)?;
        }
        Ok(right)
    }

    fn accept(&mut self, piece: &[u8]) -> bool {
        let right = self.artifact.pieces.get(self.next).is_some_and(|signed| *signed == Digest::of(piece));
        if right {
            self.whole.update(piece);
            self.next += 1;
        }
        right
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> DurableError {
        DurableError::on(what, &self.path)
    }
}

#[cfg(test)]
mod tests;
