//! Joins a staged release to what outlives it: shared directories and files, writable directories, `REVISION`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use coord_proto::manifest::{Layout, Manifest};
use filetime::FileTime;

use crate::durable::DurableError;
use crate::layout::AppDir;

mod owned;

/// Who owns what the app may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// The app's user; none: the agent's own.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Mode of shared and writable directories, e.g. 0o2770.
    pub shared_mode: u32,
}

/// Why a release could not be linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the shared file {} is missing on this server; put it there", path.display())]
    SharedFileMissing { path: PathBuf },
    #[error("{} is a link or a file where a directory is needed; replace it by a directory, or make the whole path yourself", path.display())]
    NotADirectory { path: PathBuf },
    #[error(transparent)]
    Io(#[from] DurableError),
}

/// Is every shared file there? Asked before anything changes.
///
/// # Errors
/// Names the first one that is missing.
pub fn check_shared_files(dir: &AppDir, layout: &Layout) -> Result<(), LinkError> {
    for name in &layout.shared_files {
        let path = dir.shared().join(name);
        // Followed on purpose: an operator may keep the file elsewhere and link it.
        match fs::metadata(&path) {
            Ok(m) if m.is_file() => {}
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(DurableError::on("look at", &path)(e).into());
            }
            _ => return Err(LinkError::SharedFileMissing { path }),
        }
    }
    Ok(())
}

/// Links shared paths into the unpacked tree at `tree`, makes the writable directories, writes `REVISION`.
///
/// # Errors
/// The first path that cannot be made.
pub fn link(dir: &AppDir, tree: &Path, manifest: &Manifest, ownership: Ownership) -> Result<(), LinkError> {
    let layout = &manifest.layout;
    check_shared_files(dir, layout)?;
    let mut linking = Linking { tree, time: FileTime::from_unix_time(manifest.created, 0), touched: BTreeSet::new() };
    for name in &layout.shared_dirs {
        owned::ensure_shared_dir(&dir.shared(), name, ownership)?;
    }
    for name in layout.shared_dirs.iter().chain(&layout.shared_files) {
        linking.shared(name)?;
    }
    for name in &layout.writable_dirs {
        linking.writable(name, ownership)?;
    }
    linking.revision(&manifest.revision)?;
    linking.stamp()
}

/// The text of the link at `name` in a release: from `releases/<id>/…` up to the app's directory, and down into `shared/`.
fn shared_target(name: &str) -> String {
    let above = name.split('/').count() + 1;
    format!("{}shared/{name}", "../".repeat(above))
}

struct Linking<'a> {
    tree: &'a Path,
    time: FileTime,
    /// Directories whose time changed under our hands.
    touched: BTreeSet<PathBuf>,
}

impl Linking<'_> {
    /// What the release has there goes, whole: merging would leave files of old releases behind.
    fn shared(&mut self, name: &str) -> Result<(), LinkError> {
        let path = self.free(name)?;
        symlink(shared_target(name), &path).map_err(DurableError::on("create the symlink", &path))?;
        self.set_time(&path)
    }

    fn writable(&mut self, name: &str, ownership: Ownership) -> Result<(), LinkError> {
        let path = self.parent_of(name)?;
        self.ensure_dir(&path)?;
        self.touched.insert(path.clone());
        Ok(owned::give(&path, ownership)?)
    }

    fn revision(&mut self, revision: &str) -> Result<(), LinkError> {
        let path = self.free("REVISION")?;
        fs::write(&path, format!("{revision}\n")).map_err(DurableError::on("write", &path))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&path, mode).map_err(DurableError::on("set the mode of", &path))?;
        self.set_time(&path)
    }

    /// The path of `name`, with nothing there and real directories above.
    fn free(&mut self, name: &str) -> Result<PathBuf, LinkError> {
        let path = self.parent_of(name)?;
        let removed = match fs::symlink_metadata(&path) {
            Ok(m) if m.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        removed.map_err(DurableError::on("replace", &path))?;
        Ok(path)
    }

    /// Makes the directories above `name`; never goes through a link, which could lead out of the release.
    fn parent_of(&mut self, name: &str) -> Result<PathBuf, LinkError> {
        let mut path = self.tree.to_owned();
        let mut components = name.split('/').peekable();
        while let Some(component) = components.next() {
            self.touched.insert(path.clone());
            path.push(component);
            if components.peek().is_some() {
                self.ensure_dir(&path)?;
            }
        }
        Ok(path)
    }

    fn ensure_dir(&mut self, path: &Path) -> Result<(), LinkError> {
        match fs::symlink_metadata(path) {
            Ok(m) if m.is_dir() => return Ok(()),
            Ok(_) => return Err(LinkError::NotADirectory { path: path.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(DurableError::on("look at", path)(e).into()),
        }
        fs::create_dir(path).map_err(DurableError::on("create", path))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        Ok(fs::set_permissions(path, mode).map_err(DurableError::on("set the mode of", path))?)
    }

    fn set_time(&self, path: &Path) -> Result<(), LinkError> {
        Ok(filetime::set_symlink_file_times(path, self.time, self.time).map_err(DurableError::on("set the time of", path))?)
    }

    fn stamp(&self) -> Result<(), LinkError> {
        self.touched.iter().try_for_each(|path| self.set_time(path))
    }
}

#[cfg(test)]
mod tests;
