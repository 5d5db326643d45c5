//! The stage of these tests: a store, publishing as `coordctl` does, and servers that obey.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_proto::desired::Desired;
use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, Digest, NodeName, Nonce, ReleaseId, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::labels::{Labels, Selector};
use coord_proto::manifest::{Artifact, Compression, Hooks, Layout, MANIFEST_VERSION, Manifest};
use coord_proto::report::{Alive, Failure, FailureCode, HealthState, NodeInfo, Running, Status, Step};
use coord_proto::rollout::{Actor, ReleaseRecord, RolloutKind, RolloutPhase, RolloutPolicy, RolloutSpec, Verdict};
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::mirror::{self, Mirror};
use coord_proto::store::session::Session;
use coord_proto::store::{SharedStore, Store, Transaction};
use coord_proto::trust::Envelope;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::controller::{ControllerOptions, run};
use crate::observe;
use crate::view::Fleet;

/// Longer than any rollout of these tests, in virtual time.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

pub struct Stage {
    pub store: MemoryStore,
    pub keys: KeySpace,
    pub app: AppName,
    log: Arc<Mutex<Vec<String>>>,
}

/// A running controller; it stops when dropped.
pub struct Coordinator {
    task: JoinHandle<()>,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl Coordinator {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the controller ends");
    }
}

fn actor() -> Actor {
    Actor { user: "ann".into(), host: "laptop".into(), at: 0, message: None }
}

fn release(seq: u64) -> ReleaseId {
    format!("r{seq}").parse().expect("release id")
}

impl Stage {
    pub fn new() -> Self {
        Self { store: MemoryStore::new(), keys: KeySpace::default(), app: "mootube".parse().expect("app"), log: Arc::default() }
    }

    pub fn shared(&self) -> SharedStore {
        Arc::new(self.store.clone())
    }

    pub fn options(&self, name: &str) -> ControllerOptions {
        ControllerOptions {
            node_name: name.parse().expect("node name"),
            lease_ttl: Duration::from_secs(15),
            stores: vec!["https://c1/artifacts".into()],
        }
    }

    pub fn controller(&self, name: &str) -> Coordinator {
        self.controller_on(self.store.another_client(), name)
    }

    pub fn controller_on(&self, client: MemoryStore, name: &str) -> Coordinator {
        let stop = CancellationToken::new();
        let (keys, options, token) = (self.keys.clone(), self.options(name), stop.clone());
        let task = tokio::spawn(async move { run(Arc::new(client), keys, options, token).await.expect("options that work") });
        Coordinator { task, _guard: stop.clone().drop_guard(), stop }
    }

    pub fn agents(&self, names: &[&str]) -> Vec<Agent> {
        names.iter().map(|name| Agent::spawn(self, name, None)).collect()
    }

    pub async fn publish(&self, seq: u64) {
        self.publish_with(seq, |_| {}).await;
    }

    pub async fn publish_with(&self, seq: u64, adapt: impl FnOnce(&mut RolloutPolicy)) {
        let manifest = self.manifest(seq);
        let mut policy = RolloutPolicy::default();
        adapt(&mut policy);
        let spec = RolloutSpec {
            id: format!("roll-{seq}").parse().expect("rollout id"),
            app: self.app.clone(),
            seq: Seq(seq),
            release: release(seq),
            kind: RolloutKind::Publish,
            policy,
            limit: None,
            force_run: false,
            retried: None,
            by: actor(),
        };
        let record = ReleaseRecord { seq: Seq(seq), verdict: Verdict::Untried, by: actor(), notes: Default::default(), waits: None };
        let envelope = Envelope { manifest: manifest.encode(), signatures: vec![] }.encode();
        let key = |key| self.keys.key(&key);
        let transaction = Transaction::new()
            .put(key(Key::Manifest(self.app.clone(), Seq(seq))), envelope)
            .put_record(key(Key::Release(self.app.clone(), release(seq))), &record)
            .put_record(key(Key::RolloutSpec(self.app.clone())), &spec);
        assert!(self.store.commit(transaction).await.expect("published").committed());
    }

    fn manifest(&self, seq: u64) -> Manifest {
        let artifact = Artifact {
            digest: Digest::of(b""),
            compression: Compression::Zstd,
            size: 1,
            unpacked_size: 1,
            entries: 1,
            piece_size: 1,
            pieces: vec![Digest::of(b"")],
            strip_components: 0,
            allow_symlinks_to: vec![],
        };
        Manifest {
            version: MANIFEST_VERSION,
            app: self.app.clone(),
            environment: "test".parse().expect("environment"),
            release: release(seq),
            seq: Seq(seq),
            floor: Seq(0),
            created: 1,
            revision: "x".into(),
            artifact,
            targets: Selector::default(),
            layout: Layout::default(),
            env: Default::default(),
            hooks: Hooks::default(),
            migrate: None,
            once: Default::default(),
            health: None,
            rollout: RolloutPolicy::default(),
            not_before: None,
            expires: None,
            min_agent_version: None,
        }
    }

    /// Waits for a level of the fleet.
    pub async fn until(&self, what: &str, holds: impl Fn(&Fleet) -> bool) -> Fleet {
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let mut fleets = observe::fleets(self.shared(), self.keys.clone(), stop);
        let wait = fleets.wait_for(|f| f.as_ref().is_some_and(|f| holds(f)));
        let seen = tokio::time::timeout(PATIENCE, wait).await.map(|seen| seen.expect("followed").clone());
        match seen {
            Ok(fleet) => Fleet::clone(fleet.as_deref().expect("it holds")),
            Err(_) => panic!("{what} never came: {:#?}", self.fleet().await.apps),
        }
    }

