//! `tests/demo` as a person runs it, and `coordctl dev up`, which it stands on.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::Said;
use coord_tests::process::{Process, processes_in, program};
use coord_tests::wait::until_some;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Seconds: what a reader of README is promised, the build not counted. It takes 20 on an idle machine.
const MINUTES_3: &str = "180";
const THREE: [&str; 3] = ["web-1", "web-2", "web-3"];

#[test]
fn it_shows_two_releases_on_three_servers_one_by_one_and_leaves_nothing() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let said = demo(scratch.path(), &[], "")?.expect_code(0)?;
    let [first, second] = releases(&said)?;
    for (number, node) in (1..).zip(THREE) {
        ensure!(said.says(&format!("{node}  current -> releases/{second}\n")), "{}", said.out);
        // The last rollout's table: batch, server, outcome, release.
        ensure!(said.says(&format!("\n{number}      {node}   done     {second}  ")), "not one by one: {}", said.out);
    }
    for release in [&first, &second] {
        ensure!(said.says(&format!("the database saw 1 start of the migrations of release {release}, by ")), "{}", said.out);
    }
    ensure!(said.says(" visits, 0 without an answer"), "{}", said.out);
    expect_nothing_left(&scratch)
}

#[test]
fn kept_it_answers_until_it_is_stopped() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let said = demo(scratch.path(), &[], "1")?.expect_code(0)?;
    let dir = word_after(&said, "tests/demo stop ")?;
    let kept = looks_alive(&said, Path::new(&dir));
    // Whatever was found: nothing of it may stay.
    demo(scratch.path(), &["stop", &dir], "")?.expect_code(0)?;
    kept?;
    expect_nothing_left(&scratch)
}

#[test]
fn ctrl_c_ends_a_development_fleet_in_order() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (dir, ready, log) = (scratch.path().join("fleet"), scratch.path().join("ready"), scratch.path().join("log"));
    let mut command = Command::new(program("coordctl")?);
    command.args(["dev", "up", "--nodes", "1", "--dir"]).arg(&dir).arg("--ready-file").arg(&ready);
    let mut fleet = Process::start(&mut command, &log)?;
    until_some("the fleet is ready or has ended", || Ok((ready.exists() || fleet.ended()?.is_some()).then_some(())))?;
    ensure!(ready.exists(), "{}", fleet.log_tail());
    // coordctl, the coordinator, its etcd, one agent.
    let running = processes_in(scratch.path())?;
    ensure!(running.len() == 4, "{running:#?}");
    fleet.signal(Signal::SIGINT)?;
    let status = until_some("the fleet has ended", || fleet.ended())?;
    ensure!(status.success(), "{status}\n{}", fleet.log_tail());
    ensure!(fleet.log_tail().contains("ready: web-1"), "{}", fleet.log_tail());
    let left = processes_in(scratch.path())?;
    ensure!(left.is_empty(), "still running: {left:#?}");
    Ok(())
}

/// Runs it with its files below `scratch`; one that takes too long is ended with TERM, which it answers by stopping all.
fn demo(scratch: &Path, args: &[&str], keep: &str) -> Result<Said> {
    let target = program("coordctl")?.ancestors().nth(2).context("no target directory")?.to_owned();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let mut command = Command::new("timeout");
    command.arg(MINUTES_3).arg(script).args(args).env("CARGO_TARGET_DIR", target).env("TMPDIR", scratch).env("KEEP", keep);
    let output = command.output().context("cannot run timeout (coreutils)")?;
    Ok(output.into())
}

/// The two releases that it says it deployed, in order.
fn releases(said: &Said) -> Result<[String; 2]> {
    let lines = said.out.lines().filter_map(|line| line.strip_prefix("deployed as release ")?.split(' ').next());
    let found: Vec<String> = lines.map(str::to_owned).collect();
    found.try_into().map_err(|found| anyhow::anyhow!("deployed: {found:?}\n{}\n{}", said.out, said.err))
}

fn word_after(said: &Said, before: &str) -> Result<String> {
    let line = said.out.lines().find_map(|line| Some(line.split_once(before)?.1.trim().to_owned()));
    line.with_context(|| format!("it does not say `{before}`:\n{}", said.out))
}

/// The addresses that it printed answer, and its `coordctl` says that the servers took the release one by one.
fn looks_alive(said: &Said, dir: &Path) -> Result<()> {
    let [_, second] = releases(said)?;
    let page = get(&word_after(said, "status page   ")?)?;
    ensure!(page.contains("mootube") && page.contains(&second), "{page}");
    for node in THREE {
        let page = get(&word_after(said, &format!("{node}         "))?)?;
        ensure!(page.contains("MooTube"), "{page}");
    }
    let mut command = Command::new(program("coordctl")?);
    let output = command.args(["rollout", "status", "mootube", "--json"]).env("COORDCTL_CONFIG", dir.join("coordctl.toml")).output()?;
    let rollout: Value = serde_json::from_slice(&output.stdout)?;
    let targets = rollout["servers"].as_array().context("servers")?;
    let batches: Vec<_> = targets.iter().map(|target| (target["node"].as_str(), target["batch"].as_u64())).collect();
    ensure!(batches == [(Some("web-1"), Some(0)), (Some("web-2"), Some(1)), (Some("web-3"), Some(2))], "{batches:?}");
    Ok(())
}

fn get(url: &str) -> Result<String> {
    let output = Command::new("curl").args(["-sSf", "--max-time", "10", url]).output().context("cannot run curl")?;
    Ok(Said::from(output).expect_code(0).with_context(|| url.to_owned())?.out)
}

fn expect_nothing_left(scratch: &TempDir) -> Result<()> {
    let left = processes_in(scratch.path())?;
    ensure!(left.is_empty(), "still running: {left:#?}");
    // The locks that keep two fleets off one port stay for the next one.
    let of_no_use = |entry: &fs::DirEntry| !entry.file_name().to_string_lossy().starts_with("coord-ports-");
    let files: Vec<_> = fs::read_dir(scratch.path())?.flatten().filter(of_no_use).collect();
    ensure!(files.is_empty(), "left behind: {files:?}");
    Ok(())
}
