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
use coord_proto::report::{Failure, FailureCode, HealthState, Progress, Running, Status, Step};

use crate::journal::{Activity, Direction, Journal, Leg, ReleaseFacts, ReleaseOutcome};

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
    /// The action in flight runs its task here: it waits no longer.
    TaskStarted,
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
    /// The rollout that the action in flight began under.
    begun_under: Option<RolloutId>,
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
            begun_under: None,
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
            // Another rollout of the same seq may claim what the one before it may not any more.
            Some(Action::EnsureTasks { .. }) if goal.rollout != self.begun_under => true,
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
            Event::TaskStarted => self.waiting = None,
            Event::Progressed(progress) => self.progress = Some(progress),
            Event::RetryDue => self.resting = false,
        }
        if self.in_flight.is_none() {
            self.waiting = None;
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

    /// The activity's leg is done: the next one, or the end.
    fn advance(&mut self) {
        let Some(mut activity) = self.journal.activity.take() else { return };
        match (activity.leg, activity.direction) {
            (Leg::Drain, _) => activity.leg = Leg::Switch,
            (Leg::Switch, Direction::Forward) => {
                self.journal.running = Some(Running { seq: activity.seq, release: activity.release.clone() });
                self.health = HealthState::Unproven;
                activity.leg = Leg::Restart;
            }
            (Leg::Switch, Direction::Back) => {
                self.journal.running.clone_from(&activity.previous);
                activity.leg = Leg::Restart;
            }
            (Leg::Restart, _) => activity.leg = Leg::Probe,
            (Leg::Probe, _) => activity.leg = Leg::Undrain,
            (Leg::Undrain, Direction::Forward) => return self.complete(activity),
            (Leg::Undrain, Direction::Back) => return self.returned(),
        }
        self.journal.activity = Some(activity);
    }

    fn complete(&mut self, activity: Activity) {
        let now = Running { seq: activity.seq, release: activity.release };
        if activity.previous.as_ref() != Some(&now) {
            self.journal.previous_good = activity.previous.filter(|p| Some(p) == self.journal.last_healthy.as_ref() || p.seq == Seq(0));
        }
        // The floor rises when a release has passed health, not when it was accepted (I2).
        if let Some(manifest) = self.manifests.get(&now.seq) {
            self.journal.floor = self.journal.floor.max(manifest.floor);
        }
        self.mark(now.seq, |facts| facts.outcome = ReleaseOutcome::Good);
        self.journal.failed.remove(&now.seq);
        self.journal.restarted = activity.restart;
        self.journal.last_healthy = Some(now);
        self.health = HealthState::Healthy;
        self.journal.failure = None;
        self.prune_due = true;
    }

    fn returned(&mut self) {
        self.health = if self.journal.running == self.journal.last_healthy { HealthState::Healthy } else { HealthState::Unproven };
        if let Some((_, failure)) = &mut self.journal.failure {
            failure.fell_back = true;
        }
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

    /// A leg of the activity failed: back to what was healthy here, or stay and say so.
    fn turn_back(&mut self, failure: Failure) {
        let Some(mut activity) = self.journal.activity.take() else { return };
        if activity.direction == Direction::Back {
            // The way back failed too: a person is needed; the first failure stays the one that is told.
            self.health = HealthState::Unhealthy;
            let generation = self.generation();
            self.journal.failure.get_or_insert((generation, failure));
            return;
        }
        let switched = activity.leg != Leg::Drain;
        self.mark(activity.seq, |facts| facts.outcome = ReleaseOutcome::Failed);
        self.give_up(failure);
        if switched {
            self.health = HealthState::Unhealthy;
            if !self.may_return_to(&activity) {
                return;
            }
        }
        activity.direction = Direction::Back;
        activity.leg = if switched { Leg::Switch } else { Leg::Undrain };
        self.journal.activity = Some(activity);
    }

    /// Is the previous release one that was healthy here and not below the floor?
    fn may_return_to(&self, activity: &Activity) -> bool {
        let Some(previous) = &activity.previous else { return false };
        let other = previous.release != activity.release;
        let adopted = previous.seq == Seq(0) && self.journal.floor == Seq(0);
        let proven = self.journal.last_healthy.as_ref() == Some(previous) && previous.seq >= self.journal.floor;
        other && (adopted || proven)
    }

    fn decide(&mut self) -> Option<Action> {
        if let Some(activity) = self.journal.activity.clone() {
            return self.go_on(&activity);
        }
        let goal = self.goal.clone()?;
        if self.resting {
            return None;
        }
        self.toward_run(&goal)
            .or_else(|| self.toward_stage(&goal))
            .or_else(|| self.toward_after(&goal))
            .or_else(|| self.toward_prune(&goal))
    }

    /// The action of the activity's leg. After a restart the manifests must be loaded first.
    fn go_on(&self, activity: &Activity) -> Option<Action> {
        let (seq, release) = match (activity.direction, &activity.previous) {
            (Direction::Back, Some(previous)) => (previous.seq, previous.release.clone()),
            _ => (activity.seq, activity.release.clone()),
        };
        // An adopted tree has no manifest: the newcomer's hooks restart it, and nothing can be probed.
        let hooks = if seq == Seq(0) { activity.seq } else { seq };
        if !self.manifests.contains_key(&hooks) {
            return Some(Action::Load(hooks));
        }
        Some(match activity.leg {
            Leg::Drain => Action::RunHooks { seq: hooks, phase: HookPhase::Drain },
            Leg::Switch => Action::Switch(release),
            Leg::Restart => Action::RunHooks { seq: hooks, phase: HookPhase::Restart },
            Leg::Probe => Action::Probe(hooks),
            Leg::Undrain => Action::RunHooks { seq: hooks, phase: HookPhase::Undrain },
        })
    }

    fn toward_run(&mut self, goal: &Goal) -> Option<Action> {
        let running = self.journal.running.clone();
        let there = running.as_ref().is_some_and(|r| r.seq == goal.run) && self.journal.restarted >= goal.restart;
        if goal.run == Seq(0) || there {
            return None;
        }
        if let Some(action) = self.make_ready(goal, goal.run)? {
            return Some(action);
        }
        let manifest = self.manifests.get(&goal.run)?.clone();
        if !self.settled.contains(&goal.run) && !manifest.once_tasks(Phase::Before).is_empty() {
            return Some(Action::EnsureTasks { seq: goal.run, phase: Phase::Before, may_claim: goal.may_migrate });
        }
        // What would be gone back to must be known before anything changes.
        if let Some(previous) = running.as_ref().filter(|r| r.seq != Seq(0) && !self.manifests.contains_key(&r.seq)) {
            return Some(Action::Load(previous.seq));
        }
        let activity = Activity {
            seq: goal.run,
            release: manifest.release.clone(),
            previous: running,
            leg: Leg::Drain,
            direction: Direction::Forward,
            restart: goal.restart,
        };
        self.journal.activity = Some(activity.clone());
        self.go_on(&activity)
    }

    /// `None`: it cannot be made ready. `Some(None)`: it is. `Some(action)`: do this first.
    fn make_ready(&mut self, goal: &Goal, seq: Seq) -> Option<Option<Action>> {
        if self.journal.failed.get(&seq).is_some_and(|at| *at >= goal.generation) {
            return None;
        }
        let Some(manifest) = self.manifests.get(&seq).cloned() else { return Some(Some(Action::Load(seq))) };
        if seq < self.journal.floor {
            self.give_up(below_floor(seq, self.journal.floor));
            return None;
        }
        let facts = self.journal.releases.get(&manifest.release).filter(|f| f.digest == manifest.artifact.digest);
        Some(match facts {
            None => Some(Action::Stage(seq)),
            Some(facts) if !facts.prepared => Some(Action::Prepare(seq)),
            Some(_) => None,
        })
    }

    fn toward_stage(&mut self, goal: &Goal) -> Option<Action> {
        self.make_ready(goal, goal.stage?)?
    }

    fn toward_after(&mut self, goal: &Goal) -> Option<Action> {
        let seq = goal.after?;
        let running = self.journal.running.as_ref().is_some_and(|r| r.seq == seq);
        if !running || self.journal.after_done == Some(seq) || self.journal.failed.get(&seq).is_some_and(|at| *at >= goal.generation) {
            return None;
        }
        match self.manifests.get(&seq) {
            None => Some(Action::Load(seq)),
            Some(_) => Some(Action::EnsureTasks { seq, phase: Phase::After, may_claim: goal.may_migrate }),
        }
    }

    fn toward_prune(&mut self, goal: &Goal) -> Option<Action> {
        if !self.prune_due {
            return None;
        }
        let running = self.journal.running.as_ref()?;
        let keep = self.manifests.get(&running.seq)?.layout.keep_releases;
        Some(Action::Prune { keep, protected: self.protected(goal) })
    }

    /// Never pruned: current, run, stage, the last healthy one, the previous good one, the journaled one.
    fn protected(&self, goal: &Goal) -> BTreeSet<ReleaseId> {
        let j = &self.journal;
        let named = [&j.running, &j.last_healthy, &j.previous_good].into_iter().flatten().map(|r| r.release.clone());
        let wanted = j.releases.iter().filter(|(_, f)| f.seq == goal.run || goal.stage == Some(f.seq)).map(|(r, _)| r.clone());
        let active = j.activity.iter().map(|a| a.release.clone());
        named.chain(wanted).chain(active).collect()
    }

    /// What to report; `now` is the server's clock in Unix seconds.
    pub fn status(&self, now: i64) -> Status {
        let j = &self.journal;
        let running_facts = j.running.as_ref().and_then(|r| j.releases.get(&r.release));
        let ready = |seq: &Seq| j.releases.values().any(|f| f.seq == *seq && f.prepared);
        let goal = self.goal.as_ref();
        Status {
            node: self.node.clone(),
            app: self.app.clone(),
            accepted: j.accepted,
            floor: j.floor,
            running: j.running.clone(),
            staged: goal.and_then(|g| g.stage).filter(ready),
            after_done: j.after_done,
            step: self.step(),
            words: self.words(),
            health: self.health,
            generation: self.generation(),
            rollout: goal.and_then(|g| g.rollout.clone()),
            failure: self.failure().cloned(),
            digest: running_facts.map(|f| f.digest.clone()),
            progress: self.progress,
            restarted: j.restarted,
            since: now,
        }
    }

    fn failure(&self) -> Option<&Failure> {
        self.journal.failure.as_ref().map(|(_, failure)| failure)
    }

    fn step(&self) -> Step {
        let falling_back = self.journal.activity.as_ref().is_some_and(|a| a.direction == Direction::Back);
        match &self.in_flight {
            _ if falling_back => Step::FallingBack,
            None if self.resting => Step::Waiting,
            None | Some(Action::Prune { .. }) => Step::Idle,
            Some(Action::Load(_)) => Step::Fetching,
            Some(Action::Stage(_)) => Step::Staging,
            Some(Action::Prepare(_)) => Step::Preparing,
            Some(Action::EnsureTasks { phase: Phase::After, .. }) => Step::AfterTasks,
            Some(Action::EnsureTasks { .. }) if self.waiting.is_some() => Step::WaitingForMigration,
            Some(Action::EnsureTasks { .. }) => Step::Migrating,
            Some(Action::RunHooks { phase, .. }) => match phase {
                HookPhase::Drain => Step::Draining,
                HookPhase::Undrain => Step::Undraining,
                HookPhase::Prepare => Step::Preparing,
                HookPhase::Restart | HookPhase::Cleanup => Step::Restarting,
            },
            Some(Action::Switch(_)) => Step::Switching,
            Some(Action::Probe(_)) => Step::Probing,
        }
    }

    /// One transition = one line = the same words in the log, in `STATUS=` and in the record.
    fn words(&self) -> String {
        if let Some(waiting) = &self.waiting {
            return waiting.clone();
        }
        let name = |seq: &Seq| self.manifests.get(seq).map_or_else(|| format!("release number {seq}"), |m| m.release.to_string());
        match &self.in_flight {
            Some(Action::Load(seq)) => format!("fetching the manifest of {}", name(seq)),
            Some(Action::Stage(seq)) => format!("staging {}", name(seq)),
            Some(Action::Prepare(seq)) => format!("preparing {}", name(seq)),
            Some(Action::EnsureTasks { seq, phase: Phase::Before, .. }) => format!("migrating for {}", name(seq)),
            Some(Action::EnsureTasks { seq, .. }) => format!("running what comes after {}", name(seq)),
            Some(Action::RunHooks { seq, phase }) => format!("running the {} hooks of {}", phase.name(), name(seq)),
            Some(Action::Switch(release)) => format!("switching to {release}"),
            Some(Action::Probe(seq)) => format!("probing {}", name(seq)),
            Some(Action::Prune { .. }) | None => self.resting_words(),
        }
    }

    fn resting_words(&self) -> String {
        let on = self.journal.running.as_ref().map_or("nothing".into(), |r| r.release.to_string());
        match self.failure() {
            Some(f) if f.fell_back => format!("running {on} again: {} failed", f.seq),
            Some(f) => format!("running {on}; {}", f.chain.first().map_or("the last step failed", String::as_str)),
            None => format!("running {on}"),
        }
    }
}

fn below_floor(seq: Seq, floor: Seq) -> Failure {
    Failure {
        seq,
        step: Step::Fetching,
        code: FailureCode::BelowFloor,
        chain: vec![format!("release number {seq} is below this server's floor {floor}")],
        hint: "publish the older release again: it gets a new number and a signature".into(),
        log_tail: String::new(),
        fell_back: false,
        attempt: 1,
    }
}

#[cfg(test)]
mod tests;
