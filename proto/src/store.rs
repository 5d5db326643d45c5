//! The store that coordinator and agents talk through: revisions, guarded transactions, leases, watches.
//!
//! The semantics are etcd's v3 API (<https://etcd.io/docs/v3.5/learning/api/>); [`memory`] has the same and both pass
//! one conformance suite. Reads are linearizable.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::ids::Revision;
use crate::record::{self, Record, RecordError};

pub mod around;
pub mod etcd;
pub mod memory;
pub mod mirror;
pub mod session;

/// A store that tasks share.
pub type SharedStore = Arc<dyn Store>;

/// A lease: keys put under it vanish when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision at which the key came into being (this time).
    pub created: Revision,
    /// Revision of the last put.
    pub modified: Revision,
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// The value as a record.
    ///
    /// # Errors
    /// The key is named in [`StoreError::Record`].
    pub fn record<R: Record>(&self) -> Result<R, StoreError> {
        record::decode(&self.value).map_err(|source| StoreError::Record { key: self.key.clone(), source })
    }
}

/// Keys below a prefix, in byte order, all as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub revision: Revision,
}

/// One key as of a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub entry: Option<Entry>,
    pub revision: Revision,
}

/// Something that must hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key's last put was at this revision; revision 0: it does not exist.
    ModRevision { key: String, revision: Revision },
    /// The key came into being at this revision; revision 0: it does not exist.
    CreateRevision { key: String, revision: Revision },
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::CreateRevision { key: key.into(), revision: Revision(0) }
    }

    /// The key is as it was read (absent stays absent).
    pub fn unchanged(key: impl Into<String>, entry: Option<&Entry>) -> Self {
        Self::ModRevision { key: key.into(), revision: entry.map_or(Revision(0), |e| e.modified) }
    }

    /// The key that is compared.
    pub fn key(&self) -> &str {
        match self {
            Self::ModRevision { key, .. } | Self::CreateRevision { key, .. } => key,
        }
    }
}

/// A write inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
}

/// All writes happen at one revision, or none does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub when: Vec<Compare>,
    pub writes: Vec<Write>,
}

impl Transaction {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.when.push(compare);
        self
    }

    /// Adds a put of raw bytes.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds a put of a record.
    #[must_use]
    pub fn put_record<R: Record>(self, key: impl Into<String>, value: &R) -> Self {
        self.put(key, record::encode(value))
    }

    /// Adds a put under a lease.
    #[must_use]
    pub fn put_under<R: Record>(mut self, lease: LeaseId, key: impl Into<String>, value: &R) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: record::encode(value), lease: Some(lease) });
        self
    }

    /// Adds a deletion (of a key that may be absent).
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All writes happened, at this revision.
    Committed(Revision),
    /// A condition did not hold; nothing was written. The store's revision is given.
    Refused(Revision),
}

impl Outcome {
    /// Did the writes happen?
    pub fn committed(self) -> bool {
        matches!(self, Self::Committed(_))
    }
}

/// One change below a watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Deleted { key: String, revision: Revision },
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Changes in order, none left out since the revision asked for. May be empty: the store is there, at this revision.
    Changes { revision: Revision, changes: Vec<Change> },
    /// The history asked for was compacted away: list again and watch from there. The watch has ended.
    Compacted,
    /// The store does not answer since now; the watch goes on by itself (I6: what was seen stays, with its age).
    Lost,
}

/// A running watch: dropped, it ends. It never ends by itself but after [`WatchEvent::Compacted`].
pub type Watch = mpsc::Receiver<WatchEvent>;

/// Who the store is: another id or a lower revision than one seen before means that it was restored from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub revision: Revision,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was changed.
    #[error("the store did not answer while {doing}")]
    Unavailable {
        doing: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A transaction was sent, and no answer came: it may or may not have happened. Read back to know.
    #[error("the store's answer was lost while {doing}; it may have happened")]
    Indeterminate {
        doing: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error("the lease {0:?} has ended")]
    LeaseEnded(LeaseId),
    #[error("the store refused {doing}")]
    Refused {
        doing: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error("what is stored under {key} cannot be read")]
    Record {
        key: String,
        #[source]
        source: RecordError,
    },
    #[error("the store's client cannot be set up: {problem}")]
    Setup {
        problem: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl StoreError {
    /// May the same call work later?
    pub fn passing(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Indeterminate { .. })
    }
}

/// The store. Every call has a deadline of a few seconds; reads are tried again at other endpoints within it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key, linearizable.
    async fn read(&self, key: &str) -> Result<Reading, StoreError>;

    /// All keys that start with `prefix`, in byte order, as of one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// All changes below `prefix` with a revision ≥ `from` (read it as "last revision seen + 1").
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;

    /// All writes at one revision if all conditions hold, else none.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// A new lease that ends `ttl` (whole seconds, rounded up) after its last renewal.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease; [`StoreError::LeaseEnded`] when it is gone.
    async fn renew(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// Ends a lease and deletes its keys; ending one that is gone is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Who the store is, and how far.
    async fn identity(&self) -> Result<Identity, StoreError>;

    /// The same, asked by reading `key`: for those whose role covers it and not everything.
    async fn identity_at(&self, _key: &str) -> Result<Identity, StoreError> {
        self.identity().await
    }
}

/// Reads one record.
///
/// # Errors
/// The store's, and [`StoreError::Record`].
pub async fn read_record<R: Record>(store: &dyn Store, key: &str) -> Result<Option<(R, Entry)>, StoreError> {
    match store.read(key).await?.entry {
        None => Ok(None),
        Some(entry) => Ok(Some((entry.record()?, entry))),
    }
}

/// A lease's TTL as etcd takes it: whole seconds, rounded up, at least one.
fn ttl_seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
}
