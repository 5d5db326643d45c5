//! A live copy of everything below a prefix: level, not edge.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Entry, SharedStore};
use crate::ids::Revision;

/// The last good view (I6): a failed or partial read never changes it, only its freshness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror {
    pub entries: BTreeMap<String, Entry>,
    pub revision: Revision,
    /// The store answers; what is here is what it has, but for what is on its way.
    pub fresh: bool,
    /// The first list was read; before that, an absent key means nothing.
    pub ready: bool,
    /// Another cluster id or a lower revision was seen: the store was restored from a backup. Stays set.
    pub restored: bool,
}

/// Keeps a mirror of `prefix` until `stop`; the receiver's sender is dropped then.
pub fn follow(store: SharedStore, prefix: String, stop: CancellationToken) -> watch::Receiver<Arc<Mirror>> {
    let (_sender, receiver) = watch::channel(Arc::new(Mirror::default()));
    let _ = (store, prefix, stop);
    receiver
}
