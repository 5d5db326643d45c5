//! A directory tree that is being made: everything is created through open directories, never through a path.
//!
//! Each step opens one component with `O_NOFOLLOW` below a directory that is already open, so nothing outside the tree can be reached,
//! whoever swaps a directory for a link meanwhile.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::symlinkat;

use crate::durable::DurableError;

/// Directories kept open at once: well below the usual limit of 1,024 descriptors.
const OPEN_MAX: usize = 128;
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const NEW_FILE: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The tree, its root open.
pub struct Tree {
    path: PathBuf,
    open: HashMap<String, Arc<OwnedFd>>,
    root: Arc<OwnedFd>,
    stamp: Stamp,
}

/// The time and modes that new things get; the same on every server.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    time: TimeSpec,
    /// Does the umask take bits away that 0755 has?
    masked: bool,
}

/// Where a new file goes: an open directory, so that it can be created by another thread.
pub struct Place {
    dir: Arc<OwnedFd>,
    name: String,
    /// Relative to the tree, for errors.
    path: String,
}

impl Stamp {
    /// For a release made at `created`, Unix seconds.
    pub fn new(created: i64) -> Self {
        Self { time: TimeSpec::new(created, 0), masked: umask().is_none_or(|mask| mask & 0o755 != 0) }
    }

    /// Opens a new file for writing; 0755 or 0644.
    pub fn create(&self, place: &Place, executable: bool) -> Result<File, DurableError> {
        let mode = Mode::from_bits_truncate(if executable { 0o755 } else { 0o644 });
        let fail = |e: nix::Error| DurableError { what: "create", path: place.path.clone().into(), source: e.into() };
        let file = openat(&place.dir, place.name.as_str(), NEW_FILE, mode).map_err(fail)?;
        if self.masked {
            fchmod(&file, mode).map_err(fail)?;
        }
        Ok(file.into())
    }

    /// Sets a file's or directory's time, once it is complete.
    pub fn apply(&self, file: &impl std::os::fd::AsFd) -> io::Result<()> {
        Ok(futimens(file, &self.time, &self.time)?)
    }
}

impl Place {
    /// For `map_err`.
    pub fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> DurableError {
        DurableError::on(what, Path::new(&self.path))
    }
}

impl Tree {
    /// Makes the root, which must not exist; nobody else may enter it: whoever finishes the release opens it.
    ///
    /// # Errors
    /// It exists or cannot be made.
    pub fn create(path: &Path, stamp: Stamp) -> Result<Self, DurableError> {
        nix::unistd::mkdir(path, Mode::S_IRWXU).map_err(io::Error::from).map_err(DurableError::on("create", path))?;
        let root = nix::fcntl::open(path, DIRECTORY, Mode::empty()).map_err(io::Error::from).map_err(DurableError::on("open", path))?;
        Ok(Self { path: path.to_owned(), open: HashMap::new(), root: Arc::new(root), stamp })
    }

    /// The root, open.
    pub fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    /// Makes one directory, 0755; the one above it exists.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn make_dir(&mut self, path: &str) -> Result<(), DurableError> {
        let place = self.place(path)?;
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&place.dir, place.name.as_str(), mode).map_err(self.failed("create", path))?;
        if self.stamp.masked {
            let dir = self.dir(path)?;
            fchmod(&dir, mode).map_err(self.failed("set the mode of", path))?;
        }
        Ok(())
    }

    /// Makes a symlink with the tree's time.
    ///
    /// # Errors
    /// Something is there, or it cannot be made.
    pub fn make_link(&mut self, path: &str, target: &str) -> Result<(), DurableError> {
        let place = self.place(path)?;
        symlinkat(target, &place.dir, place.name.as_str()).map_err(self.failed("create the symlink", path))?;
        let time = &self.stamp.time;
        utimensat(&place.dir, place.name.as_str(), time, time, UtimensatFlags::NoFollowSymlink)
            .map_err(self.failed("set the time of", path))
    }

    /// Where a new file goes.
    ///
    /// # Errors
    /// The directory above it is not there or not a directory.
    pub fn place(&mut self, path: &str) -> Result<Place, DurableError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(Place { dir: self.dir(parent)?, name: name.to_owned(), path: self.path.join(path).display().to_string() })
    }

    /// Gives a directory the tree's time: after everything in it was made, because that changes the time.
    ///
    /// # Errors
    /// It cannot be opened or changed.
    pub fn stamp_dir(&mut self, path: &str) -> Result<(), DurableError> {
        let dir = self.dir(path)?;
        self.stamp.apply(&dir).map_err(DurableError::on("set the time of", &self.path.join(path)))
    }

    fn dir(&mut self, path: &str) -> Result<Arc<OwnedFd>, DurableError> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(dir) = self.open.get(path) {
            return Ok(dir.clone());
        }
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = self.dir(above)?;
        let dir = Arc::new(openat(&above, name, DIRECTORY, Mode::empty()).map_err(self.failed("open the directory", path))?);
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(path.to_owned(), dir.clone());
        Ok(dir)
    }

    fn failed(&self, what: &'static str, path: &str) -> impl FnOnce(nix::Error) -> DurableError {
        let path = self.path.join(path);
        move |e| DurableError { what, path, source: e.into() }
    }
}

/// The process's umask, without changing it (proc_pid_status(5)).
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
