//! Writes that survive a power cut: no fsync error is ever ignored, because a failed one may have dropped the data.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use coord_proto::report::FailureCode;

/// A file operation that failed, with the path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct DurableError {
    pub what: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl DurableError {
    /// For `map_err`: what was attempted on which path.
    pub fn on(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }

    /// For the status record. A full disk is told apart: waiting may help there.
    pub fn code(&self) -> FailureCode {
        match self.source.raw_os_error() {
            Some(nix::libc::ENOSPC | nix::libc::EDQUOT) => FailureCode::DiskFull,
            _ => FailureCode::Io,
        }
    }
}

/// Makes the names in a directory durable (fsync(2): syncing a file says nothing about its name).
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn fsync_dir(dir: &Path) -> Result<(), DurableError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(DurableError::on("sync the directory", dir))
}

/// Writes everything of the file system that holds `path`, once, instead of one fsync per file (syncfs(2), which
/// reports write-back errors since Linux 5.8).
///
/// # Errors
/// Any write-back on that file system failed.
pub fn sync_filesystem(path: &Path) -> Result<(), DurableError> {
    let sync = |f: File| nix::unistd::syncfs(&f).map_err(io::Error::from);
    File::open(path).and_then(sync).map_err(DurableError::on("sync the file system of", path))
}

/// Replaces a file as a whole: readers see the old or the new bytes, also after a power cut.
///
/// # Errors
/// Any of the four steps failed; the old file is untouched.
pub fn write_file_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let temp = sibling(path);
    remove_if_there(&temp)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temp)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .map_err(DurableError::on("write", &temp));
    written.and_then(|()| rename_durably(&temp, path)).inspect_err(|_| drop(fs::remove_file(&temp)))
}

/// Renames within one directory and makes the new name durable.
///
/// # Errors
/// The rename or the sync of the directory failed.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), DurableError> {
    fs::rename(from, to).map_err(DurableError::on("rename a finished file to", to))?;
    fsync_dir(parent(to))
}

/// Points `link` at `target`: a fresh link is renamed over the old one, so nobody ever finds it missing (I1, rename(2)).
///
/// # Errors
/// The link cannot be made or renamed (the old one stays), or the directory cannot be synced.
pub fn replace_symlink(target: &str, link: &Path) -> Result<(), DurableError> {
    let temp = sibling(link);
    remove_if_there(&temp)?;
    symlink(target, &temp).map_err(DurableError::on("create the symlink", &temp))?;
    rename_durably(&temp, link).inspect_err(|_| drop(fs::remove_file(&temp)))
}

/// Removes a file or link; a missing one is fine.
///
/// # Errors
/// Anything else than "not found".
pub fn remove_if_there(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DurableError { what: "remove", path: path.to_owned(), source: e }),
        _ => Ok(()),
    }
}

/// Makes a directory and those above it where they are missing, and their names durable: what is synced in a directory that
/// vanishes after a power cut is gone with it.
///
/// # Errors
/// One cannot be made or synced.
pub fn ensure_dir_durably(dir: &Path) -> Result<(), DurableError> {
    if dir.is_dir() {
        return Ok(());
    }
    ensure_dir_durably(parent(dir))?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => return Err(DurableError::on("make the directory", dir)(e)),
        _ => {}
    }
    fsync_dir(parent(dir))
}

/// Removes a directory with all that is in it; a missing one is fine.
///
/// # Errors
/// Anything else than "not found".
pub fn remove_tree(path: &Path) -> Result<(), DurableError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DurableError::on("remove", path)(e)),
        _ => Ok(()),
    }
}

/// A hidden name beside `path`, always the same one: a leftover of a crash is replaced by the next try, and cannot pile up.
fn sibling(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parent(path).join(format!(".{name}.coord-new"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_a_leftover_does_not_matter() {
        let temp = tempfile::tempdir().expect("temp dir");
        let path = temp.path().join("state");
        fs::write(sibling(&path), "left by a crash, longer than the new text").expect("written");
        write_file_durably(&path, b"one", 0o600).expect("written");
        write_file_durably(&path, b"two", 0o600).expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 1, "no temporary file stays");
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).expect("there")) & 0o777, 0o600);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let temp = tempfile::tempdir().expect("temp dir");
        let path = temp.path().join("state");
        fs::create_dir(&path).expect("a directory in the way");
        let error = write_file_durably(&path, b"x", 0o600).expect_err("refused");
        assert_eq!(error.path, path);
        assert!(path.is_dir() && !sibling(&path).exists());
    }

    #[test]
    fn a_symlink_is_replaced_and_a_directory_in_its_place_is_not() {
        let temp = tempfile::tempdir().expect("temp dir");
        let link = temp.path().join("current");
        replace_symlink("a", &link).expect("made");
        symlink("left by a crash", sibling(&link)).expect("made");
        replace_symlink("b", &link).expect("replaced");
        assert_eq!(fs::read_link(&link).expect("read"), Path::new("b"));
        fs::remove_file(&link).expect("removed");
        fs::create_dir(&link).expect("made");
        replace_symlink("c", &link).expect_err("a directory is not replaced by a link");
        assert!(link.is_dir() && !sibling(&link).exists());
    }

    #[test]
    fn directories_are_made_down_to_the_last_and_a_file_in_the_way_is_told() {
        let temp = tempfile::tempdir().expect("temp dir");
        let deep = temp.path().join("a/b/c");
        ensure_dir_durably(&deep).expect("made");
        ensure_dir_durably(&deep).expect("there");
        fs::write(deep.join("file"), "").expect("written");
        assert_eq!(ensure_dir_durably(&deep.join("file/d")).expect_err("a file").path, deep.join("file"));
    }

    #[test]
    fn errors_name_the_path_and_tell_a_full_disk() {
        let gone = Path::new("/nonexistent/x");
        assert_eq!(fsync_dir(gone).expect_err("gone").to_string(), "cannot sync the directory /nonexistent/x");
        sync_filesystem(gone).expect_err("gone");
        let full = DurableError::on("write", gone)(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        assert_eq!(full.code(), FailureCode::DiskFull);
        assert_eq!(fsync_dir(gone).expect_err("gone").code(), FailureCode::Io);
    }
}
