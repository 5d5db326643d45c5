//! Agents that die while they do something, with real processes: the change is brought to its end, and a migration is
//! never started a second time unless its manifest says so.

use anyhow::{Context as _, Result, ensure};
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::report::Step;
use coord_proto::rollout::RolloutPhase;
use coord_tests::fleet::{APP, Fleet, Publishing};
use coord_tests::links::Links;
use coord_tests::mootube::Tree;
use coord_tests::wait::until;

const THREE: [&str; 3] = ["web-1", "web-2", "web-3"];

/// The phases of a release that began on a server; a check that is repeated until it passes counts once.
fn phases(fleet: &Fleet, name: &str, release: &str) -> Vec<String> {
    let steps = fleet.steps(name);
    let mut phases: Vec<String> = Vec::new();
    for phase in steps.iter().filter_map(|s| s.strip_prefix(release)?.strip_prefix('.')?.strip_suffix(".1")) {
        if phase != "health" || phases.last().is_none_or(|last| last != phase) {
            phases.push(phase.to_owned());
        }
    }
    phases
}

#[test]
fn an_agent_killed_in_any_step_goes_on_with_that_step() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&["web-1", "web-2"])?;
    let mut before = vec!["one".to_owned()];
    let steps = [
        ("prepare", Step::Preparing),
        ("drain", Step::Draining),
        ("restart", Step::Restarting),
        ("health", Step::Probing),
        ("undrain", Step::Undraining),
    ];
    for (phase, step) in steps {
        let release = format!("killed-in-{phase}");
        let held = format!("{release}.{phase}.1");
        fleet.hold("web-1", &held)?;
        let watching = Links::watch(&fleet);
        let publishing = fleet.start_publish(tree.path(), &release, &[])?;
        fleet.wait_status("web-1", "is in that step", |s| s.step == step)?;
        // The hook ends with its agent: it must have begun.
        until(format_args!("{held} has begun"), || Ok(fleet.steps("web-1").contains(&held)))?;
        fleet.crash_agent("web-1")?;
        fleet.let_go("web-1", &held)?;
        fleet.start_agent("web-1")?;
        publishing.wait()?.expect_code(0).with_context(|| fleet.log_of("web-1"))?;
        fleet.expect_everywhere(&release)?;
        fleet.expect_serves("web-1", &release)?;
        watching.expect_only_with(&before, &release)?;
        // What was done before the crash is not done again: the journal knew (I9).
        let mut expected = vec!["prepare", "before", "drain", "restart", "health", "undrain"];
        if phase != "health" {
            let at = expected.iter().position(|p| *p == phase).context("a phase")?;
            expected.insert(at, phase);
        }
        let found = phases(&fleet, "web-1", &release);
        ensure!(found == expected, "killed in {phase}, the steps were {found:?}, expected {expected:?}");
        before.push(release);
    }
    Ok(())
}

#[test]
fn an_agent_killed_on_its_way_back_still_goes_back() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&["web-1"])?;
    tree.edit_deploy_file("timeout  = \"30s\"", "timeout  = \"1s\"")?;
    tree.write("BROKEN", "")?;
    let watching = Links::watch(&fleet);
    fleet.hold("web-1", "one.restart.1")?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    let earlier = fleet.steps("web-1").len();
    until("the release before is being restarted", || {
        Ok(fleet.steps("web-1").get(earlier..).is_some_and(|steps| steps.iter().any(|s| s == "one.restart.1")))
    })?;
    fleet.wait_status("web-1", "is on its way back", |s| s.step == Step::FallingBack)?;
    fleet.crash_agent("web-1")?;
    fleet.let_go("web-1", "one.restart.1")?;
    fleet.start_agent("web-1")?;
    let said = publishing.wait()?.expect_code(5).with_context(|| fleet.log_of("web-1"))?;
    ensure!(said.says("rolled back to release one"), "{said:?}");
    fleet.expect_serves("web-1", "one")?;
    watching.expect_only_with(&["one".to_owned()], "two")?;
    let found = phases(&fleet, "web-1", "one");
    let back = &found[found.len().saturating_sub(4)..];
    ensure!(back == ["restart", "restart", "health", "undrain"], "{found:?}");
    Ok(())
}

/// Release `two` of all servers at once, with its migration held wherever it is claimed; its holder is killed.
fn holder_killed_in_mid_migration(fleet: &mut Fleet, tree: &Tree) -> Result<(Publishing, TaskRecord)> {
    tree.apply_next()?;
    tree.edit_deploy_file("serial = 1", "serial = \"100%\"")?;
    // The command ends with its agent; what it left to a child in the background does not.
    tree.edit_deploy_file("[\"bin/step\", \"bin/migrate\"]", "[\"sh\", \"-c\", \"bin/step bin/migrate & wait $!\"]")?;
    for name in THREE {
        fleet.hold(name, "two.before.1")?;
    }
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    let record = fleet.wait_migration("two", TaskState::Claimed)?;
    let holder = record.holder.as_str();
    until("the migration has been started", || Ok(fleet.steps(holder).iter().any(|s| s == "two.before.1")))?;
    fleet.crash_agent(holder)?;
    Ok((publishing, record))
}

