//! A fresh ext4 in a file: the machine's own file system is aged, and slower right after deletions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const SIZE: u64 = 1 << 30;

/// Mounted until it is dropped.
pub struct LoopFs {
    image: PathBuf,
    at: PathBuf,
}

impl LoopFs {
    /// Makes the file system in `image` and mounts it at `at`; root's business.
    ///
    /// # Errors
    /// mkfs or mount said why not.
    pub fn mount(image: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        std::fs::File::create(image)?.set_len(SIZE)?;
        // Everything is initialized now: nothing is left for a kernel thread to do during the measurement.
        tool(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(image))?;
        tool(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        Ok(Self { image: image.to_owned(), at: at.to_owned() })
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Lazily: a program of the fleet may still have a directory open.
        Command::new("umount").arg("-l").arg(&self.at).status().ok();
        std::fs::remove_file(&self.image).ok();
    }
}

/// Runs `command`; what it said is in the error.
///
/// # Errors
/// It is missing, or ended with another code than 0.
pub fn tool(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
