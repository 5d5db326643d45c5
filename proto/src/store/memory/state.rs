//! The state behind all clients: keys, history and leases, changed under one lock.
//!
//! [`State`] is synchronous and knows no clock: the simulator runs on it with virtual time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Add;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ids::Revision;
use crate::store::{Change, Compare, Entry, LeaseId, Outcome, StoreError, Transaction, Write};

/// Operations that one transaction may have, as etcd's `--max-txn-ops` is by default.
const TRANSACTION_OPS_MAX: usize = 128;
/// Bytes that one transaction may have, as etcd's `--max-request-bytes` is by default.
const TRANSACTION_BYTES_MAX: usize = 1536 * 1024;

/// The state and its lock; `ticks` wakes the watches after every change.
pub(super) struct Shared {
    state: Mutex<State<Instant>>,
    ticks: watch::Sender<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), ticks: watch::Sender::new(()) }
    }
}

impl Shared {
    pub(super) fn look<T>(&self, read: impl FnOnce(&State<Instant>) -> T) -> T {
        read(&self.lock())
    }

    pub(super) fn change<T>(&self, write: impl FnOnce(&mut State<Instant>) -> T) -> T {
        let result = write(&mut self.lock());
        self.wake();
        result
    }

    pub(super) fn wake(&self) {
        self.ticks.send_replace(());
    }

    pub(super) fn ticks(&self) -> watch::Receiver<()> {
        self.ticks.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State<Instant>> {
        // A test that panicked inside the lock has failed already; the others may go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything the store holds. `At` is a point in time of whoever keeps the clock.
pub struct State<At> {
    /// Another one: restored from a backup.
    pub cluster: u64,
    /// Of the last write.
    pub revision: Revision,
    /// What is there now.
    pub keys: BTreeMap<String, Entry>,
    compacted: Revision,
    history: Vec<(Revision, Change)>,
    leases: HashMap<LeaseId, Lease<At>>,
    leases_granted: i64,
}

struct Lease<At> {
    ttl: Duration,
    deadline: At,
}

impl<At> Default for State<At> {
    fn default() -> Self {
        Self {
            cluster: 1,
            // etcd's first revision: an empty store answers 1, the first write is 2.
            revision: Revision(1),
            keys: BTreeMap::new(),
            compacted: Revision(0),
            history: Vec::new(),
            leases: HashMap::new(),
            leases_granted: 0,
        }
    }
}

impl<At: Copy + Add<Duration, Output = At>> State<At> {
    /// All keys that start with `prefix`, in byte order.
    pub fn below(&self, prefix: &str) -> Vec<Entry> {
        let after = self.keys.range(prefix.to_owned()..);
        after.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect()
    }

    /// Changes with a revision of at least `from`; none where that history is gone.
    pub fn since(&self, prefix: &str, from: Revision) -> Option<Vec<Change>> {
        if from < self.compacted {
            return None;
        }
        let start = self.history.partition_point(|(revision, _)| *revision < from);
        let changes = self.history[start..].iter().map(|(_, change)| change);
        Some(changes.filter(|change| key_of(change).starts_with(prefix)).cloned().collect())
    }

    /// Holds nothing and counts from the beginning, under the same id.
    pub fn forget(&mut self) {
        *self = Self { cluster: self.cluster, ..Self::default() };
    }

    /// Forgets the history below `revision`.
    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        self.history.retain(|(at, _)| *at >= self.compacted);
    }

    /// All writes at one revision if all conditions hold, else none.
    ///
    /// # Errors
    /// A lease that a put names has ended, or etcd would refuse the request for its shape.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        check(transaction)?;
        if !transaction.when.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome::Refused(self.revision));
        }
        for write in &transaction.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseEnded(*lease));
            }
        }
        self.apply(transaction.writes.iter().cloned());
        Ok(Outcome::Committed(self.revision))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.keys.get(compare.key());
        match compare {
            Compare::ModRevision { revision, .. } => entry.map_or(Revision(0), |e| e.modified) == *revision,
            Compare::CreateRevision { revision, .. } => entry.map_or(Revision(0), |e| e.created) == *revision,
        }
    }

    /// All writes at the next revision; a deletion of an absent key is none.
    fn apply(&mut self, writes: impl Iterator<Item = Write>) {
        let next = Revision(self.revision.0 + 1);
        for write in writes {
            let change = match write {
                Write::Put { key, value, lease } => Change::Put(self.put(key, value, lease, next)),
                Write::Delete { key } if self.keys.remove(&key).is_some() => Change::Deleted { key, revision: next },
                Write::Delete { .. } => continue,
            };
            self.revision = next;
            self.history.push((next, change));
        }
    }

    fn put(&mut self, key: String, value: Vec<u8>, lease: Option<LeaseId>, at: Revision) -> Entry {
        let created = self.keys.get(&key).map_or(at, |old| old.created);
        let entry = Entry { key: key.clone(), value, created, modified: at, lease };
        self.keys.insert(key, entry.clone());
        entry
    }

    /// A new lease that ends `ttl` after its last renewal: whoever keeps the clock calls [`State::end_lease`] then.
    pub fn grant(&mut self, ttl: Duration, now: At) -> LeaseId {
        self.leases_granted += 1;
        let lease = LeaseId(self.leases_granted);
        self.leases.insert(lease, Lease { ttl, deadline: now + ttl });
        lease
    }

    /// Renews a lease, and gives its time to live.
    ///
    /// # Errors
    /// It has ended.
    pub fn renew(&mut self, lease: LeaseId, now: At) -> Result<Duration, StoreError> {
        let held = self.leases.get_mut(&lease).ok_or(StoreError::LeaseEnded(lease))?;
        held.deadline = now + held.ttl;
        Ok(held.ttl)
    }

    /// When a lease ends, if nobody renews it; none when it has ended.
    pub fn deadline(&self, lease: LeaseId) -> Option<At> {
        self.leases.get(&lease).map(|held| held.deadline)
    }

    /// Deletes the lease's keys at one revision.
    pub fn end_lease(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys: Vec<String> = self.keys.values().filter(|e| e.lease == Some(lease)).map(|e| e.key.clone()).collect();
        self.apply(keys.into_iter().map(|key| Write::Delete { key }));
    }
}

fn key_of(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Deleted { key, .. } => key,
    }
}

/// What etcd refuses before it looks at any key.
fn check(transaction: &Transaction) -> Result<(), StoreError> {
    let refuse = |why: &str| Err(StoreError::Refused { doing: "committing".to_owned(), source: Some(why.into()) });
    let mut keys = BTreeSet::new();
    let mut bytes = 0;
    for write in &transaction.writes {
        let (key, len) = match write {
            Write::Put { key, value, .. } => (key, value.len()),
            Write::Delete { key } => (key, 0),
        };
        bytes += key.len() + len;
        if !keys.insert(key) {
            return refuse("duplicate key given in txn request");
        }
    }
    if transaction.writes.len() > TRANSACTION_OPS_MAX || transaction.when.len() > TRANSACTION_OPS_MAX {
        return refuse("too many operations in txn request");
    }
    if bytes > TRANSACTION_BYTES_MAX { refuse("request is too large") } else { Ok(()) }
}
