//! The coordinator: parse, log, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use coordinator::config::{Config, DEFAULT_FILE, DEFAULT_PATH};

/// Drives rollouts, keeps artifacts, shows the fleet.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", env = "COORDINATOR_CONFIG", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Look at a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the default configuration, with comments
    DefaultConfig,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a configuration is valid, and what is wrong with it
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE", env = "COORDINATOR_CONFIG", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    coord_proto::tls::install_provider();
    coord_proto::log::to_stderr();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::DefaultConfig => print!("{DEFAULT_FILE}"),
        Command::Config(ConfigCommand::Check { config }) => {
            Config::load(&config)?;
            println!("{} is valid", config.display());
        }
        Command::Run { config } => {
            let config = Config::load(&config)?;
            let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
            runtime.block_on(coordinator::serve::serve(config))?;
        }
    }
    Ok(())
}
