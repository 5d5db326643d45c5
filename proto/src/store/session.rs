//! A lease kept alive by its own task, and until when it may be trusted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{LeaseId, SharedStore, StoreError};
use crate::retry::Backoff;

/// Renewals per TTL: two may fail before the lease is in danger.
const RENEWALS_PER_TTL: u32 = 3;
/// Longest wait between tries of a renewal that failed, as a part of the TTL: an outage that ends shortly before the lease
/// does must still be noticed in time.
const RETRY_MOST_PER_TTL: u32 = 12;
/// First wait after a renewal that failed.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Time since boot, suspended time included: a machine that slept must not believe in a lease that ran out meanwhile.
pub type BootClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// CLOCK_BOOTTIME (clock_gettime(2)).
pub fn boottime() -> Duration {
    let now = nix::time::ClockId::CLOCK_BOOTTIME.now().expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    now.into()
}

/// What the holder knows of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// The store cannot have ended it for lack of renewals before this time on CLOCK_BOOTTIME: the clock was read before the
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
        Self::open_by(store, ttl, stop, Arc::new(boottime)).await
    }

    /// [`Session::open`] with another clock, for simulations.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_by(store: SharedStore, ttl: Duration, stop: &CancellationToken, clock: BootClock) -> Result<Self, StoreError> {
        let sent = clock();
        let lease = store.grant(ttl).await?;
        let trusted = sent + ttl;
        let (sender, state) = watch::channel(SessionState::Alive { trusted_until_boottime: trusted });
        let stop = stop.child_token();
        let renewer = Renewer { store: store.clone(), lease, ttl, clock, trusted };
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(renewer.run(sender)).await });
        Ok(Self { lease, store, state, stop })
    }

    /// The lease to put keys under.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// The state, to be followed. Its sender goes when the session is stopped.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }

    /// Resolves when the lease is lost, or nobody renews it any more.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
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

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Renewer {
    store: SharedStore,
    lease: LeaseId,
    ttl: Duration,
    clock: BootClock,
    trusted: Duration,
}

impl Renewer {
    async fn run(mut self, state: watch::Sender<SessionState>) {
        loop {
            tokio::time::sleep(self.ttl / RENEWALS_PER_TTL).await;
            match self.renewed().await {
                Some(trusted) => self.trusted = trusted,
                None => break,
            }
            state.send_replace(SessionState::Alive { trusted_until_boottime: self.trusted });
        }
        state.send_replace(SessionState::Lost);
    }

    /// Until when the lease is trusted after a renewal; none when it has ended or its trusted time has passed.
    async fn renewed(&self) -> Option<Duration> {
        let mut backoff = Backoff::new(RETRY_FIRST, self.ttl / RETRY_MOST_PER_TTL);
        loop {
            let sent = (self.clock)();
            let left = self.trusted.checked_sub(sent).filter(|left| !left.is_zero())?;
            match tokio::time::timeout(left, self.store.renew(self.lease)).await {
                // A reply that took longer than the TTL proves nothing.
                Ok(Ok(ttl)) => return Some(sent + ttl).filter(|trusted| *trusted > (self.clock)()),
                Ok(Err(StoreError::LeaseEnded(_))) => return None,
                Ok(Err(error)) => {
                    tracing::debug!(lease = self.lease.0, error = %crate::chain::inline(&error), "the lease was not renewed, trying again");
                    tokio::time::sleep(backoff.next().min(left)).await;
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
