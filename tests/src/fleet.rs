//! A fleet on this machine: real etcd over TLS, a coordinator and agents as processes of their own, each server with its own
//! configuration, state and application directory. Everything is published through `coordctl`.
//!
//! ```text
//!  <dir>/pki/            the authority and all certificates      <dir>/trust.toml, release.key
//!  <dir>/coordinator/    coordinator.toml, artifacts, log
//!  <dir>/nodes/<node>/   agent.toml, state, srv/mootube/{releases,shared,current}, log
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_proto::coordinator::{LeaderRecord, StoresRecord};
use coord_proto::ids::{AppName, NodeName, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::manifest::Manifest;
use coord_proto::migration::TaskRecord;
use coord_proto::record::Record;
use coord_proto::report::Status;
use coord_proto::rollout::RolloutState;
use coord_proto::store::etcd::{EtcdConfig, EtcdStore};
use coord_proto::store::{Store as _, read_record};
use coord_proto::trust::Trust;
use coordinator::pki::Role;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::etcd::Etcd;
use crate::mount::Tmpfs;
use crate::ports::{self, Port};
use crate::process::{Process, program};
use crate::wait::{until, until_some};

mod agent;
mod begin;
mod ctl;
mod files;
mod records;
mod server;
mod thief;

pub use ctl::{Publishing, Said};
pub use files::LEASE_TTL;

/// The app that fleets deploy.
pub const APP: &str = "mootube";
/// The environment that everything is bound to.
pub const ENVIRONMENT: &str = "test";

/// A fleet; dropped, every process of it is ended.
pub struct Fleet {
    // In the order in which they are dropped: who depends on another comes before it.
    nodes: BTreeMap<String, Node>,
    coordinator: Option<Process>,
    etcd: Etcd,
    store: EtcdStore,
    runtime: Runtime,
    ports: CoordinatorPorts,
    more_ports: Vec<CoordinatorPorts>,
    /// At the end of coordinator.toml.
    coordinator_more: String,
    database_url: String,
    mounts: Vec<Tmpfs>,
    dir: TempDir,
}

struct CoordinatorPorts {
    artifacts: Port,
    status: Port,
}

impl CoordinatorPorts {
    fn free() -> Self {
        Self { artifacts: ports::free(), status: ports::free() }
    }
}

/// One server.
struct Node {
    dir: PathBuf,
    port: Port,
    agent: Option<Process>,
}

impl Node {
    fn app_dir(&self) -> PathBuf {
        self.dir.join("srv").join(APP)
    }
}

impl Fleet {
    /// etcd and a coordinator, and no server yet. The applications of all servers use one database.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub fn start(database_url: &str) -> Result<Self> {
        Self::start_with(|_| database_url.to_owned())
    }

    /// The same; the database's URL may depend on the fleet's directory.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_with(database_url: impl FnOnce(&Path) -> String) -> Result<Self> {
        let mut fleet = Self::without_coordinator(database_url)?;
        fleet.start_coordinator()?;
        Ok(fleet)
    }

    /// etcd alone.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn without_coordinator(database_url: impl FnOnce(&Path) -> String) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("coord-fleet-").tempdir()?;
        let runtime = Runtime::new()?;
        let etcd = runtime.block_on(Etcd::start(dir.path()));
        // The store's connection needs the runtime that it lives in.
        let store = runtime.block_on(async { etcd.store() });
        let ports = CoordinatorPorts::free();
        let database_url = database_url(dir.path());
        let (more_ports, coordinator_more) = (Vec::new(), String::new());
        let fleet = Self {
            nodes: BTreeMap::new(),
            coordinator: None,
            etcd,
            store,
            runtime,
            ports,
            more_ports,
            coordinator_more,
            database_url,
            mounts: Vec::new(),
            dir,
        };
        fleet.write_operator_files()?;
        Ok(fleet)
    }

    /// A directory of the test's own, removed with the fleet.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// An operator's store. It lives in [`Fleet::runtime`].
    pub fn store(&self) -> &EtcdStore {
        &self.store
    }

    /// Where the store's connection lives.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Base URL of the coordinator's artifacts.
    ///
    /// # Errors
    /// As [`Fleet::record`]; or no coordinator announced one.
    pub fn artifacts_url(&self) -> Result<String> {
        let stores = self.record::<StoresRecord>(&Key::Stores)?;
        stores.and_then(|s| s.urls.first().cloned()).context("no coordinator announced its artifacts")
    }

    /// The certificate files of `name`, issued if need be.
    pub fn config_for(&self, name: &str, role: Role) -> EtcdConfig {
        self.etcd.config_for(name, role)
    }

    /// The real etcd.
    pub fn etcd(&mut self) -> &mut Etcd {
        &mut self.etcd
    }

    /// Starts etcd again after it was killed, and waits until it answers.
    pub fn restart_etcd(&mut self) {
        self.runtime.block_on(self.etcd.restart(0));
    }

    /// More tables for coordinator.toml, from its next start on.
    pub fn configure_coordinator(&mut self, tables: &str) {
        self.coordinator_more = tables.to_owned();
    }

    /// Starts the coordinator and waits until it leads.
    ///
    /// # Errors
    /// It does not start; its log is in the error.
    pub fn start_coordinator(&mut self) -> Result<()> {
        let dir = self.dir.path().join("coordinator");
        let config = self.write_coordinator_files(&dir)?;
        let mut command = Command::new(program("coordinator")?);
        let process = Process::start(command.arg("run").arg("--config").arg(config), &dir.join("log"))?;
        let process = self.coordinator.insert(process);
        let leader = KeySpace::default().key(&Key::Leader);
        let (store, runtime) = (&self.store, &self.runtime);
        let pid = process.pid().to_string();
        until("the coordinator leads", || {
            if let Some(status) = process.ended()? {
                anyhow::bail!("the coordinator ended at once, {status}:\n{}", process.log_tail());
            }
            // The record of a coordinator that died stays until its lease ends.
            let record = runtime.block_on(read_record::<LeaderRecord>(store, &leader))?;
            Ok(record.is_some_and(|(record, _)| record.pid.to_string() == pid))
        })
        .with_context(|| process.log_tail())
    }

    /// Waits until a coordinator leads and every server is present.
    ///
    /// # Errors
    /// It does not happen in time.
    pub fn wait_leader(&self) -> Result<()> {
        until("a coordinator leads", || Ok(self.record::<LeaderRecord>(&Key::Leader)?.is_some()))?;
        self.nodes.keys().try_for_each(|name| self.wait_present(name))
    }

    /// SIGKILL for the coordinator.
    pub fn crash_coordinator(&mut self) {
        if let Some(process) = self.coordinator.take() {
            process.crash();
        }
    }

    /// Adds servers and starts their agents; returns when all are registered and present.
    ///
    /// # Errors
    /// One does not start.
    pub fn add_nodes(&mut self, names: &[&str]) -> Result<()> {
        self.launch_nodes(names)?;
        names.iter().try_for_each(|name| self.wait_present(name))
    }

    /// Adds servers and starts their agents, which may find no etcd, or belong to another environment.
    ///
    /// # Errors
    /// One does not start.
    pub fn launch_nodes(&mut self, names: &[&str]) -> Result<()> {
        for &name in names {
            let node = Node { dir: self.dir.path().join("nodes").join(name), port: ports::free(), agent: None };
            self.write_node_files(name, &node)?;
            self.nodes.insert(name.to_owned(), node);
            self.start_agent(name)?;
        }
        Ok(())
    }

    /// Starts a server's agent, e.g. after [`Fleet::crash_agent`].
    ///
    /// # Errors
    /// The program is missing.
    pub fn start_agent(&mut self, name: &str) -> Result<()> {
        self.spawn_agent(name, Command::new(program("coord-agent")?))
    }

    /// The same under a tracer that stays in the background (`strace -D …`): the process is the agent's own.
    ///
    /// # Errors
    /// A program is missing.
    pub fn start_agent_under(&mut self, name: &str, mut tracer: Command) -> Result<()> {
        tracer.arg(program("coord-agent")?);
        self.spawn_agent(name, tracer)
    }

    fn spawn_agent(&mut self, name: &str, mut command: Command) -> Result<()> {
        let node = self.nodes.get_mut(name).with_context(|| format!("there is no node {name}"))?;
        command.arg("run").arg("--config").arg(node.dir.join("agent.toml"));
        node.agent = Some(Process::start(&mut command, &node.dir.join("log"))?);
        Ok(())
    }

    /// SIGKILL for a server's agent; its application keeps running.
    ///
    /// # Errors
    /// No such server.
    pub fn crash_agent(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.get_mut(name).with_context(|| format!("there is no node {name}"))?;
        if let Some(process) = node.agent.take() {
            process.crash();
        }
        Ok(())
    }

    /// The process of a server's agent.
    pub fn agent(&self, name: &str) -> Option<&Process> {
        self.nodes.get(name)?.agent.as_ref()
    }

    /// All servers.
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// `<root>/mootube` of a server.
    pub fn app_dir(&self, name: &str) -> PathBuf {
        self.nodes[name].app_dir()
    }

    /// The same for a server that is yet to be added.
    pub fn app_dir_of_new(&self, name: &str) -> PathBuf {
        self.dir.path().join("nodes").join(name).join("srv").join(APP)
    }

    /// Where a server's application answers.
    pub fn app_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.nodes[name].port.number)
    }

    /// `readlink current` of every server; none where there is no link.
    pub fn currents(&self) -> BTreeMap<String, Option<String>> {
        let link = |node: &Node| fs::read_link(node.app_dir().join("current")).ok().map(|p| p.display().to_string());
        self.nodes.iter().map(|(name, node)| (name.clone(), link(node))).collect()
    }

    /// Fails unless `current` is the string `releases/<release>` on every server.
    ///
    /// # Errors
    /// All links are in the error.
    pub fn expect_everywhere(&self, release: &str) -> Result<()> {
        let (want, links) = (format!("releases/{release}"), self.currents());
        ensure!(links.values().all(|link| link.as_deref() == Some(&want)), "expected {want} everywhere, found {links:?}");
        Ok(())
    }

    /// Waits until `current` of one server is `releases/<release>`.
    ///
    /// # Errors
    /// It is not, in time; the agent's log is in the error.
    pub fn wait_current(&self, name: &str, release: &str) -> Result<()> {
        let link = self.nodes[name].app_dir().join("current");
        let want = PathBuf::from(format!("releases/{release}"));
        until(format_args!("current of {name} is {}", want.display()), || Ok(fs::read_link(&link).is_ok_and(|found| found == want)))
            .with_context(|| self.log_of(name))
    }

    /// One record, if it is there.
    ///
    /// # Errors
    /// etcd does not answer, or the record cannot be read.
    pub fn record<R: Record>(&self, key: &Key) -> Result<Option<R>> {
        let key = KeySpace::default().key(key);
        Ok(self.runtime.block_on(read_record(&self.store, &key))?.map(|(record, _)| record))
    }

    /// The rollout as the coordinator stored it.
    ///
    /// # Errors
    /// As [`Fleet::record`].
    pub fn rollout(&self) -> Result<Option<RolloutState>> {
        self.record(&Key::RolloutState(app()))
    }

    /// Waits for a rollout that is as asked for.
    ///
    /// # Errors
    /// There is none in time.
    pub fn wait_rollout(&self, what: &str, mut wanted: impl FnMut(&RolloutState) -> bool) -> Result<RolloutState> {
        until_some(what, || Ok(self.rollout()?.filter(|state| wanted(state))))
    }

    /// What a server said of itself last.
    ///
    /// # Errors
    /// As [`Fleet::record`].
    pub fn status(&self, name: &str) -> Result<Option<Status>> {
        self.record(&Key::Status(name.parse()?, app()))
    }

    /// Waits for a status that is as asked for.
    ///
    /// # Errors
    /// There is none in time; the agent's log is in the error.
    pub fn wait_status(&self, name: &str, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Result<Status> {
        until_some(format_args!("{name}: {what}"), || Ok(self.status(name)?.filter(|s| wanted(s)))).with_context(|| self.log_of(name))
    }

    /// A manifest, verified as a server verifies it.
    ///
    /// # Errors
    /// There is none, or no trusted key signed it.
    pub fn manifest(&self, seq: u64) -> Result<Manifest> {
        let key = KeySpace::default().key(&Key::Manifest(app(), Seq(seq)));
        let entry = self.runtime.block_on(self.store.read(&key))?.entry.with_context(|| format!("there is no {key}"))?;
        Ok(Trust::load(&self.dir.path().join("trust.toml"))?.open_envelope(&entry.value)?)
    }

    /// The record of a release's migration.
    ///
    /// # Errors
    /// As [`Fleet::record`].
    pub fn migration(&self, release: &str) -> Result<Option<TaskRecord>> {
        self.record(&Key::Migration(app(), release.parse()?, "before".parse()?))
    }

    /// The end of a server's log.
    pub fn log_of(&self, name: &str) -> String {
        let tail = self.agent(name).map(Process::log_tail).unwrap_or_default();
        format!("the log of {name} ends:\n{tail}")
    }

    /// All that a server's agent ever logged.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn whole_log_of(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.nodes[name].dir.join("log"))?)
    }

    fn wait_present(&self, name: &str) -> Result<()> {
        let alive = KeySpace::default().key(&Key::NodeAlive(name.parse::<NodeName>()?));
        until(format_args!("{name} is present"), || Ok(self.runtime.block_on(self.store.read(&alive))?.entry.is_some()))
            .with_context(|| self.log_of(name))
    }

    fn stop_applications(&self) {
        for node in self.nodes.values() {
            let stop = node.app_dir().join("current/bin/stop");
            if stop.exists() {
                // It ends the server that holds this directory's pid file, and no other.
                Command::new(stop).env("COORD_SHARED_PATH", node.app_dir().join("shared")).output().ok();
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // First the agents: they would start an application again.
        for node in self.nodes.values_mut() {
            node.agent = None;
        }
        self.stop_applications();
    }
}

/// [`APP`] as a name.
pub fn app() -> AppName {
    APP.parse().expect("a valid name")
}

/// A database of the fleet's own below `dir`, for tests that do not need PostgreSQL.
pub fn sqlite_in(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("mootube.db").display())
}

/// The role of an operator's certificate, for the files.
const OPERATOR: Role = Role::Operator;
