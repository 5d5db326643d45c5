//! Which artifacts stay, and when the others go: `[artifacts] keep`.
//!
//! The leader sweeps when a rollout has ended, and now and then. What is named is read anew for each sweep, in one piece.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, Digest, ReleaseId, RolloutId, Seq};
use coord_proto::keys::KeySpace;
use coord_proto::rollout::RolloutState;
use coord_proto::store::{SharedStore, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ArtifactError;
use super::server::ArtifactServer;
use crate::view::{App, Fleet};

/// Between sweeps without any rollout: uploads that nobody published, and a sweep that failed.
const PERIOD: Duration = Duration::from_secs(6 * 3600);

/// Why a sweep did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("etcd does not answer")]
    Store(#[from] StoreError),
    #[error("not everything that is published can be read ({0}); nothing was removed")]
    Unreadable(String),
    #[error("the artifact store failed")]
    Artifacts(#[from] ArtifactError),
}

/// Sweeps the artifacts while this process leads.
pub struct Sweeper {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub artifacts: ArtifactServer,
    /// Releases kept per app.
    pub keep: usize,
    pub fleets: watch::Receiver<Option<Arc<Fleet>>>,
    /// This process as the leader record shows it.
    pub host: String,
    pub pid: u32,
}

impl Sweeper {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut swept: Option<Ended> = None;
        let mut period = tokio::time::interval(PERIOD);
        loop {
            let fleet = self.fleets.borrow_and_update().clone();
            let ended = fleet.filter(|fleet| self.may_sweep(fleet)).map(|fleet| ended(&fleet));
            if ended.is_some() && ended != swept {
                self.sweep_and_tell().await;
                swept = ended;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.fleets.changed() => if changed.is_err() { return },
                _ = period.tick() => swept = None,
            }
        }
    }

    /// Not by a view of another past, and not two coordinators at once.
    fn may_sweep(&self, fleet: &Fleet) -> bool {
        let leads = fleet.leader.as_ref().is_some_and(|leader| leader.pid == self.pid && leader.host == self.host);
        leads && fleet.fresh && !fleet.restored
    }

    async fn sweep_and_tell(&self) {
        if let Err(error) = self.sweep().await {
            tracing::warn!(error = %inline(&error), "old artifacts stay for now; swept again after the next rollout");
        }
    }

    /// One sweep.
    ///
    /// # Errors
    /// Unless it is the artifact store's, nothing was removed.
    pub async fn sweep(&self) -> Result<(), SweepError> {
        let listing = self.store.list(&self.keys.all()).await?;
        let fleet = Fleet::whole(&listing.into(), &self.keys);
        let named = named(&fleet, self.keep).map_err(SweepError::Unreadable)?;
        let swept = self.artifacts.sweep(&named).await?;
        if swept.removed > 0 {
            tracing::info!(artifacts = swept.removed, bytes = swept.bytes, "removed old artifacts");
        }
        Ok(())
    }
}

/// The rollout of each app that has ended.
type Ended = BTreeMap<AppName, RolloutId>;

fn ended(fleet: &Fleet) -> Ended {
    let ended = |app: &App| app.state.as_ref().filter(|state| state.phase.ended()).map(|state| state.id.clone());
    fleet.apps.iter().filter_map(|(name, app)| Some((name.clone(), ended(app)?))).collect()
}

/// The artifacts that stay: of each app the newest `keep` releases, whatever is at or above the lowest floor of its servers, and what is
/// stable, active, run, wanted, or was rolled out in the last `keep` rollouts.
///
/// # Errors
/// A record that cannot be read, or a manifest that is named and not there: then nobody knows what else is named (I6).
pub fn named(fleet: &Fleet, keep: usize) -> Result<BTreeSet<Digest>, String> {
    if let Some(problem) = fleet.problems.first() {
        return Err(problem.key.clone());
    }
    let mut named = BTreeSet::new();
    for (name, app) in &fleet.apps {
        named.extend(newest(app, keep));
        let floor = slots(fleet, name).filter_map(|slot| Some(slot.status.as_ref()?.floor)).min();
        // No server reports: whatever was kept, nobody fetches, so that nothing is known of what they need.
        named.extend(app.manifests.range(floor.unwrap_or(Seq(0))..).map(|(_, manifest)| manifest.digest.clone()));
        for seq in seqs(fleet, name, app, keep).into_iter().filter(|seq| *seq != Seq(0)) {
            let manifest = app.manifests.get(&seq).ok_or_else(|| format!("manifest {seq} of {name}"))?;
            named.insert(manifest.digest.clone());
        }
    }
    Ok(named)
}

/// A release that was published again under a higher number (a rollback) counts once.
fn newest(app: &App, keep: usize) -> impl Iterator<Item = Digest> {
    let mut releases: BTreeSet<&ReleaseId> = BTreeSet::new();
    let newest = app.manifests.values().rev().take_while(move |manifest| {
        releases.insert(&manifest.release);
        releases.len() <= keep
    });
    newest.map(|manifest| manifest.digest.clone())
}

fn slots<'a>(fleet: &'a Fleet, app: &'a AppName) -> impl Iterator<Item = &'a crate::view::NodeApp> {
    fleet.nodes.values().filter_map(move |node| node.apps.get(app))
}

/// Sequence numbers that something hangs on; 0 stands for none.
fn seqs(fleet: &Fleet, name: &AppName, app: &App, keep: usize) -> BTreeSet<Seq> {
    let mut seqs = BTreeSet::new();
    seqs.extend(app.stable.as_ref().map(|stable| stable.seq));
    seqs.extend(app.spec.as_ref().map(|spec| spec.seq));
    let mut past: Vec<&RolloutState> = app.history.values().map(|entry| &entry.state).collect();
    past.sort_by_key(|state| std::cmp::Reverse(state.started_at));
    for state in app.state.iter().chain(past.into_iter().take(keep)) {
        seqs.extend([state.seq, state.previous_stable]);
        seqs.extend(state.targets.iter().map(|target| target.prior));
    }
    for slot in slots(fleet, name) {
        seqs.extend(slot.desired.iter().flat_map(|desired| [Some(desired.run), desired.stage, desired.after]).flatten());
        seqs.extend(slot.status.iter().flat_map(|status| [status.running.as_ref().map(|r| r.seq), status.staged]).flatten());
    }
    seqs
}

#[cfg(test)]
mod tests;
