//! The rollout planner: what is stored and how long it has been so, in; what to write, out.
//!
//! ```text
//!  spec ──▶ Staging ──▶ Running: batch 1, bake, batch 2, … ──▶ Finishing ──▶ Succeeded
//!              │           │  ▲          ▲                        (after)
//!              │           │  └─▶ AwaitingPromotion, AwaitingDecision
//!              └─ budget ──┴──▶ RollingBack ──▶ RolledBack
//!                 spent    └──▶ Halted: by policy, or because a migration bars the way back
//!              abort ─────────▶ RollingBack ──▶ Aborted
//! ```
//!
//! Pure: no tokio, no store, no clock, no files. Level, not edge: every pass derives all desired records from the state
//! and names those that differ, so a pass that was cut short is made good by the next one, whoever makes it. The state
//! is written before, or together with, the desired records that follow from it (I9).
//!
//! A desired record is always complete. For a server that runs nothing while there is no `stable` yet, `run` is
//! sequence number 0: nothing yet, wait for your batch.

use std::time::Duration;

use coord_proto::coordinator::HistoryRecord;
use coord_proto::desired::Desired;
use coord_proto::ids::{AppName, ReleaseId, RolloutId};
use coord_proto::migration::{Phase, TaskId};
use coord_proto::rollout::{RolloutPhase, RolloutState, StableRecord, Verdict};

use crate::view::{App, Fleet};

pub mod again;
mod batches;
mod begin;
mod budget;
mod course;
mod duties;
mod ending;
pub(crate) mod names;
mod progress;
mod roster;
mod tasks;
mod tell;
mod timers;
pub mod wishes;

pub use batches::choose;
use course::Course;
use roster::Roster;
pub use timers::Timers;

/// What the planner sees.
#[derive(Debug)]
pub struct PlanInput<'a> {
    pub name: &'a AppName,
    pub fleet: &'a Fleet,
    /// As the last decision for this app gave them; the default for a new leader.
    pub timers: Timers,
    /// Since the last plan of this app by this leader, on a monotonic clock; zero for the first.
    pub elapsed: Duration,
    /// Unix seconds, for what people read; nothing is decided by it.
    pub now: i64,
}

/// What to write, and when to look again without a change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The new state: all of `state` … `history` belong into one transaction.
    pub state: Option<RolloutState>,
    pub stable: Option<StableRecord>,
    pub verdict: Option<(ReleaseId, Verdict)>,
    pub history: Vec<(RolloutId, HistoryRecord)>,
    /// Finished rollouts over the limit.
    pub forgotten: Vec<RolloutId>,
    /// Past tense, one line each: the log's and the audit trail's.
    pub events: Vec<String>,
    /// Desired records that differ from what they should be; after the state, or together with it.
    pub desired: Vec<Desired>,
    pub duties: Vec<Duty>,
    pub timers: Timers,
    pub wake_after: Option<Duration>,
    /// Why nothing can be planned for this app.
    pub blocked: Option<String>,
}

/// A run-once task that the leader must move on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Its holder's lock is gone.
    MarkUnknown(TaskId),
    /// Nobody knows how it ended, and its manifest allows a repetition.
    Retry(TaskId),
}

impl Decision {
    /// Is there something to write?
    pub fn writes(&self) -> bool {
        self.state.is_some() || !self.desired.is_empty() || !self.duties.is_empty()
    }
}

/// Decides for one app.
pub fn plan(input: &PlanInput<'_>) -> Decision {
    let Some(app) = input.fleet.apps.get(input.name) else { return Decision::default() };
    if app.unreadable {
        return blocked("a record of its rollout cannot be read");
    }
    let mut decision = match &app.spec {
        None => {
            let roster = Roster::of(&input.fleet.nodes, &[]);
            let outside = tell::Outside { roster: &roster, moved: None, serial: None };
            Decision { desired: tell::newcomers(input, app, &outside), ..Decision::default() }
        }
        Some(spec) => match app.manifests.get(&spec.seq) {
            None => blocked(&format!("the manifest {} of rollout {} is missing or cannot be read", spec.seq, spec.id)),
            Some(_) if app.state.as_ref().is_some_and(|s| s.id == spec.id && s.phase == RolloutPhase::Unknown) => {
                blocked("a newer coordinator wrote the rollout's phase; upgrade this one")
            }
            Some(facts) => steer(Course::open(input, app, spec, facts)),
        },
    };
    decision.duties = duties::of(input.name, app);
    decision
}

