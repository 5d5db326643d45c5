use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use coord_proto::ids::{Generation, NodeName, Seq};
use coord_proto::lock::Guard;
use coord_proto::report::{HealthState, Progress, Step};
use coord_proto::store::around::Around;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{Store as _, read_record};
use std::sync::Mutex;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn status(words: &str, done: Option<u64>) -> Status {
    Status {
        node: "web-1".parse().expect("node"),
        app: "a".parse().expect("app"),
        accepted: Seq(1),
        floor: Seq(0),
        running: None,
        staged: None,
        after_done: None,
        step: Step::Staging,
        words: words.into(),
        health: HealthState::Unproven,
        generation: Generation(1),
        rollout: None,
        failure: None,
        digest: None,
        progress: done.map(|done| Progress { done, total: 1_000 }),
        restarted: 0,
        held: std::collections::BTreeMap::new(),
        free: None,
        // Changes with every status, as the loop does it.
        since: done.map_or(0, |done| i64::try_from(done).expect("small")),
    }
}

struct Bench {
    store: MemoryStore,
    client: MemoryStore,
    key: String,
    presence: watch::Sender<Option<Presence>>,
    statuses: watch::Sender<Statuses>,
    /// Bytes that are free.
    disk: Arc<AtomicU64>,
    refused: Arc<Notify>,
    _stop: tokio_util::sync::DropGuard,
}

/// The reporter has a client of its own, so that it can be cut off.
async fn bench() -> Bench {
    let store = MemoryStore::new();
    let client = store.another_client();
    bench_on(store, client.clone(), Arc::new(client))
}

fn bench_on(store: MemoryStore, client: MemoryStore, reporters: SharedStore) -> Bench {
    let (keys, stop) = (KeySpace::default(), CancellationToken::new());
    let (presence, presence_seen) = watch::channel(None);
    let (statuses, statuses_seen) = watch::channel(Statuses::new());
    let refused = Arc::new(Notify::new());
    let disk = Arc::new(AtomicU64::new(1_000));
    let measured = disk.clone();
    let reporter = Reporter {
        store: reporters,
        keys: keys.clone(),
        presence: presence_seen,
        statuses: statuses_seen,
        measure: Arc::new(move |_| Some(Room { bytes: measured.load(Relaxed), inodes: 10 })),
        refused: refused.clone(),
        stop: stop.clone(),
    };
    tokio::spawn(reporter.run());
    let key = keys.key(&Key::Status("web-1".parse().expect("node"), "a".parse().expect("app")));
    Bench { store, client, key, presence, statuses, disk, refused, _stop: stop.drop_guard() }
}

impl Bench {
    async fn register(&self) -> Guard {
        let node: NodeName = "web-1".parse().expect("node");
        let key = KeySpace::default().key(&Key::NodeAlive(node));
        self.store.commit(Transaction::new().delete(&key)).await.expect("deleted");
        let lease = self.store.grant(Duration::from_secs(100_000)).await.expect("lease");
        let put = coord_proto::store::Write::Put { key: key.clone(), value: vec![], lease: Some(lease) };
        let Outcome::Committed(created) = self.store.commit(Transaction { when: vec![], writes: vec![put] }).await.expect("put") else {
            panic!("refused")
        };
        let guard = Guard { key, lease, created };
        self.presence.send_replace(Some(Presence { guard: guard.clone(), lost: CancellationToken::new() }));
        guard
    }

    fn report(&self, status: Status) {
        self.statuses.send_modify(|all| _ = all.insert(status.app.clone(), status));
    }

    /// What the store has after a while: words, progress.
    async fn stored(&self) -> Option<(String, Option<u64>)> {
        tokio::time::sleep(LONG).await;
        self.now().await
    }

    async fn now(&self) -> Option<(String, Option<u64>)> {
        let read = read_record::<Status>(&self.store, &self.key).await.expect("readable");
        read.map(|(s, _)| (s.words, s.progress.map(|p| p.done)))
    }

    /// Free bytes, as the store has them.
    async fn free(&self) -> Option<u64> {
        let read = read_record::<Status>(&self.store, &self.key).await.expect("readable");
        read.and_then(|(s, _)| s.free).map(|room| room.bytes)
    }

