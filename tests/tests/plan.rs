//! `release publish --plan`: who, when, how much and whether it fits, on a real fleet; and that it leaves no trace.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::store::Store as _;
use coord_tests::fleet::{Fleet, Said, sqlite_in};
use coord_tests::wait::until;
use coordinator::sign::{self, Protection};
use serde_json::Value;

/// Everything that is stored but what servers say of themselves.
fn stored(fleet: &Fleet) -> Result<BTreeMap<String, Vec<u8>>> {
    let all = fleet.runtime().block_on(fleet.store().list(&KeySpace::default().all()))?;
    let own = |key: &str| key.contains("/nodes/") || key.contains("/status/");
    Ok(all.entries.into_iter().filter(|entry| !own(&entry.key)).map(|entry| (entry.key, entry.value)).collect())
}

/// Names in the coordinator's artifact store.
fn artifacts(fleet: &Fleet) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut dirs = vec![fleet.dir().join("coordinator/state")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { names.push(path.display().to_string()) }
        }
    }
    names.sort();
    Ok(names)
}

fn plan_of(said: &Said) -> Result<Value> {
    serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))
}

fn pairs<'a>(plan: &'a Value, list: &str, field: &str) -> Vec<(&'a str, String)> {
    let rows = plan[list].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| (row["server"].as_str().unwrap_or_default(), row[field].to_string())).collect()
}

#[test]
fn a_plan_tells_what_would_happen_and_changes_nothing() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&["web-1", "web-2", "web-3"])?;
    tree.write("VERSION", "two\n")?;
    let before = (stored(&fleet)?, artifacts(&fleet)?);
    let said = fleet.publish(tree.path(), "two", &["--plan", "--json", "--serial", "1,2"])?.expect_code(0)?;
    let plan = plan_of(&said)?;
    ensure!(pairs(&plan, "servers", "batch") == [("web-1", "1".into()), ("web-2", "2".into()), ("web-3", "2".into())], "{plan:#}");
    ensure!(pairs(&plan, "servers", "room").iter().all(|(_, room)| room == "\"enough\""), "{plan:#}");
    ensure!(plan["seq"] == 2 && plan["servers"][0]["pulls"] == plan["size"] && plan["servers"][0]["runs"] == "one", "{plan:#}");
    ensure!(plan["servers"][2]["may_run"] == serde_json::json!(["before"]), "{plan:#}");
    ensure!(plan["rules"]["halts"] == "halts at the 1st failed server, at the 1st unreachable one", "{plan:#}");
    let words = fleet.publish(tree.path(), "two", &["--plan", "--limit", "node=web-2"])?.expect_code(0)?;
    for expected in ["1      web-2   present  one ", "web-1     --limit leaves it out", "halts at the 1st failed server"] {
        ensure!(words.out.contains(expected), "`{expected}` is not in\n{}", words.out);
    }
    ensure!((stored(&fleet)?, artifacts(&fleet)?) == before, "a plan left something behind");
    // What was planned is what then happens.
    fleet.publish(tree.path(), "two", &["--serial", "1,2"])?.expect_code(0)?;
    let rollout = fleet.rollout()?.context("a rollout")?;
    let batches: Vec<(String, usize)> = rollout.targets.iter().map(|t| (t.node.to_string(), t.batch + 1)).collect();
    ensure!(batches == [("web-1".into(), 1), ("web-2".into(), 2), ("web-3".into(), 2)], "{batches:?}");
    Ok(())
}

#[test]
fn a_plan_that_would_be_refused_ends_with_3_and_every_reason() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&["web-1", "web-2"])?;
    let taken = fleet.publish(tree.path(), "one", &["--plan"])?.expect_code(3)?;
    ensure!(taken.err.contains("the release id one was published before"), "{taken:?}");
    ensure!(taken.out.contains("1      web-1 "), "the plan is shown all the same: {taken:?}");

    // With the trust file beside it, a key that servers would not take is found out before anything is published.
    let config = fleet.dir().join("coordctl.toml");
    let trusting = format!("{}trust = \"{}\"\n", fs::read_to_string(&config)?, fleet.dir().join("trust.toml").display());
    fs::write(&config, trusting)?;
    let key = fleet.dir().join("stranger.key");
    sign::generate(&key, &Protection::None)?;
    let key = key.display().to_string();
    let strange = fleet.publish(tree.path(), "two", &["--plan", "--key", &key, "--limit", "role=db"])?.expect_code(3)?;
    ensure!(strange.err.contains("the servers would not accept this release") && strange.err.contains("no server matches"), "{strange:?}");

    // web-2 waits in a hook: the rollout is going on.
    tree.write("VERSION", "two\n")?;
    fleet.hold("web-2", "two.restart.1")?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_rollout("the second batch is open", |state| state.release.as_str() == "two" && state.batch == 1)?;
    let active = fleet.publish(tree.path(), "three", &["--plan"])?.expect_code(3)?;
    ensure!(active.err.contains("release two by tester") && active.err.contains("is being rolled out (running)"), "{active:?}");
    fleet.let_go("web-2", "two.restart.1")?;
    publishing.wait()?.expect_code(0)?;

    fleet.crash_agent("web-2")?;
    let alive = KeySpace::default().key(&Key::NodeAlive("web-2".parse()?));
    until("the presence of web-2 ends", || Ok(fleet.runtime().block_on(fleet.store().read(&alive))?.entry.is_none()))?;
    let away = fleet.publish(tree.path(), "three", &["--plan"])?.expect_code(3)?;
    ensure!(away.err.contains("it would stop before the first batch: web-2 cannot be reached, and 0 are tolerated"), "{away:?}");
    ensure!(away.out.contains("2      web-2   absent   two "), "{away:?}");
    Ok(())
}

#[test]
fn a_plan_sees_that_a_server_has_no_room() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    if !fleet.mount_app_dir("web-1", "size=64m")? {
        return Ok(());
    }
    fleet.add_nodes(&["web-1"])?;
    let tree = fleet.quick_tree()?;
    // Its report of the first release comes with what is free by then.
    fs::create_dir_all(fleet.app_dir("web-1"))?;
    fs::write(fleet.app_dir("web-1").join("ballast"), vec![0; 20 << 20])?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    let mut bytes = vec![0; 8 << 20];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut bytes);
    fs::write(tree.path().join("video.mp4"), bytes)?;
    let said = fleet.publish(tree.path(), "two", &["--plan", "--json"])?.expect_code(3)?;
    ensure!(said.err.contains("not enough disk space on web-1"), "{said:?}");
    let plan = plan_of(&said)?;
    let (needs, free) = (plan["needs"]["bytes"].as_u64(), plan["servers"][0]["free"]["bytes"].as_u64());
    ensure!(free.is_some() && needs > free && plan["servers"][0]["room"] == "too-few-bytes", "{plan:#}");
    Ok(())
}
