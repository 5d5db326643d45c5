//! `coordctl`, as a person or CI calls it.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

use super::Fleet;
use crate::process::program;
use crate::wait::until;

/// What a command said, and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Fails unless it ended with `code`; everything that it said is in the error.
    ///
    /// # Errors
    /// Another exit code.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "exit code {} instead of {code}\n{}\n{}", self.code, self.out, self.err);
        Ok(self)
    }

    /// Does it say this, on stdout or stderr?
    pub fn says(&self, text: &str) -> bool {
        self.out.contains(text) || self.err.contains(text)
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // A signal is no exit code: -1 equals none.
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A `coordctl` that runs beside the test, mostly a `release publish`; dropped, it is ended.
#[derive(Debug)]
pub struct Publishing(Option<std::process::Child>);

impl Publishing {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Ok(Self(Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?)))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time: then it is killed, and what it said is in the error.
    pub fn wait(mut self) -> Result<Said> {
        let mut child = self.0.take().context("it is waited for once")?;
        let ended = until("the command ends", || Ok(child.try_wait()?.is_some()));
        if ended.is_err() {
            child.kill().ok();
        }
        let said = Said::from(child.wait_with_output()?);
        ended.with_context(|| format!("it said {said:?}"))?;
        Ok(said)
    }
}

impl Drop for Publishing {
    /// A test that fails leaves nothing behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Fleet {
    /// `coordctl ARGS…` with this fleet's configuration and nothing of the caller's environment.
    ///
    /// # Errors
    /// The program is missing.
    pub fn coordctl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("coordctl")?);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.dir()).env("USER", "tester");
        command.arg("--config").arg(self.dir().join("coordctl.toml")).args(args);
        Ok(command)
    }

    /// Runs `coordctl ARGS…` to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn coordctl(&self, args: &[&str]) -> Result<Said> {
        let output = self.coordctl_command(args)?.output().context("cannot run coordctl")?;
        Ok(output.into())
    }

    /// `release publish DIR --release RELEASE …`, to the end of the rollout.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn publish(&self, tree: &Path, release: &str, more: &[&str]) -> Result<Said> {
        self.start_publish(tree, release, more)?.wait()
    }

    /// The same, beside the test.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_publish(&self, tree: &Path, release: &str, more: &[&str]) -> Result<Publishing> {
        self.start_publish_as("tester", tree, release, more)
    }

    /// The same, as another user.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_publish_as(&self, user: &str, tree: &Path, release: &str, more: &[&str]) -> Result<Publishing> {
        let mut command = self.coordctl_command(&["release", "publish"])?;
        command.arg(tree).args(["--release", release]).args(more).env("USER", user).env("LOGNAME", user);
        Publishing::start(&mut command)
    }

    /// `coordctl ARGS…`, beside the test.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_coordctl(&self, args: &[&str]) -> Result<Publishing> {
        Publishing::start(&mut self.coordctl_command(args)?)
    }
}
