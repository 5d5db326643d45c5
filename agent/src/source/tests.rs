use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use coord_proto::ids::{Generation, NodeName, Seq};
use coord_proto::labels::Labels;
use coord_proto::store::around::Around;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::mirror::follow;
use coord_proto::store::{Reading, Store as _, Transaction};
use coord_proto::trust::Trust;

use super::*;
use crate::manifests::Manifests;

/// Longer than any wait of the source.
const LONG: Duration = Duration::from_secs(60);

struct Bench {
    store: MemoryStore,
    keys: KeySpace,
    node: NodeName,
    goals: mpsc::Receiver<(AppName, Goal)>,
    _stop: tokio_util::sync::DropGuard,
    _dir: tempfile::TempDir,
}

const TRUST: &str =
    "version = 1\nenvironment = \"e\"\nthreshold = 1\nkeys = [\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]\n";

fn bench() -> Bench {
    let (store, keys) = (MemoryStore::new(), KeySpace::default());
    bench_on(store.clone(), keys, Arc::new(store))
}

/// `shared` is how the source sees `store`.
fn bench_on(store: MemoryStore, keys: KeySpace, shared: SharedStore) -> Bench {
    let stop = CancellationToken::new();
    let node: NodeName = "web-1".parse().expect("node");
    let mirror = follow(shared.clone(), keys.desired(&node), stop.clone());
    let (sender, goals) = mpsc::channel(16);
    let dir = tempfile::tempdir().expect("dir");
    let trust = Trust::parse(TRUST).expect("a trust file");
    let manifests = Manifests { store: shared.clone(), keys: keys.clone(), trust, apps: dir.path().into() };
    let unled = Unled::new(node.clone(), Labels::new(), vec![], manifests, Duration::from_secs(15));
    tokio::spawn(Source { store: shared, keys: keys.clone(), mirror, unled, goals: sender, stop: stop.clone() }.run());
    Bench { store, keys, node, goals, _stop: stop.drop_guard(), _dir: dir }
}

/// A store whose lists and watches work, and whose reads do not.
struct ReadsFail {
    store: MemoryStore,
    failing: AtomicBool,
    tries: AtomicU32,
}

#[async_trait::async_trait]
impl Around for ReadsFail {
    fn inner(&self) -> &MemoryStore {
        &self.store
    }

    async fn read(&self, key: &str) -> Result<Reading, StoreError> {
        if !self.failing.load(Ordering::SeqCst) {
            return self.store.read(key).await;
        }
        // Each look reads `stable` and the spec: one of them is counted.
        self.tries.fetch_add(u32::from(key.ends_with("/stable")), Ordering::SeqCst);
        Err(StoreError::Unavailable { doing: format!("reading {key}"), source: None })
    }
}

impl Bench {
    fn desired(&self, app: &str, run: u64) -> Desired {
        Desired {
            node: self.node.clone(),
            app: app.parse().expect("app"),
            run: Seq(run),
            stage: None,
            after: None,
            generation: Generation(run),
            rollout: None,
            may_migrate: false,
            restart: 0,
            attempt: 0,
        }
    }

    async fn tell(&self, node: &NodeName, app: &str, run: u64) {
        let desired = Desired { node: node.clone(), ..self.desired(app, run) };
        let key = self.keys.key(&Key::Desired(node.clone(), desired.app.clone()));
        self.store.commit(Transaction::new().put_record(key, &desired)).await.expect("told");
    }

    async fn put(&self, key: &Key, value: &str) {
        self.store.commit(Transaction::new().put(self.keys.key(key), value)).await.expect("put");
    }

    /// The next goal: app and seq.
    async fn next(&mut self) -> (String, u64) {
        let (app, goal) = tokio::time::timeout(LONG, self.goals.recv()).await.expect("within a minute").expect("still running");
        (app.to_string(), goal.run.0)
    }

