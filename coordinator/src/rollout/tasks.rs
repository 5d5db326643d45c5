//! Where the run-once tasks stand, and what that allows the rollout.
//!
//! A task that was started is decided before anything else is: a server that dies in it loses its presence and its lock at
//! the same moment, and to call that a spent budget would take the fleet back over a migration of which nobody knows
//! whether it still runs.

use coord_proto::ids::ReleaseId;
use coord_proto::migration::{Head, Phase, TaskRecord, TaskState};
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
        own.map(|r| &r.release).or_else(|| self.older_needs_a_person(phase))
    }

    /// The head that another release's task holds open, while tasks of this release wait for it.
    ///
    /// `release publish` refuses to begin then; this is for a head that was opened all the same.
    fn foreign_head(&self, phase: Phase) -> Option<(&Head, Option<&TaskRecord>)> {
        let head = self.app.head.as_ref().filter(|h| h.open && h.release != self.facts.release)?;
        let record = self.app.tasks.iter().find(|r| r.release == head.release && r.task == head.task);
        (!self.tasks_succeeded(phase)).then_some((head, record))
    }

    fn older_needs_a_person(&self, phase: Phase) -> Option<&ReleaseId> {
        let (head, record) = self.foreign_head(phase)?;
        let task = record.and_then(|r| self.app.manifests.get(&r.seq)?.tasks.iter().find(|t| t.name == r.task));
        let waits = match (record, task) {
            (Some(record), Some(task)) => duties::needs_a_person(task, record),
            // Without its manifest nobody says that it may be repeated.
            (Some(record), None) => record.state != TaskState::Claimed,
            (None, _) => true,
        };
        waits.then_some(&head.release)
    }

    /// What the servers wait for, in words, while another release's task runs; empty: nothing.
    pub fn words_of_older_task(&self, phase: Phase) -> String {
        let Some((head, Some(record))) = self.foreign_head(phase) else { return String::new() };
        format!("the task `{}` of release {} is not done yet on {}; the servers wait for it", head.task, head.release, record.holder)
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
        let moves = |r: &TaskRecord| r.state == TaskState::Unknown || duties::lost_its_lock(self.app, r);
        let older = self.foreign_head(phase).and_then(|(_, r)| r);
        self.records(phase).filter_map(|(_, r)| r).chain(older).any(moves)
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
