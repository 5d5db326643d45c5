//! The main job, end to end: real etcd, a coordinator, agents, `coordctl`, and an application with a database.

use anyhow::{Context as _, Result, ensure};
use coord_proto::migration::TaskState;
use coord_proto::rollout::RolloutPhase;
use coord_tests::fleet::{Fleet, Said, sqlite_in};
use coord_tests::links::Links;
use coord_tests::mootube::Tree;
use coord_tests::postgres::Postgres;

const FIVE: [&str; 5] = ["web-1", "web-2", "web-3", "web-4", "web-5"];
const THREE: [&str; 3] = ["web-1", "web-2", "web-3"];

/// A tree whose rollouts are quick: batches of one, then two, and a short bake.
fn tree(fleet: &Fleet) -> Result<Tree> {
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    tree.edit_deploy_file("serial = 1\nbake   = \"2s\"", "serial = [1, 2]\nbake   = \"300ms\"")?;
    Ok(tree)
}

#[test]
fn three_releases_with_rival_publishers_and_a_killed_agent_migrate_once_each() -> Result<()> {
    let postgres = Postgres::start()?;
    let mut fleet = Fleet::start(&postgres.create_database("mootube")?)?;
    fleet.add_nodes(&FIVE)?;
    let tree = tree(&fleet)?;
    let mut winners = Vec::new();
    for round in 1..=3 {
        if round == 2 {
            tree.apply_next()?;
        }
        tree.write("VERSION", &format!("{round}\n"))?;
        let watching = Links::watch(&fleet);
        let rivals = [("alice", format!("r{round}-a")), ("bob", format!("r{round}-b"))];
        let publishing = rivals.each_ref().map(|(user, id)| fleet.start_publish_as(user, tree.path(), id, &[]));
        let rollout =
            fleet.wait_rollout("the second batch has begun", |s| s.release.as_str().starts_with(&format!("r{round}-")) && s.batch >= 1)?;
        fleet.crash_agent("web-5")?;
        fleet.start_agent("web-5")?;
        let said = publishing.into_iter().map(|p| p?.wait()).collect::<Result<Vec<Said>>>()?;
        let (winner, loser) = if rollout.release.as_str() == rivals[0].1 { (0, 1) } else { (1, 0) };
        let (who, release) = &rivals[winner];
        let won = said[winner].clone().expect_code(0).with_context(|| fleet.log_of("web-5"))?;
        ensure!(won.says(&format!("deployed as release {release} by {who}")), "{won:?}");
        let lost = said[loser].clone().expect_code(3)?;
        ensure!(lost.says(who), "the loser is not told that {who} won: {lost:?}");
        fleet.expect_everywhere(release)?;
        watching.expect_only_with(&winners, release)?;
        expect_one_start(&fleet, release)?;
        winners.push(release.clone());
    }
    let starts =
        postgres.rows("mootube", "SELECT release, count(*), max(attempt) FROM migration_starts GROUP BY release ORDER BY release")?;
    let expected: Vec<String> = winners.iter().map(|release| format!("{release}|1|1")).collect();
    ensure!(starts == expected, "starts of migrations by release: {starts:?}, expected {expected:?}");

    fleet.add_nodes(&["web-6"])?;
    fleet.wait_current("web-6", &winners[2])?;
    fleet.expect_everywhere(&winners[2])?;
    let starts = postgres.rows("mootube", "SELECT count(*) FROM migration_starts")?;
    ensure!(starts == ["3"], "the server that joined later migrated: {starts:?}");
    Ok(())
}

#[test]
fn a_release_that_fails_its_health_check_is_rolled_back() -> Result<()> {
    let mut fleet = on_sqlite()?;
    fleet.add_nodes(&THREE)?;
    let tree = tree(&fleet)?;
    tree.edit_deploy_file("timeout  = \"30s\"", "timeout  = \"2s\"")?;
    fleet.publish(tree.path(), "good", &[])?.expect_code(0)?;
    tree.write("BROKEN", "")?;
    let watching = Links::watch(&fleet);
    let said = fleet.publish(tree.path(), "bad", &[])?.expect_code(5)?;
    ensure!(said.says("rolled back to release good"), "{said:?}");
    fleet.expect_everywhere("good")?;
    watching.expect_only_with(&["good".to_owned()], "bad")?;
    // Only the first batch ever saw it.
    let failed = fleet.rollout()?.context("a rollout")?;
    ensure!(failed.phase == RolloutPhase::RolledBack && failed.batch == 0, "{failed:?}");
    tree.remove("BROKEN")?;
    fleet.publish(tree.path(), "better", &[])?.expect_code(0)?;
    fleet.expect_everywhere("better")
}

#[test]
fn a_coordinator_that_dies_in_mid_rollout_goes_on_when_it_is_back() -> Result<()> {
    let mut fleet = on_sqlite()?;
    fleet.add_nodes(&THREE)?;
    let tree = tree(&fleet)?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    let before = fleet.wait_rollout("the second batch has begun", |s| s.release.as_str() == "two" && s.batch >= 1)?;
    fleet.crash_coordinator();
    fleet.start_coordinator()?;
    publishing.wait()?.expect_code(0)?;
    fleet.expect_everywhere("two")?;
    let after = fleet.wait_rollout("the rollout ended", |s| s.phase.ended())?;
    ensure!(after.id == before.id && after.targets.len() == 3, "another rollout took its place: {before:?}, {after:?}");
    expect_one_start(&fleet, "two")
}

#[test]
fn without_a_coordinator_coordctl_says_what_to_start() -> Result<()> {
    let fleet = Fleet::without_coordinator(sqlite_in)?;
    let tree = tree(&fleet)?;
    let said = fleet.publish(tree.path(), "one", &[])?.expect_code(3)?;
    ensure!(said.says("no coordinator runs") && said.says("systemctl start coordinator"), "{said:?}");
    let status = fleet.coordctl(&["status"])?.expect_code(0)?;
    ensure!(status.says("coordinator: none leads"), "{status:?}");
    Ok(())
}

fn on_sqlite() -> Result<Fleet> {
    Fleet::start_with(sqlite_in)
}

fn expect_one_start(fleet: &Fleet, release: &str) -> Result<()> {
    let record = fleet.migration(release)?.with_context(|| format!("{release} left no migration record"))?;
    let once = record.state == TaskState::Succeeded && record.attempt == 1 && record.history.is_empty();
    ensure!(once, "the migration of {release} was not started exactly once: {record:?}");
    Ok(())
}
