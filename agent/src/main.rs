//! `coord-agent`: parse, log, run, exit code.

use std::process::ExitCode;

use clap::Parser;

// One thread runs the loop and all waiting: an agent is idle nearly always, and its memory is somebody else's.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    coord_agent::memory::keep_little();
    coord_proto::tls::install_provider();
    coord_proto::log::to_stderr();
    let cli = coord_agent::cli::Cli::parse();
    let is_service = cli.is_service();
    let e = match cli.run().await {
        Ok(code) => return code,
        Err(e) => e,
    };
    match coord_proto::chain::inline(e.as_ref()) {
        text if is_service => tracing::error!("{text}"),
        text => eprintln!("error: {text}"),
    }
    ExitCode::FAILURE
}
