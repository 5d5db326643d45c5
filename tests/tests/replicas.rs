//! Two or three coordinators with one bucket: one leads, and whatever becomes of it, another goes on. Real etcd, real processes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use coord_proto::event::AuditEvent;
use coord_proto::keys::KeySpace;
use coord_proto::migration::TaskState;
use coord_proto::report::Step;
use coord_proto::rollout::Outcome;
use coord_proto::store::Store as _;
use coord_tests::fleet::{APP, Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::replicas::{REPLICA_LEASE_TTL, Replicas};
use coord_tests::wait::until;

const KILLS: usize = 20;
/// More than the batches that the kills take: the last one still finds the rollout going on.
const SERVERS: usize = 13;

/// Servers on release `one` of a plain application, and coordinators that share a bucket.
fn on_one(servers: usize, coordinators: usize, rollout: &str) -> Result<(Fleet, Replicas, Tree, Vec<String>)> {
    let mut fleet = Fleet::without_coordinator(sqlite_in)?;
    let replicas = Replicas::start(&mut fleet, coordinators)?;
    let names: Vec<String> = (1..=servers).map(|n| format!("web-{n:02}")).collect();
    fleet.add_nodes(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let tree = Tree::plain(&fleet.dir().join("app"), APP, "[rollout]\nserial = \"100%\"\nbake = \"100ms\"\n")?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    tree.edit_deploy_file("serial = \"100%\"\nbake = \"100ms\"\n", rollout)?;
    Ok((fleet, replicas, tree, names))
}

/// What the coordinators noted of the rollout of a release.
fn events(fleet: &Fleet, release: &str) -> Result<Vec<String>> {
    let entries = fleet.runtime().block_on(fleet.store().list(&KeySpace::default().events()))?.entries;
    let all = entries.iter().filter_map(|e| e.record::<AuditEvent>().ok()).map(|e| e.what);
    Ok(all.filter(|what| what.contains(&format!("of release {release} "))).collect())
}

#[test]
fn a_leader_killed_twenty_times_in_one_rollout_is_followed_each_time_and_nothing_is_done_twice() -> Result<()> {
    let (fleet, mut replicas, tree, names) = on_one(SERVERS, 3, "serial = 1\nbake = \"300ms\"\n")?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    let begun = fleet.wait_rollout("it has begun", |s| s.release.as_str() == "two")?;
    let mut gaps = Vec::new();
    for kill in 0..KILLS {
        // The second one of each batch dies as soon as it leads.
        let state = fleet.wait_rollout("the next batch is open", |s| s.phase.ended() || s.batch >= kill / 2)?;
        ensure!(state.id == begun.id && !state.phase.ended(), "after {kill} leaders: {state:?}");
        let leader = replicas.wait_leader(&fleet)?;
        let killed = Instant::now();
        replicas.crash(leader);
        replicas.restart(leader)?;
        ensure!(!fleet.rollout()?.context("a rollout")?.phase.ended(), "only {kill} leaders died before its end");
        replicas.wait_leader(&fleet)?;
        gaps.push(killed.elapsed());
    }
    publishing.wait()?.expect_code(0)?;
    fleet.expect_everywhere("two")?;
    let ended = fleet.wait_rollout("it has ended", |s| s.phase.ended())?;
    ensure!(ended.id == begun.id && ended.targets.len() == SERVERS, "{ended:?}");
    ensure!(ended.targets.iter().enumerate().all(|(i, t)| t.batch == i && t.outcome == Outcome::Done), "reshuffled: {ended:?}");
    let starts = fleet.migration_starts(&names, "two");
    ensure!(starts.len() == 1, "{starts:?}");
    for name in names {
        let steps = fleet.steps(name);
        ensure!(steps.iter().filter(|s| s.starts_with("two.restart.")).count() == 1, "{name}: {steps:?}");
    }
    let noted = events(&fleet, "two")?;
    ensure!(noted.len() == noted.iter().collect::<BTreeSet<_>>().len(), "noted twice: {noted:#?}");
    gaps.sort();
    let median = gaps[KILLS / 2];
    // The lease, and what etcd takes to see that it ended.
    ensure!(median < REPLICA_LEASE_TTL + Duration::from_secs(1), "without a leader for {median:?}: {gaps:?}");
    Ok(())
}

#[test]
fn a_leader_that_sleeps_past_its_lease_writes_nothing_when_it_wakes_i10() -> Result<()> {
    let (fleet, mut replicas, tree, _names) = on_one(6, 2, "serial = 1\nbake = \"200ms\"\n")?;
    for name in ["web-01", "web-03"] {
        fleet.hold(name, "two.restart.1")?;
    }
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_status("web-01", "is being restarted", |s| s.step == Step::Restarting)?;
    let sleeper = replicas.wait_leader(&fleet)?;
    replicas.freeze(sleeper)?;
    let slept_at = replicas.log_of(sleeper)?.len();
    // What it would do next becomes due in its sleep.
    fleet.let_go("web-01", "two.restart.1")?;
    let next = replicas.wait_leader_other_than(&fleet, sleeper)?;
    fleet.wait_status("web-03", "is being restarted", |s| s.step == Step::Restarting)?;
    // It wakes with four batches to come, each of which it could open.
    replicas.thaw(sleeper)?;
    fleet.let_go("web-03", "two.restart.1")?;
    publishing.wait()?.expect_code(0)?;
    fleet.expect_everywhere("two")?;
    // A leader logs what it noted, once it is written.
    let woken = replicas.log_of(sleeper)?.split_off(slept_at);
    ensure!(!woken.contains("of release two"), "it wrote when it woke:\n{woken}");
    let noted = events(&fleet, "two")?;
    ensure!(noted.len() == noted.iter().collect::<BTreeSet<_>>().len(), "noted twice: {noted:#?}");
    until("it knows that it leads no longer", || Ok(replicas.log_of(sleeper)?.contains("lost the leadership")))?;
    // It is of use again when the other one dies.
    replicas.crash(next);
    ensure!(replicas.wait_leader(&fleet)? == sleeper, "there is no other one");
    fleet.publish(tree.path(), "three", &[])?.expect_code(0)?;
    fleet.expect_everywhere("three")
}

#[test]
fn a_new_leader_lets_the_open_batch_bake_in_full() -> Result<()> {
    let bake = Duration::from_secs(4);
    let (fleet, mut replicas, tree, _names) = on_one(2, 2, "serial = 1\nbake = \"4s\"\n")?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_rollout("the first batch is healthy", |s| s.release.as_str() == "two" && s.targets[0].outcome == Outcome::Done)?;
    let leader = replicas.wait_leader(&fleet)?;
    replicas.crash(leader);
    replicas.wait_leader(&fleet)?;
    let elected = Instant::now();
    fleet.wait_rollout("the second batch is open", |s| s.batch == 1)?;
    let baked = elected.elapsed();
    // The one before had begun two seconds earlier. This test may notice an election a moment late.
    ensure!(baked > bake - Duration::from_secs(1), "it baked for {baked:?} of {bake:?}");
    publishing.wait()?.expect_code(0)?;
    let record = fleet.migration("two")?.context("a migration")?;
    ensure!(record.state == TaskState::Succeeded && record.attempt == 1, "{record:?}");
    fleet.expect_everywhere("two")
}

#[test]
fn artifacts_in_one_bucket_are_served_by_whichever_coordinator_is_there() -> Result<()> {
    let (mut fleet, mut replicas, _tree, _names) = on_one(1, 2, "serial = 1\nbake = \"100ms\"\n")?;
    let first = replicas.wait_leader(&fleet)?;
    replicas.crash(first);
    replicas.wait_leader(&fleet)?;
    fleet.add_nodes(&["web-02"])?;
    fleet.wait_current("web-02", "one")
}
