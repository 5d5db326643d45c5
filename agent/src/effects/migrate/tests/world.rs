//! A store, servers of one app, and a command that ends as told.

use std::sync::Mutex;

use coord_proto::ids::{AppName, Seq};
use coord_proto::labels::Labels;
use coord_proto::lock::Guard;
use coord_proto::migration::{Phase, TaskName, TaskRecord};
use coord_proto::rollout::ActiveRollout;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{Compare, Store};
use std::sync::Arc;

use super::super::*;

/// Counts starts; ends as told, once the gate is open.
pub struct Script {
    pub starts: Mutex<Vec<(NodeName, u32, Revision)>>,
    pub node: NodeName,
    pub ending: TaskState,
    pub gate: watch::Receiver<bool>,
}

#[async_trait]
impl Runner for Script {
    async fn run(&self, start: Start<'_>) -> Ending {
        self.starts.lock().expect("no panic holds it").push((self.node.clone(), start.attempt, start.fence));
        let mut gate = self.gate.clone();
        let state = tokio::select! {
            _ = gate.wait_for(|open| *open) => self.ending,
            () = start.cancel.cancelled() => TaskState::Unknown,
        };
        Ending { state, detail: "scripted".into(), log_tail: String::new(), now: 7 }
    }
    fn now(&self) -> i64 {
        5
    }
}

pub type Say<'a> = &'a (dyn Fn(Saying) + Send + Sync);

pub struct Host {
    pub context: MigrateContext,
    pub script: Script,
    pub presence: watch::Sender<Option<Presence>>,
    pub mirror: watch::Sender<Arc<Mirror>>,
    pub give_way: CancellationToken,
    pub _dir: tempfile::TempDir,
}

pub struct World {
    pub store: MemoryStore,
    pub keys: KeySpace,
    pub id: TaskId,
    pub open: watch::Sender<bool>,
    pub gate: watch::Receiver<bool>,
}

pub async fn world() -> World {
    let app: AppName = "a".parse().expect("app");
    let id = TaskId { app, release: "r1".parse().expect("release"), seq: Seq(1), task: TaskName { phase: Phase::Before, once: None } };
    let (open, gate) = watch::channel(true);
    let world = World { store: MemoryStore::new(), keys: KeySpace::default(), id, open, gate };
    world.start_rollout("1", Seq(1)).await;
    world
}

pub fn task(on_unknown: OnUnknown) -> OnceTask {
    let name = TaskName { phase: Phase::Before, once: None };
    OnceTask { name, command: vec!["migrate".into()], timeout: Duration::from_secs(60), user: None, on: Labels::new(), on_unknown }
}

impl World {
    pub async fn start_rollout(&self, id: &str, seq: Seq) {
        let spec = ActiveRollout { id: id.parse().expect("rollout"), seq };
        let key = self.keys.key(&Key::RolloutSpec(self.id.app.clone()));
        self.store.commit(Transaction::new().put_record(key, &spec)).await.expect("spec");
    }

    pub async fn host(&self, name: &str, ending: TaskState) -> Host {
        let node: NodeName = name.parse().expect("node");
        let dir = tempfile::tempdir().expect("dir");
        let presence = self.presence(&node).await;
        let (sender, receiver) = watch::channel(Some(presence));
        let mirror = watch::Sender::new(Arc::new(Mirror { ready: true, fresh: true, ..Mirror::default() }));
        let context = MigrateContext {
            store: Arc::new(self.store.clone()),
            keys: self.keys.clone(),
            node: node.clone(),
            claims: Claims::new(dir.path().into()),
            presence: receiver,
            mirror: mirror.subscribe(),
        };
        let script = Script { starts: Mutex::default(), node, ending, gate: self.gate.clone() };
        Host { context, script, presence: sender, mirror, give_way: CancellationToken::new(), _dir: dir }
    }

