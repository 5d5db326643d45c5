//! Settles what this server owes the records: endings that its journal knows and the store does not, whatever the goal is now.
//!
//! The effect that ran a command may be gone: the goal went elsewhere while the store was away, or the agent was restarted.
//! Every claim file that nobody works on is looked at until the record has its end. The records' own comparisons make that
//! safe beside anything else.

use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::NodeName;
use coord_proto::keys::KeySpace;
use coord_proto::lock::Guard;
use coord_proto::migration::{self, TaskId, TaskState, View};
use coord_proto::retry::{Backoff, after};
use coord_proto::store::{SharedStore, Transaction, read_record};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::claims::{Claim, Claims, Held, JournaledEnding, Progress};
use super::{LOOK_AGAIN, MigrateError};
use crate::presence::{Presence, guard};
use crate::run::unix_now;

/// A claim whose answer was lost arrives within this many looks, or never.
const LOOKS_MAX: u32 = 6;
/// Steps from a claim to its end: journal, commit, see. More, and somebody else changes the record at the same time.
const STEPS_MAX: u32 = 6;

/// The task that settles.
pub struct Settler {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub node: NodeName,
    pub claims: Claims,
    /// Without one nothing is written: another agent of this name may be at work on the same claims (a cloned machine).
    pub presence: watch::Receiver<Option<Presence>>,
    pub stop: CancellationToken,
}

/// What is to be done next about one claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This must be on disk first.
    Journal(Progress),
    Commit(Transaction),
    /// It may still arrive, or be ended by others.
    Wait,
    /// Nothing is owed.
    Over,
}

/// Is something left to be looked at again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

impl Settler {
    /// Looks at every new presence and whenever somebody let go of a claim; again while something is owed.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), LOOK_AGAIN);
        let mut looks = 0;
        loop {
            self.presence.mark_unchanged();
            let again = match self.settle_all().await {
                Ok(Left::Nothing) => None,
                Ok(Left::Something) => (looks < LOOKS_MAX).then_some(LOOK_AGAIN),
                Err(e) => {
                    warn!("cannot settle what this server owes the migration records: {}; trying again", inline(&e));
                    Some(backoff.next())
                }
            };
            looks += 1;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = self.presence.changed() => if changed.is_err() { return },
                () = self.claims.freed() => {}
                () = after(again) => continue,
            }
            looks = 0;
            backoff.reset();
        }
    }

    async fn settle_all(&self) -> Result<Left, MigrateError> {
        let Some(guard) = guard(&self.presence) else { return Ok(Left::Nothing) };
        let mut left = Ok(Left::Nothing);
        for (app, path) in self.claims.files()? {
            let Some((task, claim, held)) = self.claims.hold_idle(&app, path) else { continue };
            match self.settle(&guard, &task, claim, &held).await {
                Ok(Left::Nothing) => {}
                Ok(Left::Something) => left = left.map(|_| Left::Something),
                // One that cannot be settled now holds up no other.
                Err(e) => left = left.and(Err(e)),
            }
        }
        left
    }

    async fn settle(&self, presence: &Guard, task: &TaskId, mut claim: Claim, held: &Held) -> Result<Left, MigrateError> {
        for _ in 0..STEPS_MAX {
            match next(&self.keys, &self.node, task, &self.look(task).await?, &claim) {
                Next::Wait => return Ok(Left::Something),
                Next::Over if matches!(claim.progress, Progress::Intended | Progress::Forgone) => {
                    held.remove()?;
                    return Ok(Left::Nothing);
                }
                Next::Over => {
                    held.save(&Claim { progress: Progress::Over, ..claim })?;
                    return Ok(Left::Nothing);
                }
                Next::Journal(progress) => {
                    claim.progress = progress;
                    held.save(&claim)?;
                }
                Next::Commit(transaction) => {
                    if self.store.commit(transaction.when(presence.compare())).await?.committed() {
                        info!("the task {} of {} was settled from this server's journal", task.task, task.release);
                    }
                }
            }
        }
        Ok(Left::Something)
    }

    async fn look(&self, task: &TaskId) -> Result<View, MigrateError> {
        let (store, keys) = (self.store.as_ref(), &self.keys);
        let (record_key, head_key, lock_key) = (task.record_key(keys), task.head_key(keys), task.lock_key(keys));
        let (record, head, lock) =
            futures::try_join!(read_record(store, &record_key), read_record(store, &head_key), store.read(&lock_key))?;
        Ok(View { record, head, lock: lock.entry, spec: None })
    }
}

/// What is owed under `claim`, given what the store holds.
pub fn next(keys: &KeySpace, node: &NodeName, task: &TaskId, view: &View, claim: &Claim) -> Next {
    let nonce = &claim.nonce;
    let record = view.record.as_ref().map(|(r, _)| r);
    let ours = record.filter(|r| r.nonce == *nonce);
    let pending = record.is_none_or(|r| r.state == TaskState::Pending);
    let open = ours.is_some_and(|r| matches!(r.state, TaskState::Claimed | TaskState::Unknown) && r.settled_at.is_none());
    let unknown = record.is_some_and(|r| r.state == TaskState::Unknown);
    let or = |transaction: Option<Transaction>, otherwise| transaction.map_or(otherwise, Next::Commit);
    match &claim.progress {
        // Only an unclaimed record can still take a claim that is on its way.
        Progress::Intended if ours.is_none() && pending => Next::Wait,
        _ if !open => Next::Over,
        Progress::Intended => Next::Journal(Progress::Forgone),
        // Nothing was started here; but once it is marked unknown, that is a person's to say.
        Progress::Forgone | Progress::Over if unknown => Next::Over,
        Progress::Forgone | Progress::Over => {
            let back = migration::give_back(keys, task, view, nonce);
            or(back.or_else(|| migration::mark_unknown(keys, task, view)), Next::Wait)
        }
        Progress::Started => Next::Journal(Progress::Ended(JournaledEnding::lost(node, unix_now()))),
        Progress::Ended(ending) if ending.is_unknown() && unknown => Next::Over,
        Progress::Ended(ending) => or(migration::settle(keys, task, view, nonce, &ending.clone().into()), Next::Over),
    }
}
