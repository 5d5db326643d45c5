//! What operators do with rollouts, with real processes: each verb to its end.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use coord_proto::coordinator::LeaderRecord;
use coord_proto::event::AuditEvent;
use coord_proto::ids::Seq;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::migration::TaskState;
use coord_proto::report::Step;
use coord_proto::rollout::{Outcome, RolloutPhase, StableRecord};
use coord_proto::store::Store as _;
use coord_tests::fleet::{APP, Fleet, app, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::wait::until;

const TWO: [&str; 2] = ["web-1", "web-2"];
const TEN: [&str; 10] = ["web-1", "web-2", "web-3", "web-4", "web-5", "web-6", "web-7", "web-8", "web-9", "web-10"];

/// Ten servers on release `one`; the next release comes to web-1 first, and then to all others.
fn ten_on_release_one() -> Result<(Fleet, Tree)> {
    let (fleet, tree) = Fleet::on_release_one(&TEN)?;
    tree.edit_deploy_file("serial = 1", "serial = [1, \"100%\"]")?;
    Ok((fleet, tree))
}

/// The audit trail: who said what, and why.
fn events(fleet: &Fleet) -> Result<Vec<String>> {
    let listing = fleet.runtime().block_on(fleet.store().list(&KeySpace::default().events()))?;
    let said = |e: AuditEvent| format!("{} {}: {}", e.by.user, e.what, e.by.message.unwrap_or_default());
    listing.entries.iter().map(|e| Ok(said(e.record()?))).collect()
}

fn stable(fleet: &Fleet) -> Result<StableRecord> {
    fleet.record(&Key::Stable(app()))?.context("something is stable")
}

/// The steps that a server took since it had taken `before` of them.
fn steps_since(fleet: &Fleet, name: &str, before: usize) -> Vec<String> {
    fleet.steps(name).split_off(before)
}

#[test]
fn a_canary_waits_for_its_promotion() -> Result<()> {
    let (fleet, tree) = ten_on_release_one()?;
    tree.edit_deploy_file("bake ", "promote = \"manual\"\nbake ")?;
    let nothing = fleet.coordctl(&["rollout", "promote", APP])?.expect_code(3)?;
    ensure!(nothing.says("nothing of mootube is being rolled out") && nothing.says("hint:"), "{nothing:?}");
    let publishing = fleet.start_publish(tree.path(), "two", &["-m", "the new theme"])?;
    fleet.wait_rollout("the canary waits", |s| s.phase == RolloutPhase::AwaitingPromotion)?;
    fleet.expect_serves("web-1", "two")?;
    TEN[1..].iter().try_for_each(|name| fleet.expect_serves(name, "one"))?;
    let status = fleet.coordctl(&["rollout", "status", APP])?.expect_code(0)?;
    ensure!(status.says("because: the new theme") && status.says("type: coordctl rollout promote mootube"), "{status:?}");
    let promoted = fleet.coordctl(&["rollout", "promote", APP, "-m", "looks well"])?.expect_code(0)?;
    ensure!(promoted.out.starts_with("promoted rollout 2-"), "{promoted:?}");
    publishing.wait()?.expect_code(0)?;
    fleet.expect_everywhere("two")?;
    let again = fleet.coordctl(&["rollout", "promote", APP])?.expect_code(0)?;
    ensure!(again.says("was promoted already by tester@") && again.says("(looks well)"), "{again:?}");
    let events = events(&fleet)?;
    let left = |user_and_verb: &str, why: &str| events.iter().any(|e| e.starts_with(user_and_verb) && e.ends_with(why));
    ensure!(left("tester asked to promote rollout 2-", ": looks well"), "{events:?}");
    ensure!(left("tester published release two", ": the new theme"), "{events:?}");
    Ok(())
}

#[test]
fn a_pause_outlives_the_coordinator() -> Result<()> {
    let (mut fleet, tree) = ten_on_release_one()?;
    fleet.hold("web-1", "two.restart.1")?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_status("web-1", "restarts", |s| s.step == Step::Restarting)?;
    let paused = fleet.coordctl(&["rollout", "pause", APP])?.expect_code(0)?;
    ensure!(paused.out.starts_with("paused rollout 2-"), "{paused:?}");
    fleet.crash_coordinator();
    until("its lease ends", || Ok(fleet.record::<LeaderRecord>(&Key::Leader)?.is_none()))?;
    let nobody = fleet.coordctl(&["rollout", "resume", APP])?.expect_code(3)?;
    ensure!(nobody.says("no coordinator runs") && nobody.says("systemctl start coordinator"), "{nobody:?}");
    fleet.let_go("web-1", "two.restart.1")?;
    fleet.start_coordinator()?;
    fleet.wait_rollout("the first batch is done", |s| s.targets[0].outcome == Outcome::Done)?;
    // By the time that another server has come, made it ready and been left out again, the batch has baked long since.
    fleet.add_nodes(&["web-11"])?;
    fleet.wait_status("web-11", "has it ready", |s| s.staged == Some(Seq(2)))?;
    fleet.coordctl(&["node", "cordon", "web-11"])?.expect_code(0)?;
    let state = fleet.wait_rollout("web-11 is left out", |s| s.targets.len() == 10)?;
    ensure!(state.paused && state.batch == 0, "{state:?}");
    fleet.expect_serves("web-1", "two")?;
    let again = fleet.coordctl(&["rollout", "pause", APP])?.expect_code(0)?;
    ensure!(again.says("was paused already by tester@"), "{again:?}");
    for name in &TEN[1..] {
        ensure!(!fleet.steps(name).iter().any(|s| s == "two.drain.1"), "{name}: {:?}", fleet.steps(name));
    }
    fleet.coordctl(&["rollout", "resume", APP])?.expect_code(0)?;
    publishing.wait()?.expect_code(0)?;
    TEN.iter().try_for_each(|name| fleet.expect_serves(name, "two"))
}

#[test]
fn an_abort_lets_a_server_finish_its_step_and_takes_it_back() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&TWO)?;
    fleet.hold("web-1", "two.restart.1")?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_status("web-1", "restarts", |s| s.step == Step::Restarting)?;
    let aborting = fleet.start_coordctl(&["rollout", "abort", APP, "-m", "wrong branch"])?;
    fleet.wait_rollout("it is aborted", |s| s.aborted && s.phase == RolloutPhase::RollingBack)?;
    fleet.let_go("web-1", "two.restart.1")?;
    let aborted = aborting.wait()?.expect_code(0)?;
    ensure!(aborted.says("aborted the rollout of release two by tester"), "{aborted:?}");
    fleet.expect_everywhere("one")?;
    fleet.expect_serves("web-1", "one")?;
    let published = publishing.wait()?.expect_code(4)?;
    ensure!(published.says("aborted by tester"), "{published:?}");
    let steps = fleet.steps("web-1");
    let begun = steps.iter().position(|s| s == "two.restart.1").context("it began")?;
    ensure!(steps[begun..].iter().any(|s| s == "two.undrain.1"), "it finished what it was at: {steps:?}");
    let again = fleet.coordctl(&["rollout", "abort", APP])?.expect_code(0)?;
    ensure!(again.says("was aborted already by tester@") && again.says("(wrong branch): aborted"), "{again:?}");
    let history = fleet.coordctl(&["rollout", "history", APP])?.expect_code(0)?;
    ensure!(history.out.lines().nth(1).is_some_and(|l| l.contains("two") && l.contains("aborted by tester")), "{history:?}");
    fleet.publish(tree.path(), "three", &[])?.expect_code(0)?;
    Ok(())
}

