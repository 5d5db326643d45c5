//! Writes this server's status records: the latest of each app, each under the presence's guard (I5).

use std::collections::BTreeMap;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::AppName;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::report::Status;
use coord_proto::retry::{Backoff, after};
use coord_proto::store::{SharedStore, StoreError, Transaction};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::presence::{Presence, guard};

/// What there is to report, by app; newer statuses replace older ones that were not written yet.
pub type Statuses = BTreeMap<AppName, Status>;

/// The task that reports.
pub struct Reporter {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub presence: watch::Receiver<Option<Presence>>,
    pub statuses: watch::Receiver<Statuses>,
    pub stop: CancellationToken,
}

impl Reporter {
    /// Writes until stopped; what could not be written is written when the store is back.
    pub async fn run(mut self) {
        let mut written = Statuses::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let retry = match self.write_new(&mut written).await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(e) => {
                    debug!("the status was not written: {}", inline(&e));
                    Some(backoff.next())
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = self.statuses.changed() => if changed.is_err() { return },
                changed = self.presence.changed() => if changed.is_err() { return } else {
                    // A new presence may follow another instance's writes: say everything again.
                    written.clear();
                },
                () = after(retry) => {}
            }
        }
    }

    async fn write_new(&mut self, written: &mut Statuses) -> Result<(), StoreError> {
        let Some(guard) = guard(&self.presence) else { return Ok(()) };
        let latest = self.statuses.borrow_and_update().clone();
        for (app, status) in latest {
            if written.get(&app) == Some(&status) {
                continue;
            }
            let key = self.keys.key(&Key::Status(status.node.clone(), app.clone()));
            let transaction = Transaction::new().when(guard.compare()).put_record(key, &status);
            if self.store.commit(transaction).await?.committed() {
                written.insert(app, status);
            }
        }
        Ok(())
    }
}
