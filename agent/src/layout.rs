//! One app's directory: `releases/<id>`, `shared/`, and `current`, a relative symlink with the same text on every server.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use coord_proto::ids::{Digest, ReleaseId};
use coord_proto::report::FailureCode;

use crate::durable::{DurableError, ensure_dir_durably, remove_tree};

mod proof;

/// Begins the name of a release that is being unpacked; no release id begins with a dot.
const STAGING_PREFIX: &str = ".staging-";
/// Begins the name of a release that is being removed.
const TRASH_PREFIX: &str = ".trash-";

/// Why an app's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("{} is a real {kind}, not a symlink; move it away, nothing was changed", path.display())]
    CurrentNotALink { path: PathBuf, kind: &'static str },
    #[error("{} points to `{target}`, which is not a release in {}; point it there or remove it", path.display(), releases.display())]
    CurrentElsewhere { path: PathBuf, target: String, releases: PathBuf },
    #[error("{} is on another file system than {}: a release could not be renamed into place; mount the whole app directory", releases.display(), app.display())]
    TwoMounts { app: PathBuf, releases: PathBuf },
    #[error(transparent)]
    Io(#[from] DurableError),
}

impl LayoutError {
    /// For the status record.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::CurrentNotALink { .. } | Self::CurrentElsewhere { .. } => FailureCode::CurrentNotALink,
            Self::TwoMounts { .. } => FailureCode::Io,
            Self::Io(e) => e.code(),
        }
    }
}

/// The directory of one app on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppDir {
    path: PathBuf,
}

impl AppDir {
    /// `path` is `<root>/<app>`; nothing is touched.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// `<app>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `<app>/releases`.
    pub fn releases(&self) -> PathBuf {
        self.path.join("releases")
    }

    /// `<app>/shared`.
    pub fn shared(&self) -> PathBuf {
        self.path.join("shared")
    }

    /// `<app>/current`, the link itself.
    pub fn current_link(&self) -> PathBuf {
        self.path.join("current")
    }

    /// `<app>/releases/<release>`: complete whenever it exists, because it gets this name last.
    pub fn release(&self, release: &ReleaseId) -> PathBuf {
        self.releases().join(release.as_str())
    }

    /// Where a release is unpacked: beside its final place, so that one rename finishes it.
    pub fn staging(&self, release: &ReleaseId) -> PathBuf {
        self.releases().join(format!("{STAGING_PREFIX}{release}"))
    }

    /// Where a release goes before it is removed: the rename is at once, the removal may take long.
    pub fn trash(&self, release: &ReleaseId) -> PathBuf {
        self.releases().join(format!("{TRASH_PREFIX}{release}"))
    }

    /// The text of `current` for a release: relative, so it is the same string on every server.
    pub fn current_target(release: &ReleaseId) -> String {
        format!("releases/{release}")
    }

