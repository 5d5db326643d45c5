//! One server as its visitors and its processes show it, and the steps of a deploy that a test holds there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Fleet;
use crate::mount::Tmpfs;
use crate::process::Process;

impl Fleet {
    /// Fails unless the server's `current` is `release` and its application answers with it.
    ///
    /// # Errors
    /// Another link, another answer, or none.
    pub fn expect_serves(&self, name: &str, release: &str) -> Result<()> {
        let link = self.currents().remove(name).flatten();
        ensure!(link.as_deref() == Some(&*format!("releases/{release}")), "current of {name} is {link:?}, expected {release}");
        let answer = Command::new("curl").args(["-sf", "--max-time", "10", &format!("{}/status.json", self.app_url(name))]).output()?;
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        ensure!(answer.contains(&format!("\"release\": \"{release}\"")), "the application of {name} answers `{answer}`, not {release}");
        Ok(())
    }

    /// Gives the application of a server that is yet to be added a file system of its own. False, and said: it cannot be made here.
    ///
    /// # Errors
    /// The directory cannot be made, or mount(8) fails otherwise.
    pub fn mount_app_dir(&mut self, name: &str, options: &str) -> Result<bool> {
        let mounted = Tmpfs::mount(&self.app_dir_of_new(name), options)?;
        let there = mounted.is_some();
        self.mounts.extend(mounted);
        Ok(there)
    }

    /// Names in `releases/` of a server, hidden ones too, sorted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn releases(&self, name: &str) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.app_dir(name).join("releases"))?;
        let mut names: Vec<String> = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }

    /// The file of a release's artifact in the coordinator's store.
    ///
    /// # Errors
    /// It is not there.
    pub fn stored_artifact(&self, seq: u64) -> Result<PathBuf> {
        let digest = self.manifest(seq)?.artifact.digest.to_string();
        find(&self.dir().join("coordinator/state"), &digest)?.with_context(|| format!("the store has no {digest}"))
    }

    /// `<root>/mootube/shared` of a server.
    pub fn shared_dir(&self, name: &str) -> PathBuf {
        self.app_dir(name).join("shared")
    }

    /// Makes a step of [`crate::mootube::Tree::note_steps`] wait on this server, e.g. `two.restart.1`.
    ///
    /// # Errors
    /// The file system's.
    pub fn hold(&self, name: &str, step: &str) -> Result<()> {
        let path = self.hold_file(name, step);
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It was not held.
    pub fn let_go(&self, name: &str, step: &str) -> Result<()> {
        let path = self.hold_file(name, step);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    fn hold_file(&self, name: &str, step: &str) -> PathBuf {
        self.shared_dir(name).join(format!("hold.{step}"))
    }

    /// The steps that began on this server, in order: `<release>.<phase>.<attempt>`.
    pub fn steps(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.shared_dir(name).join("steps")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Processes that a server's hooks and tasks of one release started, and that are still there.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn processes_of(&self, name: &str, release: &str) -> Result<Vec<String>> {
        let shared = format!("COORD_SHARED_PATH={}", self.shared_dir(name).display());
        let release = format!("COORD_RELEASE={release}");
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            // A process may end while it is looked at.
            let path = entry?.path();
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            let has = |variable: &str| environment.split(|b| *b == 0).any(|v| v == variable.as_bytes());
            if has(&shared) && has(&release) {
                let command = fs::read(path.join("cmdline")).unwrap_or_default();
                found.push(format!("{} {}", path.display(), String::from_utf8_lossy(&command).replace('\0', " ")));
            }
        }
        Ok(found)
    }

    /// The most memory that a server's agent ever had, in KiB (VmHWM of proc_pid_status(5)).
    ///
    /// # Errors
    /// It does not run.
    pub fn agent_peak_kib(&self, name: &str) -> Result<u64> {
        let pid = self.agent(name).map(Process::pid).context("the agent runs")?;
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("VmHWM is there")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

/// The file below `dir` whose name holds `text`.
fn find(dir: &Path, text: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, text)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(text)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
