//! The agent's thinking for one app: an event in, at most one action out. It knows no tokio, etcd, filesystem,
//! process or clock.
//!
//! ```text
//!            Load ▸ Stage ▸ Prepare                          toward_stage: nobody sees it
//! goal.run:  Load ▸ Stage ▸ Prepare ▸ EnsureTasks(before)    toward_run, may be interrupted
//!            ▸ Drain ▸ Switch ▸ Restart ▸ Probe ▸ Undrain    an Activity: journaled, always brought to an end
//!                         └─ failed ─▸ Switch ▸ Restart ▸ Probe ▸ Undrain   back to what was healthy here, else
//!                                                            toward_run takes `stable` (I2)
//! goal.after: EnsureTasks(after)
//! cleanup hooks ▸ Prune                                      when nothing else is to be done
//! ```
//!
//! Each decision is made anew from the goal and the journal (level, not edge): a restart, a first start and a changed
//! mind are one code path. The caller saves the journal before it starts the action (I9). No action that failed is
//! decided on again at once: it rests, or is remembered as failed, or as not to be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coord_proto::desired::Desired;
use coord_proto::ids::{AppName, Generation, NodeName, ReleaseId, RolloutId, Seq};
use coord_proto::manifest::{HookPhase, Manifest};
use coord_proto::migration::Phase;
use coord_proto::report::{Failure, FailureCode, Progress};

use crate::journal::{Journal, ReleaseFacts, ReleaseOutcome};

mod activity;
mod decide;
mod report;
mod standing;

pub use standing::Standing;

/// What this server should do for the app, after [`crate::goal::effective`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub run: Seq,
    pub stage: Option<Seq>,
    pub after: Option<Seq>,
    /// What a server takes that has nothing healthy to go back to; never pruned.
    pub stable: Option<Seq>,
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
            stable: None,
            generation: d.generation,
            rollout: d.rollout,
            may_migrate: d.may_migrate,
            restart: d.restart,
            // `attempt` has no place here: each wish to try again is a new generation.
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
    /// Pruning ended; these are gone.
    Pruned(Vec<ReleaseId>),
    /// The action in flight ended badly; of a switch: `current` points to the new release, and may not be durable.
    Failed(Failure),
    /// Switching ended badly, and `current` is where it was.
    NotSwitched(Failure),
    /// The action in flight gave way, as [`Machine::must_yield`] asked.
    Interrupted,
    /// The action in flight waits for somebody else.
    Waiting(String),
    /// The action in flight runs its task here: it waits no longer.
    TaskStarted,
    Progressed(Progress),
    /// Time to try again what may work now.
    RetryDue,
}

/// Something to do. One is in flight at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The manifest of what this server may take: signed, meant for it, and allowed here.
    Load(Seq),
    /// The manifest of what served here before: signed. What was allowed then is no question of today.
    LoadServed(Seq),
    Stage(Seq),
    Prepare(Seq),
    EnsureTasks {
        seq: Seq,
        phase: Phase,
        may_claim: bool,
    },
    RunHooks {
        seq: Seq,
        phase: HookPhase,
    },
    Switch(ReleaseId),
    Probe(Seq),
    Prune {
        keep: u32,
        protected: BTreeSet<ReleaseId>,
        manifests: BTreeSet<Seq>,
    },
}

impl Action {
    /// The number whose manifest it speaks of.
    pub fn seq(&self) -> Option<Seq> {
        match self {
            Self::Switch(_) | Self::Prune { .. } => None,
            Self::Load(seq) | Self::LoadServed(seq) | Self::Stage(seq) | Self::Prepare(seq) | Self::Probe(seq) => Some(*seq),
            Self::EnsureTasks { seq, .. } | Self::RunHooks { seq, .. } => Some(*seq),
        }
    }
}

/// The thinking for one app.
#[derive(Debug, Clone)]
pub struct Machine {
    node: NodeName,
    app: AppName,
    journal: Journal,
    goal: Option<Goal>,
    manifests: BTreeMap<Seq, Arc<Manifest>>,
    /// Seqs whose manifest this server may take, and not only one that served here.
    accepted: BTreeSet<Seq>,
    /// Seqs whose manifest cannot be loaded, asked for what served here: no way back, and no barrier.
    unloadable: BTreeSet<Seq>,
    /// Seqs whose `before` tasks are settled, as seen since the start.
    settled: BTreeSet<Seq>,
    in_flight: Option<Action>,
    /// The rollout that the action in flight began under.
    begun_under: Option<RolloutId>,
    progress: Option<Progress>,
    waiting: Option<String>,
    /// The command of the task in flight runs here.
    runs_task: bool,
    /// A failure that may pass by itself: nothing is tried before [`Event::RetryDue`].
    resting: bool,
    prune_due: bool,
}