#[test]
fn an_abort_of_the_very_first_release_keeps_it_from_servers_that_have_not_switched() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&TWO)?;
    let tree = fleet.quick_tree()?;
    tree.edit_deploy_file("serial = 1", "serial = \"100%\"")?;
    TWO.iter().try_for_each(|name| fleet.hold(name, "one.before.1"))?;
    let publishing = fleet.start_publish(tree.path(), "one", &[])?;
    let migrates = |name: &&str| fleet.steps(name).iter().any(|s| s == "one.before.1");
    until("one of them migrates", || Ok(TWO.iter().any(migrates)))?;
    let aborting = fleet.start_coordctl(&["rollout", "abort", APP])?;
    fleet.wait_rollout("it is aborted", |s| s.aborted && s.phase == RolloutPhase::RollingBack)?;
    TWO.iter().try_for_each(|name| fleet.let_go(name, "one.before.1"))?;
    aborting.wait()?.expect_code(0)?;
    let published = publishing.wait()?.expect_code(4)?;
    ensure!(published.says("release one aborted: aborted by tester"), "{published:?}");
    for name in TWO {
        let status = fleet.wait_status(name, "is idle", |s| s.step == Step::Idle)?;
        ensure!(status.running.is_none() && !fleet.steps(name).iter().any(|s| s == "one.drain.1"), "{name}: {status:?}");
    }
    ensure!(fleet.currents().values().all(Option::is_none), "{:?}", fleet.currents());
    let record = fleet.migration("one")?.context("a record")?;
    ensure!(record.state == TaskState::Succeeded, "the step that a server was in was finished: {record:?}");
    fleet.publish(tree.path(), "two", &[])?.expect_code(0)?;
    fleet.expect_everywhere("two")
}

