//! One transaction, settled: it happened, or it did not, also when the store's answer was lost.

use std::time::Duration;

use coord_proto::event::AuditEvent;
use coord_proto::ids::Revision;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::limits::EVENT_TTL;
use coord_proto::retry::Backoff;
use coord_proto::store::{Outcome, Store, StoreError, Transaction, Write};

/// Transactions tried, of one whose answer is lost, and while others change the same keys.
pub const TRIES_MAX: u32 = 5;

/// Why nobody can say that it happened.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It did not happen.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store's answer was lost, and it does not say whether this happened")]
    Unsettled(#[source] StoreError),
}

/// Commits an operator's change with its audit event; `None`: something changed meanwhile, nothing was written.
///
/// # Errors
/// The store's.
pub async fn audited(
    store: &dyn Store,
    keys: &KeySpace,
    transaction: Transaction,
    event: &AuditEvent,
) -> Result<Option<Revision>, CommitError> {
    let lease = store.grant(EVENT_TTL).await?;
    let transaction = transaction.put_under(lease, keys.key(&Key::Event(event.id(0))), event);
    let committed = settled(store, transaction).await?;
    if committed.is_none() {
        // The audit event was not written; its lease would only linger.
        let _ = store.revoke(lease).await;
    }
    Ok(committed)
}

/// Commits; `None`: refused, nothing was written. A lost answer is settled by reading back, and by sending the same transaction again: it
/// happens at most once, because it compares a key that it changes.
async fn settled(store: &dyn Store, transaction: Transaction) -> Result<Option<Revision>, CommitError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    let mut lost = None;
    while backoff.tries() < TRIES_MAX {
        match store.commit(transaction.clone()).await {
            Ok(Outcome::Committed(at)) => return Ok(Some(at)),
            // After a lost answer a refusal may mean that the first one happened.
            Ok(Outcome::Refused(_)) => return if lost.is_some() { find_own(store, &transaction).await } else { Ok(None) },
            Err(e @ StoreError::Indeterminate { .. }) => lost = Some(e),
            Err(e) if lost.is_none() || !e.passing() => return Err(e.into()),
            Err(_) => {}
        }
        tokio::time::sleep(backoff.next()).await;
    }
    lost.map_or(Ok(None), |source| Err(CommitError::Unsettled(source)))
}

/// Did this transaction happen? Its audit event has a key of its own, which nobody writes again; what it changed may be somebody else's by now.
async fn find_own(store: &dyn Store, transaction: &Transaction) -> Result<Option<Revision>, CommitError> {
    let event = transaction.writes.iter().find_map(|write| match write {
        Write::Put { key, lease: Some(_), .. } => Some(key),
        _ => None,
    });
    let Some(event) = event else { return Ok(None) };
    Ok(store.read(event).await?.entry.map(|entry| entry.created))
}
