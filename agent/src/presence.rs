//! This server's presence in the store: a lease-bound key that every write of this agent compares (I5).
//!
//! An agent that restarts within its lease replaces its own key, for it knows its instance id. Another instance with
//! the same node name waits, writes nothing, and says so.

use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::NodeName;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::lock::Guard;
use coord_proto::report::{Alive, NodeInfo};
use coord_proto::retry::Backoff;
use coord_proto::store::session::{Session, SessionState, boottime};
use coord_proto::store::{Compare, Outcome, SharedStore, StoreError, Transaction, read_record};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// This server's presence: what every write of this agent is made under.
#[derive(Debug, Clone)]
pub struct Presence {
    pub guard: Guard,
    /// Cancelled a margin before the lease can have ended, on this host's own CLOCK_BOOTTIME.
    pub lost: CancellationToken,
}

/// What the server says of itself.
#[derive(Debug, Clone)]
pub struct Registration {
    pub info: NodeInfo,
    pub alive: Alive,
    /// The lease's time to live.
    pub ttl: Duration,
}

/// Keeps the presence until `stop`; `None` while it is not held.
pub struct Keeper {
    store: SharedStore,
    keys: KeySpace,
    registration: Registration,
    stop: CancellationToken,
    /// Somebody's write under the presence was refused.
    refused: Arc<Notify>,
    sender: watch::Sender<Option<Presence>>,
}

/// What came of one try to register.
enum Registered {
    Held(Guard),
    /// Another agent has this node name.
    Taken(String),
    /// Somebody wrote in between: look again.
    Again,
}

/// Why a presence is not published any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldEnd {
    Stopped,
    /// The lease may have ended.
    Untrusted,
    /// The lease lives, and the key under it is gone or another's.
    Refused,
}

impl Keeper {
    /// A keeper, and what it publishes.
    pub fn new(
        store: SharedStore,
        keys: KeySpace,
        registration: Registration,
        stop: CancellationToken,
    ) -> (Self, watch::Receiver<Option<Presence>>) {
        let (sender, receiver) = watch::channel(None);
        (Self { store, keys, registration, stop, refused: Arc::default(), sender }, receiver)
    }

    /// To be told when the store refuses a write under the presence: then it is looked at, and made again where it is gone.
    pub fn refused(&self) -> Arc<Notify> {
        self.refused.clone()
    }

    /// Registers, holds, and registers again, until stopped; then gives the lease back.
    pub async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while !self.stop.is_cancelled() {
            match self.hold_once(&mut backoff).await {
                Ok(()) => {}
                Err(e) => warn!("not registered in the store: {}; trying again", inline(&e)),
            }
            self.sender.send_replace(None);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn hold_once(&self, backoff: &mut Backoff) -> Result<(), StoreError> {
        let session = Session::open(self.store.clone(), self.registration.ttl, &CancellationToken::new()).await?;
        // One for the lease, however often its key is put again: whoever relies on the lease is told of its end.
        let lost = CancellationToken::new();
        let _told = lost.clone().drop_guard();
        loop {
            match self.register(&session).await? {
                Registered::Held(guard) => {
                    backoff.reset();
                    match self.hold(&session, guard, &lost).await {
                        // A restart within the lease goes unnoticed: the next start takes the key over, and a rollout in its
                        // middle counts no lost server.
                        HoldEnd::Stopped => return Ok(()),
                        HoldEnd::Refused => {}
                        HoldEnd::Untrusted => {
                            warn!("the presence of {} may have ended: the store did not renew its lease in time", self.node());
                            // Ended now, the key does not stand in the way of the next registration; unreachable, it ends by itself.
                            let _ = tokio::time::timeout(Duration::from_secs(2), session.close()).await;
                            return Ok(());
                        }
                    }
                }
                Registered::Taken(by) => {
                    warn!("another agent is registered as {}: {by}; this one writes nothing until that one is gone", self.node());
                    tokio::select! {
                        () = self.stop.cancelled() => return Ok(()),
                        () = session.lost() => return Ok(()),
                        () = tokio::time::sleep(self.registration.ttl) => {}
                    }
                }
                Registered::Again => {}
            }
        }
    }

    /// This agent before a restart. A machine cloned with its state directory has the same instance id: that one is another.
    fn is_own(&self, found: &Alive) -> bool {
        let own = &self.registration.alive;
        (&found.instance, &found.machine_id) == (&own.instance, &own.machine_id)
    }

    fn node(&self) -> &NodeName {
        &self.registration.info.node
    }

    async fn register(&self, session: &Session) -> Result<Registered, StoreError> {
        let key = self.keys.key(&Key::NodeAlive(self.node().clone()));
        let found = read_record::<Alive>(self.store.as_ref(), &key).await?;
        if let Some((alive, _)) = &found
            && !self.is_own(alive)
        {
            return Ok(Registered::Taken(format!("instance {} on machine {}", alive.instance, alive.machine_id)));
        }
        let info_key = self.keys.key(&Key::NodeInfo(self.node().clone()));
        let transaction = Transaction::new()
            .when(Compare::unchanged(&key, found.as_ref().map(|(_, e)| e)))
            .put_under(session.lease(), &key, &self.registration.alive)
            .put_record(info_key, &self.registration.info);
        let Outcome::Committed(revision) = self.store.commit(transaction).await? else { return Ok(Registered::Again) };
        // A key that was there keeps its create revision, now under the new lease.
        let created = found.map_or(revision, |(_, e)| e.created);
        Ok(Registered::Held(Guard { key, lease: session.lease(), created }))
    }

    /// Publishes the presence until the lease may have ended, or the key is not the one that was put.
    async fn hold(&self, session: &Session, guard: Guard, lost: &CancellationToken) -> HoldEnd {
        info!("registered as {}", self.node());
        self.sender.send_replace(Some(Presence { guard, lost: lost.clone() }));
        let end = tokio::select! {
            () = self.stop.cancelled() => HoldEnd::Stopped,
            () = untrusted(session, self.margin()) => HoldEnd::Untrusted,
            () = self.refused.notified() => HoldEnd::Refused,
        };
        if end != HoldEnd::Refused {
            lost.cancel();
        }
        self.sender.send_replace(None);
        end
    }

    /// How long before the lease can have ended it is no longer relied on.
    fn margin(&self) -> Duration {
        self.registration.ttl / 5
    }
}

/// Resolves a margin before the lease can have ended, on this host's CLOCK_BOOTTIME.
async fn untrusted(session: &Session, margin: Duration) {
    let mut state = session.state();
    loop {
        let SessionState::Alive { trusted_until_boottime } = *state.borrow_and_update() else { return };
        let left = trusted_until_boottime.saturating_sub(margin).saturating_sub(boottime());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// The presence's transaction guard, or none while it is not held.
pub fn guard(presence: &watch::Receiver<Option<Presence>>) -> Option<Guard> {
    presence.borrow().as_ref().filter(|p| !p.lost.is_cancelled()).map(|p| p.guard.clone())
}

#[cfg(test)]
mod tests;
