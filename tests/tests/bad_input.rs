//! Bad input, with real processes: a clear error, and nothing lost. What one function decides is tested beside it.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_proto::report::{FailureCode, Status};
use coord_proto::rollout::RolloutPhase;
use coord_tests::fleet::{Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::process::program;
use coord_tests::wait::until;
use coordinator::sign::{self, Protection};

const NODE: &str = "web-1";

/// One server that runs release `one`, and the tree to change.
fn one_server_on_release_one() -> Result<(Fleet, Tree)> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&[NODE])?;
    let tree = quick_tree(&fleet)?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    Ok((fleet, tree))
}

fn quick_tree(fleet: &Fleet) -> Result<Tree> {
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    tree.edit_deploy_file("bake   = \"2s\"", "bake   = \"100ms\"")?;
    Ok(tree)
}

fn failed_with(code: FailureCode) -> impl Fn(&Status) -> bool {
    move |status| status.failure.as_ref().is_some_and(|f| f.code == code)
}

/// The server still runs and serves release `one`.
fn expect_untouched(fleet: &Fleet) -> Result<()> {
    fleet.expect_everywhere("one")?;
    let answer = Command::new("curl").args(["-sf", "--max-time", "10", &format!("{}/status.json", fleet.app_url(NODE))]).output()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(answer.contains("\"release\": \"one\""), "the application answers `{answer}`");
    Ok(())
}

#[test]
fn a_missing_shared_file_changes_nothing_and_is_waited_for() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&[NODE])?;
    let tree = quick_tree(&fleet)?;
    let env = fleet.app_dir(NODE).join("shared/.env");
    let text = fs::read_to_string(&env)?;
    fs::remove_file(&env)?;
    fleet.publish(tree.path(), "one", &["--detach"])?.expect_code(0)?;
    let status = fleet.wait_status(NODE, "says that the shared file is missing", failed_with(FailureCode::SharedFileMissing))?;
    let chain = status.failure.context("a failure")?.chain.join(": ");
    ensure!(chain.contains(".env"), "{chain}");
    ensure!(fleet.currents()[NODE].is_none(), "{:?}", fleet.currents());
    fs::write(&env, text)?;
    fleet.wait_rollout("the rollout succeeded", |s| s.phase == RolloutPhase::Succeeded)?;
    fleet.expect_everywhere("one")
}

#[test]
fn a_current_that_is_a_directory_is_left_alone_and_told() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let tree = quick_tree(&fleet)?;
    let current = fleet.app_dir_of_new(NODE).join("current");
    fs::create_dir_all(&current)?;
    fs::write(current.join("precious"), "by hand")?;
    fleet.add_nodes(&[NODE])?;
    let said = fleet.publish(tree.path(), "one", &[])?.expect_code(5)?;
    ensure!(said.says("not a symlink") && said.says("current"), "{said:?}");
    ensure!(fs::read_to_string(current.join("precious"))? == "by hand");
    Ok(())
}

#[test]
fn a_release_id_is_never_used_twice() -> Result<()> {
    let (fleet, tree) = one_server_on_release_one()?;
    tree.write("VERSION", "another\n")?;
    let said = fleet.publish(tree.path(), "one", &[])?.expect_code(3)?;
    ensure!(said.says("published before") && said.says("tester"), "{said:?}");
    expect_untouched(&fleet)
}

#[test]
fn a_limit_that_meets_no_server_blocks_nothing() -> Result<()> {
    let (fleet, tree) = one_server_on_release_one()?;
    tree.write("VERSION", "two\n")?;
    let said = fleet.publish(tree.path(), "two", &["--limit", "node=web-9"])?.expect_code(3)?;
    ensure!(said.says("no registered server matches --limit") && said.says("coordctl node list"), "{said:?}");
    fleet.publish(tree.path(), "two", &["--limit", "node=web-1"])?.expect_code(0)?;
    fleet.expect_everywhere("two")
}

#[test]
fn what_a_stranger_signed_is_refused_by_the_server() -> Result<()> {
    let (fleet, tree) = one_server_on_release_one()?;
    let key = fleet.dir().join("stranger.key");
    sign::generate(&key, &Protection::None)?;
    let said = fleet.publish(tree.path(), "two", &["--key", &key.display().to_string()])?.expect_code(5)?;
    ensure!(said.says("no trusted key signed"), "{said:?}");
    expect_untouched(&fleet)
}

#[test]
fn with_etcd_away_the_agent_starts_and_the_application_runs() -> Result<()> {
    let (mut fleet, tree) = one_server_on_release_one()?;
    fleet.etcd().kill(0);
    fleet.crash_agent(NODE)?;
    fleet.start_agent(NODE)?;
    until("the agent says that it is up", || Ok(fleet.whole_log_of(NODE)?.matches("is up").count() >= 2))?;
    expect_untouched(&fleet)?;
    fleet.restart_etcd();
    // Present again, and able to work.
    tree.write("VERSION", "two\n")?;
    fleet.wait_leader()?;
    fleet.publish(tree.path(), "two", &[])?.expect_code(0)?;
    fleet.expect_everywhere("two")
}

#[test]
fn an_unknown_key_is_told_with_file_line_and_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("agent.toml");
    fs::write(&config, "[node]\nenvironment = \"test\"\nlables = {}\n")?;
    for (name, sub) in [("coord-agent", "run"), ("coordinator", "run")] {
        let output = Command::new(program(name)?).arg(sub).arg("--config").arg(&config).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{name}: {}: {said}", output.status);
        ensure!(said.contains("agent.toml"), "{name}: {said}");
    }
    let output = Command::new(program("coord-agent")?).args(["config", "check", "--config"]).arg(&config).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("line 3") && said.contains("lables"), "{said}");
    Ok(())
}