fn blocked(why: &str) -> Decision {
    Decision { blocked: Some(why.to_owned()), ..Decision::default() }
}

/// One pass over one rollout.
fn steer(mut course: Course<'_>) -> Decision {
    if !course.state.phase.ended() {
        course.judge();
        course.follow_membership();
        course.obey_wish();
        course.advance();
    }
    course.decide()
}

impl Course<'_> {
    fn advance(&mut self) {
        match self.state.phase {
            RolloutPhase::Staging => self.advance_staging(),
            RolloutPhase::Running => self.advance_running(),
            RolloutPhase::AwaitingPromotion => self.leave_promotion(),
            RolloutPhase::AwaitingDecision => self.leave_decision(),
            RolloutPhase::Finishing => self.advance_finishing(),
            RolloutPhase::RollingBack => self.advance_rollback(),
            RolloutPhase::Succeeded
            | RolloutPhase::Halted
            | RolloutPhase::RolledBack
            | RolloutPhase::Aborted
            | RolloutPhase::Superseded
            | RolloutPhase::Unknown => {}
        }
    }

    /// All staged, or counted: the first batch opens if the budgets hold.
    fn advance_staging(&mut self) {
        let pending = self.pending_staging();
        self.timers.count(pending > 0 && !self.state.paused);
        if self.timers.open >= self.spec.policy.batch_deadline && pending > 0 {
            self.fail_the_late(|_, staged| !staged, "was not ready in time");
        }
        if self.stopped_by_budget() || self.state.paused || self.pending_staging() > 0 {
            return;
        }
        if self.state.targets.is_empty() && !self.takes_newcomers() {
            return self.end(RolloutPhase::Halted, "no server is left that it was asked for".to_owned());
        }
        if self.state.targets.is_empty() {
            self.state.reason = "no server matches yet; it starts with the first that does".to_owned();
            return;
        }
        self.open_batch_from(0);
    }

    fn advance_running(&mut self) {
        if self.stopped_by_task(Phase::Before) {
            return;
        }
        self.state.reason = self.words_of_older_task(Phase::Before);
        let open = self.state.batch;
        let pending = self.pending_in(open);
        let migrating = self.migrating(open);
        self.timers.count(pending > 0 && !migrating && !self.state.paused);
        if self.timers.open >= self.spec.policy.batch_deadline && pending > 0 && !migrating {
            self.fail_the_late(|t, _| t.batch == open && t.told, "did not finish in time");
        }
        if self.stopped_by_budget() {
            return;
        }
        let settled = self.pending_in(open) == 0;
        self.timers.bake(settled && self.done_in(open) > 0);
        if !settled || self.state.paused || (self.done_in(open) > 0 && !self.timers.baked(self.spec.policy.bake)) {
            return;
        }
        self.leave_batch();
    }

    /// The operator's word came: on with what was going on, in this very pass, because whoever was away counts again.
    fn leave_decision(&mut self) {
        self.timers.rest();
        let phase = if self.after_last_batch() { Phase::After } else { Phase::Before };
        if self.awaited_decision(phase).is_none() {
            self.enter(if phase == Phase::After { RolloutPhase::Finishing } else { RolloutPhase::Running }, "went on after the decision");
            self.state.reason.clear();
            self.advance();
        }
    }

    /// `after` runs once every target runs the release; there is no deadline: a server that is off may take a week.
    fn advance_finishing(&mut self) {
        self.timers.rest();
        if self.stopped_by_task(Phase::After) {
            return;
        }
        if self.tasks_succeeded(Phase::After) {
            return self.end(RolloutPhase::Succeeded, String::new());
        }
        let late = self.not_done();
        self.state.reason = if late.is_empty() { String::new() } else { format!("the after tasks wait for {}", names::short(&late)) };
    }

    /// Promoted: on with the next batch, unless it is paused.
    fn leave_promotion(&mut self) {
        self.timers.rest();
        if self.stopped_by_budget() || !self.state.promoted || self.state.paused {
            return;
        }
        if self.pending_in(self.state.batch) == 0 {
            return self.open_batch_from(self.state.batch + 1);
        }
        // Healthy when it was asked, and not now. Left behind, it would never be counted.
        self.timers.restart();
        self.enter(RolloutPhase::Running, "waits for its first batch again, which is not done any more");
    }
}

/// The app's record of what is where, for messages.
fn release_words(app: &App, state: &RolloutState) -> String {
    app.release_of(state.seq).unwrap_or(&state.release).to_string()
}

#[cfg(test)]
mod tests;
