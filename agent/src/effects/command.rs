//! One child process: its own process group, a deadline, bounded output, none of it left behind when it is ended.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use coord_proto::limits::{HOOK_LOG_BYTES_MAX, LOG_TAIL_BYTES_MAX};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Between TERM and KILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// A daemon that a hook left behind may hold the pipe open: what comes this long after the end is not waited for.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// What to run, as whom, and for how long.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// Program and arguments; no shell.
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    /// All of the environment.
    pub env: BTreeMap<String, String>,
    /// Texts that never go into a log.
    pub redact: Vec<String>,
    /// None: the agent's own user.
    pub user: Option<UserIds>,
    pub deadline: Duration,
    /// Its output, at most [`HOOK_LOG_BYTES_MAX`] of it.
    pub log_file: PathBuf,
    pub cancel: CancellationToken,
}

/// A user to run as: setuid(2), setgid(2); supplementary groups are dropped by the kernel's rules for a changed uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    Exited(i32),
    Signaled(i32),
    TimedOut,
    Cancelled,
}

/// How it ended, with the last of its output.
#[derive(Debug, Clone)]
pub struct CommandEnd {
    pub outcome: CommandOutcome,
    pub log_tail: String,
}

/// Why it could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the command is empty")]
    Empty,
    #[error("cannot start `{program}` in {}", cwd.display())]
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
}

/// Runs it to its end, its deadline or the token.
///
/// # Errors
/// It could not be started, or its log not be written.
pub async fn run(spec: CommandSpec) -> Result<CommandEnd, CommandError> {
    let mut child = spawn(&spec)?;
    let log = Log::create(&spec).await?;
    let mut output = tokio::spawn(capture(child.stdout.take(), child.stderr.take(), log));
    let outcome = watch_over(&mut child, &spec).await;
    let tail = match tokio::time::timeout(DRAIN_GRACE, &mut output).await {
        Ok(Ok(log)) => log.tail(),
        // A daemon holds the pipe: what was captured is in the file.
        _ => {
            output.abort();
            tail_of_file(&spec.log_file).await
        }
    };
    Ok(CommandEnd { outcome, log_tail: tail })
}

fn spawn(spec: &CommandSpec) -> Result<Child, CommandError> {
    let (program, arguments) = spec.argv.split_first().ok_or(CommandError::Empty)?;
    // `bin/console` means the release's own, whatever the agent's working directory is.
    let path = if program.contains('/') { spec.cwd.join(program) } else { find_in_path(program, &spec.env) };
    let mut command = Command::new(path);
    command.args(arguments).current_dir(&spec.cwd).env_clear().envs(&spec.env);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: its end can be the end of all of it. kill_on_drop covers only the leader, as a last resort.
    command.process_group(0).kill_on_drop(true);
    if let Some(ids) = spec.user {
        command.uid(ids.uid).gid(ids.gid);
    }
    command.spawn().map_err(|source| CommandError::Start { program: program.clone(), cwd: spec.cwd.clone(), source })
}

/// The hook's PATH, not the agent's, says where a bare name is found.
fn find_in_path(program: &str, env: &BTreeMap<String, String>) -> PathBuf {
    let path = env.get("PATH").map_or("", String::as_str);
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|p| p.is_file()).unwrap_or_else(|| program.into())
}

async fn watch_over(child: &mut Child, spec: &CommandSpec) -> CommandOutcome {
    let ended = tokio::select! {
        status = child.wait() => return outcome(status),
        () = tokio::time::sleep(spec.deadline) => CommandOutcome::TimedOut,
        () = spec.cancel.cancelled() => CommandOutcome::Cancelled,
    };
    end_all(child).await;
    ended
}

fn outcome(status: io::Result<ExitStatus>) -> CommandOutcome {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => status.code().map_or_else(|| CommandOutcome::Signaled(status.signal().unwrap_or(0)), CommandOutcome::Exited),
        // waitpid(2) fails only when somebody else reaped it: nobody knows how it ended.
        Err(_) => CommandOutcome::Signaled(0),
    }
}

/// TERM, a grace, KILL: to the group and to every descendant that left it.
async fn end_all(child: &mut Child) {
    let Some(leader) = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) else { return };
    let family = descendants(leader);
    let signal_all = |signal: Signal| {
        // ESRCH only says that it is gone already.
        let _ = killpg(leader, signal);
        family.iter().for_each(|pid| _ = kill(*pid, signal));
    };
    signal_all(Signal::SIGTERM);
    let _ = tokio::time::timeout(TERM_GRACE, child.wait()).await;
    signal_all(Signal::SIGKILL);
    let _ = child.wait().await;
}

