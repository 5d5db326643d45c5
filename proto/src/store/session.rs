//! A lease kept alive by its own task, and until when it may be trusted.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{LeaseId, SharedStore, StoreError};

/// What the holder knows of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Nobody else can have ended it for lack of renewals before this time on CLOCK_BOOTTIME: it was read before the
    /// last acknowledged renewal was sent, and the TTL added.
    Alive { trusted_until_boottime: Duration },
    /// It has ended, or nobody knows any more. Final.
    Lost,
}

/// A lease that is renewed every third of its TTL. Dropped, it is renewed no more and ends by itself.
pub struct Session {
    lease: LeaseId,
    store: SharedStore,
    state: watch::Receiver<SessionState>,
    stop: CancellationToken,
}

impl Session {
    /// Grants a lease and starts to renew it until `stop`.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(store: SharedStore, ttl: Duration, stop: &CancellationToken) -> Result<Self, StoreError> {
        let lease = store.grant(ttl).await?;
        let (_sender, state) = watch::channel(SessionState::Lost);
        Ok(Self { lease, store, state, stop: stop.child_token() })
    }

    /// The lease to put keys under.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// The state, to be followed.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }

    /// Resolves when the lease is lost.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        // An ended sender means that the session was stopped: nothing renews it any more.
        let _ = state.wait_for(|s| *s == SessionState::Lost).await;
    }

    /// Stops renewing and ends the lease: its keys vanish now.
    ///
    /// # Errors
    /// The store's; the lease then ends by itself.
    pub async fn close(self) -> Result<(), StoreError> {
        self.stop.cancel();
        self.store.revoke(self.lease).await
    }
}
