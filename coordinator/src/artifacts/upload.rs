//! Uploads: spooled to a file, hashed while they are written, and kept only under the digest that they have.
//!
//! ```text
//!  chunks ──▶ <digest>.part (hash so far, offset) ──▶ complete? sync, compare ──▶ Artifacts::keep
//!                    ▲ resumed at its offset, after a restart too
//! ```
//!
//! The file is written by a task of its own, so a client that goes away in the middle of a chunk leaves a file that ends
//! where the hash ends.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coord_proto::ids::Digest;
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::local::blocking;
use super::{ArtifactError, SharedArtifacts};

/// An upload that nobody went on with for this long is removed, at start and with each sweep.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Uploads at once.
const UPLOADS_MAX: usize = 16;
/// Interrupted uploads whose hash is remembered; others are read again when they go on.
const REMEMBERED_MAX: usize = 256;
/// Chunks between network and disk.
const CHUNKS_MAX: usize = 8;
/// A client that sends nothing for this long is given up.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Uploads into one artifact store.
pub struct Uploads {
    dir: PathBuf,
    store: SharedArtifacts,
    size_max: u64,
    idle_max: Duration,
    slots: Arc<Mutex<HashMap<Digest, Slot>>>,
}

enum Slot {
    /// A task is writing it.
    Busy,
    Idle(Partial),
}

/// What is in a `.part` file.
#[derive(Clone, Default)]
struct Partial {
    hash: Sha256,
    offset: u64,
}

/// Where an upload begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// From nothing; what was there is dropped.
    Start,
    /// Where it ended last time.
    Offset(u64),
}

/// How far an upload came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Kept under its digest.
    Complete,
    /// So many bytes are there; more are awaited.
    Partial { offset: u64 },
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("this digest is being uploaded by somebody else, or {UPLOADS_MAX} uploads are going on; try again in a moment")]
    Busy,
    #[error("the upload is at {right} bytes, not at {asked}")]
    Offset { asked: u64, right: u64 },
    #[error("the bytes have the digest {found}, not {expected}; nothing was kept")]
    Mismatch { expected: Digest, found: Digest },
    #[error("the upload is longer than {limit} bytes; nothing was kept")]
    TooLong { limit: u64 },
    #[error("the upload broke off at {offset} bytes; it can go on from there")]
    BrokenOff { offset: u64 },
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl Uploads {
    /// Opens the spool directory, making it when it is missing, and removes uploads that were given up.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: &Path, store: SharedArtifacts, size_max: u64) -> Result<Self, ArtifactError> {
        fs::create_dir_all(dir).map_err(ArtifactError::file("making the upload directory", dir))?;
        remove_stale(dir, SystemTime::now()).map_err(ArtifactError::file("sweeping", dir))?;
        Ok(Self { dir: dir.to_owned(), store, size_max, idle_max: IDLE_MAX, slots: Arc::default() })
    }

    /// Removes uploads that were given up.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not removed.
    pub async fn remove_stale(&self) -> Result<(), ArtifactError> {
        let dir = self.dir.clone();
        blocking(move || remove_stale(&dir, SystemTime::now()).map_err(ArtifactError::file("sweeping", &dir))).await
    }

    /// Bytes that are there of an interrupted upload.
    ///
    /// # Errors
    /// [`UploadError::Busy`] while somebody writes it.
    pub async fn offset(&self, digest: &Digest) -> Result<u64, UploadError> {
        match lock(&self.slots).get(digest) {
            Some(Slot::Busy) => return Err(UploadError::Busy),
            Some(Slot::Idle(partial)) => return Ok(partial.offset),
            None => {}
        }
        Ok(tokio::fs::metadata(self.part(digest)).await.map_or(0, |meta| meta.len()))
    }

    /// Writes `chunks` at `at`. Where the bytes then have the digest, they are kept; where `total` bytes are there and have
    /// another one, they are removed; else more are awaited.
    ///
    /// # Errors
    /// Each leaves either nothing or a part that can go on, as [`UploadError`] says.
    pub async fn append<E: Send>(
        &self,
        digest: &Digest,
        at: At,
        total: Option<u64>,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
    ) -> Result<Arrival, UploadError> {
        let claim = self.claim(digest)?;
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let limit = total.unwrap_or(self.size_max).min(self.size_max);
        let writing = tokio::spawn(write(claim, at, Expected { total, limit }, receiver, self.store.clone()));
        let whole = pass_on(&mut chunks, &sender, self.idle_max).await;
        drop(sender);
        let arrival = writing.await.map_err(|ended| ArtifactError::file("writing an upload to", &self.dir)(io::Error::other(ended)))?;
        match arrival? {
            Arrival::Partial { offset } if !whole => Err(UploadError::BrokenOff { offset }),
            arrival => Ok(arrival),
        }
    }

    fn claim(&self, digest: &Digest) -> Result<Claim, UploadError> {
        let mut slots = lock(&self.slots);
        let busy = slots.values().filter(|slot| matches!(slot, Slot::Busy)).count();
        if busy >= UPLOADS_MAX || matches!(slots.get(digest), Some(Slot::Busy)) {
            return Err(UploadError::Busy);
        }
        let before = match slots.insert(digest.clone(), Slot::Busy) {
            Some(Slot::Idle(partial)) => Some(partial),
            _ => None,
        };
        Ok(Claim { digest: digest.clone(), part: self.part(digest), slots: self.slots.clone(), before, after: None })
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.part"))
    }
}

