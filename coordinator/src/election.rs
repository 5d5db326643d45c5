//! Who leads: a key under a lease, put only when it is absent.
//!
//! The guard that winning gives is compared by every write of the leader (I5): after its lease is gone, nothing that it
//! still sends happens (I10), whatever its own clock says.

use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::coordinator::LeaderRecord;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::lock::Guard;
use coord_proto::retry::Backoff;
use coord_proto::store::mirror::Mirror;
use coord_proto::store::session::Session;
use coord_proto::store::{Compare, Entry, Outcome, SharedStore, StoreError, Transaction};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// The leadership, while its lease lives.
pub struct Leadership {
    pub guard: Guard,
    session: Session,
}

impl Leadership {
    /// Resolves when the lease is lost: write nothing more.
    pub async fn lost(&self) {
        self.session.lost().await;
    }

    /// Does this view still show it? A view from before the election says nothing.
    pub fn stands_in(&self, mirror: &Mirror) -> bool {
        mirror.revision < self.guard.created || mirror.entries.get(&self.guard.key).is_some_and(|e| e.created == self.guard.created)
    }

    /// Gives it back, so that another coordinator takes over at once.
    pub async fn resign(self) {
        if let Err(error) = self.session.close().await {
            tracing::warn!(error = %inline(&error), "the leadership was not given back; it ends with its lease");
        }
    }
}

/// One coordinator's candidacy.
pub struct Candidate {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub ttl: Duration,
    /// What `coordctl` shows; its instance tells a won election from a lost reply.
    pub record: LeaderRecord,
}

impl Candidate {
    /// Waits until nobody leads, and leads. Waits for a store that is away; cancel it by dropping.
    pub async fn campaign(&self, mirrors: &mut watch::Receiver<Arc<Mirror>>, stop: &CancellationToken) -> Leadership {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            self.vacant(mirrors).await;
            match self.attempt(stop).await {
                Ok(Some(leadership)) => return leadership,
                Ok(None) => backoff.reset(),
                Err(error) => tracing::warn!(error = %inline(&error), "cannot campaign, trying again"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Resolves when a fresh view shows no leader. Never by a view of a restored store: who may decide nothing by what it sees must
    /// not lead, because then `coordctl` would have a leader that does nothing.
    async fn vacant(&self, mirrors: &mut watch::Receiver<Arc<Mirror>>) {
        let key = self.key();
        let vacant = |m: &Arc<Mirror>| m.ready && m.fresh && !m.restored && !m.entries.contains_key(&key);
        if mirrors.wait_for(vacant).await.is_err() {
            // The mirror was stopped, and so will this be.
            std::future::pending::<()>().await;
        }
    }

    /// One try; none: somebody else was faster.
    async fn attempt(&self, stop: &CancellationToken) -> Result<Option<Leadership>, StoreError> {
        let session = Session::open(self.store.clone(), self.ttl, stop).await?;
        let put = Transaction::new().when(Compare::absent(self.key())).put_under(session.lease(), self.key(), &self.record);
        let created = match self.store.commit(put).await {
            Ok(Outcome::Committed(revision)) => Some(revision),
            Ok(Outcome::Refused(_)) => None,
            // The reply was lost: what stands there decides.
            Err(StoreError::Indeterminate { .. }) => self.own(&session).await?.map(|entry| entry.created),
            Err(error) => return Err(error),
        };
        let Some(created) = created else {
            session.close().await?;
            return Ok(None);
        };
        let guard = Guard { key: self.key(), lease: session.lease(), created };
        Ok(Some(Leadership { guard, session }))
    }

    async fn own(&self, session: &Session) -> Result<Option<Entry>, StoreError> {
        let entry = self.store.read(&self.key()).await?.entry;
        Ok(entry.filter(|e| e.lease == Some(session.lease())))
    }

    fn key(&self) -> String {
        self.keys.key(&Key::Leader)
    }
}

#[cfg(test)]
mod tests;