    /// Makes `releases/`, `shared/` and the directory of proofs where they are missing, and checks that one rename can finish a release and
    /// one link switch to it.
    ///
    /// # Errors
    /// They cannot be made, `current` is not a link into `releases/`, or `releases/` is another mount.
    pub fn ensure_directories(&self) -> Result<(), LayoutError> {
        // Refused now, not when the server is drained.
        self.current()?;
        for dir in [self.releases(), self.shared(), self.proofs()] {
            ensure_dir_durably(&dir)?;
        }
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).map_err(DurableError::on("look at", path));
        if device(&self.path)? != device(&self.releases())? {
            return Err(LayoutError::TwoMounts { app: self.path.clone(), releases: self.releases() });
        }
        Ok(())
    }

    /// The release that `current` points to; an absolute link, as Capistrano leaves it, is read as well.
    ///
    /// # Errors
    /// `current` is a real file or directory, or points outside `releases/`.
    pub fn current(&self) -> Result<Option<ReleaseId>, LayoutError> {
        let Some(target) = self.current_text()? else { return Ok(None) };
        let release = self.release_of(&target);
        release.map(Some).ok_or_else(|| LayoutError::CurrentElsewhere {
            path: self.current_link(),
            target: target.display().to_string(),
            releases: self.releases(),
        })
    }

    fn current_text(&self) -> Result<Option<PathBuf>, LayoutError> {
        let link = self.current_link();
        match fs::symlink_metadata(&link) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DurableError { what: "look at", path: link, source: e }.into()),
            Ok(m) if m.is_symlink() => Ok(Some(fs::read_link(&link).map_err(DurableError::on("read the link", &link))?)),
            Ok(m) => Err(LayoutError::CurrentNotALink { path: link, kind: if m.is_dir() { "directory" } else { "file" } }),
        }
    }

    fn release_of(&self, target: &Path) -> Option<ReleaseId> {
        let inside = match target.strip_prefix("/") {
            Err(_) => target.to_owned(),
            // The app directory itself may be reached through a link (/srv → /data/srv): compare what is on disk.
            Ok(_) => {
                let parent = fs::canonicalize(target.parent()?).ok()?;
                let releases = fs::canonicalize(self.releases()).ok()?;
                (parent == releases).then(|| Path::new("releases").join(target.file_name().unwrap_or_default()))?
            }
        };
        let mut parts = inside.components().filter(|c| *c != Component::CurDir);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Component::Normal(dir)), Some(Component::Normal(id)), None) if dir == "releases" => id.to_str()?.parse().ok(),
            _ => None,
        }
    }

    /// The complete releases on disk, sorted by id; whatever else lies there is left out.
    ///
    /// # Errors
    /// `releases/` cannot be read; a missing one is an empty list.
    pub fn list_releases(&self) -> Result<Vec<ReleaseId>, LayoutError> {
        let mut ids: Vec<ReleaseId> =
            self.names_in_releases()?.into_iter().filter(|(_, is_dir)| *is_dir).filter_map(|(name, _)| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Removes what a crash left: half-unpacked and half-removed releases, and proofs without a release. Run at start, before any
    /// staging. What cannot be removed is given back, and is in nobody's way: an app must not stop for an old directory.
    pub fn sweep(&self) -> Vec<LayoutError> {
        let mut problems = vec![];
        let leftover = |(name, is_dir): &(String, bool)| *is_dir && [STAGING_PREFIX, TRASH_PREFIX].iter().any(|p| name.starts_with(p));
        match self.names_in_releases() {
            Ok(names) => {
                let paths = names.into_iter().filter(leftover).map(|(name, _)| self.releases().join(name));
                problems.extend(paths.filter_map(|path| remove_tree(&path).err()).map(LayoutError::from));
            }
            Err(e) => problems.push(e),
        }
        match self.stray_proofs() {
            Ok(stray) => problems.extend(stray.iter().filter_map(|release| self.remove_proof(release).err())),
            Err(e) => problems.push(e),
        }
        problems
    }

    /// Is the release here, whole, as it was unpacked from this digest?
    ///
    /// # Errors
    /// Its proof or its directory cannot be looked at.
    pub fn is_complete(&self, release: &ReleaseId, digest: &Digest) -> Result<bool, LayoutError> {
        let path = self.release(release);
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(DurableError::on("look at", &path)(e).into()),
            Ok(m) => Ok(m.is_dir() && self.proof(release)?.as_ref() == Some(digest)),
        }
    }

    fn names_in_releases(&self) -> Result<Vec<(String, bool)>, LayoutError> {
        let dir = self.releases();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            read => read.map_err(DurableError::on("list", &dir))?,
        };
        let name = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().into_string(), entry.file_type()?.is_dir()))
        };
        let all: io::Result<Vec<_>> = entries.map(name).collect();
        let all = all.map_err(DurableError::on("list", &dir))?;
        Ok(all.into_iter().filter_map(|(name, is_dir)| Some((name.ok()?, is_dir))).collect())
    }
}

#[cfg(test)]
mod tests;
