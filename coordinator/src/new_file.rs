//! A file that is written once, durably, and never over one that is there: keys, certificates, the files of a new fleet.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes it; `mode` is its permissions.
///
/// # Errors
/// It is there already, or cannot be written.
pub fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("key");
        write(&path, "first", 0o600).expect("written");
        assert_eq!(write(&path, "second", 0o600).expect_err("refused").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).expect("file"), "first");
    }
}
