//! The agent's thinking for one app: an event in, at most one action out. It knows no tokio, etcd, filesystem,
//! process or clock.
//!
//! ```text
//!            Load ▸ Stage ▸ Prepare                          toward_stage: nobody sees it
//! goal.run:  Load ▸ Stage ▸ Prepare ▸ EnsureTasks(before)    toward_run, may be interrupted
//!            ▸ Drain ▸ Switch ▸ Restart ▸ Probe ▸ Undrain    an Activity: journaled, always brought to an end
//!                         └─ failed ─▸ Switch ▸ Restart ▸ Probe ▸ Undrain   back to what was healthy here (I2)
//! goal.after: EnsureTasks(after)
//! ```
//!
//! Each decision is made anew from the goal and the journal (level, not edge): a restart, a first start and a changed
//! mind are one code path. The caller saves the journal before it starts the action (I9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coord_proto::desired::Desired;
use coord_proto::ids::{AppName, Generation, NodeName, ReleaseId, RolloutId, Seq};
use coord_proto::manifest::{HookPhase, Manifest};
use coord_proto::migration::Phase;
use coord_proto::report::{Failure, HealthState, Progress};

use crate::journal::{Journal, ReleaseFacts, ReleaseOutcome};

mod activity;
mod decide;
mod report;

/// What this server should do for the app, after [`crate::goal::effective`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub run: Seq,
    pub stage: Option<Seq>,
    pub after: Option<Seq>,
    pub generation: Generation,
    pub rollout: Option<RolloutId>,
    pub may_migrate: bool,
    pub restart: u64,
}

impl From<Desired> for Goal {
    fn from(d: Desired) -> Self {
        Self {
            run: d.run,
            stage: d.stage,
            after: d.after,
            generation: d.generation,
            rollout: d.rollout,
            may_migrate: d.may_migrate,
            restart: d.restart,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    GoalSeen(Goal),
    ManifestLoaded(Arc<Manifest>),
    /// The action in flight ended well.
    Finished,
    /// Pruning ended well; these are gone.
    Pruned(Vec<ReleaseId>),
    /// The action in flight ended badly.
    Failed(Failure),
    /// The action in flight gave way, as [`Machine::must_yield`] asked.
    Interrupted,
    /// The action in flight waits for somebody else.
    Waiting(String),
    Progressed(Progress),
    /// Time to try again what may work now.
    RetryDue,
}

/// Something to do. One is in flight at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Load(Seq),
    Stage(Seq),
    Prepare(Seq),
    EnsureTasks { seq: Seq, phase: Phase, may_claim: bool },
    RunHooks { seq: Seq, phase: HookPhase },
    Switch(ReleaseId),
    Probe(Seq),
    Prune { keep: u32, protected: BTreeSet<ReleaseId> },
}

/// The thinking for one app.
#[derive(Debug, Clone)]
pub struct Machine {
    node: NodeName,
    app: AppName,
    journal: Journal,
    goal: Option<Goal>,
    manifests: BTreeMap<Seq, Arc<Manifest>>,
    /// Seqs whose `before` tasks are settled, as seen since the start.
    settled: BTreeSet<Seq>,
    in_flight: Option<Action>,
    health: HealthState,
    progress: Option<Progress>,
    waiting: Option<String>,
    /// A failure that may pass by itself: nothing is tried before [`Event::RetryDue`].
    resting: bool,
    prune_due: bool,
}

impl Machine {
    /// A machine that goes on where the journal stands.
    pub fn new(node: NodeName, app: AppName, journal: Journal) -> Self {
        let health = match (&journal.running, &journal.last_healthy) {
            (Some(r), Some(h)) if r == h => HealthState::Healthy,
            _ => HealthState::Unproven,
        };
        Self {
            node,
            app,
            journal,
            goal: None,
            manifests: BTreeMap::new(),
            settled: BTreeSet::new(),
            in_flight: None,
            health,
            progress: None,
            waiting: None,
            resting: false,
            prune_due: false,
        }
    }

    /// What must be on disk before the next action starts.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// A verified manifest that was loaded.
    pub fn manifest(&self, seq: Seq) -> Option<&Arc<Manifest>> {
        self.manifests.get(&seq)
    }

    /// The rollout that the goal belongs to.
    pub fn rollout(&self) -> Option<RolloutId> {
        self.goal.as_ref().and_then(|g| g.rollout.clone())
    }

    /// Is something to be tried again later?
    pub fn wants_retry(&self) -> bool {
        self.resting
    }