    pub async fn presence(&self, node: &NodeName) -> Presence {
        let lease = self.store.grant(Duration::from_secs(60)).await.expect("lease");
        let key = self.keys.key(&Key::NodeAlive(node.clone()));
        let lock = migration::LockRecord { holder: node.clone(), nonce: Nonce::fixed("x") };
        let put = Transaction::new().when(Compare::absent(&key)).put_under(lease, &key, &lock);
        let Outcome::Committed(created) = self.store.commit(put).await.expect("presence") else { panic!("refused") };
        Presence { guard: Guard { key, lease, created }, lost: CancellationToken::new() }
    }

    pub async fn record(&self) -> TaskRecord {
        read_record(&self.store, &self.id.record_key(&self.keys)).await.expect("read").expect("a record").0
    }
}

impl Host {
    pub async fn ensure(&self, world: &World, policy: OnUnknown) -> Result<(), MigrateError> {
        self.ensure_saying(world, policy, &|_| {}).await
    }

    pub async fn ensure_saying(&self, world: &World, policy: OnUnknown, say: Say<'_>) -> Result<(), MigrateError> {
        let told_by: RolloutId = "1".parse().expect("rollout");
        let ensure = Ensure {
            context: &self.context,
            id: &world.id,
            task: &task(policy),
            told_by: Some(&told_by),
            runner: &self.script,
            give_way: &self.give_way,
            say,
        };
        ensure.run().await
    }

    /// As after a crash of the agent between the claim and its start; the revision is the fence of that claim.
    pub async fn claimed_before(&self, world: &World) -> Revision {
        let (nonce, TaskId { seq, release, task, .. }) = (Nonce::random(), world.id.clone());
        let claim = Claim { seq, release, task, nonce: nonce.clone(), progress: Progress::Intended };
        self.context.claims.hold(&world.id).await.save(&claim).expect("journaled");
        let presence = self.presence.borrow().clone().expect("held").guard;
        let by = Claimant { node: self.context.node.clone(), nonce, presence, now: 1 };
        let transaction = migration::claim(&world.keys, &world.id, &look(world).await, &by).1;
        let Outcome::Committed(fence) = world.store.commit(transaction).await.expect("commit") else { panic!("refused") };
        fence
    }

    /// As after a restart within the lease: the same key, under another lease.
    pub async fn register_again(&self, world: &World) {
        let old = self.presence.borrow().clone().expect("held");
        let lease = world.store.grant(Duration::from_secs(60)).await.expect("lease");
        let lock = migration::LockRecord { holder: self.context.node.clone(), nonce: Nonce::fixed("y") };
        world.store.commit(Transaction::new().put_under(lease, &old.guard.key, &lock)).await.expect("presence");
        let guard = Guard { lease, ..old.guard };
        self.presence.send_replace(Some(Presence { guard, lost: CancellationToken::new() }));
    }

    pub async fn progress(&self, world: &World) -> Option<Progress> {
        self.context.claims.hold(&world.id).await.load().expect("readable").map(|c| c.progress)
    }

    pub fn fences(&self) -> Vec<Revision> {
        self.script.starts.lock().expect("no panic holds it").iter().map(|s| s.2).collect()
    }

    pub fn starts(&self) -> usize {
        self.script.starts.lock().expect("no panic holds it").len()
    }
}

/// Waits for the ending of the host's command in its journal.
pub async fn until_ended(host: &Host, world: &World) {
    for _ in 0..2_000 {
        let text = std::fs::read_to_string(host.context.claims.path(&world.id)).unwrap_or_default();
        if text.contains("ended") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the command did not end within ten seconds");
}

pub async fn until(done: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen within ten seconds");
}

pub async fn until_state(world: &World, state: TaskState) {
    for _ in 0..2_000 {
        if world.record().await.state == state {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the record did not become {state:?} within ten seconds");
}

pub async fn look(world: &World) -> View {
    let (id, keys, store) = (&world.id, &world.keys, &world.store);
    let record = read_record(store, &id.record_key(keys)).await.expect("record");
    let head = read_record(store, &id.head_key(keys)).await.expect("head");
    let lock = store.read(&id.lock_key(keys)).await.expect("lock").entry;
    let spec = store.read(&keys.key(&Key::RolloutSpec(id.app.clone()))).await.expect("spec").entry;
    View { record, head, lock, spec }
}
