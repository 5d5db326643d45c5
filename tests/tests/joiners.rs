//! Servers that come late, come back, or come up while something is away: real etcd, real processes.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_proto::coordinator::CordonRecord;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::report::{HealthState, Step};
use coord_proto::rollout::{Actor, RolloutPhase};
use coord_proto::store::Transaction;
use coord_tests::fleet::{APP, Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::ports;
use coord_tests::process::Process;
use coord_tests::wait::until;

const TEN: [&str; 10] = ["web-01", "web-02", "web-03", "web-04", "web-05", "web-06", "web-07", "web-08", "web-09", "web-10"];
/// Of an agent that must notice soon that nobody leads.
const SHORT_LEASE: &str = "[etcd]\nlease_ttl = \"2s\"\n";

/// These servers on release `one` of a plain application, with this `[rollout]`.
fn on_one(names: &[&str], rollout: &str) -> Result<(Fleet, Tree)> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(names)?;
    let tree = Tree::plain(&fleet.dir().join("app"), APP, &format!("[rollout]\nbake = \"100ms\"\n{rollout}"))?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    fleet.expect_everywhere("one")?;
    Ok((fleet, tree))
}

fn steps_of(fleet: &Fleet, name: &str, release: &str) -> Vec<String> {
    fleet.steps(name).into_iter().filter(|s| s.starts_with(&format!("{release}."))).collect()
}

#[test]
fn a_server_that_appears_in_mid_rollout_takes_stable_until_its_batch_opens() -> Result<()> {
    let (mut fleet, tree) = on_one(&TEN, "serial = [1, \"100%\"]\n")?;
    fleet.hold("web-01", "two.restart.1")?;
    let publishing = fleet.start_publish(tree.path(), "two", &[])?;
    fleet.wait_status("web-01", "is being restarted", |s| s.step == Step::Restarting)?;
    fleet.add_nodes(&["web-11"])?;
    fleet.wait_status("web-11", "serves what is stable", |s| s.running.as_ref().is_some_and(|r| r.release.as_str() == "one"))?;
    let joined = |name: &str| name == "web-11";
    let state = fleet.wait_rollout("it has joined", |s| s.targets.iter().any(|t| joined(t.node.as_str())))?;
    let last = state.targets.last().context("targets")?;
    ensure!(joined(last.node.as_str()) && last.batch == 1 && !last.told && state.batch == 0, "nothing is reshuffled: {state:?}");
    fleet.wait_status("web-11", "has staged the next one", |s| s.staged.is_some())?;
    ensure!(steps_of(&fleet, "web-11", "two").is_empty(), "{:?}", fleet.steps("web-11"));
    fleet.let_go("web-01", "two.restart.1")?;
    publishing.wait()?.expect_code(0)?;
    fleet.expect_everywhere("two")?;
    ensure!(fleet.migration_starts(&["web-11"], "one").is_empty(), "a newcomer claims nothing: {:?}", fleet.steps("web-11"));
    let all: Vec<&str> = TEN.into_iter().chain(["web-11"]).collect();
    ensure!(fleet.migration_starts(&all, "two").len() == 1, "{:?}", fleet.migration_starts(&all, "two"));
    Ok(())
}

#[test]
fn a_server_that_was_away_for_three_releases_goes_straight_to_the_last_one() -> Result<()> {
    let (mut fleet, tree) = on_one(&TEN, "serial = \"100%\"\nmax_unreachable = 1\n")?;
    fleet.crash_agent("web-10")?;
    let alive = KeySpace::default().key(&Key::NodeAlive("web-10".parse()?));
    until("web-10 is away", || {
        let read = coord_proto::store::Store::read(fleet.store(), &alive);
        Ok(fleet.runtime().block_on(read)?.entry.is_none())
    })?;
    for release in ["two", "three", "four"] {
        let said = fleet.publish(tree.path(), release, &[])?.expect_code(8)?;
        ensure!(said.says("web-10"), "who does not run it is named: {said:?}");
    }
    fleet.start_agent("web-10")?;
    fleet.wait_current("web-10", "four")?;
    fleet.wait_status("web-10", "is healthy", |s| s.health == HealthState::Healthy && s.step == Step::Idle)?;
    for passed_over in ["two", "three"] {
        ensure!(steps_of(&fleet, "web-10", passed_over).is_empty(), "{:?}", fleet.steps("web-10"));
    }
    ensure!(fleet.migration_starts(&["web-10"], "four").is_empty(), "it was settled: {:?}", fleet.steps("web-10"));
    ensure!(fleet.migration_starts(&TEN, "four").len() == 1, "{:?}", fleet.migration_starts(&TEN, "four"));
    fleet.expect_everywhere("four")
}

/// The coordinator's artifacts, for servers that come when it is gone.
fn serve_artifacts(fleet: &Fleet) -> Result<(String, Process, ports::Port)> {
    let (port, dir) = (ports::free(), fleet.dir().join("coordinator/state"));
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.number.to_string(), "--directory"]).arg(&dir);
    let process = Process::start(&mut command, &fleet.dir().join("mirror.log"))?;
    until("the mirror listens", || Ok(std::net::TcpStream::connect(("127.0.0.1", port.number)).is_ok()))?;
    Ok((format!("[download]\nmirrors = [\"http://127.0.0.1:{}\"]\n", port.number), process, port))
}