/// Attempt and node of every start that the agents made, from all servers.
fn starts(fleet: &Fleet) -> Vec<String> {
    let on = |name: &str| fleet.steps(name).into_iter().filter(|s| s.starts_with("two.before.")).map(|s| format!("{name} {s}")).collect();
    fleet.node_names().iter().flat_map(|name| -> Vec<String> { on(name) }).collect()
}

#[test]
fn a_holder_killed_in_mid_migration_leaves_the_decision_to_a_person() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&THREE)?;
    let (publishing, claimed) = holder_killed_in_mid_migration(&mut fleet, &tree)?;
    let holder = claimed.holder.as_str();
    let said = publishing.wait()?.expect_code(7)?;
    ensure!(said.says("migration resolve mootube two --as"), "{said:?}");
    let record = fleet.wait_migration("two", TaskState::Unknown)?;
    ensure!(record.nonce == claimed.nonce && record.attempt == 1, "{record:?}");
    // Its child outlived the agent, and does all of its work: that is why nobody may start it again.
    fleet.let_go(holder, "two.before.1")?;
    until("the migration has committed", || {
        Ok(fleet.database_rows("SELECT count(*) FROM schema_migrations WHERE release = 'two'")? == ["1"])
    })?;
    fleet.start_agent(holder)?;
    fleet.wait_status(holder, "waits for the decision", |s| s.words.contains("migration resolve"))?;
    fleet.expect_everywhere("one")?;
    let resolved = fleet.coordctl(&["migration", "resolve", APP, "two", "--as", "succeeded", "-m", "looked"])?.expect_code(0)?;
    ensure!(resolved.says("resolved as succeeded by tester"), "{resolved:?}");
    fleet.wait_rollout("the rollout succeeded", |s| s.phase == RolloutPhase::Succeeded)?;
    fleet.expect_everywhere("two")?;
    let rows = fleet.database_rows("SELECT node, attempt FROM migration_starts WHERE release = 'two'")?;
    ensure!(rows == [format!("{holder}|1")], "starts that the database saw: {rows:?}");
    ensure!(starts(&fleet) == [format!("{holder} two.before.1")], "{:?}", starts(&fleet));
    Ok(())
}

#[test]
fn under_retry_it_is_started_again_and_the_one_before_is_fenced_off() -> Result<()> {
    let (mut fleet, tree) = Fleet::on_release_one(&THREE)?;
    tree.edit_deploy_file("timeout = \"5m\"", "timeout = \"5m\"\non_unknown = \"retry\"")?;
    let (publishing, claimed) = holder_killed_in_mid_migration(&mut fleet, &tree)?;
    let holder = claimed.holder.as_str();
    fleet.start_agent(holder)?;
    publishing.wait()?.expect_code(0).with_context(|| fleet.log_of(holder))?;
    fleet.expect_everywhere("two")?;
    let record = fleet.wait_migration("two", TaskState::Succeeded)?;
    ensure!(record.attempt == 2 && record.history.len() == 1, "{record:?}");
    // Only now the first command, whose agent is gone, gets to the database: with its lower fence it is refused there.
    fleet.let_go(holder, "two.before.1")?;
    let all = "SELECT attempt, fence FROM migration_starts WHERE release = 'two' ORDER BY attempt";
    until("both starts are known to the database", || Ok(fleet.database_rows(all)?.len() == 2))?;
    until("the first command has ended", || {
        Ok(fleet.processes_of(holder, "two")?.iter().all(|p| !p.contains("bin/migrate") && !p.contains("bin/step")))
    })?;
    let rows = fleet.database_rows(all)?;
    let fence = |attempt: &str| -> Option<u64> { rows.iter().find_map(|r| r.strip_prefix(attempt)?.parse().ok()) };
    let (first, second) = (fence("1|").context("attempt 1")?, fence("2|").context("attempt 2")?);
    ensure!(second > first, "{rows:?}");
    let versions = fleet.database_rows("SELECT version, attempt, fence FROM schema_migrations WHERE release = 'two'")?;
    ensure!(versions == [format!("2|2|{second}")], "{versions:?}");
    ensure!(starts(&fleet).len() == 2, "{:?}", starts(&fleet));
    Ok(())
}

#[test]
fn a_migration_that_a_signal_ended_is_nobodys_failure() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&["web-1"])?;
    tree.edit_deploy_file("[\"bin/step\", \"bin/migrate\"]", "[\"sh\", \"-c\", \"kill -9 $$\"]")?;
    let said = fleet.publish(tree.path(), "two", &[])?.expect_code(7)?;
    ensure!(said.says("migration resolve mootube two --as"), "{said:?}");
    let record = fleet.wait_migration("two", TaskState::Unknown)?;
    ensure!(record.detail.contains("signal 9"), "{record:?}");
    fleet.expect_serves("web-1", "one")?;
    fleet.coordctl(&["migration", "resolve", APP, "two", "--as", "failed"])?.expect_code(0)?;
    let ended = fleet.wait_rollout("the rollout ended", |s| s.phase.ended())?;
    ensure!(ended.phase != RolloutPhase::Succeeded, "{ended:?}");
    fleet.expect_serves("web-1", "one")
}
