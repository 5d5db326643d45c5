//! Each verb against the store in memory: what it writes, what it says the second time, and whom it names.

use std::sync::Arc;
use std::time::Duration;

use coord_proto::coordinator::{CordonRecord, LeaderRecord};
use coord_proto::event::AuditEvent;
use coord_proto::ids::{Digest, NodeName, Nonce, ReleaseId, Revision, Seq};
use coord_proto::labels::{Labels, Selector};
use coord_proto::manifest::{Artifact, Compression, Hooks, Layout, MANIFEST_VERSION, Manifest, Migrate};
use coord_proto::migration::{Head, TaskRecord, TaskState};
use coord_proto::record::{Record, encode};
use coord_proto::report::{Alive, HealthState, NodeInfo, Running, Status, Step};
use coord_proto::rollout::{
    OnFailure, Outcome, Promote, ReleaseRecord, RolloutKind, RolloutPhase, RolloutPolicy, StableRecord, Target, Verb, Verdict, Wish,
};
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{SharedStore, read_record};
use coord_proto::trust::Envelope;

use super::node::{NodeVerb, mark};
use super::*;

mod back;
mod nodes;
mod rollouts;
mod wishes;

fn app() -> AppName {
    "mootube".parse().expect("app")
}

fn keys() -> KeySpace {
    KeySpace::default()
}

fn ann() -> Actor {
    Actor { user: "ann".into(), host: "laptop".into(), at: 1_700_000_000, message: Some("it is slow".into()) }
}

fn bob() -> Actor {
    Actor { user: "bob".into(), message: None, ..ann() }
}

fn release(seq: u64) -> ReleaseId {
    format!("r{seq}").parse().expect("release")
}

fn options() -> Options {
    Options { serial: None, limit: None, force: false, by: ann() }
}

/// An app at some point of its life, in a store with a leader.
struct Scene {
    store: MemoryStore,
}

impl Scene {
    /// Releases 1 to 3 were rolled out on these servers, each floored at the one before; 3 is stable.
    async fn new(servers: &[&str]) -> Self {
        let scene = Self { store: MemoryStore::new() };
        let leader = LeaderRecord { host: "c1".into(), pid: 1, instance: Nonce::fixed("l"), since: 0 };
        scene.put(&Key::Leader, &leader).await;
        for seq in 1..=3 {
            scene.publish(seq, |_| ()).await;
            scene.judge(seq, Verdict::Good).await;
        }
        scene.put(&Key::Stable(app()), &StableRecord { seq: Seq(3), release: release(3), back_from: None }).await;
        for server in servers {
            scene.server(server, 3, 2).await;
        }
        scene.spec(RolloutKind::Publish, 3, bob()).await;
        scene.state(RolloutPhase::Succeeded, |_| ()).await;
        scene
    }

    fn shared(&self) -> SharedStore {
        Arc::new(self.store.clone())
    }

    async fn put<R: Record>(&self, key: &Key, record: &R) {
        self.bytes(key, encode(record)).await;
    }

    async fn bytes(&self, key: &Key, value: Vec<u8>) {
        assert!(self.store.commit(Transaction::new().put(keys().key(key), value)).await.expect("commit").committed());
    }

    async fn delete(&self, key: &Key) {
        assert!(self.store.commit(Transaction::new().delete(keys().key(key))).await.expect("commit").committed());
    }

    async fn get<R: Record>(&self, key: &Key) -> Option<R> {
        read_record(&self.store, &keys().key(key)).await.expect("read").map(|(record, _)| record)
    }

    async fn revision(&self) -> Revision {
        self.store.identity().await.expect("identity").revision
    }

    async fn publish(&self, seq: u64, change: impl FnOnce(&mut Manifest)) {
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
        let mut manifest = Manifest {
            version: MANIFEST_VERSION,
            app: app(),
            environment: "test".parse().expect("environment"),
            release: release(seq),
            seq: Seq(seq),
            floor: Seq(seq - 1),
            created: 1,
            revision: format!("commit-{seq}"),
            artifact,
            targets: Selector::default(),
            layout: Layout::default(),
            env: Default::default(),
            hooks: Hooks::default(),
            migrate: None,
            once: Default::default(),
            health: None,
            rollout: RolloutPolicy { promote: Promote::Manual, ..RolloutPolicy::default() },
            not_before: None,
            expires: None,
            min_agent_version: None,
        };
        change(&mut manifest);
        let envelope = Envelope { manifest: manifest.encode(), signatures: vec![] };
        self.bytes(&Key::Manifest(app(), Seq(seq)), envelope.encode()).await;
        self.judge(seq, Verdict::Untried).await;
    }