#[test]
fn a_server_born_without_a_coordinator_takes_stable_if_it_is_meant_for_it() -> Result<()> {
    let (mut fleet, _tree) = on_one(&["web-01", "web-02"], "serial = \"100%\"\n[targets]\nrole = \"web\"\n")?;
    let (mirror, _serving, _port) = serve_artifacts(&fleet)?;
    fleet.crash_coordinator();
    let more = format!("{SHORT_LEASE}{mirror}");
    fleet.configure_agent("web-03", &more)?;
    fleet.configure_agent("web-04", &format!("{more}[apps]\nallow = [\"*\"]\n"))?;
    fleet.configure_agent("db-1", &format!("{more}[node]\nlabels = {{ role = \"db\" }}\n"))?;
    fleet.configure_agent("other-1", &format!("{more}[apps]\nallow = [\"another\"]\n"))?;
    fleet.configure_agent("cordoned-1", &more)?;
    let by = Actor { user: "tester".into(), host: "here".into(), at: 0, message: None };
    let cordon = KeySpace::default().key(&Key::NodeCordon("cordoned-1".parse()?));
    fleet.write_into_etcd(Transaction::new().put_record(cordon, &CordonRecord { by }))?;
    fleet.add_nodes(&["db-1", "other-1", "cordoned-1", "web-03", "web-04"])?;
    for name in ["web-03", "web-04"] {
        fleet.wait_current(name, "one")?;
        fleet.wait_status(name, "is healthy", |s| s.health == HealthState::Healthy && s.step == Step::Idle)?;
        ensure!(fleet.migration_starts(&[name], "one").is_empty(), "{:?}", fleet.steps(name));
    }
    until("the cordoned server has said so", || Ok(fleet.whole_log_of("cordoned-1")?.contains("cordoned")))?;
    for name in ["db-1", "other-1", "cordoned-1"] {
        ensure!(fleet.status(name)?.is_none() && fleet.steps(name).is_empty(), "{name} took something: {:?}", fleet.status(name)?);
    }
    // A coordinator that comes back finds nothing to do, and goes on with them.
    fleet.start_coordinator()?;
    until("web-03 was told", || {
        Ok(fleet.record::<coord_proto::desired::Desired>(&Key::Desired("web-03".parse()?, APP.parse()?))?.is_some())
    })?;
    ensure!(steps_of(&fleet, "web-03", "one").iter().filter(|s| s.contains(".restart.")).count() == 1, "{:?}", fleet.steps("web-03"));
    Ok(())
}

#[test]
fn a_server_that_comes_up_while_etcd_is_away_serves_what_it_has() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let port = fleet.configure_listening_agent("web-01", "")?;
    fleet.add_nodes(&["web-01"])?;
    let tree = Tree::plain(&fleet.dir().join("app"), APP, "[rollout]\nbake = \"100ms\"\n")?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    fleet.wait_rollout("it has succeeded", |s| s.phase == RolloutPhase::Succeeded)?;
    let before = fleet.steps("web-01");
    fleet.crash_agent("web-01")?;
    fleet.etcd().kill(0);
    fleet.start_agent("web-01")?;
    let ready = format!("http://127.0.0.1:{}/ready/{APP}", port.number);
    until("it is ready", || Ok(Command::new("curl").args(["-sf", "--max-time", "5", &ready]).output()?.status.success()))
        .with_context(|| fleet.log_of("web-01"))?;
    let said = fleet.coord_agent("web-01", &["wait-ready", APP, "--untold", "1s"])?.expect_code(0)?;
    ensure!(said.out.contains("release one is here") && said.out.contains("is etcd away?"), "{said:?}");
    ensure!(fleet.steps("web-01") == before, "nothing was restarted: {:?}", fleet.steps("web-01"));
    // An empty server has nothing to start.
    let _port = fleet.configure_listening_agent("web-02", "")?;
    fleet.launch_nodes(&["web-02"])?;
    let said = fleet.coord_agent("web-02", &["wait-ready", APP, "--untold", "0s", "--timeout", "1s"])?.expect_code(6)?;
    ensure!(said.err.contains("nobody says yet what should run"), "{said:?}");
    fleet.restart_etcd();
    Ok(())
}

/// The restart hook waits for the application's unit, and that for `wait-ready`: it must not wait for the hook.
#[test]
fn wait_ready_ends_at_the_switch_and_not_at_the_health_check() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let _port = fleet.configure_listening_agent("web-01", "")?;
    fleet.add_nodes(&["web-01"])?;
    let tree = Tree::plain(&fleet.dir().join("app"), APP, "[rollout]\nbake = \"100ms\"\n")?;
    for step in ["before", "restart"] {
        fleet.hold("web-01", &format!("one.{step}.1"))?;
    }
    let waiting = fleet.start_coord_agent("web-01", &["wait-ready", APP, "--timeout", "80s"])?;
    let publishing = fleet.start_publish(tree.path(), "one", &[])?;
    fleet.wait_status("web-01", "migrates", |s| s.step == Step::Migrating)?;
    let said = fleet.coord_agent("web-01", &["wait-ready", APP, "--timeout", "100ms"])?.expect_code(6)?;
    ensure!(said.err.contains("not in place in time"), "{said:?}");
    fleet.let_go("web-01", "one.before.1")?;
    let said = waiting.wait()?.expect_code(0)?;
    ensure!(said.out.contains("release one is in place"), "{said:?}");
    let step = fleet.wait_status("web-01", "is being restarted", |s| s.step == Step::Restarting)?;
    ensure!(step.health != HealthState::Healthy, "{step:?}");
    fleet.let_go("web-01", "one.restart.1")?;
    publishing.wait()?.expect_code(0)?;
    let said = fleet.coord_agent("web-01", &["wait-ready", "another"])?.expect_code(3)?;
    ensure!(said.err.contains("[apps] allow"), "{said:?}");
    fleet.crash_agent("web-01")?;
    let said = fleet.coord_agent("web-01", &["wait-ready", APP, "--timeout", "300ms"])?.expect_code(6)?;
    ensure!(said.err.contains("coord-agent.service"), "{said:?}");
    Ok(())
}
