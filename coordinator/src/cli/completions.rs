//! `coordctl completions SHELL`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Done};
use crate::exit::Exit;
use crate::ui::Ui;

/// Prints completions: `coordctl completions bash > /etc/bash_completion.d/coordctl`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: Shell,
}

/// Runs it.
///
/// # Errors
/// stdout cannot be written.
pub fn run(args: &Args, ui: Ui) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coordctl", &mut script);
    ui.out(String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
