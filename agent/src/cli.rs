//! The command line of `coord-agent`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::service;

mod status;

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

    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, for the person who asked.
    #[expect(clippy::print_stdout, reason = "this is the program's answer")]
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(file) => service::run(Config::load(&file.config)?).await,
            Command::Config(ConfigCommand::Check(file)) => {
                let config = Config::load(&file.config)?;
                println!("OK: {} in {}", config.node.name, config.node.environment);
                Ok(())
            }
            Command::DefaultConfig => {
                print!("{}", config::DEFAULT);
                Ok(())
            }
            Command::Status { file, json } => {
                let journals = status::read(&Config::load(&file.config)?.state_dir)?;
                print!("{}", if json { status::json(&journals) } else { status::table(&journals) });
                Ok(())
            }
            Command::Version => {
                println!("coord-agent {}", env!("CARGO_PKG_VERSION"));
                Ok(())
            }
        }
    }
}
