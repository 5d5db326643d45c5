//! Candidates on the in-memory store; time is virtual.

use coord_proto::ids::Nonce;
use coord_proto::store::Store;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::mirror;
use tokio::time::Instant;

use super::*;

const TTL: Duration = Duration::from_secs(15);

struct Runner {
    candidate: Candidate,
    mirrors: watch::Receiver<Arc<Mirror>>,
    stop: CancellationToken,
}

impl Runner {
    fn new(client: MemoryStore, host: &str) -> Self {
        let (store, keys, stop): (SharedStore, _, _) = (Arc::new(client), KeySpace::default(), CancellationToken::new());
        let record = LeaderRecord { host: host.into(), pid: 1, instance: Nonce::random(), since: 0 };
        let mirrors = mirror::follow(store.clone(), keys.all(), stop.clone());
        Self { candidate: Candidate { store, keys, ttl: TTL, record }, mirrors, stop }
    }

    async fn campaign(&mut self) -> Leadership {
        self.candidate.campaign(&mut self.mirrors, &self.stop).await
    }

    /// The view once it shows at least this revision.
    async fn view(&mut self, revision: coord_proto::ids::Revision) -> Arc<Mirror> {
        self.mirrors.wait_for(|m| m.revision >= revision).await.expect("followed").clone()
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_takes_over_when_the_lease_ends() {
    let store = MemoryStore::new();
    let (mut one, mut two) = (Runner::new(store.clone(), "c1"), Runner::new(store.another_client(), "c2"));
    let first = one.campaign().await;
    let waits = tokio::time::timeout(TTL * 10, two.campaign()).await;
    assert!(waits.is_err(), "while the first renews its lease, the second waits");
    let before = Instant::now();
    store.end_lease(first.guard.lease);
    let second = two.campaign().await;
    assert!(before.elapsed() <= TTL, "{:?}", before.elapsed());
    assert!(second.guard.created > first.guard.created);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_died_is_replaced_within_its_ttl() {
    let store = MemoryStore::new();
    let (mut one, mut two) = (Runner::new(store.clone(), "c1"), Runner::new(store.another_client(), "c2"));
    let first = one.campaign().await;
    // Dropped as by SIGKILL: nothing is revoked, nothing is renewed.
    drop(first);
    let before = Instant::now();
    let _second = two.campaign().await;
    assert!(before.elapsed() <= TTL + Duration::from_secs(2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_leadership_is_seen_in_the_view_and_by_the_session() {
    let store = MemoryStore::new();
    let mut one = Runner::new(store.clone(), "c1");
    let leadership = one.campaign().await;
    let view = one.view(leadership.guard.created).await;
    assert!(leadership.stands_in(&view));
    assert!(leadership.stands_in(&Mirror::default()), "a view from before the election says nothing");
    store.end_lease(leadership.guard.lease);
    leadership.lost().await;
    let gone = one.view(coord_proto::ids::Revision(leadership.guard.created.0 + 1)).await;
    assert!(!leadership.stands_in(&gone));
}

#[tokio::test(start_paused = true)]
async fn a_won_election_whose_reply_was_lost_is_won() {
    let store = MemoryStore::new();
    let mut one = Runner::new(store.clone(), "c1");
    store.drop_next_reply();
    let leadership = one.campaign().await;
    let entry = store.read(&leadership.guard.key).await.expect("read").entry.expect("the leader key");
    assert_eq!((entry.created, entry.lease), (leadership.guard.created, Some(leadership.guard.lease)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_resigns_leaves_no_key() {
    let store = MemoryStore::new();
    let mut one = Runner::new(store.clone(), "c1");
    let leadership = one.campaign().await;
    let key = leadership.guard.key.clone();
    leadership.resign().await;
    assert_eq!(store.read(&key).await.expect("read").entry, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_leads_by_a_view_of_a_restored_store() {
    let store = MemoryStore::new();
    let mut one = Runner::new(store.clone(), "c1");
    one.mirrors.wait_for(|m| m.ready).await.expect("followed");
    let (sender, mirrors) = watch::channel(Arc::new(Mirror { ready: true, fresh: true, restored: true, ..Mirror::default() }));
    one.mirrors = mirrors;
    assert!(tokio::time::timeout(TTL * 10, one.campaign()).await.is_err(), "it would lead and do nothing");
    sender.send_replace(Arc::new(Mirror { ready: true, fresh: true, ..Mirror::default() }));
    one.campaign().await;
}