/// Children of children, by /proc (proc_pid_stat(5)): a grandchild that made a session of its own is found while its
/// parents live; one whose parents are gone already is found by the unit's cgroup only.
fn descendants(root: Pid) -> Vec<Pid> {
    let parents: BTreeMap<i32, i32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name may hold anything, also `)`: fields are counted from the last one.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let below = |pid: &i32| std::iter::successors(Some(*pid), |p| parents.get(p).copied()).take(64).any(|p| p == root.as_raw());
    parents.keys().filter(|pid| **pid != root.as_raw() && below(pid)).map(|pid| Pid::from_raw(*pid)).collect()
}

/// Reads both pipes to their ends; what is over the limit is read and dropped, so that the child never blocks.
async fn capture(stdout: Option<impl AsyncRead + Unpin>, stderr: Option<impl AsyncRead + Unpin>, mut log: Log) -> Log {
    let (mut out, mut err) = (stdout, stderr);
    let (mut a, mut b) = ([0u8; 8192], [0u8; 8192]);
    while out.is_some() || err.is_some() {
        tokio::select! {
            read = read_some(&mut out, &mut a) => log.take(&a[..read]).await,
            read = read_some(&mut err, &mut b) => log.take(&b[..read]).await,
        }
    }
    log.finish().await;
    log
}

/// Bytes read; at the end of the stream it becomes `None`. An absent stream never resolves.
async fn read_some(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    let Some(open) = stream else { return std::future::pending().await };
    match open.read(buffer).await {
        Ok(read) if read > 0 => read,
        _ => {
            *stream = None;
            0
        }
    }
}

/// The captured output: the first part of it in a file, the last part in memory.
struct Log {
    file: tokio::fs::File,
    written: usize,
    dropped: u64,
    tail: VecDeque<u8>,
    redact: Vec<String>,
    /// The line that is not complete yet: a secret must not slip through between two reads.
    line: Vec<u8>,
}

impl Log {
    async fn create(spec: &CommandSpec) -> Result<Self, CommandError> {
        let path = spec.log_file.clone();
        let create = async {
            if let Some(dir) = path.parent() {
                tokio::fs::create_dir_all(dir).await?;
            }
            tokio::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path).await
        };
        let file = create.await.map_err(|source| CommandError::Log { path: path.clone(), source })?;
        let tail = VecDeque::with_capacity(LOG_TAIL_BYTES_MAX);
        Ok(Self { file, written: 0, dropped: 0, tail, redact: spec.redact.clone(), line: Vec::new() })
    }

    async fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            // A line without an end is cut, so that one gigabyte without a newline is not kept either.
            if part.ends_with(b"\n") || self.line.len() >= LOG_TAIL_BYTES_MAX {
                self.flush_line().await;
            }
        }
    }

    async fn flush_line(&mut self) {
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        for secret in &self.redact {
            text = text.replace(secret.as_str(), "[redacted]");
        }
        let bytes = text.as_bytes();
        let room = HOOK_LOG_BYTES_MAX.saturating_sub(self.written).min(bytes.len());
        // A full disk loses the log, not the hook.
        let _ = self.file.write_all(&bytes[..room]).await;
        self.written += room;
        self.dropped += (bytes.len() - room) as u64;
        self.tail.extend(bytes);
        let over = self.tail.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        self.tail.drain(..over);
    }

    async fn finish(&mut self) {
        self.flush_line().await;
        if self.dropped > 0 {
            let note = format!("\n[{} more bytes of output were dropped]\n", self.dropped);
            let _ = self.file.write_all(note.as_bytes()).await;
        }
        let _ = self.file.flush().await;
    }

    fn tail(&self) -> String {
        printable(&self.tail.iter().copied().collect::<Vec<u8>>())
    }
}

async fn tail_of_file(path: &Path) -> String {
    let bytes = tokio::fs::read(path).await.unwrap_or_default();
    printable(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES_MAX)..])
}

/// Text that may go into a record and a terminal: no escape sequences.
fn printable(bytes: &[u8]) -> String {
    let keep = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    String::from_utf8_lossy(bytes).chars().filter(keep).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests;
