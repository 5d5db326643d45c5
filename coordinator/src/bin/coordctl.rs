//! `coordctl`: see [`coordinator::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    coord_proto::tls::install_provider();
    coordinator::cli::main(std::env::args_os())
}
