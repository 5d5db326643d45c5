//! Hooks that misbehave, as hooks of a release: it fails, the server goes back to the release before, and nothing of them is left.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use coord_proto::limits::{HOOK_LOG_BYTES_MAX, LOG_TAIL_BYTES_MAX};
use coord_proto::report::{FailureCode, Status};
use coord_tests::fleet::{APP, Fleet};
use coord_tests::mootube::Tree;

const NODE: &str = "web-1";
/// What an agent may take while a hook prints a gigabyte; a build without optimisation takes more than a release.
const AGENT_KIB_MAX: u64 = 64 * 1024;

/// Adds a hook after those that are there: of `restart`, it runs when the application is the new release already.
fn add_hook(tree: &Tree, phase: &str, script: &str, timeout: &str) -> Result<()> {
    let hook = format!("[[hooks.{phase}]]\ncommand = [\"sh\", \"-c\", '{script}']\ntimeout = \"{timeout}\"\n\n[migrate]");
    tree.edit_deploy_file("[migrate]", &hook)
}

/// The server serves `one` again, and no process of a hook of `two` is left.
fn expect_as_before(fleet: &Fleet) -> Result<()> {
    fleet.expect_serves(NODE, "one")?;
    let left = fleet.processes_of(NODE, "two")?;
    ensure!(left.is_empty(), "processes of the failed release: {left:?}");
    Ok(())
}

#[test]
fn a_restart_hook_that_hangs_is_ended_and_the_release_before_serves() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    // The server goes back by itself; a rollout that halts leaves its words where they were said.
    tree.edit_deploy_file("serial = 1", "serial = 1\non_failure = \"halt\"")?;
    add_hook(&tree, "restart", "echo still here; trap \"\" TERM; while :; do sleep 600; done", "1s")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(4)?;
    ensure!(said.says("did not end within 1s and was killed"), "{said:?}");
    ensure!(said.says("| still here"), "the end of its output is not told: {said:?}");
    let went_back = |s: &Status| s.failure.as_ref().is_some_and(|f| f.fell_back);
    let status = fleet.wait_status(NODE, "says that it went back", went_back)?;
    let failure = status.failure.context("a failure")?;
    ensure!(failure.code == FailureCode::HookTimedOut, "{failure:?}");
    ensure!(failure.log_tail.contains("still here"), "{failure:?}");
    let shown = fleet.coordctl(&["node", "show", NODE])?.expect_code(0)?;
    ensure!(shown.says("still here"), "{shown:?}");
    expect_as_before(&fleet)
}

#[test]
fn a_restart_hook_that_forks_and_fails_leaves_no_process() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    let mark = fleet.dir().join("forked");
    let script =
        format!("setsid sh -c \"echo >{}; sleep 600\" & sleep 600 & until [ -e {0} ]; do sleep 0.02; done; exit 7", mark.display());
    add_hook(&tree, "restart", &script, "20s")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(5)?;
    ensure!(said.says("ended with status 7"), "{said:?}");
    ensure!(mark.exists(), "it did fork");
    expect_as_before(&fleet)
}

#[test]
fn a_restart_hook_that_fails_ends_the_rollout_before_anything_is_probed() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    add_hook(&tree, "restart", "exit 3", "20s")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(5)?;
    ensure!(said.says("the restart hook") && said.says("ended with status 3"), "{said:?}");
    ensure!(said.says("rolled back to release one by tester"), "{said:?}");
    let seen = fleet.steps(NODE);
    ensure!(seen.iter().any(|s| s == "two.restart.1") && !seen.iter().any(|s| s == "two.health.1"), "{seen:?}");
    expect_as_before(&fleet)
}

#[test]
fn a_restart_hook_that_prints_a_gigabyte_fills_neither_disk_nor_memory() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    add_hook(&tree, "restart", "head -c 1G /dev/zero | tr \"\\\\0\" x; echo; echo the end; exit 1", "60s")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(5)?;
    ensure!(said.says("ended with status 1 after printing 10737418"), "{said:?}");
    expect_as_before(&fleet)?;
    let log = log_of(&fleet, "two.restart.")?;
    let size = fs::metadata(&log)?.len();
    ensure!(size <= (HOOK_LOG_BYTES_MAX + LOG_TAIL_BYTES_MAX + 200) as u64, "{} is {size} bytes long", log.display());
    ensure!(fs::read_to_string(&log)?.trim_end().ends_with("the end"), "the log does not hold the end");
    let peak = fleet.agent_peak_kib(NODE)?;
    ensure!(peak < AGENT_KIB_MAX, "the agent took {peak} KiB");
    Ok(())
}

#[test]
fn a_prepare_hook_that_fails_changes_nothing_that_anybody_sees() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    add_hook(&tree, "prepare", "exit 9", "20s")?;
    let before = fs::symlink_metadata(fleet.app_dir(NODE).join("current"))?.modified()?;
    let said = fleet.publish(tree.path(), "two", &[])?;
    ensure!([4, 5].contains(&said.code) && said.says("the prepare hook") && said.says("ended with status 9"), "{said:?}");
    let two: Vec<String> = fleet.steps(NODE).into_iter().filter(|s| s.starts_with("two.")).collect();
    ensure!(two == ["two.prepare.1"], "{two:?}");
    let after = fs::symlink_metadata(fleet.app_dir(NODE).join("current"))?.modified()?;
    ensure!(before == after, "the link was made anew");
    expect_as_before(&fleet)
}

#[test]
fn a_drain_hook_that_fails_switches_nothing_and_undrains() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    add_hook(&tree, "drain", "exit 5", "20s")?;
    let earlier = fleet.steps(NODE).len();
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(5)?;
    ensure!(said.says("the drain hook") && said.says("ended with status 5"), "{said:?}");
    let seen = fleet.steps(NODE).split_off(earlier);
    ensure!(seen == ["two.prepare.1", "two.before.1", "two.drain.1", "one.undrain.1"], "{seen:?}");
    expect_as_before(&fleet)
}

/// The captured output of the last hook whose log's name begins like this.
fn log_of(fleet: &Fleet, prefix: &str) -> Result<PathBuf> {
    let logs = fleet.dir().join("nodes").join(NODE).join("state/apps").join(APP).join("logs");
    let mut found: Vec<PathBuf> = fs::read_dir(&logs)
        .with_context(|| format!("cannot read {}", logs.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {prefix}* in {}", logs.display()))
}
