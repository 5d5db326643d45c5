//! Runs one command: own process group, deadline, bounded output, and nothing left behind that should not be.
//!
//! ```text
//!  spawn ─▶ read output ─▶ leader exits ──────────────▶ its group ends ─▶ what is in the pipe ─▶ outcome
//!               └─ deadline or cancel ─▶ TERM to the tree ─▶ grace ─▶ KILL until it is empty ─┘
//!                  (a lost lease: KILL at once)
//! ```
//!
//! Deliberately absent: waiting for the pipe to be closed. A daemon that a hook started may hold it for months.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use coord_proto::ids::Nonce;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use output::Capture;
use tree::Tree;

mod output;
mod tree;

/// A command that was told to end has this long before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// `setsid daemon &` at the end of a hook: the daemon may have been forked and not yet have left the session.
const LEAVE_GRACE: Duration = Duration::from_secs(1);
/// How often an ending tree is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Killed processes that are still there after so many looks hang in the kernel.
const KILL_LOOKS_MAX: u32 = 250;
const CHUNK: usize = 64 * 1024;

/// What to run.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// Program and arguments; a relative path with a slash is below `cwd`, a bare name is looked up in `PATH`.
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    /// All of its environment, but for `COORD_RUN`, which marks its processes.
    pub env: BTreeMap<String, String>,
    /// None: the agent's own.
    pub user: Option<UserIds>,
    pub deadline: Duration,
    /// Texts that are blanked out in what is captured.
    pub redact: Vec<String>,
    /// Replaced; its directory is made.
    pub log_file: PathBuf,
    pub cancel: CancellationToken,
}

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEnd {
    pub outcome: CommandOutcome,
    /// The end of its output, at most `LOG_TAIL_BYTES_MAX` bytes.
    pub log_tail: String,
    /// All that it printed, in bytes.
    pub printed: u64,
}

/// The word of the command itself, or why it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    Exited(i32),
    Signaled(i32),
    TimedOut,
    Cancelled,
}

/// Why it could not be run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the command is empty")]
    Empty,
    #[error("cannot start {program} in {}; is it there and executable, and the interpreter of its first line installed?", cwd.display())]
    Start {
        program: String,
        cwd: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the log {}", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for {program}")]
    Wait {
        program: String,
        #[source]
        source: io::Error,
    },
}

/// What may stay when the command has ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survivors {
    None,
    /// What left for a session of its own: a server that a restart hook started.
    OwnSession,
}

/// What cancelling does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnCancel {
    /// TERM, a grace, KILL.
    Terminate,
    /// KILL, also in the grace of a deadline.
    Kill,
}

/// Runs it to its end; no process that it started is left, however it ended.
///
/// # Errors
/// It could not be started or waited for.
pub async fn run(spec: CommandSpec) -> Result<CommandEnd, CommandError> {
    run_with(spec, Survivors::None, OnCancel::Terminate, GRACE).await
}

/// As [`run`], but when it ends with status 0, processes that it put into a session of their own (setsid(2)) stay.
///
/// # Errors
/// As [`run`].
pub async fn run_leaving_daemons(spec: CommandSpec) -> Result<CommandEnd, CommandError> {
    run_with(spec, Survivors::OwnSession, OnCancel::Terminate, GRACE).await
}

/// As [`run`], but cancelled it is killed at once, without a grace: another server may start the same a moment later.
///
/// # Errors
/// As [`run`].
pub async fn run_while_held(spec: CommandSpec) -> Result<CommandEnd, CommandError> {
    run_with(spec, Survivors::None, OnCancel::Kill, GRACE).await
}

async fn run_with(spec: CommandSpec, survivors: Survivors, on_cancel: OnCancel, grace: Duration) -> Result<CommandEnd, CommandError> {
    let program = spec.argv.first().cloned().ok_or(CommandError::Empty)?;
    let capture =
        Capture::open(&spec.log_file, &spec.redact).map_err(|source| CommandError::Log { path: spec.log_file.clone(), source })?;
    let mark = Nonce::random();
    let (child, pipe) =
        spawn(&program, &spec, &mark).map_err(|source| CommandError::Start { program: program.clone(), cwd: spec.cwd.clone(), source })?;
    let tree = Tree::new(child.id(), mark);
    let mut running = Running { child, pipe: Some(pipe), tree, capture, exited: None };
    let outcome = running.wait_for_end(&spec, on_cancel, grace).await.map_err(|source| CommandError::Wait { program, source })?;
    running.end_survivors(outcome, survivors).await;
    Ok(running.finish(outcome))
}

fn spawn(program: &str, spec: &CommandSpec, mark: &Nonce) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let path = if program.contains('/') { spec.cwd.join(program) } else { find_in_path(program, &spec.env) };
    let mut command = Command::new(path);
    command.args(&spec.argv[1..]).current_dir(&spec.cwd).env_clear().envs(&spec.env).env(tree::MARK, mark.as_str());
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0).kill_on_drop(true);
    prepare_child(&mut command, spec.user.clone());
    let child = command.spawn()?;
    // The command holds the pipe's other end: dropped here, so that the reader sees the end.
    drop(command);
    Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
}

/// The command's PATH, not the agent's, says where a bare name is found.
fn find_in_path(program: &str, env: &BTreeMap<String, String>) -> PathBuf {
    let path = env.get("PATH").map_or("", String::as_str);
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|p| p.is_file()).unwrap_or_else(|| program.into())
}