    /// Should the action in flight give way, because the goal no longer asks for it? Only what nobody can see yields.
    pub fn must_yield(&self) -> bool {
        let Some(goal) = &self.goal else { return false };
        match &self.in_flight {
            Some(Action::Stage(seq) | Action::Prepare(seq)) => goal.run != *seq && goal.stage != Some(*seq),
            Some(Action::EnsureTasks { seq, phase: Phase::Before, may_claim }) => goal.run != *seq || goal.may_migrate != *may_claim,
            Some(Action::EnsureTasks { seq, phase: Phase::After, .. }) => goal.after != Some(*seq),
            _ => false,
        }
    }

    /// Takes an event; gives the action to start, if one is due.
    pub fn handle(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::GoalSeen(goal) => self.on_goal(goal),
            Event::ManifestLoaded(manifest) => self.on_manifest(manifest),
            Event::Finished => self.on_finished(),
            Event::Pruned(removed) => {
                self.journal.releases.retain(|release, _| !removed.contains(release));
                self.on_finished();
            }
            Event::Failed(failure) => self.on_failed(failure),
            Event::Interrupted => self.in_flight = None,
            Event::Waiting(words) => self.waiting = Some(words),
            Event::Progressed(progress) => self.progress = Some(progress),
            Event::RetryDue => self.resting = false,
        }
        if self.in_flight.is_none() {
            self.waiting = None;
            self.progress = None;
            self.in_flight = self.decide();
            return self.in_flight.clone();
        }
        None
    }

    fn on_goal(&mut self, goal: Goal) {
        if self.goal.as_ref() == Some(&goal) {
            return;
        }
        // A failure answers the generation that it met, also over a restart; asked anew, it says nothing any more.
        if self.journal.failure.as_ref().is_some_and(|(met, _)| *met != goal.generation) {
            self.journal.failure = None;
        }
        if self.goal.as_ref().is_none_or(|old| old.generation != goal.generation) {
            self.resting = false;
        }
        // Without a rollout's word the tasks of a seq are looked up again: the record decides, not this memory.
        self.settled.retain(|seq| *seq == goal.run);
        self.goal = Some(goal);
    }

    fn on_manifest(&mut self, manifest: Arc<Manifest>) {
        self.in_flight = None;
        self.journal.accepted = self.journal.accepted.max(manifest.seq);
        self.manifests.insert(manifest.seq, manifest);
    }

    fn on_finished(&mut self) {
        // What passed is over.
        if self.journal.failure.as_ref().is_some_and(|(_, f)| f.code.transient()) {
            self.journal.failure = None;
        }
        match self.in_flight.take() {
            Some(Action::Stage(seq)) => self.mark(seq, |facts| facts.outcome = ReleaseOutcome::Staged),
            Some(Action::Prepare(seq)) => self.mark(seq, |facts| facts.prepared = true),
            Some(Action::EnsureTasks { seq, phase: Phase::Before, .. }) => _ = self.settled.insert(seq),
            Some(Action::EnsureTasks { seq, phase: Phase::After, .. }) => self.journal.after_done = Some(seq),
            Some(Action::Prune { .. }) => self.prune_due = false,
            Some(Action::Switch(_) | Action::RunHooks { .. } | Action::Probe(_)) => self.advance(),
            Some(Action::Load(_)) | None => {}
        }
    }

    /// Notes a fact about the release of `seq`.
    fn mark(&mut self, seq: Seq, change: impl FnOnce(&mut ReleaseFacts)) {
        let Some(manifest) = self.manifests.get(&seq) else { return };
        let facts = self.journal.releases.entry(manifest.release.clone()).or_insert_with(|| ReleaseFacts {
            seq,
            digest: manifest.artifact.digest.clone(),
            created: manifest.created,
            outcome: ReleaseOutcome::Staged,
            prepared: false,
        });
        change(facts);
    }

    fn on_failed(&mut self, failure: Failure) {
        let action = self.in_flight.take();
        match action {
            // Old directories that could not be removed are tried again after the next release.
            Some(Action::Prune { .. }) => self.prune_due = false,
            Some(Action::Switch(_) | Action::RunHooks { .. } | Action::Probe(_)) if self.journal.activity.is_some() => {
                self.turn_back(failure)
            }
            _ if failure.code.transient() => {
                self.resting = true;
                self.fail(failure);
            }
            _ => self.give_up(failure),
        }
    }

    /// Nothing was changed that anybody sees: remember not to try this again for this generation.
    fn give_up(&mut self, failure: Failure) {
        self.journal.failed.insert(failure.seq, self.generation());
        self.fail(failure);
    }

    fn fail(&mut self, failure: Failure) {
        self.journal.failure = Some((self.generation(), failure));
    }

    fn generation(&self) -> Generation {
        self.goal.as_ref().map_or(Generation(0), |g| g.generation)
    }
}

#[cfg(test)]
mod tests;
