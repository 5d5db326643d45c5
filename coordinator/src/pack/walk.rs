//! What of a directory goes into the archive, in the order of the paths' bytes.
//!
//! An entry is decided by the first that speaks: `include`, the fixed list below, the layout's shared paths, `exclude`, and then whatever
//! decided its directory. So `include` brings back one path, and never the secrets that lie below it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use coord_proto::archive::{ArchiveCheck, ArchiveRules, Entry, Kind, RawEntry, RawKind};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::PackError;
use crate::deploy_file::DeployFile;

/// Version control: never on a server.
const VERSION_CONTROL: &[&str] = &[".git", ".hg", ".svn"];
/// What looks like a secret: environment files, private keys of TLS, ssh and minisign.
const SECRETS: &[&str] =
    &[".env", ".env.local", ".env.*.local", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk"];

/// A file of certificates, in bytes: all authorities of the web are a quarter of a megabyte.
const CERTIFICATES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What stays out.
#[derive(Debug)]
pub struct Rules {
    include: Gitignore,
    exclude: Gitignore,
    version_control: Gitignore,
    secrets: Gitignore,
    shared_dirs: Vec<String>,
    shared_files: Vec<String>,
}

/// Why a path stays out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Out {
    VersionControl,
    Secret,
    Shared,
    Excluded,
}

/// A tree as it will be archived.
#[derive(Debug)]
pub struct Tree {
    /// In the order of their bytes: a directory before what is in it.
    pub entries: Vec<Entry>,
    /// Files that look like secrets.
    pub withheld: Vec<String>,
}

impl Rules {
    /// The rules of a deploy file.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn new(deploy: &DeployFile) -> Result<Self, PackError> {
        Ok(Self {
            include: patterns("include", &deploy.artifact.include)?,
            exclude: patterns("exclude", &deploy.artifact.exclude)?,
            version_control: patterns("exclude", VERSION_CONTROL)?,
            secrets: patterns("exclude", SECRETS)?,
            shared_dirs: deploy.layout.shared_dirs.clone(),
            shared_files: deploy.layout.shared_files.clone(),
        })
    }

    /// The same without the user's `exclude`: for the copy in which the build runs, which may need what is left out later.
    ///
    /// # Errors
    /// As [`Rules::new`].
    pub fn for_build(deploy: &DeployFile) -> Result<Self, PackError> {
        Ok(Self { exclude: Gitignore::empty(), ..Self::new(deploy)? })
    }

    fn verdict(&self, path: &Path, is_dir: bool, inherited: Option<Out>) -> Option<Out> {
        if self.include.matched(path, is_dir).is_ignore() {
            return None;
        }
        if self.version_control.matched(path, is_dir).is_ignore() {
            return Some(Out::VersionControl);
        }
        if self.is_shared(path) {
            return Some(Out::Shared);
        }
        // A directory may be called `.env`; what is in it then is judged by itself.
        if !is_dir && self.secrets.matched(path, is_dir).is_ignore() {
            return Some(Out::Secret);
        }
        self.excluded(path, is_dir, inherited)
    }

    fn excluded(&self, path: &Path, is_dir: bool, inherited: Option<Out>) -> Option<Out> {
        let own = self.exclude.matched(path, is_dir);
        if own.is_ignore() { Some(Out::Excluded) } else { inherited }
    }

    /// A shared file, or something inside a shared directory: servers put a link there.
    fn is_shared(&self, path: &Path) -> bool {
        let inside = |dir: &String| path.starts_with(dir) && path != Path::new(dir);
        self.shared_files.iter().any(|file| path == Path::new(file)) || self.shared_dirs.iter().any(inside)
    }
}

fn patterns<S: AsRef<str>>(field: &'static str, lines: &[S]) -> Result<Gitignore, PackError> {
    let fail = |source| PackError::Pattern { field, source };
    let mut builder = GitignoreBuilder::new("");
    // git takes `a[` literally; somebody who wrote it meant something else.
    builder.allow_unclosed_class(false);
    for line in lines {
        builder.add_line(None, line.as_ref()).map_err(fail)?;
    }
    builder.build().map_err(fail)
}

/// What is in, by path, in the order of the paths' bytes.
pub(super) type Contents = BTreeMap<Vec<u8>, Found>;

