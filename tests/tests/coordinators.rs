//! Coordinators beside each other, and what one keeps: real etcd, real processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::{Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::process::{Process, program};
use coord_tests::wait::{until, until_some};

const NODE: &str = "web-1";

#[test]
fn a_second_coordinator_with_artifacts_of_its_own_is_refused_and_the_first_may_start_again() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let first = until_some("the first one's store is known", || Ok(fleet.artifacts_url().ok()))?;
    let dir = fleet.dir().join("second");
    let config = fleet.write_second_coordinator(&dir)?;
    let mut second = Process::start(Command::new(program("coordinator")?).arg("run").arg("--config").arg(config), &dir.join("log"))?;
    let status = until_some("the second coordinator ends", || second.ended())?;
    ensure!(status.code() == Some(1), "{status}: {}", second.log_tail());
    for part in ["runs already", "s3://", &first] {
        ensure!(second.log_tail().contains(part), "no {part} in:\n{}", second.log_tail());
    }
    // Its record is still there when it comes back.
    fleet.crash_coordinator();
    fleet.start_coordinator()
}

#[test]
fn old_artifacts_go_when_a_rollout_has_ended_and_what_is_named_or_young_stays() -> Result<()> {
    let mut fleet = Fleet::without_coordinator(sqlite_in)?;
    fleet.configure_coordinator("[artifacts]\nkeep = 1\n");
    fleet.start_coordinator()?;
    fleet.add_nodes(&[NODE])?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    tree.edit_deploy_file("bake   = \"2s\"", "bake   = \"100ms\"")?;
    let kept = fleet.dir().join("coordinator/state/artifacts");
    let stray = kept.join("0".repeat(64));
    let mut digests = Vec::new();
    for release in 1..=4 {
        tree.write("VERSION", &format!("{release}\n"))?;
        fleet.publish(tree.path(), &format!("r{release}"), &[])?.expect_code(0)?;
        digests.push(fleet.manifest(release)?.artifact.digest.to_string());
        // An upload that nobody published is no less old than the first two releases; the third one is young.
        if release == 2 {
            fs::write(&stray, "")?;
            files(&kept)?.iter().try_for_each(|name| make_old(&kept.join(name)))?;
        }
    }
    // Release 3 is the last floor and the previous one, 4 runs; 1 and 2 are old, and 2 is named by the history of the last rollout but one.
    until("the first release and the stray upload are gone", || Ok(!kept.join(&digests[0]).exists() && !stray.exists()))?;
    let there = files(&kept)?;
    ensure!(digests[2..].iter().all(|digest| there.contains(digest)), "{there:?} of {digests:?}");
    // What is there is enough for a server that is born now.
    fleet.add_nodes(&["web-2"])?;
    fleet.wait_current("web-2", "r4")
}

#[test]
fn a_switch_may_come_from_the_environment() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("deploy.toml"), "app = \"a\"\n")?;
    fs::write(dir.path().join("index.php"), "<?php")?;
    let pack = |json: &str| {
        let mut command = Command::new(program("coordctl")?);
        command.args(["release", "pack", "."]).env("COORDCTL_OUTPUT", "out.tar.zst").env("COORDCTL_JSON", json).current_dir(dir.path());
        let output = command.output().context("cannot run coordctl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let first: serde_json::Value = serde_json::from_str(&pack("1")?)?;
    ensure!(dir.path().join("out.tar.zst").exists());
    // The archive lies in the directory that is packed, and is no part of it.
    let second: serde_json::Value = serde_json::from_str(&pack("yes")?)?;
    ensure!(first["digest"] == second["digest"], "{first} {second}");
    ensure!(!pack("0")?.starts_with('{'));
    Ok(())
}

fn files(dir: &Path) -> Result<BTreeSet<String>> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.filter(|name: &Result<String>| name.as_ref().map_or(true, |name| name != "uploads")).collect()
}

fn make_old(path: &PathBuf) -> Result<()> {
    let two_days = Duration::from_secs(2 * 24 * 3600);
    Ok(fs::File::options().write(true).open(path)?.set_modified(SystemTime::now() - two_days)?)
}