/// Moves chunks to the writer; was it all that the client announced?
async fn pass_on<E>(chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin), sender: &mpsc::Sender<Bytes>, idle_max: Duration) -> bool {
    loop {
        match tokio::time::timeout(idle_max, chunks.next()).await {
            Ok(None) => return true,
            Ok(Some(Ok(chunk))) => {
                if sender.send(chunk).await.is_err() {
                    return false;
                }
            }
            Err(_) | Ok(Some(Err(_))) => return false,
        }
    }
}

fn lock(slots: &Mutex<HashMap<Digest, Slot>>) -> MutexGuard<'_, HashMap<Digest, Slot>> {
    // Every change under the lock is one map operation: a panic elsewhere leaves nothing half done.
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sole right to write one part; dropped, it leaves behind what is there.
struct Claim {
    digest: Digest,
    part: PathBuf,
    slots: Arc<Mutex<HashMap<Digest, Slot>>>,
    before: Option<Partial>,
    after: Option<Partial>,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut slots = lock(&self.slots);
        match self.after.take() {
            Some(partial) if slots.len() <= REMEMBERED_MAX => slots.insert(self.digest.clone(), Slot::Idle(partial)),
            _ => slots.remove(&self.digest),
        };
    }
}

#[derive(Clone, Copy)]
struct Expected {
    total: Option<u64>,
    limit: u64,
}

async fn write(
    mut claim: Claim,
    at: At,
    expected: Expected,
    chunks: mpsc::Receiver<Bytes>,
    store: SharedArtifacts,
) -> Result<Arrival, UploadError> {
    let (part, before) = (claim.part.clone(), claim.before.take());
    let written = blocking(move || write_part(&part, before, at, expected.limit, chunks)).await?;
    let partial = match written {
        Written::Bytes(partial) => partial,
        Written::Elsewhere(partial) => {
            let At::Offset(asked) = at else { return Err(UploadError::BrokenOff { offset: 0 }) };
            let right = partial.offset;
            claim.after = Some(partial);
            return Err(UploadError::Offset { asked, right });
        }
        Written::TooLong => {
            discard(&claim.part).await?;
            return Err(UploadError::TooLong { limit: expected.limit });
        }
    };
    let found = Digest::from_bytes(partial.hash.clone().finalize().into());
    if found == claim.digest {
        store.keep(&claim.digest, &claim.part).await?;
        return Ok(Arrival::Complete);
    }
    if expected.total.is_some_and(|total| partial.offset >= total) {
        discard(&claim.part).await?;
        return Err(UploadError::Mismatch { expected: claim.digest.clone(), found });
    }
    let offset = partial.offset;
    claim.after = Some(partial);
    Ok(Arrival::Partial { offset })
}

enum Written {
    Bytes(Partial),
    /// The part ends elsewhere than the client thinks; nothing was written.
    Elsewhere(Partial),
    TooLong,
}

fn write_part(
    path: &Path,
    before: Option<Partial>,
    at: At,
    limit: u64,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<Written, ArtifactError> {
    let failed = |source| ArtifactError::file("writing", path)(source);
    let (mut file, mut partial) = open_part(path, before, at).map_err(failed)?;
    if matches!(at, At::Offset(offset) if offset != partial.offset) {
        return Ok(Written::Elsewhere(partial));
    }
    while let Some(chunk) = chunks.blocking_recv() {
        if partial.offset + chunk.len() as u64 > limit {
            return Ok(Written::TooLong);
        }
        file.write_all(&chunk).map_err(failed)?;
        partial.hash.update(&chunk);
        partial.offset += chunk.len() as u64;
    }
    // Durable before it is compared: what is kept under a digest after a power cut are these bytes.
    file.sync_all().map_err(failed)?;
    Ok(Written::Bytes(partial))
}

/// The part, at its end, with the hash of what it holds.
fn open_part(path: &Path, before: Option<Partial>, at: At) -> io::Result<(File, Partial)> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(at == At::Start).open(path)?;
    let len = file.metadata()?.len();
    if let Some(partial) = before.filter(|p| at != At::Start && p.offset <= len) {
        // After a failed write the file may hold more than the hash covers.
        file.set_len(partial.offset)?;
        file.seek(io::SeekFrom::End(0))?;
        return Ok((file, partial));
    }
    let mut partial = Partial::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((file, partial)),
            n => {
                partial.hash.update(&buffer[..n]);
                partial.offset += n as u64;
            }
        }
    }
}

async fn discard(part: &Path) -> Result<(), ArtifactError> {
    match tokio::fs::remove_file(part).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ArtifactError::file("removing", part)(e)),
        _ => Ok(()),
    }
}

fn remove_stale(dir: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let touched = entry.metadata()?.modified()?;
        // A time in the future (the clock was set back) is not stale: it becomes so.
        if now.duration_since(touched).is_ok_and(|age| age > STALE) && entry.path().extension().is_some_and(|e| e == "part") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
