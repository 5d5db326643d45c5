//! `coordctl`: one file per subcommand, each with its `Args` and `run`. Fetch, then decide, then print.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use coord_proto::keys::KeySpace;
use coord_proto::rollout::Actor;
use coord_proto::store::etcd::EtcdStore;
use coord_proto::store::{SharedStore, StoreError};

use crate::cli_config::{self, CliConfigError, Context};
use crate::exit::Exit;
use crate::ui::{Failure, Ui, words};
use crate::view::Fleet;

pub mod cluster;
pub mod completions;
pub mod dev;
mod environment;
pub mod key;
pub mod migration;
pub mod node;
pub mod release;
pub mod rollout;
pub mod status;
mod wait;

#[cfg(test)]
mod sample;

/// What a command comes to.
pub type Done = Result<Exit, Failure>;

/// Puts releases on a fleet of servers.
///
/// Every flag can be set in the environment: --detach is COORDCTL_DETACH=1.
///
/// Exit codes: 0 done, every target runs the release; 1 error; 2 usage; 3 refused, nothing was changed; 4 the rollout failed or halted;
/// 5 it failed and was rolled back; 6 a wait timed out and the rollout goes on; 7 a migration waits for a decision; 8 finished within the
/// budgets, but some targets do not run the release.
#[derive(Debug, Parser)]
#[command(name = "coordctl", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Which environment.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Configuration file [default: ~/.config/coord/coordctl.toml]
    #[arg(long, global = true, env = "COORDCTL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which [context.NAME] of the configuration
    #[arg(long, global = true, env = "COORDCTL_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One table: what runs where, and how it is
    Status(status::Args),
    /// Pack, publish and look at releases
    #[command(subcommand)]
    Release(release::Command),
    /// Look at the rollout of an app, hold it, end it, try it again
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Go back to the release before, or to the one named; no signing key is needed
    Rollback(rollout::verbs::RolledBack),
    /// Look at servers, take them out of rollouts and back in
    #[command(subcommand)]
    Node(node::Command),
    /// Look at run-once tasks, and decide those that nobody knows the end of
    #[command(subcommand)]
    Migration(migration::Command),
    /// Signing keys
    #[command(subcommand)]
    Key(key::Command),
    /// Certificates, keys and configuration for a new fleet
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// A whole fleet on this machine
    #[command(subcommand)]
    Dev(dev::Command),
    /// Completions for a shell
    Completions(completions::Args),
}

/// Parses, runs, prints what went wrong; all of `coordctl` but the name of its main.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = environment::with_forms(Cli::command()).try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are results; their reader may have gone, like any other's.
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let ui = Ui::new();
    match run(cli, ui) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            ui.note(failure.render().trim_end());
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, ui: Ui) -> Done {
    let global = cli.global;
    match cli.command {
        Command::Key(command) => key::run(command, ui),
        Command::Cluster(command) => cluster::run(command, ui),
        Command::Completions(args) => completions::run(&args, ui),
        // Only the signing and packing of releases works without a runtime; everything else talks to somebody.
        Command::Release(command) => block_on(release::run(command, global, ui)),
        Command::Status(args) => block_on(status::run(args, global, ui)),
        Command::Rollout(command) => block_on(rollout::run(command, global, ui)),
        Command::Rollback(args) => block_on(async { rollout::verbs::rollback(&global.session(ui)?, args).await }),
        Command::Node(command) => block_on(node::run(command, global, ui)),
        Command::Migration(command) => block_on(migration::run(command, global, ui)),
        Command::Dev(command) => block_on(dev::run(command, ui)),
    }
}

fn block_on(command: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(command);
    // A blocking read of a terminal must not keep a finished command.
    runtime.shutdown_background();
    done
}

/// A command's way to its environment.
pub struct Session {
    pub ui: Ui,
    pub context: Context,
    pub keys: KeySpace,
    pub store: SharedStore,
}

impl Global {
    /// The context that the flags name.
    ///
    /// # Errors
    /// No configuration, no such context.
    pub fn load(&self) -> Result<Context, Failure> {
        let path = cli_config::path(self.config.as_deref())?;
        Context::load(&path, self.context.as_deref()).map_err(|error| {
            let missing = matches!(error, CliConfigError::Missing { .. } | CliConfigError::NoHome | CliConfigError::Empty { .. });
            let failure = Failure::from(error);
            if !missing {
                return failure;
            }
            failure.hint(
                "`coordctl dev up` makes a fleet on this machine with its configuration, `coordctl cluster init DIR` one for real servers",
            )
        })
    }

    /// A client of the context's etcd; nothing is sent yet.
    ///
    /// # Errors
    /// As [`Global::load`], and certificates that cannot be used.
    pub fn session(&self, ui: Ui) -> Result<Session, Failure> {
        let context = self.load()?;
        let store: SharedStore = Arc::new(EtcdStore::new(context.etcd())?);
        Ok(Session { ui, keys: context.keys.clone(), context, store })
    }
}

impl Session {
    /// The fleet as it is now.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn fleet(&self) -> Result<Fleet, Failure> {
        let listing = self.store.list(&self.keys.all()).await.map_err(|e| self.store_failure(e))?;
        Ok(Fleet::from_mirror(&listing.into(), &self.keys))
    }

    /// A failure of the store, with where it is.
    pub fn store_failure(&self, error: StoreError) -> Failure {
        let hint = error.passing().then(|| self.away_hint());
        let failure = Failure::from(error);
        hint.into_iter().fold(failure, Failure::hint)
    }

    /// What to do when etcd does not answer.
    pub fn away_hint(&self) -> String {
        format!("is etcd up at {}? (context {})", self.context.endpoints.join(", "), self.context.name)
    }
}

/// Who types this, from where, now.
pub fn actor() -> Actor {
    let by_id = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty()).or_else(by_id);
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    Actor {
        user: user.unwrap_or_else(|| "unknown".into()),
        host: host.unwrap_or_else(|| "unknown".into()),
        at: words::now(),
        message: None,
    }
}

/// The same, with why: `-m`.
pub fn actor_saying(message: Option<String>) -> Actor {
    Actor { message: message.filter(|m| !m.trim().is_empty()), ..actor() }
}

#[cfg(test)]
mod tests;