    /// Lets so much virtual time pass: to show that nothing happens in it.
    pub async fn quiet(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub async fn mirror(&self) -> Mirror {
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let mut mirrors = mirror::follow(self.shared(), self.keys.all(), stop);
        let ready = mirrors.wait_for(|m| m.ready).await.expect("followed");
        Mirror::clone(&ready)
    }

    pub async fn fleet(&self) -> Fleet {
        Fleet::from_mirror(&self.mirror().await, &self.keys)
    }

    pub async fn events(&self) -> Vec<String> {
        let listing = self.store.list(&self.keys.events()).await.expect("listed");
        listing.entries.iter().map(|e| e.record::<AuditEvent>().expect("an event").what).collect()
    }

    /// The leader's lease ends, as if its renewals had not come.
    pub async fn end_leadership(&self) {
        let entry = self.store.read(&self.keys.key(&Key::Leader)).await.expect("read").entry.expect("a leader");
        self.store.end_lease(entry.lease.expect("under a lease"));
    }

    pub fn phase(&self, fleet: &Fleet) -> Option<RolloutPhase> {
        let app = fleet.apps.get(&self.app)?;
        let state = app.state.as_ref().filter(|s| app.spec.as_ref().is_some_and(|spec| spec.id == s.id))?;
        Some(state.phase)
    }

    pub fn runs(&self, fleet: &Fleet, node: &str) -> Option<Seq> {
        let slot = fleet.node_app(&node.parse().expect("node"), &self.app)?;
        slot.status.as_ref()?.running.as_ref().map(|r| r.seq)
    }

    /// What servers did, in order.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic while it was held").clone()
    }
}

/// A server that obeys, as a task; it goes when dropped.
pub struct Agent {
    _guard: DropGuard,
}

struct Body {
    store: SharedStore,
    keys: KeySpace,
    app: AppName,
    node: NodeName,
    /// The release that does not work there.
    bad: Option<Seq>,
    running: Seq,
    log: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    pub fn spawn(stage: &Stage, name: &str, bad: Option<Seq>) -> Self {
        let stop = CancellationToken::new();
        let body = Body {
            store: stage.shared(),
            keys: stage.keys.clone(),
            app: stage.app.clone(),
            node: name.parse().expect("node name"),
            bad,
            running: Seq(0),
            log: stage.log.clone(),
        };
        let token = stop.clone();
        tokio::spawn(async move { token.clone().run_until_cancelled(body.live(token)).await });
        Self { _guard: stop.drop_guard() }
    }
}

impl Body {
    async fn live(mut self, stop: CancellationToken) {
        let session = Session::open(self.store.clone(), Duration::from_secs(15), &stop).await.expect("a lease");
        self.register(&session).await;
        let mut mirrors = mirror::follow(self.store.clone(), self.keys.desired(&self.node), stop);
        let key = self.keys.key(&Key::Desired(self.node.clone(), self.app.clone()));
        while mirrors.changed().await.is_ok() {
            let desired = mirrors.borrow_and_update().entries.get(&key).map(|e| e.record::<Desired>().expect("a desired record"));
            if let Some(desired) = desired {
                self.obey(desired).await;
            }
        }
    }

    async fn register(&self, session: &Session) {
        let info = NodeInfo {
            node: self.node.clone(),
            labels: Labels::new(),
            addresses: vec![],
            agent_version: "0".into(),
            apps: vec!["*".into()],
            since: 0,
        };
        let alive =
            Alive { instance: Nonce::random(), machine_id: String::new(), boot_id: String::new(), agent_version: "0".into(), since: 0 };
        let transaction = Transaction::new().put_record(self.keys.key(&Key::NodeInfo(self.node.clone())), &info).put_under(
            session.lease(),
            self.keys.key(&Key::NodeAlive(self.node.clone())),
            &alive,
        );
        self.store.commit(transaction).await.expect("registered");
    }

    async fn obey(&mut self, desired: Desired) {
        let failed = self.bad == Some(desired.run);
        if desired.run != self.running && desired.run.0 > 0 {
            let verb = if failed { "fails" } else { "runs" };
            self.log.lock().expect("no panic while it was held").push(format!("{} {verb} {}", self.node, desired.run));
            if !failed {
                self.running = desired.run;
            }
        }
        let failure = failed.then(|| Failure {
            seq: desired.run,
            step: Step::Probing,
            code: FailureCode::Unhealthy,
            chain: vec![],
            hint: String::new(),
            log_tail: String::new(),
            fell_back: true,
            attempt: desired.attempt,
        });
        let running = (self.running.0 > 0).then(|| Running { seq: self.running, release: release(self.running.0) });
        let status = Status {
            node: self.node.clone(),
            app: self.app.clone(),
            accepted: desired.run,
            floor: Seq(0),
            running,
            staged: desired.stage,
            after_done: None,
            step: Step::Idle,
            words: String::new(),
            health: HealthState::Healthy,
            generation: desired.generation,
            rollout: desired.rollout,
            failure,
            digest: None,
            progress: None,
            restarted: desired.restart,
            held: std::collections::BTreeMap::new(),
            free: None,
            since: 0,
        };
        let key = self.keys.key(&Key::Status(self.node.clone(), self.app.clone()));
        self.store.commit(Transaction::new().put_record(key, &status)).await.expect("reported");
    }
}