#[test]
fn an_abort_of_the_very_first_release_leaves_it_where_it_was_switched_to_and_says_so() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&TWO)?;
    let tree = fleet.quick_tree()?;
    fleet.hold("web-1", "one.restart.1")?;
    let publishing = fleet.start_publish(tree.path(), "one", &[])?;
    fleet.wait_status("web-1", "restarts", |s| s.step == Step::Restarting)?;
    let aborting = fleet.start_coordctl(&["rollout", "abort", APP])?;
    fleet.wait_rollout("it is aborted", |s| s.aborted && s.phase == RolloutPhase::RollingBack)?;
    fleet.let_go("web-1", "one.restart.1")?;
    aborting.wait()?.expect_code(0)?;
    publishing.wait()?.expect_code(4)?;
    fleet.expect_serves("web-1", "one")?;
    let status = fleet.coordctl(&["rollout", "status", APP])?.expect_code(0)?;
    ensure!(status.says("with nothing to go back to, web-1 stays on release one"), "{status:?}");
    ensure!(fleet.currents()["web-2"].is_none(), "{:?}", fleet.currents());
    ensure!(fleet.steps("web-1").iter().any(|s| s == "one.undrain.1"), "it finished its step: {:?}", fleet.steps("web-1"));
    Ok(())
}

#[test]
fn a_retry_is_for_the_failed_server_alone() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&TWO)?;
    tree.write("bin/check", "[ ! -e \"$COORD_SHARED_PATH/sick\" ] && exec bin/healthcheck\n")?;
    tree.edit_deploy_file("[\"bin/step\", \"bin/healthcheck\"]", "[\"bin/step\", \"sh\", \"bin/check\"]")?;
    tree.edit_deploy_file("timeout  = \"30s\"", "timeout  = \"1s\"")?;
    tree.edit_deploy_file("serial = 1", "serial = \"100%\"\non_failure = \"halt\"")?;
    let sick = fleet.shared_dir("web-2").join("sick");
    fs::write(&sick, "")?;
    fleet.publish(tree.path(), "two", &[])?.expect_code(4)?;
    fleet.expect_serves("web-1", "two")?;
    fleet.wait_status("web-2", "is back", |s| s.step == Step::Idle && s.failure.as_ref().is_some_and(|f| f.fell_back))?;
    fleet.expect_serves("web-2", "one")?;
    fs::remove_file(&sick)?;
    let before = fleet.steps("web-1").len();
    let retried = fleet.coordctl(&["rollout", "retry", APP, "-m", "the disk was full"])?.expect_code(0)?;
    ensure!(retried.says("deployed as release two by tester"), "{retried:?}");
    fleet.expect_everywhere("two")?;
    fleet.expect_serves("web-2", "two")?;
    ensure!(steps_since(&fleet, "web-1", before).is_empty(), "web-1 was left alone: {:?}", fleet.steps("web-1"));
    ensure!(stable(&fleet)?.seq == Seq(2), "all servers run it");
    let again = fleet.coordctl(&["rollout", "retry", APP])?.expect_code(0)?;
    ensure!(again.says("succeeded already: no server is left that failed"), "{again:?}");
    Ok(())
}

