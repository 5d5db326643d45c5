//! The sample application itself: what its visitors see over two releases, and that its migrations are whole or not there.
//!
//! The other tests read its headers and its tables; they prove something only if the application is honest about them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::{Fleet, Said, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::postgres::Postgres;
use coord_tests::process::Process;
use coord_tests::wait::until;

const THEMES: [&str; 2] = ["--accent: #2f6f4f;", "--accent: #7a3fb0;"];

#[test]
fn a_visitor_sees_the_release_of_each_server_and_uploads_outlive_it() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&["web-1", "web-2"])?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    tree.edit_deploy_file("bake   = \"2s\"", "bake   = \"100ms\"")?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    expect_pages(&fleet, "one", "version 1", THEMES[0])?;
    let upload = format!("{}/upload?name=cow.txt", fleet.app_url("web-1"));
    ensure!(curl(&["--data-binary", "moo", "-H", "Content-Type: text/plain", &upload])?.starts_with("HTTP/1.0 303"));
    tree.apply_next()?;
    fleet.publish(tree.path(), "two", &[])?.expect_code(0)?;
    expect_pages(&fleet, "two", "version 2", THEMES[1])?;
    let cow = curl(&[&format!("{}/uploads/cow.txt", fleet.app_url("web-1"))])?;
    ensure!(cow.starts_with("HTTP/1.0 200") && cow.ends_with("\r\n\r\nmoo"), "{cow}");
    let elsewhere = curl(&[&format!("{}/uploads/cow.txt", fleet.app_url("web-2"))])?;
    ensure!(elsewhere.starts_with("HTTP/1.0 404"), "each server has its own shared directory: {elsewhere}");
    Ok(())
}

#[test]
fn a_migration_that_is_killed_is_not_there_and_an_older_start_is_superseded_sqlite() -> Result<()> {
    let dir = tempfile::tempdir()?;
    killed_and_superseded(&Sqlite(dir.path().join("mootube.db")), dir.path())
}

#[test]
fn a_migration_that_is_killed_is_not_there_and_an_older_start_is_superseded_postgresql() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let postgres = Postgres::start()?;
    postgres.create_database("mootube")?;
    killed_and_superseded(&postgres, dir.path())
}

fn expect_pages(fleet: &Fleet, release: &str, version: &str, theme: &str) -> Result<()> {
    for node in fleet.node_names() {
        let answer = curl(&[&format!("{}/", fleet.app_url(&node))])?;
        for part in [&format!("\r\nX-Node: {node}\r\n"), &format!("\r\nX-Release: {release}\r\n"), version, theme] {
            ensure!(answer.contains(part), "{node} does not show `{}`:\n{answer}", part.trim());
        }
    }
    Ok(())
}

/// Headers and body.
fn curl(args: &[&str]) -> Result<String> {
    let output = Command::new("curl").args(["-sS", "-i", "--max-time", "10"]).args(args).output().context("cannot run curl")?;
    Ok(Said::from(output).expect_code(0)?.out)
}

fn killed_and_superseded(database: &dyn Database, dir: &Path) -> Result<()> {
    let tree = Tree::copy_to(&dir.join("app"))?;
    ensure!(migrate(database, &tree, "one", 3)?.expect_code(0)?.says("applied 0001"));
    tree.apply_next()?;
    // Its transaction is open, and stays so.
    let mut command = migration(database, &tree, "two", 7);
    let sleeping = Process::start(command.env("MIGRATE_SLEEP", "600"), &dir.join("log"))?;
    until("the migration has its lock", || database.migrating()).with_context(|| sleeping.log_tail())?;
    sleeping.crash();
    until("its lock went with it", || Ok(!database.migrating()?))?;
    expect(database, "SELECT max(version) FROM schema_migrations", "1")?;
    expect(database, database.slugs(), "0")?;
    // It was started before the one that was killed, and comes late.
    let late = migrate(database, &tree, "two", 5)?.expect_code(1)?;
    ensure!(late.says("fence 5 of release two was superseded by 7"), "{late:?}");
    expect(database, database.slugs(), "0")?;
    ensure!(migrate(database, &tree, "two", 8)?.expect_code(0)?.says("applied 0002"));
    expect(database, "SELECT release, fence FROM schema_migrations WHERE version = 2", "two|8")?;
    expect(database, database.slugs(), "1")?;
    expect(database, "SELECT count(*) FROM migration_starts WHERE release = 'two'", "3")
}

fn expect(database: &dyn Database, sql: &str, row: &str) -> Result<()> {
    let rows = database.rows(sql)?;
    ensure!(rows == [row], "{sql}: {rows:?}, expected {row}");
    Ok(())
}

fn migration(database: &dyn Database, tree: &Tree, release: &str, fence: u64) -> Command {
    let mut command = Command::new(tree.path().join("bin/migrate"));
    command.env("DATABASE_URL", database.url()).env("COORD_RELEASE", release).env("COORD_NODE", "web-1");
    command.env("COORD_FENCE", fence.to_string()).env("COORD_ATTEMPT", "1").stdin(Stdio::null());
    command
}

fn migrate(database: &dyn Database, tree: &Tree, release: &str, fence: u64) -> Result<Said> {
    Ok(migration(database, tree, release, fence).output().context("cannot run bin/migrate")?.into())
}

/// What both kinds of database are asked.
trait Database {
    fn url(&self) -> String;
    /// Columns separated by `|`.
    fn rows(&self, sql: &str) -> Result<Vec<String>>;
    /// Does a migration hold its lock?
    fn migrating(&self) -> Result<bool>;
    /// Counts the column that migration 0002 adds.
    fn slugs(&self) -> &'static str;
}

struct Sqlite(PathBuf);

impl Sqlite {
    fn python(&self, code: &str, sql: &str) -> Result<Said> {
        let code = format!("import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n{code}");
        let output = Command::new("/usr/bin/python3").arg("-c").arg(code).arg(&self.0).arg(sql).output();
        Ok(output.context("cannot run python3")?.into())
    }
}

impl Database for Sqlite {
    fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }

    fn rows(&self, sql: &str) -> Result<Vec<String>> {
        let said = self.python("for row in db.execute(sys.argv[2]): print(*row, sep='|')", sql)?.expect_code(0)?;
        Ok(said.out.lines().map(str::to_owned).collect())
    }

    fn migrating(&self) -> Result<bool> {
        // The start of the command is recorded in a transaction of its own, before.
        let started = self.rows("SELECT count(*) FROM migration_starts WHERE fence = 7")? == ["1"];
        let locked = self.python("db.execute(sys.argv[2])", "BEGIN IMMEDIATE")?;
        ensure!(locked.code == 0 || locked.says("database is locked"), "{locked:?}");
        Ok(started && locked.code != 0)
    }

    fn slugs(&self) -> &'static str {
        "SELECT count(*) FROM pragma_table_info('videos') WHERE name = 'slug'"
    }
}

impl Database for Postgres {
    fn url(&self) -> String {
        self.url("mootube")
    }

    fn rows(&self, sql: &str) -> Result<Vec<String>> {
        self.rows("mootube", sql)
    }

    fn migrating(&self) -> Result<bool> {
        let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'schema_migrations'::regclass AND mode = 'ExclusiveLock' AND granted";
        Ok(self.rows("mootube", locks)? == ["1"])
    }

    fn slugs(&self) -> &'static str {
        "SELECT count(*) FROM information_schema.columns WHERE table_name = 'videos' AND column_name = 'slug'"
    }
}