/// The standard library can set user and group, but drops all supplementary groups, so it is done here in one place. And
/// the command must not outlive an agent that dies without a word: started again, it would run the same hook beside it.
/// The kernel sends the signal when the thread that forked ends, which is the one that runs the loop.
#[allow(unsafe_code)]
fn prepare_child(command: &mut Command, user: Option<UserIds>) {
    let user = user.map(|u| (Gid::from_raw(u.gid), Uid::from_raw(u.uid), u.groups.into_iter().map(Gid::from_raw).collect::<Vec<_>>()));
    let prepare = move || {
        if let Some((group, user, groups)) = &user {
            setgroups(groups)?;
            setgid(*group)?;
            setuid(*user)?;
        }
        // Last: becoming another user clears it (PR_SET_PDEATHSIG(2const)).
        set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes four
    // system calls on values prepared before the fork, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// A command on its way.
struct Running {
    child: Child,
    pipe: Option<pipe::Receiver>,
    tree: Tree,
    capture: Capture,
    exited: Option<ExitStatus>,
}

/// Why the first wait ended.
enum Stop {
    Exited(ExitStatus),
    Deadline,
    Cancelled,
}

impl Running {
    async fn wait_for_end(&mut self, spec: &CommandSpec, on_cancel: OnCancel, grace: Duration) -> io::Result<CommandOutcome> {
        let deadline = Instant::now() + spec.deadline;
        let stop = loop {
            tokio::select! {
                biased;
                () = spec.cancel.cancelled() => break Stop::Cancelled,
                () = sleep_until(deadline) => break Stop::Deadline,
                status = self.child.wait() => break Stop::Exited(status?),
                chunk = read(&mut self.pipe) => self.take(chunk),
            }
        };
        let outcome = match stop {
            Stop::Exited(status) => {
                self.exited = Some(status);
                return Ok(outcome_of(status));
            }
            Stop::Deadline => CommandOutcome::TimedOut,
            Stop::Cancelled => CommandOutcome::Cancelled,
        };
        let kill_now = if on_cancel == OnCancel::Kill { spec.cancel.clone() } else { CancellationToken::new() };
        self.terminate(grace, &kill_now).await?;
        Ok(outcome)
    }

    /// TERM to all, also to those that are forked meanwhile; waits until all are gone, the grace is over, or there is none.
    async fn terminate(&mut self, grace: Duration, kill_now: &CancellationToken) -> io::Result<()> {
        let until = Instant::now() + grace;
        while Instant::now() < until && !kill_now.is_cancelled() {
            let left = self.tree.terminate();
            if self.exited.is_some() && left == 0 {
                break;
            }
            self.read_for(LOOK).await?;
        }
        Ok(())
    }

    /// Reads on, so that a process that ends is not held up by a full pipe.
    async fn read_for(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return Ok(()),
                status = self.child.wait(), if self.exited.is_none() => self.exited = Some(status?),
                chunk = read(&mut self.pipe) => self.take(chunk),
            }
        }
    }

    fn take(&mut self, chunk: io::Result<Vec<u8>>) {
        match chunk {
            Ok(bytes) if !bytes.is_empty() => self.capture.push(&bytes),
            _ => self.pipe = None,
        }
    }

    async fn end_survivors(&mut self, outcome: CommandOutcome, survivors: Survivors) {
        let only_own_session = outcome == CommandOutcome::Exited(0) && survivors == Survivors::OwnSession;
        let leaving_until = Instant::now() + LEAVE_GRACE;
        while only_own_session && self.tree.any_in_session() && Instant::now() < leaving_until {
            sleep(LOOK).await;
        }
        for _ in 0..KILL_LOOKS_MAX {
            let killed = if only_own_session { self.tree.kill_in_session() } else { self.tree.kill() };
            if killed == 0 {
                self.tree.disarm();
                break;
            }
            sleep(LOOK).await;
        }
        if self.exited.is_none() {
            // Killed above. Reaped here, unless it hangs in the kernel.
            let _ = tokio::time::timeout(LOOK * KILL_LOOKS_MAX, self.child.wait()).await;
        }
        if self.tree.is_armed() {
            warn!("processes of a command that ended do not die; they hang in the kernel");
        }
        self.drain();
    }

    /// What the leader printed is in the pipe by now: takes it without waiting for more.
    fn drain(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut buffer = vec![0; CHUNK];
        // A survivor that prints for ever must not keep this going: a pipe holds at most 1 MiB (pipe(7)).
        for _ in 0..(1024 * 1024 / CHUNK) {
            match pipe.try_read(&mut buffer) {
                Ok(n) if n > 0 => self.capture.push(&buffer[..n]),
                _ => break,
            }
        }
    }

    fn finish(self, outcome: CommandOutcome) -> CommandEnd {
        let (log_tail, printed) = self.capture.finish();
        CommandEnd { outcome, log_tail, printed }
    }
}

/// The next bytes; empty at the end. Never resolves where the pipe is closed already.
async fn read(pipe: &mut Option<pipe::Receiver>) -> io::Result<Vec<u8>> {
    let Some(pipe) = pipe else { return std::future::pending().await };
    let mut buffer = Vec::with_capacity(CHUNK);
    pipe.read_buf(&mut buffer).await?;
    Ok(buffer)
}

fn outcome_of(status: ExitStatus) -> CommandOutcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => CommandOutcome::Exited(code),
        (None, signal) => CommandOutcome::Signaled(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
