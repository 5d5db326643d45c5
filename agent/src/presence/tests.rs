use std::sync::Arc;

use coord_proto::ids::Nonce;
use coord_proto::store::Store as _;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::read_record;

use super::*;

fn registration(instance: &str) -> Registration {
    let info = NodeInfo {
        node: "web-1".parse().expect("node"),
        labels: [("role".to_owned(), "web".to_owned()), ("zone".to_owned(), "a".to_owned())].into(),
        addresses: vec!["10.0.0.1".into()],
        agent_version: "0".into(),
        apps: vec!["mootube".into()],
        since: 0,
    };
    let alive =
        Alive { instance: Nonce::fixed(instance), machine_id: String::new(), boot_id: String::new(), agent_version: "0".into(), since: 0 };
    Registration { info, alive, ttl: Duration::from_secs(10) }
}

fn start(store: &MemoryStore, instance: &str) -> (CancellationToken, watch::Receiver<Option<Presence>>, tokio::task::JoinHandle<()>) {
    let stop = CancellationToken::new();
    let (keeper, presence) = Keeper::new(Arc::new(store.clone()), KeySpace::default(), registration(instance), stop.clone());
    (stop, presence, tokio::spawn(keeper.run()))
}

async fn held(presence: &mut watch::Receiver<Option<Presence>>) -> Guard {
    let seen = presence.wait_for(Option::is_some).await.expect("the keeper runs");
    seen.as_ref().expect("waited for").guard.clone()
}

async fn key_is_there(store: &MemoryStore) -> bool {
    let key = KeySpace::default().key(&Key::NodeAlive("web-1".parse().expect("node")));
    store.read(&key).await.expect("read").entry.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_restart_within_the_lease_leaves_no_gap() {
    let store = MemoryStore::new();
    let (stop, mut presence, task) = start(&store, "one");
    let first = held(&mut presence).await;
    stop.cancel();
    task.await.expect("ended");
    assert!(key_is_there(&store).await, "the coordinator would count a lost server");
    let (_stop, mut presence, _task) = start(&store, "one");
    let second = held(&mut presence).await;
    assert_eq!(second.created, first.created, "it is the same key, under another lease");
    assert_ne!(second.lease, first.lease);
}

#[tokio::test(start_paused = true)]
async fn another_instance_of_the_same_name_waits_until_the_first_is_gone() {
    let store = MemoryStore::new();
    let (stop, mut presence, task) = start(&store, "one");
    let first = held(&mut presence).await;
    let (_stop, mut other, _task) = start(&store, "two");
    let waited = tokio::time::timeout(Duration::from_secs(60), held(&mut other)).await;
    assert!(waited.is_err(), "two agents of one name wrote at once");
    stop.cancel();
    task.await.expect("ended");
    let second = held(&mut other).await;
    assert_ne!(second.created, first.created);
}

/// A machine cloned together with its state directory.
#[tokio::test(start_paused = true)]
async fn the_same_instance_on_another_machine_is_another_agent() {
    let store = MemoryStore::new();
    let (_stop, mut presence, _task) = start(&store, "one");
    held(&mut presence).await;
    let mut clone = registration("one");
    clone.alive.machine_id = "of the clone".into();
    let (keeper, mut other) = Keeper::new(Arc::new(store.clone()), KeySpace::default(), clone, CancellationToken::new());
    tokio::spawn(keeper.run());
    let waited = tokio::time::timeout(Duration::from_secs(60), held(&mut other)).await;
    assert!(waited.is_err(), "two agents wrote under one guard");
}

/// Somebody deletes the key: the lease lives, and with it the lock of a migration that runs.
#[tokio::test(start_paused = true)]
async fn a_deleted_key_is_made_again_under_the_same_lease_once_a_write_was_refused() {
    let store = MemoryStore::new();
    let stop = CancellationToken::new();
    let (keeper, mut presence) = Keeper::new(Arc::new(store.clone()), KeySpace::default(), registration("one"), stop.clone());
    let refused = keeper.refused();
    tokio::spawn(keeper.run());
    let first = held(&mut presence).await;
    let lost = presence.borrow_and_update().clone().expect("held").lost;
    store.commit(Transaction::new().delete(&first.key)).await.expect("deleted");
    refused.notify_one();
    let again = presence.wait_for(|p| p.as_ref().is_some_and(|p| p.guard != first));
    let again = tokio::time::timeout(Duration::from_secs(60), again).await.expect("in time").expect("the keeper runs");
    let second = again.as_ref().expect("waited for").guard.clone();
    assert_eq!(second.lease, first.lease);
    assert!(second.created > first.created && !lost.is_cancelled());
}

/// Whoever relies on the lease hears of its end a margin before it, not after; the clock is the machine's own.
#[tokio::test]
async fn the_presence_is_lost_a_margin_before_the_lease_can_have_ended() {
    let store = MemoryStore::new();
    let ttl = Duration::from_secs(4);
    let session = Session::open(Arc::new(store.clone()), ttl, &CancellationToken::new()).await.expect("granted");
    store.set_offline(true);
    let SessionState::Alive { trusted_until_boottime } = *session.state().borrow() else { panic!("alive") };
    untrusted(&session, ttl * 3 / 4).await;
    let left = trusted_until_boottime.saturating_sub(boottime());
    assert!(!left.is_zero() && left <= ttl * 3 / 4, "told with {left:?} left");
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_told_and_the_server_registers_again() {
    let store = MemoryStore::new();
    let (_stop, mut presence, _task) = start(&store, "one");
    let first = held(&mut presence).await;
    let lost = presence.borrow().clone().expect("held").lost;
    store.end_lease(first.lease);
    lost.cancelled().await;
    presence.wait_for(Option::is_none).await.expect("told");
    assert_ne!(held(&mut presence).await.created, first.created);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_is_stands_beside_its_presence_and_outlives_it() {
    let store = MemoryStore::new();
    let (_stop, mut presence, _task) = start(&store, "one");
    let lease = held(&mut presence).await.lease;
    let key = KeySpace::default().key(&Key::NodeInfo("web-1".parse().expect("node")));
    let (info, _) = read_record::<NodeInfo>(&store, &key).await.expect("read").expect("written with the presence");
    assert_eq!(info, registration("one").info);
    store.end_lease(lease);
    let kept = read_record::<NodeInfo>(&store, &key).await.expect("read");
    assert!(kept.is_some(), "a server that is gone is still a server of the fleet");
}
