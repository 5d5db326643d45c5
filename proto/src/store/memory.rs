//! A store in this process with etcd's semantics and faults on demand: for tests and for the simulator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use state::{Shared, State};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Change, Identity, LeaseId, Listing, Outcome, Reading, Store, StoreError, Transaction, Watch, WatchEvent};
use crate::ids::Revision;

pub mod state;

/// Watch events kept for a slow reader; the history keeps the rest.
const WATCH_QUEUE_MAX: usize = 16;

/// One client of a store in this process. Clones are the same client: they share its faults.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    faults: Arc<Faults>,
}

/// What is wrong between one client and the store.
#[derive(Default)]
struct Faults {
    offline: AtomicBool,
    drop_next_reply: AtomicBool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store, and its first client.
    pub fn new() -> Self {
        Self { shared: Arc::default(), faults: Arc::default() }
    }

    /// Another client of the same store, with faults of its own.
    #[must_use]
    pub fn another_client(&self) -> Self {
        Self { shared: self.shared.clone(), faults: Arc::default() }
    }

    /// Cuts this client off, or lets it back: calls fail with `Unavailable`, watches say `Lost`, leases run out.
    pub fn set_offline(&self, offline: bool) {
        self.faults.offline.store(offline, Ordering::SeqCst);
        self.shared.wake();
    }

    /// The next commit of this client happens, and its reply is lost.
    pub fn drop_next_reply(&self) {
        self.faults.drop_next_reply.store(true, Ordering::SeqCst);
    }

    /// Ends a lease now, as if its time had passed.
    pub fn end_lease(&self, lease: LeaseId) {
        self.shared.change(|state| state.end_lease(lease));
    }

    /// Forgets the history below `revision`.
    pub fn compact(&self, revision: Revision) {
        self.shared.change(|state| state.compact(revision));
    }

    /// From now on it is another cluster, as after a restore from a backup.
    pub fn set_cluster(&self, cluster: u64) {
        self.shared.change(|state| state.cluster = cluster);
    }

    /// From now on it holds nothing and counts from the beginning, under the same id: an older backup, at its worst.
    pub fn forget_everything(&self) {
        self.shared.change(State::forget);
    }

    fn offline(&self) -> bool {
        self.faults.offline.load(Ordering::SeqCst)
    }

    fn reach(&self, doing: impl FnOnce() -> String) -> Result<(), StoreError> {
        if self.offline() { Err(StoreError::Unavailable { doing: doing(), source: None }) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn read(&self, key: &str) -> Result<Reading, StoreError> {
        self.reach(|| format!("reading {key}"))?;
        Ok(self.shared.look(|state| Reading { entry: state.keys.get(key).cloned(), revision: state.revision }))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.reach(|| format!("listing {prefix}"))?;
        Ok(self.shared.look(|state| Listing { entries: state.below(prefix), revision: state.revision }))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.reach(|| format!("watching {prefix}"))?;
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        tokio::spawn(follow(self.clone(), prefix.to_owned(), from, sender));
        Ok(receiver)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.reach(|| "committing".to_owned())?;
        let outcome = self.shared.change(|state| state.commit(&transaction))?;
        if self.faults.drop_next_reply.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Indeterminate { doing: "committing".to_owned(), source: None });
        }
        Ok(outcome)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.reach(|| "granting a lease".to_owned())?;
        let ttl = whole_seconds(ttl);
        let lease = self.shared.change(|state| state.grant(ttl, Instant::now()));
        tokio::spawn(expire(self.shared.clone(), lease));
        Ok(lease)
    }

    async fn renew(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.reach(|| "renewing a lease".to_owned())?;
        self.shared.change(|state| state.renew(lease, Instant::now()))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.reach(|| "revoking a lease".to_owned())?;
        self.shared.change(|state| state.end_lease(lease));
        Ok(())
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        self.reach(|| "asking who the store is".to_owned())?;
        Ok(self.shared.look(|state| Identity { cluster: state.cluster, revision: state.revision }))
    }
}

fn whole_seconds(ttl: Duration) -> Duration {
    Duration::from_secs(super::ttl_seconds(ttl))
}

/// Ends a lease when its time has passed; every renewal moves the time.
async fn expire(shared: Arc<Shared>, lease: LeaseId) {
    while let Some(deadline) = shared.look(|state| state.deadline(lease)) {
        if deadline <= Instant::now() {
            return shared.change(|state| state.end_lease(lease));
        }
        tokio::time::sleep_until(deadline).await;
    }
}

/// One watch: reads the history from where it is, whenever something has changed.
async fn follow(client: MemoryStore, prefix: String, mut from: Revision, sender: mpsc::Sender<WatchEvent>) {
    let mut ticks = client.shared.ticks();
    let mut greeted = false;
    let mut lost = false;
    loop {
        ticks.borrow_and_update();
        let event = if client.offline() {
            (!std::mem::replace(&mut lost, true)).then_some(WatchEvent::Lost)
        } else {
            let greet = std::mem::replace(&mut lost, false) || !std::mem::replace(&mut greeted, true);
            client.shared.look(|state| next_event(state, &prefix, &mut from, greet))
        };
        let last = event == Some(WatchEvent::Compacted);
        if let Some(event) = event
            && sender.send(event).await.is_err()
        {
            return;
        }
        if last {
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = ticks.changed() => if changed.is_err() { return },
        }
    }
}

fn next_event(state: &State<Instant>, prefix: &str, from: &mut Revision, greet: bool) -> Option<WatchEvent> {
    let Some(changes) = state.since(prefix, *from) else { return Some(WatchEvent::Compacted) };
    if let Some(last) = changes.last() {
        *from = Revision(revision_of(last).0 + 1);
    }
    let seen = Revision(from.0 - 1);
    (greet || !changes.is_empty()).then_some(WatchEvent::Changes { revision: seen, changes })
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.modified,
        Change::Deleted { revision, .. } => *revision,
    }
}
