//! What a server takes by itself: it has no desired record of an app, and no coordinator leads.
//!
//! Such a server was born, or rebuilt, on a day without a coordinator. When nobody has led for three lease times it looks
//! at `stable` of each app that it may run, and takes it if the signed manifest is meant for its labels: what a coordinator
//! would tell it. It never claims a migration (I4). A cordoned server takes nothing.

use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, Generation, NodeName};
use coord_proto::keys::Key;
use coord_proto::labels::Labels;
use coord_proto::rollout::StableRecord;
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{StoreError, read_record};
use tokio::time::Instant;
use tracing::{error, info};

use crate::accept::is_filed_right;
use crate::machine::Goal;
use crate::manifests::{LoadError, Manifests};

/// A leader that died is replaced within one lease time, if there is anybody to replace it.
const LEADERLESS_LEASES: u32 = 3;

/// Who this server is, and how long nobody has led.
pub struct Unled {
    node: NodeName,
    labels: Labels,
    /// Names of apps, or `*`.
    allowed: Vec<String>,
    manifests: Manifests,
    lease_ttl: Duration,
    /// Since when each look found no leader.
    since: Option<Instant>,
    next_look: Option<Instant>,
    /// As the last look that asked found it: told once.
    cordoned: bool,
}

/// Which apps a look is about.
enum Untold {
    Named(Vec<AppName>),
    /// Whatever there is, but for what a record speaks of.
    Any,
}

impl Unled {
    /// It looks first when the desired records are known.
    pub fn new(node: NodeName, labels: Labels, allowed: Vec<String>, manifests: Manifests, lease_ttl: Duration) -> Self {
        Self { node, labels, allowed, manifests, lease_ttl, since: None, next_look: None, cordoned: false }
    }

    /// When to call [`Unled::look`] again, if nothing changes before.
    pub fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Does an operator keep this server out of everything new?
    ///
    /// # Errors
    /// The store's.
    pub async fn is_cordoned(&self) -> Result<bool, StoreError> {
        let key = self.manifests.keys.key(&Key::NodeCordon(self.node.clone()));
        Ok(self.manifests.store.read(&key).await?.entry.is_some())
    }

    /// The goals of apps without a desired record, once nobody has led for long enough; empty until then. It asks the store
    /// only when a look is due.
    ///
    /// # Errors
    /// The store's: nobody knows then who leads, and the time begins again.
    pub async fn look(&mut self, mirror: &Mirror) -> Result<Vec<(AppName, Goal)>, StoreError> {
        let now = Instant::now();
        let Some(untold) = self.untold(mirror).filter(|_| mirror.fresh) else {
            (self.since, self.next_look) = (None, None);
            return Ok(vec![]);
        };
        if self.next_look.is_some_and(|at| now < at) {
            return Ok(vec![]);
        }
        let leaderless = self.lease_ttl * LEADERLESS_LEASES;
        let since = self.since.take();
        self.next_look = Some(now + leaderless);
        if self.manifests.store.read(&self.manifests.keys.key(&Key::Leader)).await?.entry.is_some() {
            return Ok(vec![]);
        }
        let since = since.unwrap_or(now);
        if now.duration_since(since) < leaderless {
            (self.since, self.next_look) = (Some(since), Some(now + self.lease_ttl));
            return Ok(vec![]);
        }
        let goals = self.goals(untold, mirror).await?;
        self.since = Some(since);
        Ok(goals)
    }

    /// None: of every app that may run here there is a record, or nobody knows yet.
    fn untold(&self, mirror: &Mirror) -> Option<Untold> {
        if !mirror.ready {
            return None;
        }
        if self.allowed.iter().any(|a| a == "*") {
            return Some(Untold::Any);
        }
        let named = self.allowed.iter().filter_map(|a| a.parse().ok()).filter(|app| !self.is_told(mirror, app));
        let named: Vec<AppName> = named.collect();
        (!named.is_empty()).then_some(Untold::Named(named))
    }

    fn is_told(&self, mirror: &Mirror, app: &AppName) -> bool {
        mirror.entries.contains_key(&self.manifests.keys.key(&Key::Desired(self.node.clone(), app.clone())))
    }

    async fn goals(&mut self, untold: Untold, mirror: &Mirror) -> Result<Vec<(AppName, Goal)>, StoreError> {
        let cordoned = self.is_cordoned().await?;
        let before = std::mem::replace(&mut self.cordoned, cordoned);
        if cordoned {
            if !before {
                info!("this server is cordoned: it takes no release by itself");
            }
            return Ok(vec![]);
        }
        let apps = match untold {
            Untold::Named(apps) => apps,
            Untold::Any => self.apps_with_stable().await?.into_iter().filter(|app| !self.is_told(mirror, app)).collect(),
        };
        let mut goals = vec![];
        for app in apps {
            if let Some(goal) = self.stable(&app).await? {
                goals.push((app, goal));
            }
        }
        Ok(goals)
    }

    async fn apps_with_stable(&self) -> Result<Vec<AppName>, StoreError> {
        let keys = &self.manifests.keys;
        let entries = self.manifests.store.list(&keys.apps()).await?.entries;
        let stable = entries.iter().filter_map(|e| match keys.parse(&e.key) {
            Some(Key::Stable(app)) => Some(app),
            _ => None,
        });
        Ok(stable.collect())
    }

    /// `stable` of an app, if it is meant for this server. Whether it may run here is asked again before anything is done.
    async fn stable(&self, app: &AppName) -> Result<Option<Goal>, StoreError> {
        let key = self.manifests.keys.key(&Key::Stable(app.clone()));
        let Some((stable, _)) = read_record::<StableRecord>(self.manifests.store.as_ref(), &key).await? else { return Ok(None) };
        let seq = stable.seq;
        let manifest = match self.manifests.look_at(app, seq).await {
            Ok(manifest) => manifest,
            Err(LoadError::Store { source, .. }) => return Err(source),
            Err(e) => {
                error!("{app}: number {seq} is stable, and is not taken: {}", inline(&e));
                return Ok(None);
            }
        };
        if is_filed_right(&manifest, app, seq).is_err() || !manifest.targets.matches(&self.labels) {
            return Ok(None);
        }
        Ok(Some(Goal {
            run: seq,
            stage: None,
            after: None,
            stable: Some(seq),
            // Below whatever a coordinator will tell.
            generation: Generation(0),
            rollout: None,
            may_migrate: false,
            restart: 0,
        }))
    }
}

#[cfg(test)]
mod tests;
