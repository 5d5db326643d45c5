//! The fleet's processes: started beside this program, ended by their ids, none left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::cli::Done;
use crate::exit::Exit;
use crate::ui::Failure;

/// After SIGTERM; the coordinator's etcd needs more than a second to close its files.
const STOP_MAX: Duration = Duration::from_secs(20);
/// How often an end is looked for while waiting for something else.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines of a log that are shown when its program ended.
const TAIL_LINES: usize = 8;

/// Running programs, in the order they were started.
#[derive(Debug)]
pub struct Children {
    programs: PathBuf,
    logs: PathBuf,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Children {
    /// None yet; their programs are in `programs`, their output goes into `logs`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(programs: &Path, logs: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(logs)?;
        Ok(Self { programs: programs.to_owned(), logs: logs.to_owned(), running: Vec::new() })
    }

    /// Starts `program` as `name`.
    ///
    /// # Errors
    /// It is not there or cannot be started.
    pub fn start(&mut self, name: &str, program: &str, arguments: &[&OsStr]) -> Result<(), Failure> {
        let path = self.find(program)?;
        let log = self.logs.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        // Should this program be killed, the kernel ends its children: setpriv is in util-linux.
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM", "--"]).arg(&path);
                command
            }
            None => Command::new(&path),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Its own group: a Ctrl-C at the terminal reaches this program alone, which then stops everything in order.
        command.process_group(0).env_remove("STATE_DIRECTORY").env_remove("NOTIFY_SOCKET").kill_on_drop(true);
        let child = command.spawn().map_err(|e| Failure::new(Exit::Error, format!("cannot start {}: {e}", path.display())))?;
        self.running.push(Running { name: name.to_owned(), child, log });
        Ok(())
    }

    fn find(&self, program: &str) -> Result<PathBuf, Failure> {
        let path = self.programs.join(program);
        if path.is_file() {
            return Ok(path);
        }
        Err(Failure::new(Exit::Error, format!("there is no {program} in {}", self.programs.display()))
            .hint("install all three programs into one directory"))
    }

    /// The process id of a running program.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.running.iter().find(|running| running.name == name)?.child.id()
    }

    /// An error if one of them ended.
    ///
    /// # Errors
    /// Its name, how it ended, and the end of its log.
    pub fn check(&mut self) -> Result<(), Failure> {
        for running in &mut self.running {
            if let Some(status) = running.child.try_wait()? {
                let tail = tail(&running.log);
                let failure = Failure::new(Exit::Error, format!("{} ended by itself with {status}", running.name));
                return Err(failure.hint(format!("its log is {}\n{tail}", running.log.display())));
            }
        }
        Ok(())
    }

    /// Resolves when one of them ends, which none should.
    pub async fn first_to_end(&mut self) -> Done {
        loop {
            self.check()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends all of them: agents first, the coordinator (and its etcd) last. SIGTERM, a wait, SIGKILL.
    pub async fn stop(mut self) {
        let agents = self.running.split_off(self.running.len().min(1));
        stop_all(agents).await;
        stop_all(self.running).await;
    }
}

async fn stop_all(mut running: Vec<Running>) {
    for one in &running {
        if let Some(pid) = one.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended just now: that is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    let all = async {
        for one in &mut running {
            let _ = one.child.wait().await;
        }
    };
    if tokio::time::timeout(STOP_MAX, all).await.is_err() {
        for one in &mut running {
            let _ = one.child.kill().await;
        }
    }
}

fn setpriv() -> Option<PathBuf> {
    ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
