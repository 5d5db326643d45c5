//! Where the run-once tasks stand, and what that allows the rollout.
//!
//! A task that was started is decided before anything else is: a server that dies in it loses its presence and its lock at
//! the same moment, and to call that a spent budget would take the fleet back over a migration of which nobody knows
//! whether it still runs.

use coord_proto::ids::ReleaseId;
use coord_proto::migration::{Phase, TaskRecord, TaskState};
use coord_proto::rollout::{Outcome, RolloutPhase};

use super::course::Course;
use super::duties;
use crate::view::TaskFacts;

impl Course<'_> {
    fn records(&self, phase: Phase) -> impl Iterator<Item = (&TaskFacts, Option<&TaskRecord>)> {
        let record = |task: &TaskFacts| self.app.tasks.iter().find(|r| r.release == self.facts.release && r.task == task.name);
        self.facts.tasks_of(phase).map(move |task| (task, record(task)))
    }

    pub fn tasks_succeeded(&self, phase: Phase) -> bool {
        self.records(phase).all(|(_, r)| r.is_some_and(|r| r.state == TaskState::Succeeded))
    }

    /// The release whose task waits for a person, if one does.
    pub fn awaited_decision(&self, phase: Phase) -> Option<&ReleaseId> {
        let own = self.records(phase).find_map(|(task, r)| r.filter(|r| duties::needs_a_person(task, r)));
        own.map(|r| &r.release)
    }

    /// A run-once task failed, or nobody knows: true when the pass must go no further.
    pub fn stopped_by_task(&mut self, phase: Phase) -> bool {
        let failed = self.records(phase).find_map(|(_, r)| r.filter(|r| r.state == TaskState::Failed)).cloned();
        if let Some(record) = failed {
            let detail = if record.detail.is_empty() { String::new() } else { format!(": {}", record.detail) };
            self.fail_by_task(phase, format!("the task `{}` failed on {}{detail}", record.task, record.holder));
            return true;
        }
        if let Some(release) = self.awaited_decision(phase).cloned() {
            self.await_decision(&release);
            return true;
        }
        if self.moves_on(phase) {
            self.timers.rest();
            return true;
        }
        false
    }

    fn await_decision(&mut self, release: &ReleaseId) {
        self.timers.rest();
        self.state.reason = format!(
            "nobody knows how a run-once task of release {release} ended; look, then type: coordctl migration resolve {} {release} --as succeeded|failed|retry",
            self.input.name
        );
        self.enter(RolloutPhase::AwaitingDecision, "waits for a decision about a run-once task");
    }

    /// Does a duty of this very pass change a task's record? What it says then decides.
    fn moves_on(&self, phase: Phase) -> bool {
        self.records(phase).any(|(_, r)| r.is_some_and(|r| r.state == TaskState::Unknown || duties::lost_its_lock(self.app, r)))
    }

    /// Do servers that are away not count yet? While a task that was started is undecided and somebody is left to decide it:
    /// the one that is away may be the one that died in it, and another server repeats it.
    pub fn away_waits(&self) -> bool {
        let begun = matches!(self.state.phase, RolloutPhase::Running | RolloutPhase::AwaitingPromotion);
        let undecided = |r: &TaskRecord| matches!(r.state, TaskState::Pending | TaskState::Claimed | TaskState::Unknown);
        begun
            && self.records(Phase::Before).any(|(_, r)| r.is_some_and(undecided))
            && self.state.targets.iter().any(|t| t.outcome == Outcome::Pending)
    }
}
