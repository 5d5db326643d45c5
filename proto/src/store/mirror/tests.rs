use super::*;
use crate::store::around::Around;
use crate::store::memory::MemoryStore;
use crate::store::{Store as _, Transaction};

type View = watch::Receiver<Arc<Mirror>>;

fn start(store: &MemoryStore) -> (View, CancellationToken) {
    let stop = CancellationToken::new();
    (follow(Arc::new(store.clone()), "/t/".into(), stop.clone()), stop)
}

async fn put(store: &MemoryStore, key: &str) {
    store.commit(Transaction::new().put(key, "x")).await.expect("committed");
}

async fn until(view: &mut View, what: impl Fn(&Mirror) -> bool) {
    let hour = Duration::from_secs(3600);
    tokio::time::timeout(hour, view.wait_for(|m| what(m))).await.expect("within the hour").expect("still following");
}

fn keys(mirror: &Mirror) -> Vec<&str> {
    mirror.entries.keys().map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_are_followed() {
    let store = MemoryStore::new();
    put(&store, "/t/a").await;
    let (mut view, _stop) = start(&store);
    assert!(!view.borrow().ready, "nothing was read yet: an absent key means nothing");
    until(&mut view, |m| m.ready && keys(m) == ["/t/a"]).await;
    store.commit(Transaction::new().put("/t/b", "x").delete("/t/a")).await.expect("committed");
    until(&mut view, |m| keys(m) == ["/t/b"]).await;
    assert_eq!(view.borrow().revision, store.identity().await.expect("answered").revision);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_leaves_the_last_view() {
    let store = MemoryStore::new();
    let other = store.another_client();
    put(&store, "/t/a").await;
    let (mut view, _stop) = start(&store);
    until(&mut view, |m| m.fresh).await;
    store.set_offline(true);
    until(&mut view, |m| !m.fresh).await;
    put(&other, "/t/b").await;
    assert_eq!(keys(&view.borrow()), ["/t/a"]);
    store.set_offline(false);
    until(&mut view, |m| m.fresh && keys(m) == ["/t/a", "/t/b"]).await;
    assert!(!view.borrow().restored);
}

#[tokio::test(start_paused = true)]
async fn a_store_away_at_first_is_waited_for() {
    let store = MemoryStore::new();
    store.set_offline(true);
    let (mut view, _stop) = start(&store);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!view.borrow().ready && !view.borrow().fresh);
    store.set_offline(false);
    until(&mut view, |m| m.ready && m.fresh).await;
}

#[tokio::test(start_paused = true)]
async fn a_compacted_history_is_listed_again() {
    let store = MemoryStore::new();
    let other = store.another_client();
    put(&store, "/t/a").await;
    let (mut view, _stop) = start(&store);
    until(&mut view, |m| m.fresh).await;
    store.set_offline(true);
    until(&mut view, |m| !m.fresh).await;
    other.commit(Transaction::new().delete("/t/a").put("/t/b", "x")).await.expect("committed");
    put(&other, "/t/c").await;
    other.compact(other.identity().await.expect("answered").revision);
    store.set_offline(false);
    until(&mut view, |m| m.fresh && keys(m) == ["/t/b", "/t/c"]).await;
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_told_and_stays_told() {
    let store = MemoryStore::new();
    put(&store, "/t/a").await;
    let (mut view, _stop) = start(&store);
    until(&mut view, |m| m.fresh).await;
    store.set_offline(true);
    until(&mut view, |m| !m.fresh).await;
    store.set_cluster(2);
    store.set_offline(false);
    until(&mut view, |m| m.restored && m.fresh).await;
    put(&store, "/t/b").await;
    until(&mut view, |m| m.restored && keys(m) == ["/t/a", "/t/b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_went_back_is_told() {
    let store = MemoryStore::new();
    put(&store, "/t/a").await;
    let (mut view, _stop) = start(&store);
    until(&mut view, |m| m.fresh).await;
    store.set_offline(true);
    until(&mut view, |m| !m.fresh).await;
    store.forget_everything();
    store.set_offline(false);
    until(&mut view, |m| m.restored && m.fresh && m.entries.is_empty()).await;
}

/// A store where the reader's role covers what it mirrors, and nothing else.
struct Narrow(MemoryStore);

impl Narrow {
    fn covered(key: &str) -> Result<(), StoreError> {
        if key.starts_with("/t/") { Ok(()) } else { Err(StoreError::Refused { doing: format!("reading {key}"), source: None }) }
    }
}

#[async_trait::async_trait]
impl Around for Narrow {
    fn inner(&self) -> &MemoryStore {
        &self.0
    }

    async fn read(&self, key: &str) -> Result<crate::store::Reading, StoreError> {
        Self::covered(key)?;
        self.0.read(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Self::covered(prefix)?;
        self.0.list(prefix).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<crate::store::Watch, StoreError> {
        Self::covered(prefix)?;
        self.0.watch(prefix, from).await
    }
    async fn identity(&self) -> Result<crate::store::Identity, StoreError> {
        Around::identity_at(self, "/coord/v1").await
    }
    async fn identity_at(&self, key: &str) -> Result<crate::store::Identity, StoreError> {
        Self::covered(key)?;
        self.0.identity().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_that_covers_the_prefix_is_enough() {
    let store = MemoryStore::new();
    put(&store, "/t/a").await;
    let mut view = follow(Arc::new(Narrow(store)), "/t/".into(), CancellationToken::new());
    until(&mut view, |m| m.ready && keys(m) == ["/t/a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_view_that_somebody_holds_does_not_change_under_them() {
    let store = MemoryStore::new();
    let (mut view, _stop) = start(&store);
    until(&mut view, |m| m.ready).await;
    let held = view.borrow().clone();
    put(&store, "/t/a").await;
    until(&mut view, |m| keys(m) == ["/t/a"]).await;
    assert!(held.entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_mirror_ends() {
    let store = MemoryStore::new();
    let (mut view, stop) = start(&store);
    until(&mut view, |m| m.ready).await;
    stop.cancel();
    while view.changed().await.is_ok() {}
}
