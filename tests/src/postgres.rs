//! A PostgreSQL of a test's own: an empty cluster in a temporary directory, on a free port of 127.0.0.1.
//!
//! PostgreSQL refuses to run as root; a root test runs it as the user `postgres` that its package brings.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, chown};
use tempfile::TempDir;

use crate::ports::{self, Port};
use crate::wait::until;

/// Who PostgreSQL runs as when the test is root.
const ACCOUNT: &str = "postgres";
/// The database's superuser, whoever runs the process.
const ROLE: &str = "postgres";

/// A running PostgreSQL; dropped, it is stopped and its data is gone.
pub struct Postgres {
    server: Child,
    port: Port,
    programs: PathBuf,
    // Last: removed after the server has ended.
    _dir: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it; returns when it answers.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start; its own words are in the error.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let dir = tempfile::Builder::new().prefix("coord-postgres-").tempdir()?;
        let account = account()?;
        if let Some(account) = &account {
            chown(dir.path(), Some(account.uid), Some(account.gid))?;
        }
        let data = dir.path().join("data");
        let mut initdb = command(&programs.join("initdb"), account.as_ref());
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale"]).arg("--username").arg(ROLE).arg("--pgdata").arg(&data);
        succeeded(&mut initdb)?;
        let port = ports::free();
        let mut postgres = command(&programs.join("postgres"), account.as_ref());
        postgres.arg("-D").arg(&data).arg("-p").arg(port.number.to_string()).arg("-k").arg(dir.path());
        // Not synced: what a test's database must survive is the test, not a power cut.
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=200"]);
        let log = std::fs::File::create(dir.path().join("postgres.log"))?;
        let server = postgres.stdout(Stdio::null()).stderr(log).spawn().context("cannot start postgres")?;
        let mut this = Self { server, port, programs, _dir: dir };
        this.wait_until_it_answers()?;
        Ok(this)
    }

    /// What an application is told, for its database `name`.
    pub fn url(&self, name: &str) -> String {
        format!("postgresql://{ROLE}@127.0.0.1:{}/{name}", self.port.number)
    }

    /// Makes an empty database, and says how to reach it.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.rows("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(name))
    }

    /// Rows of one statement: columns separated by `|`, one row a line.
    ///
    /// # Errors
    /// The statement's.
    pub fn rows(&self, database: &str, sql: &str) -> Result<Vec<String>> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--command", sql]);
        let output = succeeded(psql.arg(self.url(database)))?;
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let mut exited = None;
        until("PostgreSQL answers", || {
            exited = self.server.try_wait()?;
            Ok(exited.is_some() || self.rows("postgres", "SELECT 1").is_ok())
        })?;
        if let Some(status) = exited {
            let log = std::fs::read_to_string(self._dir.path().join("postgres.log")).unwrap_or_default();
            bail!("postgres ended at once, {status}:\n{log}");
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: nothing of it is needed again.
        if let Ok(pid) = i32::try_from(self.server.id()) {
            kill(Pid::from_raw(pid), Signal::SIGQUIT).ok();
        }
        self.server.wait().ok();
    }
}

/// The newest PostgreSQL that is installed.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed; run tests/setup test")?;
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("there is no /usr/lib/postgresql/*/bin/initdb; run tests/setup test")
}

fn account() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name(ACCOUNT)?;
    Ok(Some(user.with_context(|| format!("PostgreSQL does not run as root, and there is no user `{ACCOUNT}`"))?))
}

fn command(program: &Path, account: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/");
    if let Some(account) = account {
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
    }
    // Its own group: a Ctrl-C at the terminal is the test's, which then stops it in order.
    command.process_group(0);
    command
}

fn succeeded(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_starts_answers_and_leaves_nothing() {
        let postgres = Postgres::start().expect("started");
        postgres.create_database("one").expect("created");
        assert_eq!(postgres.rows("one", "SELECT 1, 'a'").expect("answered"), ["1|a"]);
        assert!(postgres.rows("one", "SELECT nothing").is_err());
        let (pid, dir) = (postgres.server.id(), postgres._dir.path().to_owned());
        drop(postgres);
        assert!(!Path::new(&format!("/proc/{pid}")).exists() && !dir.exists());
    }
}
