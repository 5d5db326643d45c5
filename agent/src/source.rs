//! Where goals come from: this server's desired records, nothing wider. A change only means "read again".
//!
//! An app without a record gets its goal from the leading coordinator's next pass. Where none leads, see [`crate::unled`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::desired::Desired;
use coord_proto::ids::AppName;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::retry::{Backoff, after};
use coord_proto::rollout::{ActiveRollout, StableRecord};
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{SharedStore, StoreError, read_record};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::goal::effective;
use crate::machine::Goal;
use crate::unled::Unled;

/// A goal that `stable` decided, and not the record, is looked at again this often: nothing that is watched here tells that
/// `stable` moved, and the record, which may say the right thing by then, is not written again.
const STABLE_AGAIN: Duration = Duration::from_secs(30);

/// The task that turns desired records into goals.
pub struct Source {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub mirror: watch::Receiver<Arc<Mirror>>,
    /// What this server takes by itself while no coordinator leads.
    pub unled: Unled,
    pub goals: mpsc::Sender<(AppName, Goal)>,
    pub stop: CancellationToken,
}

impl Source {
    /// Tells each goal once, and again when it changes. An absent record never stops or removes anything.
    pub async fn run(mut self) {
        let mut told: BTreeMap<AppName, Goal> = BTreeMap::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let mirror = self.mirror.borrow_and_update().clone();
            let retry = if mirror.restored {
                // History went backwards: no claim and no change before a person has looked.
                error!("the store was restored from a backup: nothing is changed here until an operator recovers it");
                None
            } else {
                match self.tell(&mirror, &mut told).await {
                    Ok(again) => {
                        backoff.reset();
                        again
                    }
                    Err(e) => {
                        warn!("cannot read what this server should run: {}; trying again", inline(&e));
                        Some(backoff.next())
                    }
                }
            };
            let look = self.unled.next_look().map(|at| at.saturating_duration_since(Instant::now()));
            let wake = retry.into_iter().chain(look).min();
            drop(mirror);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = self.mirror.changed() => if changed.is_err() { return },
                () = after(wake) => {}
            }
        }
    }

    /// An app whose records cannot be read holds up no other; the first error is told, and all is read again later.
    /// Gives when to look again although nothing changed here.
    async fn tell(&mut self, mirror: &Mirror, told: &mut BTreeMap<AppName, Goal>) -> Result<Option<Duration>, StoreError> {
        let (mut unread, mut again) = (None, None);
        for (key, entry) in &mirror.entries {
            let Some(Key::Desired(_, app)) = self.keys.parse(key) else { continue };
            let desired: Desired = match entry.record() {
                Ok(desired) => desired,
                Err(e) => {
                    error!("{}; what runs keeps running", inline(&e));
                    continue;
                }
            };
            let asked = desired.run;
            match self.goal(&app, desired).await {
                Ok(Some(goal)) => {
                    again = again.or((goal.run != asked).then_some(STABLE_AGAIN));
                    self.tell_new(app, goal, told).await;
                }
                Ok(None) => again = Some(STABLE_AGAIN),
                Err(e) => _ = unread.get_or_insert(e),
            }
        }
        match self.unled.look(mirror).await {
            Ok(goals) => {
                for (app, goal) in goals {
                    if told.get(&app) != Some(&goal) {
                        info!(
                            "{app}: no coordinator leads, and nobody told this server what to run: it takes number {}, which is stable",
                            goal.run
                        );
                    }
                    self.tell_new(app, goal, told).await;
                }
            }
            Err(e) => _ = unread.get_or_insert(e),
        }
        unread.map_or(Ok(again), Err)
    }

    async fn tell_new(&self, app: AppName, goal: Goal, told: &mut BTreeMap<AppName, Goal>) {
        if told.get(&app) != Some(&goal) {
            told.insert(app.clone(), goal.clone());
            // A loop that has ended takes no goal; the stop comes next.
            let _ended = self.goals.send((app, goal)).await;
        }
    }

    /// None: a cordoned server keeps what it has; `stable` went on without it.
    async fn goal(&self, app: &AppName, desired: Desired) -> Result<Option<Goal>, StoreError> {
        let store = self.store.as_ref();
        let (stable_key, spec_key) = (self.keys.key(&Key::Stable(app.clone())), self.keys.key(&Key::RolloutSpec(app.clone())));
        let (stable, spec) =
            futures::try_join!(read_record::<StableRecord>(store, &stable_key), read_record::<ActiveRollout>(store, &spec_key))?;
        let asked = desired.run;
        let goal = effective(desired, stable.as_ref().map(|(s, _)| s), spec.as_ref().map(|(s, _)| &s.id));
        if goal.run != asked && self.unled.is_cordoned().await? {
            info!("{app}: this server is cordoned, and keeps what it has: number {} is stable, and it was last told {asked}", goal.run);
            return Ok(None);
        }
        Ok(Some(goal))
    }
}

#[cfg(test)]
mod tests;
