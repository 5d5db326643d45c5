//! The coordinator's loop: it watches the store, plans, and writes, while it leads.
//!
//! ```text
//!  stop, lease lost ─┐
//!  mirror changed ───┼─▶ view ─▶ plan per app (pure) ─▶ transactions, each with the leader's guard (I10)
//!  timer ────────────┘
//! ```
//!
//! A refused transaction is no error: something changed, and the next pass sees it. A pass waits until the mirror has
//! caught up with the last own write, so that nothing is decided twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::coordinator::LeaderRecord;
use coord_proto::ids::{AppName, NodeName, Nonce, Revision};
use coord_proto::keys::KeySpace;
use coord_proto::limits::LEASE_TTL_MIN;
use coord_proto::retry::{Backoff, after};
use coord_proto::store::mirror::{self, Mirror};
use coord_proto::store::{Compare, Outcome, SharedStore, StoreError, Transaction};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::election::{Candidate, Leadership};
use crate::rollout::{self, Decision, PlanInput, Timers};
use crate::view::{Fleet, Followed, Problem};

pub mod audit;
pub mod script;

use audit::Audit;
use script::Script;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);

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
}

/// Campaigns and leads until `stop`; then gives the leadership back at once.
///
/// # Errors
/// Options that cannot work. A store that is away is waited for, not an error.
pub async fn run(store: SharedStore, keys: KeySpace, options: ControllerOptions, stop: CancellationToken) -> Result<(), ControllerError> {
    if options.lease_ttl < LEASE_TTL_MIN {
        return Err(ControllerError::LeaseTooShort { given: options.lease_ttl, least: LEASE_TTL_MIN });
    }
    let mut mirrors = mirror::follow(store.clone(), keys.all(), stop.clone());
    while !stop.is_cancelled() {
        let candidate = candidate(&store, &keys, &options);
        let leadership = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            leadership = candidate.campaign(&mut mirrors, &stop) => leadership,
        };
        tracing::info!(node = %options.node_name, "leads");
        let audit = Audit::new(candidate.record.host.clone());
        let mut leader = Leader::new(&store, &keys, &options, &leadership, audit);
        match leader.lead(&mut mirrors, &stop).await {
            End::Stopped => leadership.resign().await,
            End::Restored => {
                tracing::error!(node = %options.node_name, "leads no longer: the store was restored from a backup, and what it shows may be of another past");
                leadership.resign().await;
            }
            End::Lost => tracing::warn!(node = %options.node_name, "lost the leadership, campaigning again"),
        }
    }
    Ok(())
}

fn candidate(store: &SharedStore, keys: &KeySpace, options: &ControllerOptions) -> Candidate {
    let record =
        LeaderRecord { host: options.node_name.to_string(), pid: std::process::id(), instance: Nonce::random(), since: audit::unix_now() };
    Candidate { store: store.clone(), keys: keys.clone(), ttl: options.lease_ttl, record }
}

/// Why a leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Lost,
    /// The store was restored from a backup.
    Restored,
}

/// One app as this leader has followed it.
struct Pace {
    timers: Timers,
    planned: Instant,
    blocked: Option<String>,
}

impl Pace {
    /// Says once why nothing is rolled out, if so.
    fn block(&mut self, app: &AppName, why: Option<String>) {
        if self.blocked != why
            && let Some(why) = &why
        {
            tracing::error!(%app, "nothing is rolled out: {why}");
        }
        self.blocked = why;
    }
}

struct Leader<'a> {
    store: &'a SharedStore,
    keys: &'a KeySpace,
    options: &'a ControllerOptions,
    leadership: &'a Leadership,
    audit: Audit,
    /// A view older than this does not show the last own write yet.
    written: Revision,
    paces: BTreeMap<AppName, Pace>,
    view: Followed,
    problems: Vec<Problem>,
    backoff: Backoff,
}

impl<'a> Leader<'a> {
    fn new(store: &'a SharedStore, keys: &'a KeySpace, options: &'a ControllerOptions, leadership: &'a Leadership, audit: Audit) -> Self {
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let written = leadership.guard.created;
        let (paces, view, problems) = (BTreeMap::new(), Followed::default(), Vec::new());
        Self { store, keys, options, leadership, audit, written, paces, view, problems, backoff }
    }