    async fn nothing_more(&mut self) {
        let more = tokio::time::timeout(LONG, self.goals.recv()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_goal_is_told_once_and_again_when_it_changes() {
    let mut bench = bench();
    let (node, other) = (bench.node.clone(), "web-10".parse().expect("node"));
    bench.tell(&node, "a", 1).await;
    assert_eq!(bench.next().await, ("a".into(), 1));
    bench.tell(&node, "a", 1).await;
    bench.tell(&other, "a", 7).await;
    bench.nothing_more().await;
    bench.tell(&node, "a", 2).await;
    assert_eq!(bench.next().await, ("a".into(), 2));
}

/// The simulator's seed 70: `stable` moved on and back while a record stayed as it was.
#[tokio::test(start_paused = true)]
async fn a_goal_that_stable_decided_follows_stable() {
    let mut bench = bench();
    let node = bench.node.clone();
    let stable = |seq: u64| format!(r#"{{"version":1,"seq":{seq},"release":"r{seq}"}}"#);
    let key = Key::Stable("a".parse().expect("app"));
    bench.put(&key, &stable(5)).await;
    bench.tell(&node, "a", 3).await;
    assert_eq!(bench.next().await, ("a".into(), 5));
    bench.put(&key, &stable(3)).await;
    assert_eq!(bench.next().await, ("a".into(), 3), "moved back");
    bench.nothing_more().await;
}

/// An absent record never stops or removes anything.
#[tokio::test(start_paused = true)]
async fn a_record_that_is_deleted_changes_nothing() {
    let mut bench = bench();
    let node = bench.node.clone();
    bench.tell(&node, "a", 1).await;
    bench.next().await;
    let key = bench.keys.key(&Key::Desired(node, "a".parse().expect("app")));
    bench.store.commit(Transaction::new().delete(key)).await.expect("deleted");
    bench.nothing_more().await;
}

/// Of app `a` the desired record, `stable` or the spec was written by a newer program.
#[tokio::test(start_paused = true)]
async fn an_app_that_cannot_be_read_holds_up_no_other() {
    let a: AppName = "a".parse().expect("app");
    for key in [Key::Desired("web-1".parse().expect("node"), a.clone()), Key::Stable(a.clone()), Key::RolloutSpec(a)] {
        let mut bench = bench();
        let node = bench.node.clone();
        bench.tell(&node, "a", 1).await;
        assert_eq!(bench.next().await, ("a".into(), 1));
        bench.put(&key, r#"{"version":99}"#).await;
        bench.tell(&node, "a", 2).await;
        bench.put(&key, r#"{"version":99}"#).await;
        bench.tell(&node, "b", 5).await;
        let mut told = bench.next().await;
        // The record was whole for a moment.
        if told.0 == "a" {
            told = bench.next().await;
        }
        assert_eq!(told, ("b".into(), 5), "{key:?}");
        let mend = bench.keys.key(&key);
        bench.store.commit(Transaction::new().delete(mend)).await.expect("mended");
        bench.tell(&node, "a", 3).await;
        assert_eq!(bench.next().await, ("a".into(), 3), "{key:?}: read again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_store_gives_no_goals() {
    let mut bench = bench();
    let node = bench.node.clone();
    for run in [1, 2, 3] {
        bench.tell(&node, "a", run).await;
        bench.next().await;
    }
    bench.store.set_offline(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.store.forget_everything();
    // It counts from the beginning again, and what is read there now is of another past.
    let key = bench.keys.key(&Key::Stable("a".parse().expect("app")));
    let elsewhere = Transaction::new().put(key, r#"{"version":1,"seq":5,"release":"r5"}"#);
    bench.store.another_client().commit(elsewhere).await.expect("put");
    bench.store.set_offline(false);
    bench.nothing_more().await;
    bench.tell(&node, "a", 1).await;
    bench.nothing_more().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_again() {
    let mut bench = bench();
    let node = bench.node.clone();
    let other = bench.store.another_client();
    bench.store.set_offline(true);
    let key = bench.keys.key(&Key::Desired(node, "a".parse().expect("app")));
    other.commit(Transaction::new().put_record(key, &bench.desired("a", 4))).await.expect("told");
    bench.nothing_more().await;
    bench.store.set_offline(false);
    assert_eq!(bench.next().await, ("a".into(), 4));
}

/// The watch is fine, and reads fail: they are tried again, more and more rarely.
#[tokio::test(start_paused = true)]
async fn a_read_that_fails_is_tried_again_after_growing_waits() {
    let (store, keys) = (MemoryStore::new(), KeySpace::default());
    let reads = Arc::new(ReadsFail { store: store.clone(), failing: true.into(), tries: 0.into() });
    let mut bench = bench_on(store, keys, reads.clone());
    let node = bench.node.clone();
    bench.tell(&node, "a", 4).await;
    bench.nothing_more().await;
    // Full jitter below 0.1, 0.2, … 10 s, never under a tenth of it: in a minute 60 at the very most, and 8 at least.
    let tries = reads.tries.load(Ordering::SeqCst);
    assert!((8..=60).contains(&tries), "{tries} tries in a minute");
    reads.failing.store(false, Ordering::SeqCst);
    assert_eq!(bench.next().await, ("a".into(), 4), "nothing changed but that reads work again");
}

/// `stable` went on while it was cordoned, or it was cordoned after the coordinator died.
#[tokio::test(start_paused = true)]
async fn a_cordoned_server_is_not_taken_to_stable() {
    let mut bench = bench();
    let (node, app): (NodeName, AppName) = (bench.node.clone(), "a".parse().expect("app"));
    let stable = StableRecord { seq: Seq(5), release: "r5".parse().expect("release"), back_from: None };
    let key = bench.keys.key(&Key::Stable(app));
    bench.store.commit(Transaction::new().put_record(key, &stable)).await.expect("put");
    bench.put(&Key::NodeCordon(node.clone()), "").await;
    bench.tell(&node, "a", 3).await;
    bench.nothing_more().await;
    bench.tell(&node, "a", 5).await;
    assert_eq!(bench.next().await, ("a".into(), 5), "what is not behind stands");
    let cordon = bench.keys.key(&Key::NodeCordon(node.clone()));
    bench.store.commit(Transaction::new().delete(cordon)).await.expect("uncordoned");
    bench.tell(&node, "a", 4).await;
    assert_eq!(bench.next().await, ("a".into(), 5), "a returner takes stable");
}