#[test]
fn a_restart_drains_restarts_and_probes_one_server_after_the_other() -> Result<()> {
    let (fleet, _tree) = Fleet::on_release_one(&TWO)?;
    let before: Vec<usize> = TWO.iter().map(|name| fleet.steps(name).len()).collect();
    fleet.hold("web-1", "one.undrain.1")?;
    let restarting = fleet.start_coordctl(&["rollout", "restart", APP])?;
    fleet.wait_status("web-1", "is undrained", |s| s.step == Step::Undraining)?;
    ensure!(steps_since(&fleet, "web-2", before[1]).is_empty(), "web-2 waits for its turn");
    let meanwhile = fleet.coordctl(&["rollout", "restart", APP])?.expect_code(0)?;
    ensure!(meanwhile.says("a restart of release one was asked for already by tester@"), "{meanwhile:?}");
    fleet.let_go("web-1", "one.undrain.1")?;
    let restarted = restarting.wait()?.expect_code(0)?;
    ensure!(restarted.says("restarted release one by tester"), "{restarted:?}");
    for (name, before) in TWO.iter().zip(before) {
        let mut steps = steps_since(&fleet, name, before);
        steps.dedup();
        ensure!(steps == ["one.drain.1", "one.restart.1", "one.health.1", "one.undrain.1"], "{name}: {steps:?}");
        fleet.expect_serves(name, "one")?;
    }
    Ok(())
}

#[test]
fn a_rollback_needs_no_key_down_to_the_floor() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&TWO)?;
    for release in ["two", "three"] {
        fleet.publish(tree.path(), release, &["--serial", "100%"])?.expect_code(0)?;
    }
    fs::remove_file(fleet.dir().join("release.key"))?;
    let back = fleet.coordctl(&["rollback", APP, "-m", "it is slow"])?.expect_code(0)?;
    ensure!(back.says("rolled back to release two by tester"), "{back:?}");
    fleet.expect_everywhere("two")?;
    fleet.expect_serves("web-2", "two")?;
    let now = stable(&fleet)?;
    ensure!((now.seq, now.back_from) == (Seq(2), Some(Seq(3))), "{now:?}");
    let again = fleet.coordctl(&["rollback", APP])?.expect_code(0)?;
    ensure!(again.says("was asked for already by tester@") && again.says("(it is slow)"), "{again:?}");
    let below = fleet.coordctl(&["rollback", APP, "one"])?.expect_code(3)?;
    ensure!(below.says("is below the floor of web-1, web-2") && below.says("with a signature"), "{below:?}");
    fleet.expect_everywhere("two")?;
    fleet.add_nodes(&["web-3"])?;
    fleet.wait_current("web-3", "two")?;
    // And up again, by the same word.
    fleet.coordctl(&["rollback", APP, "three", "--serial", "100%"])?.expect_code(0)?;
    fleet.expect_everywhere("three")
}

#[test]
fn a_server_outside_a_rollback_leaves_what_was_rolled_back_without_a_coordinator() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&TWO)?;
    for release in ["two", "three"] {
        fleet.publish(tree.path(), release, &["--serial", "100%"])?.expect_code(0)?;
    }
    // Nobody tells it anything: its record goes on to say release three.
    fleet.coordctl(&["node", "cordon", "web-2"])?.expect_code(0)?;
    fleet.crash_agent("web-2")?;
    fleet.coordctl(&["rollback", APP])?.expect_code(0)?;
    fleet.expect_serves("web-2", "three")?;
    fleet.crash_coordinator();
    until("no coordinator leads", || Ok(fleet.record::<LeaderRecord>(&Key::Leader)?.is_none()))?;
    // No coordinator is needed for this; cordoned it would keep what it has.
    fleet.coordctl(&["node", "uncordon", "web-2"])?.expect_code(0)?;
    fleet.start_agent("web-2")?;
    fleet.wait_current("web-2", "two")?;
    fleet.expect_everywhere("two")
}

#[test]
fn past_an_irreversible_migration_only_force_goes_back() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&["web-1"])?;
    tree.edit_deploy_file("[migrate]", "[migrate]\nreversible = false")?;
    fleet.publish(tree.path(), "two", &[])?.expect_code(0)?;
    let refused = fleet.coordctl(&["rollback", APP])?.expect_code(3)?;
    ensure!(refused.says("release two has no way back") && refused.says("say --force"), "{refused:?}");
    fleet.expect_serves("web-1", "two")?;
    fleet.coordctl(&["rollback", APP, "--force"])?.expect_code(0)?;
    fleet.expect_serves("web-1", "one")
}