    async fn lead(&mut self, mirrors: &mut watch::Receiver<Arc<Mirror>>, stop: &CancellationToken) -> End {
        loop {
            let mirror = Arc::clone(&mirrors.borrow_and_update());
            if !self.leadership.stands_in(&mirror) {
                return End::Lost;
            }
            if mirror.restored {
                return End::Restored;
            }
            let leadership = self.leadership;
            let wake = tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = leadership.lost() => return End::Lost,
                wake = self.pass(mirror) => wake,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = leadership.lost() => return End::Lost,
                changed = mirrors.changed() => if changed.is_err() { return End::Stopped },
                () = after(wake) => {}
            }
        }
    }

    /// One pass over all apps; when to come back without a change.
    async fn pass(&mut self, mirror: Arc<Mirror>) -> Option<Duration> {
        if !self.usable(&mirror) {
            return None;
        }
        let plans = self.plan_all(&mirror);
        let stores = script::publish_stores(self.keys, &mirror, &self.options.stores);
        // From here on the mirror's own task may change its view in place.
        drop(mirror);
        let (wake, failed) = self.write_all(plans, stores).await;
        if failed.is_none() {
            self.backoff.reset();
            return wake;
        }
        wake.into_iter().chain([self.backoff.next()]).min()
    }

    /// May one decide by this view? Not by a stale one, one that lacks the last own write, or another past's.
    fn usable(&mut self, mirror: &Mirror) -> bool {
        if mirror.ready && mirror.fresh && !mirror.restored {
            return mirror.revision >= self.written;
        }
        for pace in self.paces.values_mut() {
            pace.timers = pace.timers.doubted();
        }
        false
    }

    fn plan_all(&mut self, mirror: &Mirror) -> Vec<(AppName, Decision, Script)> {
        let mut view = std::mem::take(&mut self.view);
        let fleet = view.fleet(mirror, self.keys);
        self.report_problems(fleet);
        let now = Instant::now();
        let mut plans = Vec::new();
        for name in fleet.apps.keys() {
            let pace = self.paces.entry(name.clone()).or_insert_with(|| Pace { timers: Timers::default(), planned: now, blocked: None });
            let input = PlanInput {
                name,
                fleet,
                timers: pace.timers.clone(),
                elapsed: now.saturating_duration_since(pace.planned),
                now: audit::unix_now(),
            };
            let decision = rollout::plan(&input);
            let script = Script::of(self.keys, mirror, fleet, name, &decision, &self.audit);
            let too_large = script.too_large().map(|key| format!("what would be written to {key} is longer than a record may be"));
            let writable = too_large.is_none();
            pace.block(name, too_large.or_else(|| decision.blocked.clone()));
            if writable {
                plans.push((name.clone(), decision, script));
            }
        }
        self.view = view;
        plans
    }

    fn report_problems(&mut self, fleet: &Fleet) {
        for problem in fleet.problems.iter().filter(|p| !self.problems.contains(p)) {
            tracing::error!(key = problem.key, "a record cannot be read: {}", problem.error);
        }
        self.problems.clone_from(&fleet.problems);
    }

    /// Writes what was decided: when to look again, and the first error. One app's error is not the others'.
    async fn write_all(
        &mut self,
        plans: Vec<(AppName, Decision, Script)>,
        stores: Option<Transaction>,
    ) -> (Option<Duration>, Option<StoreError>) {
        let mut failed = None;
        if let Some(stores) = stores
            && let Err(error) = self.commit(stores).await
        {
            tracing::warn!(error = %inline(&error), "cannot write the artifact stores, trying again");
            failed = Some(error);
        }
        let planned = Instant::now();
        let mut wake: Option<Duration> = None;
        for (name, decision, script) in plans {
            match self.write(&name, &decision, script).await {
                Ok(true) => {
                    wake = wake.into_iter().chain(decision.wake_after).min();
                    if let Some(pace) = self.paces.get_mut(&name) {
                        // Timers count from what was written: a refused pass leaves them as they were.
                        pace.timers = decision.timers;
                        pace.planned = planned;
                    }
                }
                // Something changed under it: the mirror will show it, and if not, look again.
                Ok(false) => wake = Some(wake.map_or(RETRY_MOST, |w| w.min(RETRY_MOST))),
                Err(error) => {
                    tracing::warn!(app = %name, error = %inline(&error), "cannot write, trying again");
                    failed = failed.or(Some(error));
                }
            }
        }
        (wake, failed)
    }

    /// Writes one app's decision, state first (I9); false when a transaction was refused.
    async fn write(&mut self, name: &AppName, decision: &Decision, script: Script) -> Result<bool, StoreError> {
        let lease = if decision.events.is_empty() { None } else { Some(self.audit.lease(self.store).await?) };
        let Script { mut first, state_key, rest, duties } = script;
        self.audit.sign(self.keys, name, &decision.events, lease, &mut first);
        let mut state = None;
        if !first.writes.is_empty() {
            match self.commit(first).await? {
                Outcome::Refused(_) => return Ok(false),
                Outcome::Committed(revision) if decision.state.is_some() => state = Some(revision),
                Outcome::Committed(_) => {}
            }
        }
        for event in &decision.events {
            tracing::info!(app = %name, "{event}");
        }
        for transaction in rest {
            let guarded = match state {
                Some(revision) => transaction.when(Compare::ModRevision { key: state_key.clone(), revision }),
                None => transaction,
            };
            if !self.commit(guarded).await?.committed() {
                return Ok(false);
            }
        }
        for duty in duties {
            // Refused: the task moved on by itself, which is just as well.
            let _refused = self.commit(duty).await?;
        }
        Ok(true)
    }

    /// Every write of a leader goes through here, and compares its guard (I5, I10).
    async fn commit(&mut self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let outcome = self.store.commit(transaction.when(self.leadership.guard.compare())).await;
        match outcome {
            Ok(Outcome::Committed(revision)) => self.written = self.written.max(revision),
            Err(StoreError::LeaseEnded(_)) => self.audit.forget_lease(),
            _ => {}
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
