//! More than one app on a server, more than one kind of server for an app, more than one environment in an etcd.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::report::Step;
use coord_proto::rollout::RolloutState;
use coord_proto::store::read_record;
use coord_tests::fleet::{APP, ENVIRONMENT, Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::process::{Process, program};
use coord_tests::wait::until;

const SHOP: &str = "shop";

fn names(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}-{n:02}")).collect()
}

fn add(fleet: &mut Fleet, names: &[String]) -> Result<()> {
    fleet.add_nodes(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// `current` of the second app, by server.
fn shops(fleet: &Fleet) -> BTreeMap<String, Option<String>> {
    let link = |name: &String| {
        let current = fleet.app_dir(name).with_file_name(SHOP).join("current");
        fs::read_link(current).ok().map(|p| p.display().to_string())
    };
    fleet.node_names().iter().map(|name| (name.clone(), link(name))).collect()
}

fn expect_shop(fleet: &Fleet, release: &str) -> Result<()> {
    let (links, want) = (shops(fleet), format!("releases/{release}"));
    ensure!(links.values().all(|link| link.as_deref() == Some(&want)), "expected {want} everywhere, found {links:?}");
    Ok(())
}

/// The starts of the second app's migrations, from all servers.
fn shop_migrations(fleet: &Fleet) -> Vec<String> {
    let steps = |name: &String| fs::read_to_string(fleet.app_dir(name).with_file_name(SHOP).join("shared/steps")).unwrap_or_default();
    let all = fleet.node_names().iter().map(steps).collect::<String>();
    let mut begun: Vec<String> = all.lines().filter(|s| s.contains(".before.")).map(str::to_owned).collect();
    begun.sort();
    begun
}

#[test]
fn two_apps_on_the_same_ten_servers_roll_out_in_parallel() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let servers = names("web", 10);
    for name in &servers {
        fleet.configure_agent(name, &format!("[apps]\nallow = [\"{APP}\", \"{SHOP}\"]\n"))?;
    }
    add(&mut fleet, &servers)?;
    let rollout = "[rollout]\nserial = 3\nbake = \"100ms\"\n";
    let (tube, shop) = (fleet.dir().join("tube"), fleet.dir().join("shop"));
    let (tube, shop) = (Tree::plain(&tube, APP, rollout)?, Tree::plain(&shop, SHOP, rollout)?);

    // Both at once, on the same servers.
    let publishing = [fleet.start_publish(tube.path(), "t1", &[])?, fleet.start_publish(shop.path(), "s1", &[])?];
    publishing.into_iter().try_for_each(|p| p.wait()?.expect_code(0).map(drop))?;
    fleet.expect_everywhere("t1")?;
    expect_shop(&fleet, "s1")?;

    // One that stands still on a server holds up no other app, there or elsewhere.
    fleet.hold("web-01", "t2.restart.1")?;
    let held = fleet.start_publish(tube.path(), "t2", &[])?;
    fleet.wait_status("web-01", "is being restarted", |s| s.step == Step::Restarting)?;
    fleet.publish(shop.path(), "s2", &[])?.expect_code(0)?;
    expect_shop(&fleet, "s2")?;
    let state = fleet.rollout()?.context("a rollout")?;
    ensure!(state.release.as_str() == "t2" && state.batch == 0 && !state.phase.ended(), "{state:?}");
    fleet.let_go("web-01", "t2.restart.1")?;
    held.wait()?.expect_code(0)?;
    fleet.expect_everywhere("t2")?;
    expect_shop(&fleet, "s2")?;
    ensure!(shop_migrations(&fleet) == ["s1.before.1", "s2.before.1"], "{:?}", shop_migrations(&fleet));
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    for release in ["t1", "t2"] {
        ensure!(fleet.migration_starts(&servers, release).len() == 1, "{:?}", fleet.migration_starts(&servers, release));
    }
    Ok(())
}

/// A hook that notes its kind of server, and runs only there.
fn restart_of(role: &str) -> String {
    let command = format!("command = [\"sh\", \"-c\", \"echo {role} >>$COORD_SHARED_PATH/restarted\"]");
    format!("[[hooks.restart]]\n{command}\nwhen = {{ role = \"{role}\" }}\n")
}

#[test]
fn web_and_workers_of_one_app_share_one_migration() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let (webs, workers) = (names("web", 7), names("worker", 3));
    for (name, role) in workers.iter().map(|n| (n.as_str(), "worker")).chain([("db-01", "db"), ("db-02", "db")]) {
        fleet.configure_agent(name, &format!("[node]\nlabels = {{ role = \"{role}\" }}\n"))?;
    }
    add(&mut fleet, &webs)?;
    add(&mut fleet, &workers)?;
    fleet.add_nodes(&["db-01", "db-02"])?;
    // Its own name is a label of each server.
    let targets =
        "[targets]\nany = [{ role = \"web\" }, { role = \"worker\" }, { node = \"db-02\" }]\n[rollout]\nserial = 4\nbake = \"100ms\"\n";
    let tree = Tree::plain(&fleet.dir().join("app"), APP, targets)?;
    let hooks = format!("{}{}", restart_of("web"), restart_of("worker"));
    tree.edit_deploy_file("[[hooks.restart]]\ncommand = [\"bin/step\"]\n", &hooks)?;
    tree.edit_deploy_file("[migrate]\n", "[migrate]\non = { role = \"worker\" }\n")?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;

    let restarted = |name: &str| fs::read_to_string(fleet.shared_dir(name).join("restarted")).unwrap_or_default();
    for (name, role) in webs.iter().map(|n| (n, "web\n")).chain(workers.iter().map(|n| (n, "worker\n"))) {
        fleet.wait_current(name, "one")?;
        ensure!(restarted(name) == role, "{name}: {:?}", restarted(name));
    }
    fleet.wait_current("db-02", "one")?;
    ensure!(restarted("db-02").is_empty(), "{:?}", restarted("db-02"));
    let state = fleet.rollout()?.context("a rollout")?;
    ensure!(state.targets.len() == 11 && state.targets.iter().all(|t| t.node.as_str() != "db-01"), "{state:?}");
    ensure!(fleet.status("db-01")?.is_none() && fleet.steps("db-01").is_empty(), "{:?}", fleet.status("db-01")?);
    let all: Vec<&str> = webs.iter().chain(&workers).map(String::as_str).collect();
    let starts = fleet.migration_starts(&all, "one");
    ensure!(starts.len() == 1 && starts[0].starts_with("worker-"), "{starts:?}");
    Ok(())
}