impl Machine {
    /// A machine that goes on where the journal stands.
    pub fn new(node: NodeName, app: AppName, journal: Journal) -> Self {
        Self {
            node,
            app,
            journal,
            goal: None,
            manifests: BTreeMap::new(),
            accepted: BTreeSet::new(),
            unloadable: BTreeSet::new(),
            settled: BTreeSet::new(),
            in_flight: None,
            begun_under: None,
            progress: None,
            waiting: None,
            runs_task: false,
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

    /// Is it running, or waiting for, what runs once in the fleet?
    pub fn is_at_tasks(&self) -> bool {
        matches!(self.in_flight, Some(Action::EnsureTasks { .. }))
    }

    /// Should the action in flight give way, because the goal no longer asks for it? Only what nobody can see yields.
    pub fn must_yield(&self) -> bool {
        let Some(goal) = &self.goal else { return false };
        let target = self.target(goal);
        match &self.in_flight {
            Some(Action::Stage(seq) | Action::Prepare(seq)) => target != *seq && goal.stage != Some(*seq),
            // Another rollout of the same seq may claim what the one before it may not any more.
            Some(Action::EnsureTasks { .. }) if goal.rollout != self.begun_under => true,
            Some(Action::EnsureTasks { seq, phase: Phase::Before, may_claim }) => {
                target != *seq || self.may_claim(goal, target) != *may_claim
            }
            Some(Action::EnsureTasks { seq, phase: Phase::After, .. }) => goal.after != Some(*seq),
            _ => false,
        }
    }

    /// Takes an event; gives the action to start, if one is due. An ending that the action in flight cannot have changes
    /// nothing.
    pub fn handle(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::GoalSeen(goal) => self.on_goal(goal),
            Event::Waiting(words) => (self.waiting, self.runs_task) = (Some(words), false),
            Event::TaskStarted => (self.waiting, self.runs_task) = (None, true),
            Event::Progressed(progress) => self.progress = Some(progress),
            Event::RetryDue => self.resting = false,
            ending => self.on_ending(ending),
        }
        if self.in_flight.is_none() {
            (self.waiting, self.runs_task) = (None, false);
            self.progress = None;
            self.in_flight = self.decide();
            self.begun_under = self.rollout();
            return self.in_flight.clone();
        }
        None
    }

    fn on_goal(&mut self, goal: Goal) {
        if self.goal.as_ref() == Some(&goal) {
            return;
        }
        // What failed answers the generation that it met, also over a restart; asked anew, it says nothing any more.
        if self.journal.failure.as_ref().is_some_and(|(met, _)| *met != goal.generation) {
            self.journal.failure = None;
        }
        self.journal.failed.retain(|_, met| *met == goal.generation);
        if self.goal.as_ref().is_none_or(|old| old.generation != goal.generation) {
            self.resting = false;
            self.unloadable.clear();
        }
        // Without a rollout's word the tasks of a seq are looked up again: the record decides, not this memory.
        self.settled.retain(|seq| *seq == goal.run);
        self.goal = Some(goal);
        let needed = self.needed();
        self.manifests.retain(|seq, _| needed.contains(seq));
        self.accepted.retain(|seq| needed.contains(seq));
    }

    fn on_ending(&mut self, event: Event) {
        let Some(action) = self.in_flight.clone() else { return };
        match (event, &action) {
            (Event::ManifestLoaded(manifest), Action::Load(seq) | Action::LoadServed(seq)) if manifest.seq == *seq => {
                self.in_flight = None;
                self.on_manifest(manifest, &action);
            }
            (Event::Pruned(removed), Action::Prune { .. }) => {
                self.in_flight = None;
                self.prune_due = false;
                self.journal.releases.retain(|release, _| !removed.contains(release));
            }
            (Event::Finished, Action::Load(_) | Action::LoadServed(_) | Action::Prune { .. }) => {}
            (Event::Finished, _) => {
                self.in_flight = None;
                self.on_finished(action);
            }
            (Event::NotSwitched(failure), Action::Switch(_)) => {
                self.in_flight = None;
                self.leg_failed(failure);
            }
            (Event::Failed(failure), _) => {
                self.in_flight = None;
                self.on_failed(failure, action);
            }
            (Event::Interrupted, _) => self.in_flight = None,
            _ => {}
        }
    }

    fn on_manifest(&mut self, manifest: Arc<Manifest>, action: &Action) {
        if matches!(action, Action::Load(_)) {
            self.accepted.insert(manifest.seq);
            self.journal.accepted = self.journal.accepted.max(manifest.seq);
        }
        self.unloadable.remove(&manifest.seq);
        self.manifests.insert(manifest.seq, manifest);
        self.forget_what_passed();
    }

    fn on_finished(&mut self, action: Action) {
        self.forget_what_passed();
        match action {
            Action::Stage(seq) => self.note_staged(seq),
            Action::Prepare(seq) => self.mark(seq, |facts| facts.prepared = true),
            Action::EnsureTasks { seq, phase: Phase::Before, .. } => _ = self.settled.insert(seq),
            Action::EnsureTasks { seq, phase: Phase::After, .. } => self.journal.after_done = Some(seq),
            Action::RunHooks { phase: HookPhase::Cleanup, .. } => self.journal.cleanup = None,
            Action::Switch(_) | Action::RunHooks { .. } | Action::Probe(_) => self.advance(),
            Action::Load(_) | Action::LoadServed(_) | Action::Prune { .. } => {}
        }
    }

    /// A failure that rested is over when the next action ends well; one that was given up stays told.
    fn forget_what_passed(&mut self) {
        let passed = |f: &Failure| f.code.transient() && !self.journal.failed.contains_key(&f.seq);
        if self.journal.failure.as_ref().is_some_and(|(_, f)| passed(f)) {
            self.journal.failure = None;
        }
    }

    /// The release of `seq` is on the disk, whole; whatever was known of its name before is no longer so.
    fn note_staged(&mut self, seq: Seq) {
        let Some(manifest) = self.manifests.get(&seq) else { return };
        let facts = ReleaseFacts {
            seq,
            digest: manifest.artifact.digest.clone(),
            created: manifest.created,
            outcome: ReleaseOutcome::Staged,
            prepared: false,
        };
        self.journal.releases.insert(manifest.release.clone(), facts);
    }

    /// Notes a fact about the release of `seq`. A later manifest may name an older release: its number is the one that
    /// counts now.
    fn mark(&mut self, seq: Seq, change: impl FnOnce(&mut ReleaseFacts)) {
        let Some(manifest) = self.manifests.get(&seq) else { return };
        if let Some(facts) = self.journal.releases.get_mut(&manifest.release) {
            facts.seq = seq;
            change(facts);
        }
    }

    fn on_failed(&mut self, failure: Failure, action: Action) {
        let passing = failure.code.transient();
        match action {
            // Old directories and old work: told where it failed, tried again after the next release.
            Action::Prune { .. } => self.prune_due = false,
            Action::RunHooks { phase: HookPhase::Cleanup, .. } => self.journal.cleanup = None,
            Action::LoadServed(seq) if !passing || failure.code == FailureCode::ManifestMissing => self.served_is_lost(seq, failure),
            Action::Load(_) if self.journal.activity.is_some() && (!passing || failure.code == FailureCode::ManifestMissing) => {
                self.leg_failed(failure);
            }
            Action::Switch(_) => {
                self.note_switched();
                self.leg_failed(failure);
            }
            Action::RunHooks { .. } | Action::Probe(_) => self.leg_failed(failure),
            Action::Load(_) | Action::LoadServed(_) | Action::Stage(_) | Action::Prepare(_) | Action::EnsureTasks { .. } if passing => {
                self.resting = true;
                self.fail(failure);
            }
            Action::Load(seq) | Action::LoadServed(seq) | Action::Stage(seq) | Action::Prepare(seq) | Action::EnsureTasks { seq, .. } => {
                self.give_up(seq, failure);
            }
        }
    }

    /// Nothing was changed that anybody sees: remember not to try this again for this generation.
    fn give_up(&mut self, seq: Seq, failure: Failure) {
        self.journal.failed.insert(seq, self.generation());
        self.fail(failure);
    }

    /// What was given up first stays told: whatever fails after it is its consequence.
    fn fail(&mut self, mut failure: Failure) {
        let generation = self.generation();
        if let Some((met, told)) = &self.journal.failure
            && *met == generation
        {
            if told.seq != failure.seq && self.has_failed(told.seq, generation) {
                return;
            }
            if (told.seq, told.step, told.code) == (failure.seq, failure.step, failure.code) {
                failure.attempt = told.attempt + 1;
            }
        }
        self.journal.failure = Some((generation, failure));
    }

    fn has_failed(&self, seq: Seq, generation: Generation) -> bool {
        self.journal.failed.get(&seq) == Some(&generation)
    }

    fn generation(&self) -> Generation {
        self.goal.as_ref().map_or(Generation(0), |g| g.generation)
    }
}

#[cfg(test)]
mod tests;
