//! A fleet on one machine: the same programs, TLS and signatures as in production, in one directory.
//!
//! ```text
//!  DIR/pki/  DIR/trust.toml  DIR/coordctl.toml     as on an operator's machine
//!  DIR/coordinator/{coordinator.toml, state/}      its own etcd and artifacts below
//!  DIR/nodes/web-1/{agent.toml, state/, srv/}      a server each
//!  DIR/log/                                        what they print
//! ```
//!
//! A directory that is there is taken up again, with its ports, keys and releases.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::pki::PkiError;

mod files;

pub use files::{Files, ports};

/// The context's and the environment's name.
pub const NAME: &str = "dev";
/// Between TERM and KILL.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Why a development fleet does not come up.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the program {program} is not beside coordctl ({}); build or install all three", dir.display())]
    Missing { program: &'static str, dir: PathBuf },
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{name} ended by itself; its last words are in {}:\n{tail}", log.display())]
    Ended { name: String, log: PathBuf, tail: String },
    #[error("no free port on 127.0.0.1")]
    NoPort,
}

/// The running programs.
pub struct Fleet {
    /// Agents first: they are stopped before what they talk to.
    children: Vec<Running>,
}

struct Running {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Fleet {
    /// Starts a coordinator with its own etcd, and the agents.
    ///
    /// # Errors
    /// A program is missing or cannot be started; those already started are stopped.
    pub async fn start(files: &Files) -> Result<Self, DevError> {
        let mut fleet = Self { children: vec![] };
        match fleet.start_all(files) {
            Ok(()) => Ok(fleet),
            Err(e) => {
                fleet.stop().await;
                Err(e)
            }
        }
    }

    fn start_all(&mut self, files: &Files) -> Result<(), DevError> {
        for node in &files.nodes {
            self.start_one("coord-agent", node, &files.agent_config(node), files)?;
        }
        self.start_one("coordinator", "coordinator", &files.coordinator_config(), files)
    }

    fn start_one(&mut self, program: &'static str, name: &str, config: &Path, files: &Files) -> Result<(), DevError> {
        let log = files.log(name);
        let io = |source| DevError::Io { path: log.clone(), source };
        let output = File::options().create(true).append(true).open(&log).map_err(io)?;
        let mut command = Command::new(beside(program)?);
        command.arg("run").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(io)?).stderr(output);
        // A Ctrl-C at the terminal is for coordctl, which then stops all in order.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|source| DevError::Start { program: name.into(), source })?;
        self.children.push(Running { name: name.into(), log, child });
        Ok(())
    }

    /// Resolves when one of the programs ended by itself.
    pub async fn ended(&mut self) -> DevError {
        loop {
            for running in &mut self.children {
                if matches!(running.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return DevError::Ended { name: running.name.clone(), log: running.log.clone(), tail: tail(&running.log) };
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops all, agents first, and waits until they are gone.
    pub async fn stop(&mut self) {
        let (agents, coordinators): (Vec<_>, Vec<_>) = self.children.drain(..).partition(|r| r.name != "coordinator");
        for group in [agents, coordinators] {
            group.iter().for_each(|r| terminate(&r.child));
            for mut running in group {
                if tokio::time::timeout(STOP_GRACE, running.child.wait()).await.is_err() {
                    let _ = running.child.kill().await;
                }
            }
        }
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It may have ended a moment ago.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// The programs of one build belong together: they are looked for beside this one, not in PATH.
fn beside(program: &'static str) -> Result<PathBuf, DevError> {
    let me = std::env::current_exe().map_err(|source| DevError::Start { program: program.into(), source })?;
    let dir = me.parent().map(Path::to_owned).unwrap_or_default();
    let path = dir.join(program);
    if path.is_file() { Ok(path) } else { Err(DevError::Missing { program, dir }) }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