/// What lies on the disk under one path.
#[derive(Debug)]
pub(super) enum Found {
    Directory,
    File { size: u64, executable: bool },
    Link { target: Vec<u8> },
    Other(&'static str),
}

impl Tree {
    /// Reads the tree below `root`.
    ///
    /// # Errors
    /// Unreadable, or something that servers would refuse; the path is named.
    pub fn read(root: &Path, rules: &Rules, allow_symlinks_to: &[String]) -> Result<Self, PackError> {
        let (found, withheld) = scan(root, rules)?;
        let checks = ArchiveRules { allow_symlinks_to: allow_symlinks_to.to_vec(), ..ArchiveRules::default() };
        let mut check = ArchiveCheck::new(checks);
        let mut entries = Vec::with_capacity(found.len());
        for (path, kind) in &found {
            let raw = RawEntry { path, kind: kind.raw() };
            let refuse = |source| PackError::Refused { path: root.join(OsStr::from_bytes(path)), source };
            entries.extend(check.entry(raw).map_err(refuse)?);
        }
        Ok(Self { entries, withheld })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Entry| if let Kind::File { size, .. } = entry.kind { size } else { 0 };
        self.entries.iter().map(size).sum()
    }
}

impl Found {
    fn raw(&self) -> RawKind<'_> {
        match self {
            Self::Directory => RawKind::Directory,
            Self::File { size, executable } => RawKind::File { size: *size, executable: *executable },
            Self::Link { target } => RawKind::Link { target },
            Self::Other(what) => RawKind::Other(what),
        }
    }
}

/// Everything that is in, by path, and the files that were taken for secrets.
pub(super) fn scan(root: &Path, rules: &Rules) -> Result<(Contents, Vec<String>), PackError> {
    let mut found = BTreeMap::new();
    let mut withheld = Vec::new();
    let mut open = vec![(PathBuf::new(), None)];
    while let Some((dir, inherited)) = open.pop() {
        let absolute = root.join(&dir);
        for entry in std::fs::read_dir(&absolute).map_err(PackError::file("read", &absolute))? {
            let path = dir.join(entry.map_err(PackError::file("read", &absolute))?.file_name());
            let meta = std::fs::symlink_metadata(root.join(&path)).map_err(PackError::file("read", &root.join(&path)))?;
            let mut out = rules.verdict(&path, meta.is_dir(), inherited);
            if out == Some(Out::Secret) && meta.is_file() && holds_certificates_alone(&root.join(&path))? {
                out = rules.excluded(&path, false, inherited);
            }
            if out == Some(Out::Secret) {
                withheld.push(path.to_string_lossy().into_owned());
            }
            // Below what is left out there may be something that `include` brings back.
            if meta.is_dir() && (out.is_none() || !rules.include.is_empty()) {
                open.push((path.clone(), out));
            }
            if out.is_none() {
                let kind = classify(&root.join(&path), &meta)?;
                note_parents(&mut found, &path);
                found.insert(path.into_os_string().as_bytes().to_vec(), kind);
            }
        }
    }
    withheld.sort();
    Ok((found, withheld))
}

/// A bundle of authorities' certificates, as Python's certifi has one, looks like a key by its name; without it the application could
/// check no TLS connection.
fn holds_certificates_alone(path: &Path) -> Result<bool, PackError> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(PackError::file("read", path))?;
    file.take(CERTIFICATES_BYTES_MAX + 1).read_to_end(&mut text).map_err(PackError::file("read", path))?;
    let has = |words: &[u8]| text.windows(words.len()).any(|w| w == words);
    Ok(text.len() as u64 <= CERTIFICATES_BYTES_MAX && has(b"-----BEGIN CERTIFICATE-----") && !has(b"PRIVATE KEY"))
}

/// The directories above a path that was brought back from a directory that is left out.
fn note_parents(found: &mut Contents, path: &Path) {
    for parent in path.ancestors().skip(1).take_while(|p| !p.as_os_str().is_empty()) {
        found.entry(parent.as_os_str().as_bytes().to_vec()).or_insert(Found::Directory);
    }
}

fn classify(path: &Path, meta: &Metadata) -> Result<Found, PackError> {
    let kind = meta.file_type();
    let found = if kind.is_dir() {
        Found::Directory
    } else if kind.is_file() {
        Found::File { size: meta.len(), executable: meta.mode() & 0o100 != 0 }
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path).map_err(PackError::file("read the link", path))?;
        Found::Link { target: target.as_os_str().as_bytes().to_vec() }
    } else if kind.is_fifo() {
        Found::Other("a fifo")
    } else if kind.is_socket() {
        Found::Other("a socket")
    } else {
        Found::Other("a device")
    };
    Ok(found)
}
