//! A directory or a prebuilt archive becomes the artifact of a release.
//!
//! ```text
//!  directory ─▶ build (clean copy, if there are commands) ─▶ walk (what is in) ─▶ archive (same tree, same bytes) ─┐
//!  prebuilt .tar.gz, .tar.zst ──────────────────────────────────────────────────────────────────────────────────┴▶ inspect
//! ```
//!
//! [`inspect`] reads the archive exactly as servers do and has the last word: what it refuses is never signed.

use std::io;
use std::path::{Path, PathBuf};

use coord_proto::archive::ArchiveError;
use coord_proto::manifest::Artifact;
use tempfile::TempPath;

use crate::deploy_file::DeployFile;
use crate::ui::Ui;

pub mod archive;
pub mod build;
pub mod inspect;
pub mod walk;

use walk::{Rules, Tree};

/// An artifact and the file that holds its bytes.
#[derive(Debug)]
pub struct Packed {
    pub artifact: Artifact,
    /// Paths left out because they look like secrets; people should know.
    pub withheld: Vec<String>,
    file: File,
}

#[derive(Debug)]
enum File {
    /// Gone when dropped.
    Own(TempPath),
    Prebuilt(PathBuf),
}

/// Why nothing was packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("cannot {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} changed while it was being packed; pack again when nothing writes to it", path.display())]
    Changed { path: PathBuf },
    #[error("{} cannot be packed: the servers would refuse it", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: ArchiveError,
    },
    #[error("`artifact.{field}` has a pattern that cannot be used")]
    Pattern {
        field: &'static str,
        #[source]
        source: ignore::Error,
    },
    #[error("{} holds nothing to pack", path.display())]
    Empty { path: PathBuf },
    #[error("{} is neither a directory nor a .tar.gz or .tar.zst archive", path.display())]
    NotAnArchive { path: PathBuf },
    #[error("{} is a prebuilt archive, but deploy.toml has `artifact.build` commands; publish the directory, or remove them", path.display())]
    BuildOfArchive { path: PathBuf },
    #[error("the archive is {size} bytes long; the limit is {limit}")]
    TooLarge { size: u64, limit: u64 },
    #[error("the build command `{command}` failed: {problem}")]
    Build {
        command: String,
        problem: String,
        #[source]
        source: Option<io::Error>,
    },
}

impl PackError {
    /// Is something wrong with what was to be packed, rather than with this machine or its build?
    pub fn refused(&self) -> bool {
        match self {
            Self::Changed { .. } | Self::Refused { .. } | Self::Pattern { .. } | Self::Empty { .. } => true,
            Self::NotAnArchive { .. } | Self::BuildOfArchive { .. } | Self::TooLarge { .. } => true,
            Self::File { .. } | Self::Build { .. } => false,
        }
    }

    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}

impl Packed {
    /// Where the bytes are, as long as `self` lives.
    pub fn path(&self) -> &Path {
        match &self.file {
            File::Own(path) => path,
            File::Prebuilt(path) => path,
        }
    }

    /// Gives the archive its final name.
    ///
    /// # Errors
    /// It cannot be renamed or copied there.
    pub fn keep(self, to: &Path) -> Result<Artifact, PackError> {
        match self.file {
            File::Own(path) => path.persist(to).map_err(|e| e.error),
            File::Prebuilt(path) => std::fs::copy(path, to).map(drop),
        }
        .map_err(PackError::file("write", to))?;
        Ok(self.artifact)
    }
}

/// Packs `source`: a directory with the application, or a prebuilt archive. The archive is made in the directory `scratch`.
///
/// # Errors
/// Nothing is left behind; the path that was refused is named.
pub fn pack(source: &Path, deploy: &DeployFile, scratch: &Path, ui: Ui) -> Result<Packed, PackError> {
    let kind = std::fs::metadata(source).map_err(PackError::file("read", source))?;
    if kind.is_dir() {
        return pack_directory(source, deploy, scratch, ui);
    }
    if !deploy.artifact.build.is_empty() {
        return Err(PackError::BuildOfArchive { path: source.into() });
    }
    let artifact = inspect::inspect(source, &deploy.artifact)?;
    Ok(Packed { artifact, withheld: vec![], file: File::Prebuilt(source.into()) })
}

fn pack_directory(source: &Path, deploy: &DeployFile, scratch: &Path, ui: Ui) -> Result<Packed, PackError> {
    let rules = Rules::new(deploy)?;
    if deploy.artifact.build.is_empty() {
        return pack_tree(&source.join(&deploy.artifact.dir), deploy, &rules, scratch, ui);
    }
    let copy = build::build(source, deploy, ui)?;
    pack_tree(&copy.path().join(&deploy.artifact.dir), deploy, &rules, scratch, ui)
}

fn pack_tree(root: &Path, deploy: &DeployFile, rules: &Rules, scratch: &Path, ui: Ui) -> Result<Packed, PackError> {
    let tree = Tree::read(root, rules, &deploy.artifact.allow_symlinks_to)?;
    if tree.entries.is_empty() {
        return Err(PackError::Empty { path: root.into() });
    }
    let file = tempfile::Builder::new().prefix(".coord-").suffix(".tar.zst").tempfile_in(scratch);
    let mut file = file.map_err(PackError::file("write an archive in", scratch))?;
    let progress = ui.progress("packed", tree.bytes());
    archive::write(root, &tree, file.as_file_mut(), &mut |done| progress.set(done))?;
    let path = file.into_temp_path();
    // The tree has no component to strip: that key is for archives made elsewhere.
    let section = crate::deploy_file::ArtifactSection { strip_components: 0, ..deploy.artifact.clone() };
    let artifact = inspect::inspect(&path, &section)?;
    ui.note(format!("{}, {} entries, {} bytes compressed", progress.finish(tree.bytes()), artifact.entries, artifact.size));
    Ok(Packed { artifact, withheld: tree.withheld, file: File::Own(path) })
}

#[cfg(test)]
mod tests;
