//! No room for a release: it is said with numbers, what runs goes on, nothing is left half-done, and it goes on when there is room.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use coord_proto::report::FailureCode;
use coord_proto::rollout::RolloutPhase;
use coord_tests::fleet::{Fleet, sqlite_in};
use coord_tests::mootube::Tree;

const NODE: &str = "web-1";

/// One server on release `one`, in a file system with these options of tmpfs(5); None where there can be none.
fn on_a_small_file_system(options: &str) -> Result<Option<(Fleet, Tree)>> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    if !fleet.mount_app_dir(NODE, options)? {
        return Ok(None);
    }
    fleet.add_nodes(&[NODE])?;
    let tree = fleet.quick_tree()?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    Ok(Some((fleet, tree)))
}

/// Release `two` finds no room, and is taken when `ballast` is gone.
fn expect_waits_for_room(fleet: &Fleet, tree: &Tree, code: FailureCode, words: &str, ballast: &[PathBuf]) -> Result<()> {
    tree.write("VERSION", "two\n")?;
    fleet.publish(tree.path(), "two", &["--detach"])?.expect_code(0)?;
    let no_room = |s: &coord_proto::report::Status| s.failure.as_ref().is_some_and(|f| f.code == code);
    let status = fleet.wait_status(NODE, "says that there is no room", no_room)?;
    let chain = status.failure.context("a failure")?.chain.join(": ");
    ensure!(chain.contains(words) && chain.contains(" are needed, ") && chain.contains(" are free"), "{chain}");
    fleet.expect_serves(NODE, "one")?;
    let releases = fleet.releases(NODE)?;
    ensure!(releases == ["one"], "{releases:?}");
    ballast.iter().try_for_each(fs::remove_file)?;
    fleet.wait_rollout("the rollout succeeded", |s| s.phase == RolloutPhase::Succeeded).with_context(|| fleet.log_of(NODE))?;
    fleet.expect_serves(NODE, "two")
}

#[test]
fn a_full_disk_is_told_and_waited_for() -> Result<()> {
    let Some((fleet, tree)) = on_a_small_file_system("size=64m")? else { return Ok(()) };
    let ballast = fleet.app_dir(NODE).join("ballast");
    fs::write(&ballast, vec![0; 40 << 20])?;
    expect_waits_for_room(&fleet, &tree, FailureCode::DiskFull, "not enough disk space", &[ballast])
}

#[test]
fn exhausted_inodes_are_told_and_waited_for() -> Result<()> {
    let Some((fleet, tree)) = on_a_small_file_system("size=128m,nr_inodes=400")? else { return Ok(()) };
    let ballast: Vec<PathBuf> = (0..250).map(|n| fleet.app_dir(NODE).join(format!("ballast.{n}"))).collect();
    ballast.iter().try_for_each(|path| fs::write(path, ""))?;
    expect_waits_for_room(&fleet, &tree, FailureCode::InodesExhausted, "not enough inodes", &ballast)
}