#[test]
fn a_superseded_server_finishes_its_step_and_jumps() -> Result<()> {
    let (fleet, tree) = ten_on_release_one()?;
    fleet.hold("web-1", "two.drain.1")?;
    let first = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_status("web-1", "drains", |s| s.step == Step::Draining)?;
    let refused = fleet.publish(tree.path(), "three", &[])?.expect_code(3)?;
    ensure!(refused.says("release two by tester@") && refused.says("--supersede"), "{refused:?}");
    let second = fleet.start_publish(tree.path(), "three", &["--supersede"])?;
    fleet.wait_rollout("the second one began", |s| s.release.as_str() == "three")?;
    fleet.let_go("web-1", "two.drain.1")?;
    second.wait()?.expect_code(0)?;
    fleet.expect_everywhere("three")?;
    fleet.expect_serves("web-1", "three")?;
    let superseded = first.wait()?.expect_code(4)?;
    ensure!(superseded.says("superseded") && superseded.says("release three"), "{superseded:?}");
    let steps = fleet.steps("web-1");
    let since = steps.iter().position(|s| s == "two.drain.1").context("it began")?;
    let done = |step: &str| steps[since..].iter().position(|s| s == step);
    let order = (done("two.undrain.1"), done("three.drain.1"));
    ensure!(matches!(order, (Some(end), Some(jump)) if end < jump), "{steps:?}");
    ensure!(!steps[since..].iter().any(|s| s.starts_with("one.")), "it did not go back in between: {steps:?}");
    for name in &TEN[1..] {
        ensure!(!fleet.steps(name).iter().any(|s| s == "two.drain.1"), "{name} never ran it: {:?}", fleet.steps(name));
    }
    Ok(())
}

#[test]
fn a_migration_that_runs_is_ended_before_the_one_that_supersedes_it() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&TWO)?;
    fleet.hold("web-1", "two.before.1")?;
    let first = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_status("web-1", "migrates", |s| s.step == Step::Migrating)?;
    until("the migration runs", || Ok(fleet.steps("web-1").iter().any(|s| s == "two.before.1")))?;
    let second = fleet.start_publish(tree.path(), "three", &["--supersede"])?;
    fleet.wait_rollout("the second one began", |s| s.release.as_str() == "three")?;
    fleet.let_go("web-1", "two.before.1")?;
    second.wait()?.expect_code(0)?;
    fleet.expect_everywhere("three")?;
    first.wait()?.expect_code(4)?;
    for release in ["two", "three"] {
        let record = fleet.migration(release)?.context("a record")?;
        ensure!(record.state == TaskState::Succeeded && record.attempt == 1, "{record:?}");
    }
    Ok(())
}

#[test]
fn a_cordoned_server_is_left_out_and_a_gone_one_is_forgotten() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&TWO)?;
    fleet.coordctl(&["node", "cordon", "web-2", "-m", "its disk"])?.expect_code(0)?;
    let again = fleet.coordctl(&["node", "cordon", "web-2"])?.expect_code(0)?;
    ensure!(again.says("web-2 is cordoned already by tester@") && again.says("(its disk)"), "{again:?}");
    fleet.publish(tree.path(), "two", &[])?.expect_code(0)?;
    fleet.expect_serves("web-2", "one")?;
    fleet.coordctl(&["node", "uncordon", "web-2"])?.expect_code(0)?;
    fleet.wait_current("web-2", "two")?;
    let there = fleet.coordctl(&["node", "forget", "web-2"])?.expect_code(3)?;
    ensure!(there.says("web-2 is there"), "{there:?}");
    fleet.crash_agent("web-2")?;
    until("web-2 can be forgotten", || Ok(fleet.coordctl(&["node", "forget", "web-2"])?.code == 0))?;
    let list = fleet.coordctl(&["node", "list"])?;
    ensure!(!list.says("web-2") && list.says("web-1"), "{list:?}");
    ensure!(fleet.coordctl(&["node", "forget", "web-2"])?.expect_code(0)?.says("was forgotten already by tester@"));
    fleet.publish(tree.path(), "three", &[])?.expect_code(0)?;
    Ok(())
}
