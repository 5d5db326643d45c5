//! One program that a test started: its log is kept, and it is ended by its own process id.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::until_some;

/// Lines of a log that a failed test shows.
const TAIL_LINES: usize = 40;

/// A running program; dropped, it is killed and waited for.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// The program `name` of this build.
///
/// # Errors
/// It is not built: Cargo builds other packages' programs only when asked (`make build`).
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    // A test is target/debug/deps/TEST, a benchmark target/release/bench.
    let beside = this.parent().context("a program has a directory")?;
    let dir = if beside.ends_with("deps") { beside.parent().context("deps has a parent")? } else { beside };
    let path = dir.join(name);
    ensure!(path.exists(), "{} is not there; run `make build` first", path.display());
    Ok(path)
}

impl Process {
    /// Starts `command`, appending what it prints to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))?;
        // Its own group: a Ctrl-C at the terminal is the test's, which then ends its processes in order.
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.pid()))
    }

    /// SIGKILL, and waits: a crash.
    pub fn crash(mut self) {
        self.end();
    }

    /// SIGTERM, and waits until it has ended in order.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        until_some(format_args!("process {} ends", self.pid()), || Ok(self.child.try_wait()?))
    }

    /// Has it ended by itself?
    ///
    /// # Errors
    /// The operating system's.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The end of what it printed.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn end(&mut self) {
        // One that has ended already takes no signal; either way there is an exit status to collect.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The command lines of all processes that name `dir`: what a test has left behind there.
///
/// # Errors
/// There is no /proc.
pub fn processes_in(dir: &Path) -> Result<Vec<String>> {
    let dir = dir.to_str().context("the directory's name is not text")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // One that ended just now is not left behind.
        let words = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&words).replace('\0', " ");
        if line.contains(dir) {
            found.push(line);
        }
    }
    Ok(found)
}
