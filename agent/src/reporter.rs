//! Writes this server's status records: the latest of each app, each under the presence's guard (I5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, Revision};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::report::Status;
use coord_proto::retry::{Backoff, after};
use coord_proto::room::Room;
use coord_proto::store::{Compare, Outcome, SharedStore, StoreError, Transaction};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::presence::{Presence, guard};

pub mod free;

use free::{LOOK_EVERY, Measure};

/// A change of progress alone is written this often: a download has one for every piece, on every server at once.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What there is to report, by app; newer statuses replace older ones that were not written yet.
pub type Statuses = BTreeMap<AppName, Status>;

/// The task that reports.
pub struct Reporter {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub presence: watch::Receiver<Option<Presence>>,
    pub statuses: watch::Receiver<Statuses>,
    pub measure: Measure,
    /// Told when the store refuses what this presence writes: its key is gone, and must be made again.
    pub refused: Arc<Notify>,
    pub stop: CancellationToken,
}

/// What the store has of one app, and since when.
struct Written {
    /// As it was to be reported: without what is free.
    status: Status,
    free: Option<Room>,
    /// When that was last looked at.
    looked: Instant,
    at: Instant,
}

/// What is known of the store.
#[derive(Default)]
struct Known {
    written: BTreeMap<AppName, Written>,
    /// Of each status record: every write compares it. One whose answer was lost may still arrive after a newer one, and must not
    /// replace it: an agent that has nothing new to say would never put that right.
    revisions: BTreeMap<AppName, Revision>,
}

impl Reporter {
    /// Writes until stopped; what could not be written is written when the store is back.
    pub async fn run(mut self) {
        let mut known = Known::default();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let retry = match self.write_new(&mut known).await {
                Ok(later) => {
                    backoff.reset();
                    later
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
                    known = Known::default();
                },
                () = after(retry) => {}
            }
        }
    }

    /// Gives how long until there may be something to write again.
    async fn write_new(&mut self, known: &mut Known) -> Result<Option<Duration>, StoreError> {
        let Some(guard) = guard(&self.presence) else { return Ok(None) };
        let latest = self.statuses.borrow_and_update().clone();
        let mut later = None;
        for (app, status) in latest {
            if let Some(wait) = held_back(known.written.get(&app), &status) {
                later = sooner(later, wait);
                continue;
            }
            later = sooner(later, LOOK_EVERY);
            let free = free::look(&self.measure, &app).await;
            if let Some(seen) = known.written.get_mut(&app).filter(|seen| seen.status == status && !free::moved(seen.free, free)) {
                seen.looked = Instant::now();
                continue;
            }
            let key = self.keys.key(&Key::Status(status.node.clone(), app.clone()));
            // Forgotten until the answer says otherwise.
            let revision = match known.revisions.remove(&app) {
                Some(revision) => revision,
                None => self.store.read(&key).await?.entry.map_or(Revision(0), |entry| entry.modified),
            };
            let unchanged = Compare::ModRevision { key: key.clone(), revision };
            let transaction = Transaction::new().when(guard.compare()).when(unchanged);
            let transaction = transaction.put_record(key, &Status { free, ..status.clone() });
            let Outcome::Committed(revision) = self.store.commit(transaction).await? else {
                warn!(
                    "the store refused this server's status: its presence or its last status is not the one that is there; registering again"
                );
                self.refused.notify_one();
                return Ok(None);
            };
            let now = Instant::now();
            known.revisions.insert(app.clone(), revision);
            known.written.insert(app, Written { status, free, looked: now, at: now });
        }
        Ok(later)
    }
}

/// How long this status is held back: what is written, until the disk is looked at again; a change of progress alone, a moment.
fn held_back(written: Option<&Written>, status: &Status) -> Option<Duration> {
    let Written { status: old, at, looked, .. } = written?;
    let left = |since: &Instant, every: Duration| every.checked_sub(since.elapsed()).filter(|wait| !wait.is_zero());
    if old == status {
        return left(looked, LOOK_EVERY);
    }
    let same = Status { progress: status.progress, since: status.since, ..old.clone() } == *status;
    left(at, PROGRESS_EVERY).filter(|_| same)
}

fn sooner(first: Option<Duration>, second: Duration) -> Option<Duration> {
    Some(first.map_or(second, |first| first.min(second)))
}

#[cfg(test)]
mod tests;
