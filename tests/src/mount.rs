//! A small file system of a test's own, to be filled up.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

/// A tmpfs; dropped, it is gone.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one at `at`, which is made. `options` are those of tmpfs(5), e.g. `size=64m`. None where that is not allowed, which is
    /// said: the test is then skipped.
    ///
    /// # Errors
    /// The directory cannot be made, or mount(8) fails otherwise.
    pub fn mount(at: &Path, options: &str) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        if !Uid::effective().is_root() {
            eprintln!("skipped: not root, so there is no tmpfs to fill up");
            return Ok(None);
        }
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "coord-test"]).arg(at).output().context("cannot run mount")?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Some(Self(at.to_owned()))),
            // Root of a container without CAP_SYS_ADMIN.
            false if said.contains("permission denied") => {
                eprintln!("skipped: {}", said.trim());
                Ok(None)
            }
            false => bail!("cannot mount a tmpfs on {}: {said}", at.display()),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there must not keep the name.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
