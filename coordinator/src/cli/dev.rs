//! `coordctl dev up`: etcd, a coordinator and N agents on this machine.
//!
//! The same programs, TLS and signatures as anywhere else; nothing is turned off. What differs is where the files are, and that all addresses
//! are loopback.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};

use super::Done;
use crate::exit::Exit;
use crate::ui::{Failure, Ui, words};

mod children;
mod files;
mod ready;

use children::Children;
use files::Fleet;

/// etcd, the leader and every agent are up within this time, or something is wrong.
const READY_MAX: Duration = Duration::from_secs(90);

/// `coordctl dev …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a fleet and keep it until Ctrl-C
    Up(Up),
}

/// What `up` is told.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// How many servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: u16,
    /// Where everything lives; started again there, the fleet goes on as it was [default: ~/.local/state/coord/dev]
    #[arg(long, env = "COORDCTL_DEV_DIR")]
    dir: Option<PathBuf>,
    /// Apps that the agents allow
    #[arg(long, value_delimiter = ',', default_value = "*")]
    apps: Vec<String>,
    /// Written when everything is up: JSON with the addresses and directories
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// A program that is missing or ends, files that cannot be written, a fleet that does not come up.
pub async fn run(command: Command, ui: Ui) -> Done {
    let Command::Up(up) = command;
    let dir = up.directory()?;
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let _lock = lock(&dir)?;
    if let Some(file) = &up.ready_file {
        // One from an earlier run would be believed.
        let _ = std::fs::remove_file(file);
    }
    let fleet = Fleet::prepare(&dir, up.nodes, &up.apps)?;
    let own = std::env::current_exe()?;
    let programs = own.parent().unwrap_or(Path::new("/"));
    let mut children = Children::new(programs, &dir.join("log"))?;
    let done = up.keep(&fleet, &mut children, ui).await;
    ui.note("stopping");
    children.stop().await;
    done
}

impl Up {
    fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")));
        base.map(|base| base.join("coord/dev")).ok_or_else(|| Failure::new(Exit::Usage, "there is no home directory; say where with --dir"))
    }

    /// Starts everything and keeps it until a signal. Signals are caught from the first moment: what was started is also stopped.
    async fn keep(&self, fleet: &Fleet, children: &mut Children, ui: Ui) -> Done {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let work = async {
            // Agents say since when they are there in whole seconds: the clock is read before the first of them starts.
            let begun = words::now();
            start(fleet, children)?;
            ui.note(format!("starting {} servers in {}", fleet.nodes.len(), fleet.dir.display()));
            ready::wait(fleet, children, begun, READY_MAX).await?;
            if let Some(file) = &self.ready_file {
                ready::announce(fleet, file)?;
            }
            ui.out(next(fleet))?;
            children.first_to_end().await
        };
        tokio::select! {
            biased;
            _ = terminate.recv() => Ok(Exit::Done),
            _ = interrupt.recv() => Ok(Exit::Done),
            _ = hangup.recv() => Ok(Exit::Done),
            ended = work => ended,
        }
    }
}

fn start(fleet: &Fleet, children: &mut Children) -> Result<(), Failure> {
    children.start("coordinator", "coordinator", &["run".as_ref(), "--config".as_ref(), fleet.coordinator_config().as_os_str()])?;
    for node in &fleet.nodes {
        children.start(node.name.as_str(), "coord-agent", &["run".as_ref(), "--config".as_ref(), node.config().as_os_str()])?;
    }
    Ok(())
}

/// One `dev up` per directory.
fn lock(dir: &Path) -> Result<Flock<std::fs::File>, Failure> {
    let path = dir.join("dev.lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => {
            Failure::refused(format!("a fleet runs in {} already", dir.display())).hint("stop it with Ctrl-C there, or take another --dir")
        }
        e => Failure::new(Exit::Error, format!("cannot lock {}: {e}", path.display())),
    })
}

fn next(fleet: &Fleet) -> String {
    let names: Vec<&str> = fleet.nodes.iter().map(|node| node.name.as_str()).collect();
    format!(
        "ready: {}\nstatus page: {}\nlogs: {}\n\nnext, in another terminal:\n  export COORDCTL_CONFIG={}\n  coordctl status\n  coordctl release publish ./app\n\nCtrl-C stops these programs; what hooks started keeps running, and the fleet goes on from there at the next start.\n",
        names.join(", "),
        fleet.status_page(),
        fleet.dir.join("log").display(),
        fleet.operator_config().display()
    )
}

#[cfg(test)]
mod tests;
