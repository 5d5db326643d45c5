//! The build commands, in a clean copy: the user's own tree is only read.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::PackError;
use super::walk::{Found, Rules, scan};
use crate::deploy_file::DeployFile;
use crate::ui::Ui;

/// Copies the application and runs its build commands there, one after the other. Their output goes to stderr.
///
/// # Errors
/// A copy that fails, a command that cannot be started or does not end with 0. Nothing is left behind.
pub fn build(source: &Path, deploy: &DeployFile, ui: Ui) -> Result<TempDir, PackError> {
    let copy = tempfile::Builder::new().prefix("coord-build-").tempdir();
    let copy = copy.map_err(PackError::file("make a copy in", &std::env::temp_dir()))?;
    copy_tree(source, &Rules::for_build(deploy)?, copy.path())?;
    for command in &deploy.artifact.build {
        ui.note(format!("build: {}", command.join(" ")));
        run(command, copy.path())?;
    }
    Ok(copy)
}

fn copy_tree(source: &Path, rules: &Rules, to: &Path) -> Result<(), PackError> {
    for (path, found) in scan(source, rules)?.0 {
        let relative = Path::new(std::ffi::OsStr::from_bytes(&path));
        let (from, to) = (source.join(relative), to.join(relative));
        let copied = match found {
            Found::Directory => fs::create_dir(&to),
            Found::File { .. } => fs::copy(&from, &to).map(drop),
            Found::Link { target } => std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &to),
            // Left to the packing that follows a build to refuse would mean: after the build. Say it now.
            Found::Other(what) => Err(io::Error::other(format!("it is {what}; exclude it with artifact.exclude, or remove it"))),
        };
        copied.map_err(PackError::file("copy", &from))?;
    }
    Ok(())
}

fn run(command: &[String], directory: &Path) -> Result<(), PackError> {
    let fail = |problem: String, source| PackError::Build { command: command.join(" "), problem, source };
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = Command::new(program);
    // stdout is for results: a build's chatter is none.
    child.args(arguments).current_dir(directory).stdin(Stdio::null()).stdout(io::stderr());
    let status = child.status().map_err(|e| fail("it cannot be started".into(), Some(e)))?;
    if status.success() { Ok(()) } else { Err(fail(format!("it ended with {status}"), None)) }
}
