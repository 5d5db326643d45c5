//! `coord-agent`: parse, log, run, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

// One thread runs the loop and all waiting: an agent is idle nearly always, and its memory is somebody else's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    coord_proto::tls::install_provider();
    log_to_stderr();
    let cli = coord_agent::cli::Cli::parse();
    let is_service = cli.is_service();
    let Err(e) = cli.run().await else { return ExitCode::SUCCESS };
    match coord_proto::chain::inline(e.as_ref()) {
        text if is_service => tracing::error!("{text}"),
        text => eprintln!("error: {text}"),
    }
    ExitCode::FAILURE
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("COORD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    // The journal has its own times.
    if std::env::var_os("JOURNAL_STREAM").is_some() { builder.without_time().init() } else { builder.init() }
}
