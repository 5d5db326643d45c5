//! Unpacks a verified stream into a new directory, or refuses all of it.
//!
//! One thread decompresses and checks; small files are written by two others, because creating a file costs more than decompressing it.
//! All three are [confined](super::confine) to the new directory.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use coord_proto::archive::{ArchiveError, ArchiveReader, ArchiveRules, Decompressor, Entry, Kind};
use coord_proto::manifest::Artifact;

use super::confine::confined;
use super::tree::{Place, Stamp, Tree};
use crate::durable::DurableError;

/// Threads that write small files.
const WRITERS: usize = 2;
/// Files up to this are read into memory and written elsewhere; larger ones go straight to disk.
const SMALL_BYTES_MAX: u64 = 128 * 1024;
/// Small files that wait: at most 4 MiB.
const WAITING_MAX: usize = 32;

/// Why an artifact was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Io(#[from] DurableError),
}

/// Unpacks `compressed` into `root`, which must not exist. Entries and bytes must be exactly the signed ones.
///
/// # Errors
/// The archive is refused, or something cannot be written; what was made so far is left for the caller to remove.
pub fn unpack(compressed: impl Read + Send, artifact: &Artifact, created: i64, root: &Path) -> Result<(), UnpackError> {
    let stamp = Stamp::new(created);
    let tree = Tree::create(root, stamp)?;
    let dir = tree.root();
    confined(&dir, |_| fill(tree, compressed, artifact, stamp)).map_err(DurableError::on("start a thread for", root))?
}

fn fill(tree: Tree, compressed: impl Read, artifact: &Artifact, stamp: Stamp) -> Result<(), UnpackError> {
    let stream = Decompressor::new(artifact.compression, compressed)?;
    let archive = ArchiveReader::new(stream, ArchiveRules::of(artifact));
    let (mut tree, dirs) = with_writers(stamp, |files| Unpacking { archive, tree, dirs: vec![], stamp, files }.run(artifact))?;
    Ok(dirs.iter().try_for_each(|dir| tree.stamp_dir(dir))?)
}

struct SmallFile {
    place: Place,
    bytes: Vec<u8>,
    executable: bool,
}

/// Runs `work` beside the writers. The first writer's error wins: it is why `work` could not hand over its next file.
fn with_writers<T>(stamp: Stamp, work: impl FnOnce(SyncSender<SmallFile>) -> Result<T, UnpackError>) -> Result<T, UnpackError> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let receiver = Mutex::new(Some(receiver));
    let failure = Mutex::new(None);
    let done = std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| write_small_files(&receiver, &failure, stamp));
        }
        work(sender)
    });
    match lock(&failure).take() {
        Some(error) => Err(UnpackError::Io(error)),
        None => done,
    }
}

fn write_small_files(files: &Mutex<Option<Receiver<SmallFile>>>, failure: &Mutex<Option<DurableError>>, stamp: Stamp) {
    loop {
        let next = lock(files).as_ref().and_then(|f| f.recv().ok());
        let Some(file) = next else { return };
        if let Err(error) = file.write(stamp) {
            lock(failure).get_or_insert(error);
            // Without a receiver the sender cannot go on.
            lock(files).take();
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here is half-changed when a thread panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SmallFile {
    fn write(&self, stamp: Stamp) -> Result<(), DurableError> {
        let mut file = stamp.create(&self.place, self.executable)?;
        file.write_all(&self.bytes).map_err(self.place.failed("write"))?;
        stamp.apply(&file).map_err(self.place.failed("set the time of"))
    }
}

struct Unpacking<R: Read> {
    archive: ArchiveReader<Decompressor<R>>,
    tree: Tree,
    dirs: Vec<String>,
    stamp: Stamp,
    files: SyncSender<SmallFile>,
}

impl<R: Read> Unpacking<R> {
    fn run(mut self, artifact: &Artifact) -> Result<(Tree, Vec<String>), UnpackError> {
        while let Some(entry) = self.archive.next_entry()? {
            self.make(entry)?;
        }
        let (stream, totals) = self.archive.finish()?;
        stream.finish()?;
        totals.expect(artifact)?;
        Ok((self.tree, self.dirs))
    }

    fn make(&mut self, entry: Entry) -> Result<(), UnpackError> {
        for dir in entry.implied {
            self.make_dir(dir)?;
        }
        match entry.kind {
            Kind::Directory => self.make_dir(entry.path),
            Kind::Link { target } => Ok(self.tree.make_link(&entry.path, &target)?),
            Kind::File { size, executable } => {
                let place = self.tree.place(&entry.path)?;
                if size <= SMALL_BYTES_MAX { self.hand_over(place, size, executable) } else { self.write(&place, size, executable) }
            }
        }
    }

    fn make_dir(&mut self, path: String) -> Result<(), UnpackError> {
        self.tree.make_dir(&path)?;
        self.dirs.push(path);
        Ok(())
    }

    fn hand_over(&mut self, place: Place, size: u64, executable: bool) -> Result<(), UnpackError> {
        let mut bytes = vec![0; size as usize];
        self.archive.read_exact(&mut bytes).map_err(content_error)?;
        let stopped = |_| place_less("hand over a file to the writers");
        Ok(self.files.send(SmallFile { place, bytes, executable }).map_err(stopped)?)
    }

    fn write(&mut self, place: &Place, size: u64, executable: bool) -> Result<(), UnpackError> {
        let mut file = self.stamp.create(place, executable)?;
        let mut buffer = vec![0; SMALL_BYTES_MAX as usize];
        let mut rest = size;
        while rest > 0 {
            let n = rest.min(SMALL_BYTES_MAX) as usize;
            self.archive.read_exact(&mut buffer[..n]).map_err(content_error)?;
            file.write_all(&buffer[..n]).map_err(place.failed("write"))?;
            rest -= n as u64;
        }
        Ok(self.stamp.apply(&file).map_err(place.failed("set the time of"))?)
    }
}

fn content_error(error: io::Error) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::CutInContent,
        _ => ArchiveError::Read(error),
    }
}

/// Never seen by anyone: a writer's own error is told instead.
fn place_less(what: &'static str) -> DurableError {
    DurableError { what, path: "the release".into(), source: io::ErrorKind::BrokenPipe.into() }
}

#[cfg(test)]
mod tests;
