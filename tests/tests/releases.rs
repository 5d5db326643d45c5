//! Releases that come and go on servers: the whole fleet's way back, and what is pruned.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::Fleet;
use coord_tests::wait::until;

const THREE: [&str; 3] = ["web-1", "web-2", "web-3"];

#[test]
fn servers_that_had_switched_are_taken_back_when_the_last_one_fails() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&THREE)?;
    tree.write("bin/check", "[ ! -e \"$COORD_SHARED_PATH/sick\" ] && exec bin/healthcheck\n")?;
    tree.edit_deploy_file("[\"bin/step\", \"bin/healthcheck\"]", "[\"bin/step\", \"sh\", \"bin/check\"]")?;
    tree.edit_deploy_file("timeout  = \"30s\"", "timeout  = \"1s\"")?;
    fs::write(fleet.shared_dir("web-3").join("sick"), "")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(5)?;
    ensure!(said.says("rolled back to release one by tester") && said.says("web-3"), "{said:?}");
    for name in THREE {
        fleet.expect_serves(name, "one")?;
        let steps = fleet.steps(name);
        // It did run the release, and was told to leave it; the one that failed went back by itself.
        let last: Vec<&str> = steps.iter().rev().take(2).rev().map(String::as_str).collect();
        ensure!(steps.iter().any(|s| s == "two.health.1") && last == ["one.health.1", "one.undrain.1"], "{name}: {steps:?}");
    }
    let rollout = fleet.rollout()?.context("a rollout")?;
    ensure!(rollout.batch == 2 && rollout.reason.contains("web-3"), "{rollout:?}");
    Ok(())
}

#[test]
fn old_releases_go_and_failed_ones_push_out_none_that_are_good() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&["web-1"])?;
    tree.edit_deploy_file("[layout]", "[layout]\nkeep_releases = 2")?;
    tree.edit_deploy_file("timeout  = \"30s\"", "timeout  = \"1s\"")?;
    for release in ["two", "three"] {
        fleet.publish(tree.path(), release, &[])?.expect_code(0)?;
    }
    expect_kept(&fleet, &["three", "two"])?;
    tree.write("BROKEN", "")?;
    for release in ["bad-1", "bad-2"] {
        fleet.publish(tree.path(), release, &[])?.expect_code(5)?;
    }
    tree.remove("BROKEN")?;
    fleet.expect_serves("web-1", "three")?;
    expect_kept(&fleet, &["bad-1", "bad-2", "three", "two"])?;
    fleet.publish(tree.path(), "four", &[])?.expect_code(0)?;
    expect_kept(&fleet, &["four", "three"])?;
    fleet.expect_serves("web-1", "four")
}

/// Waits, because it is done when the deploy is over, until these releases are on the server, with their facts, and nothing else is.
fn expect_kept(fleet: &Fleet, expected: &[&str]) -> Result<()> {
    let facts = || -> Result<Vec<String>> {
        let entries = fs::read_dir(fleet.app_dir("web-1").join(".coord"))?;
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_string_lossy().strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    };
    until(format_args!("{expected:?} are kept"), || Ok(fleet.releases("web-1")? == expected && facts()? == expected))
        .with_context(|| format!("found {:?} with facts of {:?}", fleet.releases("web-1"), facts()))
}
