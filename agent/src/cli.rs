//! The command line of `coord-agent`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::service;

mod status;
mod wait_ready;

/// Keeps this server on its desired release.
#[derive(Debug, Parser)]
#[command(name = "coord-agent", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent; systemd does this.
    Run(File),
    /// Looks at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints the commented default configuration.
    DefaultConfig,
    /// Prints what this server runs, from its journals; the agent need not run.
    Status {
        #[command(flatten)]
        file: File,
        /// The journals as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Waits until the release that this server should run is in place: for the unit of an application, before its start.
    ///
    /// Exit codes: 0 it may start (with etcd away: the release that is here); 1 error; 2 usage; 3 the app is not allowed here;
    /// 4 its release failed here and there is no other; 6 not in time.
    WaitReady {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        args: wait_ready::Args,
    },
    /// Prints the version.
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says OK, or what is wrong, with file, line and key.
    Check(File),
}

#[derive(Debug, clap::Args)]
struct File {
    /// The configuration file; drop-ins are taken from the directory of the same name with `.d`.
    #[arg(long, env = "COORD_AGENT_CONFIG", default_value = "/etc/coord/agent.toml")]
    config: PathBuf,
}

impl Cli {
    /// Does it run as a service, so that errors belong into the log?
    pub fn is_service(&self) -> bool {
        matches!(self.command, Command::Run(_))
    }

    /// Does what was asked; gives the exit code.
    ///
    /// # Errors
    /// What went wrong, for the person who asked.
    #[expect(clippy::print_stdout, reason = "this is the program's answer")]
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(file) => service::run(Config::load(&file.config)?).await?,
            Command::Config(ConfigCommand::Check(file)) => {
                let config = Config::load(&file.config)?;
                println!("OK: {} in {}", config.node.name, config.node.environment);
            }
            Command::DefaultConfig => print!("{}", config::DEFAULT),
            Command::Status { file, json } => {
                let journals = status::read(&Config::load(&file.config)?.state_dir)?;
                print!("{}", if json { status::json(&journals) } else { status::table(&journals) });
            }
            Command::WaitReady { file, args } => {
                let ended = wait_ready::run(&Config::load(&file.config)?, &args).await?;
                match ended.code() {
                    0 => println!("{}", ended.words(args.app())),
                    _ => eprintln!("error: {}", ended.words(args.app())),
                }
                return Ok(ended.code().into());
            }
            Command::Version => println!("coord-agent {}", env!("CARGO_PKG_VERSION")),
        }
        Ok(ExitCode::SUCCESS)
    }
}