    async fn judge(&self, seq: u64, verdict: Verdict) {
        let record = ReleaseRecord { seq: Seq(seq), verdict, by: bob(), notes: Default::default(), waits: None };
        self.put(&Key::Release(app(), release(seq)), &record).await;
    }

    async fn server(&self, name: &str, runs: u64, floor: u64) {
        let node: NodeName = name.parse().expect("node");
        let info = NodeInfo {
            node: node.clone(),
            labels: Labels::new(),
            addresses: vec![],
            agent_version: "0".into(),
            apps: vec!["*".into()],
            since: 0,
        };
        let alive =
            Alive { instance: Nonce::fixed(name), machine_id: String::new(), boot_id: String::new(), agent_version: "0".into(), since: 0 };
        let status = Status {
            node: node.clone(),
            app: app(),
            accepted: Seq(runs),
            floor: Seq(floor),
            running: Some(Running { seq: Seq(runs), release: release(runs) }),
            staged: None,
            after_done: None,
            step: Step::Idle,
            words: String::new(),
            health: HealthState::Healthy,
            generation: Default::default(),
            rollout: None,
            failure: None,
            digest: None,
            progress: None,
            restarted: 0,
            held: Default::default(),
            free: None,
            since: 0,
        };
        self.put(&Key::NodeInfo(node.clone()), &info).await;
        self.put(&Key::NodeAlive(node.clone()), &alive).await;
        self.put(&Key::Status(node, app()), &status).await;
    }

    async fn spec(&self, kind: RolloutKind, seq: u64, by: Actor) {
        let spec = RolloutSpec {
            id: format!("{seq}-{}", kind.word()).parse().expect("rollout"),
            app: app(),
            seq: Seq(seq),
            release: release(seq),
            kind,
            policy: RolloutPolicy::default(),
            limit: None,
            force_run: false,
            retried: None,
            by,
        };
        self.put(&Key::RolloutSpec(app()), &spec).await;
    }

    async fn stored_spec(&self) -> RolloutSpec {
        self.get(&Key::RolloutSpec(app())).await.expect("a spec")
    }

    /// The state of the current spec's rollout.
    async fn state(&self, phase: RolloutPhase, change: impl FnOnce(&mut RolloutState)) {
        let spec = self.stored_spec().await;
        let mut state = RolloutState {
            id: spec.id,
            seq: spec.seq,
            release: spec.release,
            phase,
            targets: vec![],
            batch: 0,
            batches: 2,
            max_failed: 0,
            max_unreachable: 0,
            batch_elapsed: 0,
            whole: true,
            previous_stable: Seq(2),
            reason: String::new(),
            generation: 0,
            started_at: 0,
            ended_at: None,
            wish_revision: 0,
            paused: false,
            promoted: false,
            turned_back: false,
            aborted: false,
        };
        change(&mut state);
        self.put(&Key::RolloutState(app()), &state).await;
    }

    async fn task(&self, seq: u64, name: &str, state: TaskState) {
        let task = name.parse().expect("task");
        let record = TaskRecord {
            seq: Seq(seq),
            release: release(seq),
            task,
            state,
            holder: "web-1".parse().expect("node"),
            nonce: Nonce::fixed("n"),
            attempt: 1,
            detail: String::new(),
            log_tail: String::new(),
            claimed_at: 0,
            settled_at: None,
            history: vec![],
        };
        let open = matches!(state, TaskState::Claimed | TaskState::Unknown);
        let head = Head { seq: Seq(seq), release: release(seq), task: record.task.clone(), open };
        self.put(&Key::Migration(app(), release(seq), record.task.clone()), &record).await;
        self.put(&Key::MigrationHead(app()), &head).await;
    }

    async fn events(&self) -> Vec<AuditEvent> {
        let listing = self.store.list(&keys().events()).await.expect("list");
        assert!(listing.entries.iter().all(|e| e.lease.is_some()), "none stays for ever");
        listing.entries.iter().map(|e| e.record().expect("an event")).collect()
    }
}

/// The words of a refusal, with exit code 3 and a hint.
fn refused<T: std::fmt::Debug>(result: Result<T, OperateError>) -> String {
    let failure = result.expect_err("refused").failure();
    assert_eq!(failure.exit, Exit::Refused, "{failure:?}");
    assert!(!failure.hint.is_empty(), "{failure:?}");
    failure.render()
}

fn already<T: std::fmt::Debug>(result: Result<Judged<T>, OperateError>) -> String {
    match result.expect("no refusal") {
        Judged::Already(words) => words,
        Judged::Do(what) => panic!("it would do {what:?}"),
    }
}
