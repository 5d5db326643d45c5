//! One etcd process: started, listened to, waited for, stopped.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

/// Lines kept for the message when it dies.
const LAST_WORDS_MAX: usize = 8;
/// One line of its log; more of it is dropped.
const LINE_BYTES_MAX: u64 = 2048;

/// A running process. Dropped, it is killed.
pub struct Child {
    pid: u32,
    alive: Arc<Mutex<bool>>,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `binary` in a process group of its own, so that Ctrl-C ends the coordinator first, and the coordinator ends it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(binary: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let mut command = command(&find(binary)?, arguments);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let (sender, ended) = oneshot::channel();
        let alive = Arc::new(Mutex::new(true));
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let (living, words) = (alive.clone(), last_words.clone());
        // PDEATHSIG fires when the *thread* that started the child ends (prctl(2)): this one lives as long as the child.
        thread::Builder::new().name("etcd".into()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(e) => return drop(started.send(Err(e))),
            };
            let log = child.stderr.take();
            let _ = started.send(Ok(child.id()));
            let status = thread::scope(|scope| {
                // Ends with the process group, whose members alone hold the other end.
                scope.spawn(|| log.map(|log| forward(log, &words)));
                reap(child, &living)
            });
            let _ = sender.send(status);
        })?;
        let pid = start.recv().map_err(io::Error::other)??;
        Ok(Self { pid, alive, ended, last_words })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end and says how it ended.
    pub async fn ended(&mut self) -> String {
        match (&mut self.ended).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => "nobody waited for it".to_owned(),
        }
    }

    /// SIGTERM, and SIGKILL when it is still there after `patience`. Returns when it is gone.
    pub async fn stop(&mut self, patience: Duration) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            tracing::warn!(pid = self.pid, "etcd did not end after SIGTERM; killing it");
            self.signal(Signal::SIGKILL);
            self.ended().await;
        }
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let words = lock(&self.last_words);
        words.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    fn signal(&self, signal: Signal) {
        // Under the lock it has not been waited for: the id is still its own.
        let alive = lock(&self.alive);
        if let (true, Ok(pid)) = (*alive, i32::try_from(self.pid)) {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn command(binary: &Path, arguments: &[OsString]) -> Command {
    let mut command = match find(Path::new("setpriv")) {
        Ok(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(binary);
            command
        }
        Err(_) => {
            tracing::warn!("setpriv (util-linux) is not there: a coordinator that is killed would leave its etcd behind");
            Command::new(binary)
        }
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    // ETCD_* variables would be settings besides the command line.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// The program in PATH, or at the path given: setpriv's own failure to find it would look like etcd's death.
fn find(program: &Path) -> io::Result<std::path::PathBuf> {
    if program.components().count() > 1 {
        return program.metadata().map(|_| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not in PATH"))
}

/// Its log, line by line, until it closes it.
fn forward(log: ChildStderr, last_words: &Mutex<VecDeque<String>>) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    while let Ok(1..) = log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        tracing::debug!(target: "etcd", "{text}");
        let mut words = lock(last_words);
        if words.len() == LAST_WORDS_MAX {
            words.pop_front();
        }
        words.push_back(text);
        line.clear();
    }
}

/// Waits for the end without freeing the process id, ends what is left of its group, then frees the id under the lock that
/// [`Child::signal`] takes.
fn reap(mut child: std::process::Child, alive: &Mutex<bool>) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    let _ = killpg(pid, Signal::SIGKILL);
    let mut alive = lock(alive);
    *alive = false;
    child.wait()
}
