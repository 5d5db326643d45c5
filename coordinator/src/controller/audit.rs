//! The leader's part of the audit trail: what it did, under a lease, so that the trail cannot fill etcd.

use std::time::Duration;

pub use coord_proto::clock::unix_now;
use coord_proto::event::AuditEvent;
use coord_proto::ids::AppName;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::limits::EVENT_TTL;
use coord_proto::rollout::Actor;
use coord_proto::store::{LeaseId, SharedStore, StoreError, Transaction};
use tokio::time::Instant;

/// Events of so long share one lease: a lease per event would cost etcd more than the event.
const LEASE_SHARED: Duration = Duration::from_secs(24 * 3600);

/// Writes the leader's events.
pub struct Audit {
    host: String,
    lease: Option<(LeaseId, Instant)>,
}

impl Audit {
    pub fn new(host: String) -> Self {
        Self { host, lease: None }
    }

    /// The lease of today's events.
    ///
    /// # Errors
    /// The store's.
    pub async fn lease(&mut self, store: &SharedStore) -> Result<LeaseId, StoreError> {
        if let Some((lease, granted)) = self.lease
            && granted.elapsed() < LEASE_SHARED
        {
            return Ok(lease);
        }
        let lease = store.grant(EVENT_TTL).await?;
        self.lease = Some((lease, Instant::now()));
        Ok(lease)
    }

    /// It has ended: the next event gets another.
    pub fn forget_lease(&mut self) {
        self.lease = None;
    }

    /// The coordinator as an actor.
    pub fn actor(&self) -> Actor {
        Actor { user: "coordinator".to_owned(), host: self.host.clone(), at: unix_now(), message: None }
    }

    /// Adds the events to the transaction that makes them true.
    pub fn sign(&self, keys: &KeySpace, app: &AppName, events: &[String], lease: Option<LeaseId>, transaction: &mut Transaction) {
        let Some(lease) = lease else { return };
        for (index, what) in events.iter().enumerate() {
            let event = AuditEvent { app: Some(app.clone()), what: what.clone(), by: self.actor() };
            *transaction = std::mem::take(transaction).put_under(lease, keys.key(&Key::Event(event.id(index))), &event);
        }
    }
}
