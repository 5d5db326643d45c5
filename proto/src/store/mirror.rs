//! A live copy of everything below a prefix: level, not edge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Change, Entry, Listing, SharedStore, StoreError, WatchEvent};
use crate::chain::inline;
use crate::ids::Revision;
use crate::retry::Backoff;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

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

impl From<Listing> for Mirror {
    /// One read, as a fresh view.
    fn from(listing: Listing) -> Self {
        let entries = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        Self { entries, revision: listing.revision, fresh: true, ready: true, restored: false }
    }
}

/// Keeps a mirror of `prefix` until `stop`; the receiver's sender goes then.
///
/// A view that nobody holds is changed in place, else copied first: hold the [`Arc`] no longer than needed.
pub fn follow(store: SharedStore, prefix: String, stop: CancellationToken) -> watch::Receiver<Arc<Mirror>> {
    let (sender, receiver) = watch::channel(Arc::new(Mirror::default()));
    let follower = Follower { store, prefix, cluster: None, view: sender };
    tokio::spawn(async move { stop.run_until_cancelled(follower.run()).await });
    receiver
}

struct Follower {
    store: SharedStore,
    prefix: String,
    cluster: Option<u64>,
    view: watch::Sender<Arc<Mirror>>,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        while !self.view.is_closed() {
            match self.list_and_watch(&mut backoff).await {
                Ok(()) => {}
                Err(error) => {
                    self.stale();
                    // The first one is told: a role that does not cover the prefix never passes by itself.
                    if backoff.tries() == 0 {
                        tracing::warn!(prefix = self.prefix, error = %inline(&error), "cannot list, trying again");
                    } else {
                        tracing::debug!(prefix = self.prefix, error = %inline(&error), "cannot list, trying again");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Ends when the view must be listed again.
    async fn list_and_watch(&mut self, backoff: &mut Backoff) -> Result<(), StoreError> {
        self.check_identity().await?;
        let listing = self.store.list(&self.prefix).await?;
        let next = Revision(listing.revision.0 + 1);
        self.replace(listing);
        backoff.reset();
        let mut watch = self.store.watch(&self.prefix, next).await?;
        loop {
            let event = tokio::select! {
                () = self.view.closed() => return Ok(()),
                event = watch.recv() => event,
            };
            match event {
                None | Some(WatchEvent::Compacted) => return Ok(()),
                Some(WatchEvent::Lost) => self.stale(),
                Some(WatchEvent::Changes { revision, changes }) => {
                    // Back after a gap: a store that was restored meanwhile would answer from another past.
                    let back = !self.view.borrow().fresh;
                    if back && !self.check_identity().await? {
                        return Ok(());
                    }
                    self.apply(revision, changes);
                    backoff.reset();
                }
            }
        }
    }

    /// Is it the store that was seen before?
    async fn check_identity(&mut self) -> Result<bool, StoreError> {
        let identity = self.store.identity_at(&self.prefix).await?;
        let seen = self.view.borrow().revision;
        let same = *self.cluster.get_or_insert(identity.cluster) == identity.cluster && identity.revision >= seen;
        if !same {
            tracing::error!(prefix = self.prefix, cluster = identity.cluster, "the store was restored from a backup");
            self.cluster = Some(identity.cluster);
            self.change(|view| {
                view.restored = true;
                view.revision = Revision(0);
            });
        }
        Ok(same)
    }

    fn replace(&self, listing: Listing) {
        self.change(|view| {
            view.entries = listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            view.revision = listing.revision;
            view.fresh = true;
            view.ready = true;
        });
    }

    fn apply(&self, revision: Revision, changes: Vec<Change>) {
        if changes.is_empty() && self.view.borrow().fresh {
            return;
        }
        self.change(|view| {
            changes.into_iter().for_each(|change| apply_one(&mut view.entries, change));
            view.revision = view.revision.max(revision);
            view.fresh = true;
        });
    }

    fn stale(&self) {
        if self.view.borrow().fresh {
            self.change(|view| view.fresh = false);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Mirror)) {
        self.view.send_modify(|view| change(Arc::make_mut(view)));
    }
}

fn apply_one(entries: &mut BTreeMap<String, Entry>, change: Change) {
    match change {
        Change::Put(entry) => entries.insert(entry.key.clone(), entry),
        Change::Deleted { key, .. } => entries.remove(&key),
    };
}

#[cfg(test)]
mod tests;