    /// Puts of the status so far.
    async fn writes(&self) -> usize {
        let mut watch = self.store.watch(&self.key, coord_proto::ids::Revision(1)).await.expect("watched");
        let Some(coord_proto::store::WatchEvent::Changes { changes, .. }) = watch.recv().await else { panic!("no history") };
        changes.len()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_without_a_presence_and_all_with_the_next_one() {
    let bench = bench().await;
    bench.report(status("one", None));
    assert_eq!(bench.stored().await, None);
    bench.register().await;
    assert_eq!(bench.stored().await, Some(("one".into(), None)));
    // Another instance wrote meanwhile.
    bench.store.commit(Transaction::new().put_record(&bench.key, &status("another's", None))).await.expect("written");
    bench.presence.send_replace(None);
    assert_eq!(bench.stored().await, Some(("another's".into(), None)));
    bench.register().await;
    assert_eq!(bench.stored().await, Some(("one".into(), None)), "a new presence says everything again");
}

#[tokio::test(start_paused = true)]
async fn a_write_under_a_guard_that_is_gone_is_refused_and_told() {
    let bench = bench().await;
    let guard = bench.register().await;
    bench.store.commit(Transaction::new().delete(guard.key)).await.expect("deleted");
    bench.report(status("one", None));
    assert_eq!(bench.stored().await, None);
    tokio::time::timeout(LONG, bench.refused.notified()).await.expect("the keeper is told");
    bench.register().await;
    assert_eq!(bench.stored().await, Some(("one".into(), None)));
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_latest_arrives_and_not_each() {
    let bench = bench().await;
    bench.register().await;
    bench.client.set_offline(true);
    for words in ["one", "two", "three"] {
        bench.report(status(words, None));
        assert_eq!(bench.stored().await, None);
    }
    bench.client.set_offline(false);
    assert_eq!(bench.stored().await, Some(("three".into(), None)));
    assert_eq!(bench.writes().await, 1);
}

/// A hundred servers that download tell of every piece.
#[tokio::test(start_paused = true)]
async fn progress_alone_is_written_now_and_then_and_the_last_one_for_sure() {
    let bench = bench().await;
    bench.register().await;
    for done in 0..100 {
        bench.report(status("staging", Some(done)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let writes = bench.writes().await;
    assert!((3..=7).contains(&writes), "{writes} writes in ten seconds");
    bench.report(status("prepared", Some(99)));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(bench.now().await, Some(("prepared".into(), Some(99))), "what matters is not held back");
    bench.report(status("prepared", Some(100)));
    assert_eq!(bench.stored().await, Some(("prepared".into(), Some(100))));
}

/// A plan reads it: it is as fresh as the last report, and an agent with nothing to do writes only what is worth it.
#[tokio::test(start_paused = true)]
async fn what_is_free_is_told_with_each_report_and_seldom_between_them() {
    let bench = bench().await;
    bench.register().await;
    bench.report(status("one", None));
    bench.stored().await;
    assert_eq!(bench.free().await, Some(1_000));
    let before = bench.writes().await;
    bench.disk.store(960, Relaxed);
    bench.report(status("two", None));
    bench.stored().await;
    assert_eq!((bench.free().await, bench.writes().await), (Some(960), before + 1), "with a report");
    bench.disk.store(940, Relaxed);
    tokio::time::sleep(3 * LOOK_EVERY).await;
    assert_eq!((bench.free().await, bench.writes().await), (Some(960), before + 1), "not for a twentieth");
    bench.disk.store(100, Relaxed);
    tokio::time::sleep(LOOK_EVERY + LONG).await;
    assert_eq!((bench.free().await, bench.writes().await), (Some(100), before + 2), "by itself");
    tokio::time::sleep(20 * LOOK_EVERY).await;
    assert_eq!(bench.writes().await, before + 2, "an idle server is silent");
}

/// A store that keeps a commit on its way while it says that the answer was lost.
struct Slow {
    store: MemoryStore,
    keep_next: Mutex<bool>,
    kept: Mutex<Option<Transaction>>,
}

#[async_trait::async_trait]
impl Around for Slow {
    fn inner(&self) -> &MemoryStore {
        &self.store
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        if std::mem::take(&mut *self.keep_next.lock().expect("not poisoned")) {
            *self.kept.lock().expect("not poisoned") = Some(transaction);
            return Err(StoreError::Indeterminate { doing: "committing".into(), source: None });
        }
        self.store.commit(transaction).await
    }
}

/// The simulator's seed 146: a server told of its way back, and its status of before arrived after that.
#[tokio::test(start_paused = true)]
async fn a_status_that_arrives_late_does_not_replace_a_newer_one() {
    let store = MemoryStore::new();
    let slow = Arc::new(Slow { store: store.clone(), keep_next: Mutex::new(false), kept: Mutex::new(None) });
    let bench = bench_on(store.clone(), store.clone(), slow.clone());
    bench.register().await;
    bench.report(status("one", None));
    assert_eq!(bench.stored().await, Some(("one".into(), None)));
    *slow.keep_next.lock().expect("not poisoned") = true;
    bench.report(status("two", None));
    tokio::time::sleep(Duration::from_millis(1)).await;
    bench.report(status("three", None));
    assert_eq!(bench.stored().await, Some(("three".into(), None)), "said after the lost answer");
    let late = slow.kept.lock().expect("not poisoned").take().expect("on its way");
    assert!(!store.commit(late).await.expect("answered").committed(), "it comes too late");
    bench.report(status("four", None));
    assert_eq!(bench.stored().await, Some(("four".into(), None)));
}