const STAGING: &str = "/coord/staging";

/// Replaces text in a file.
fn edit(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    ensure!(text.contains(from), "{} does not contain `{from}`", path.display());
    Ok(fs::write(path, text.replace(from, to))?)
}

/// A second environment in the same etcd: a context, a trust file, a coordinator, and servers.
fn add_staging(fleet: &mut Fleet, servers: &[String]) -> Result<Process> {
    let trust = fleet.dir().join("trust-staging.toml");
    fs::copy(fleet.dir().join("trust.toml"), &trust)?;
    edit(&trust, &format!("environment = \"{ENVIRONMENT}\""), "environment = \"staging\"")?;
    let contexts = fleet.dir().join("coordctl.toml");
    let text = fs::read_to_string(&contexts)?;
    let staging = text.replace(&format!("[context.{ENVIRONMENT}]"), &format!("[context.staging]\nprefix = \"{STAGING}\""));
    let staging = staging.replace(&format!("environment = \"{ENVIRONMENT}\""), "environment = \"staging\"");
    fs::write(&contexts, format!("{text}\n{staging}"))?;
    let dir = fleet.dir().join("coordinator-staging");
    let config = fleet.write_second_coordinator(&dir)?;
    edit(&config, "[etcd]\n", &format!("[etcd]\nprefix = \"{STAGING}\"\n"))?;
    let coordinator = Process::start(Command::new(program("coordinator")?).arg("run").arg("--config").arg(config), &dir.join("log"))?;
    for name in servers {
        let tables = format!(
            "[node]\nenvironment = \"staging\"\n[etcd]\nprefix = \"{STAGING}\"\n[trust]\nfile = \"{}\"\n",
            fleet.dir().join("trust-staging.toml").display()
        );
        fleet.configure_agent(name, &tables)?;
    }
    fleet.launch_nodes(&servers.iter().map(String::as_str).collect::<Vec<_>>())?;
    let keys = KeySpace::new(STAGING);
    let mut wanted = vec![keys.key(&Key::Leader)];
    for name in servers {
        wanted.push(keys.key(&Key::NodeAlive(name.parse()?)));
    }
    for key in wanted {
        until(&key, || Ok(fleet.runtime().block_on(coord_proto::store::Store::read(fleet.store(), &key))?.entry.is_some()))
            .with_context(|| coordinator.log_tail())?;
    }
    Ok(coordinator)
}

#[test]
fn two_environments_in_one_etcd_know_nothing_of_each_other() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let (webs, stages) = (names("web", 2), names("stage", 2));
    add(&mut fleet, &webs)?;
    let _coordinator = add_staging(&mut fleet, &stages)?;
    let overlay = "[rollout]\nserial = 1\nbake = \"100ms\"\n[stage.staging.rollout]\nserial = \"100%\"\n";
    let tree = Tree::plain(&fleet.dir().join("app"), APP, overlay)?;

    fleet.publish(tree.path(), "staged", &["--context", "staging"])?.expect_code(0)?;
    ensure!(fleet.rollout()?.is_none(), "the other environment has none");
    for name in &stages {
        fleet.wait_current(name, "staged")?;
    }
    fleet.publish(tree.path(), "live", &["--context", ENVIRONMENT])?.expect_code(0)?;
    let links = fleet.currents();
    let on = |names: &[String], release: &str| names.iter().all(|n| links[n].as_deref() == Some(&format!("releases/{release}")));
    ensure!(on(&webs, "live") && on(&stages, "staged"), "{links:?}");

    let keys = KeySpace::new(STAGING);
    let staging = |key: &Key| keys.key(key);
    let app: coord_proto::ids::AppName = APP.parse()?;
    let store = fleet.store();
    let state = fleet.runtime().block_on(read_record::<RolloutState>(store, &staging(&Key::RolloutState(app.clone()))))?;
    let (staged, live) = (state.context("a rollout in staging")?.0, fleet.rollout()?.context("a rollout")?);
    ensure!((staged.seq, staged.batches) == (live.seq, 1) && live.batches == 2, "the overlay is staging's alone: {staged:?} {live:?}");
    let task = staging(&Key::Migration(app, "staged".parse()?, "before".parse()?));
    let record = fleet.runtime().block_on(read_record::<TaskRecord>(store, &task))?.context("a migration in staging")?.0;
    ensure!(record.state == TaskState::Succeeded && record.attempt == 1, "{record:?}");
    for (servers, release) in [(&webs, "live"), (&stages, "staged")] {
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        ensure!(fleet.migration_starts(&servers, release).len() == 1, "{:?}", fleet.migration_starts(&servers, release));
    }
    Ok(())
}
