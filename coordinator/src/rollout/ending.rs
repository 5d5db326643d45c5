//! How a rollout ends: well, halted, or on the way back.

use coord_proto::coordinator::HistoryRecord;
use coord_proto::limits::HISTORY_MAX;
use coord_proto::migration::Phase;
use coord_proto::rollout::{OnFailure, Outcome, Promote, RolloutKind, RolloutPhase, StableRecord, Target, Verdict};

use super::course::Course;
use super::progress::{self, Look};
use super::{batches, begin, names};
use crate::counts;
use crate::view::Node;

impl Course<'_> {
    /// The open batch is healthy and baked.
    pub fn leave_batch(&mut self) {
        let next = self.state.batch + 1;
        let more = self.next_pending(next).is_some();
        // The first one that opened: its number may be higher, when all servers of those before it are away.
        if more && !self.state.promoted && self.spec.policy.promote == Promote::Manual {
            self.timers.rest();
            self.state.reason = format!("{}; type: coordctl rollout promote {}", self.first_batch_words(), self.input.name);
            return self.enter(RolloutPhase::AwaitingPromotion, "waits for its promotion");
        }
        self.open_batch_from(next);
    }

    fn first_batch_words(&self) -> String {
        let late: Vec<&str> =
            self.state.batch_targets(self.state.batch).filter(|t| t.outcome != Outcome::Done).map(|t| t.node.as_str()).collect();
        if late.is_empty() {
            "the first batch is healthy".to_owned()
        } else {
            format!("the first batch is over, without {}", names::short(&late))
        }
    }

    /// After the last batch, within the budgets.
    pub fn complete(&mut self) {
        if !self.state.targets.iter().any(|t| t.outcome == Outcome::Done) {
            return self.fail("no server runs it".to_owned());
        }
        self.state.batch = self.state.batches;
        self.timers.restart();
        // A canary never becomes what newcomers take.
        self.state.whole &= batches::covers_all(self.input, self.facts, &self.roster);
        if self.state.whole && self.spec.purpose() != RolloutKind::Restart {
            self.out.stable = Some(self.new_stable());
        }
        self.out.verdict = Some((self.state.release.clone(), Verdict::Good));
        // What was left undone after an older release, or one that is only restarted, is not made up for.
        let after_is_due = self.introduces() && self.facts.tasks_of(Phase::After).next().is_some();
        if !after_is_due || self.tasks_succeeded(Phase::After) {
            let late = self.not_done();
            let reason = if late.is_empty() { String::new() } else { format!("within the budgets, without {}", names::short(&late)) };
            self.end(RolloutPhase::Succeeded, reason)
        } else {
            self.enter(RolloutPhase::Finishing, "runs its after tasks");
        }
    }

    /// Does it bring a release to servers that had none newer? A rollback and a restart do not.
    fn introduces(&self) -> bool {
        !matches!(self.spec.purpose(), RolloutKind::Rollback | RolloutKind::Restart)
    }

    /// What newcomers take from now on. After a rollback nobody keeps what was published above it, wherever it still runs.
    fn new_stable(&self) -> StableRecord {
        let last = self.app.seq.as_ref().map_or(self.state.previous_stable, |s| s.seq.max(self.state.previous_stable));
        let back = self.spec.purpose() == RolloutKind::Rollback && last > self.state.seq;
        StableRecord { seq: self.state.seq, release: self.state.release.clone(), back_from: back.then_some(last) }
    }

    /// A release that failed is bad, unless it had proved itself before: what is stable is not.
    fn condemn(&mut self) {
        let stable = self.app.stable.as_ref().is_some_and(|s| s.seq == self.state.seq);
        if self.introduces() && !stable {
            self.out.verdict = Some((self.state.release.clone(), Verdict::Bad));
        }
    }

    /// The budget is spent.
    pub fn fail(&mut self, reason: String) {
        if self.state.targets.iter().any(|t| t.outcome == Outcome::Failed) {
            self.condemn();
        }
        if let Some(bar) = self.bar() {
            return self.end(RolloutPhase::Halted, format!("{reason}; {bar}"));
        }
        if self.spec.policy.on_failure == OnFailure::Halt {
            return self.end(RolloutPhase::Halted, reason);
        }
        if !self.state.targets.iter().any(|t| t.told) {
            return self.end(RolloutPhase::RolledBack, format!("{reason}; no server was switched"));
        }
        if self.nowhere_to_go() {
            return self.end(RolloutPhase::Halted, format!("{reason}; there is no release to go back to, so the servers stay as they are"));
        }
        self.turn_back(&reason, &format!("turned back: {reason}"));
    }

    /// Has every server that was told nothing to go back to, or this very release?
    fn nowhere_to_go(&self) -> bool {
        self.state.targets.iter().all(|t| !t.told || t.prior.0 == 0 || t.prior == self.state.seq)
    }

    fn turn_back(&mut self, reason: &str, words: &str) {
        self.timers.restart();
        self.state.batch_elapsed = 0;
        reason.clone_into(&mut self.state.reason);
        self.state.turned_back = true;
        self.enter(RolloutPhase::RollingBack, words);
    }

    /// A run-once task failed. Before the switch the release is bad, whatever the servers say; after it, they run it and it works.
    pub fn fail_by_task(&mut self, phase: Phase, reason: String) {
        if phase == Phase::After {
            return self.end(RolloutPhase::Halted, reason);
        }
        self.fail(reason);
        self.condemn();
    }

    /// An operator ends it: what was told finishes its step and goes back, as far as the migrations allow.
    pub fn abort(&mut self, by: &str) {
        if self.state.phase == RolloutPhase::RollingBack {
            // It does already what is asked for.
            return;
        }
        self.timers.rest();
        // Every server runs it, and `stable` may name it already: only what was left to do is dropped.
        let forward = matches!(self.state.phase, RolloutPhase::Finishing | RolloutPhase::AwaitingDecision);
        if forward && self.after_last_batch() {
            return self.end(RolloutPhase::Halted, format!("aborted {by}; its after tasks did not run"));
        }
        if let Some(bar) = self.bar() {
            return self.end(RolloutPhase::Halted, format!("aborted {by}; {bar}"));
        }
        let reason = format!("aborted {by}");
        let stays = |t: &Target| !t.told || t.prior == self.state.seq;
        if self.state.targets.iter().all(stays) {
            return self.end(RolloutPhase::Aborted, reason);
        }
        self.state.aborted = true;
        let then = if self.nowhere_to_go() { "there is no release to go back to" } else { "what was told goes back" };
        self.turn_back(&reason, &format!("was {reason}; {then}"));
    }

    /// Why nothing rolls back by itself, if so.
    fn bar(&self) -> Option<String> {
        if !self.introduces() {
            return None;
        }
        let told = self.state.targets.iter().any(|t| t.told);
        (told && self.app.bars_rollback(self.facts)).then(|| "its migration has no way back, so the servers stay as they are".to_owned())
    }

    /// Waits until every told server is back; one that has nothing to go back to, until it has finished its step.
    pub fn advance_rollback(&mut self) {
        let looks: Vec<Look> = self.servers().map(|(target, node)| self.back(target, node)).collect();
        let (mut lost, mut busy, mut stay) = (Vec::new(), Vec::new(), Vec::new());
        for (target, look) in self.state.targets.iter_mut().zip(looks) {
            match look {
                Look::Done | Look::Unhealthy if target.prior.0 == 0 => {
                    stay.push(target.node.to_string());
                    if target.outcome == Outcome::Pending {
                        target.outcome = if look == Look::Done { Outcome::Done } else { Outcome::Failed };
                    }
                }
                Look::Done if matches!(target.outcome, Outcome::Pending | Outcome::Done) => target.outcome = Outcome::RolledBack,
                Look::Failed => lost.push(target.node.to_string()),
                Look::Busy | Look::Unhealthy => busy.push(target.node.to_string()),
                Look::Done | Look::Gone | Look::Staged => {}
            }
        }
        self.timers.count(!busy.is_empty());
        if self.timers.open >= self.spec.policy.batch_deadline {
            lost.append(&mut busy);
        }
        if !busy.is_empty() {
            return;
        }
        let mut reason = self.state.reason.clone();
        if !stay.is_empty() {
            let verb = counts::plural(stay.len(), "stays", "stay");
            reason = format!("{reason}; with nothing to go back to, {} {verb} on release {}", names::short(&stay), self.state.release);
        }
        if lost.is_empty() {
            let phase = if self.state.aborted { RolloutPhase::Aborted } else { RolloutPhase::RolledBack };
            self.end(phase, reason);
        } else {
            self.end(RolloutPhase::Halted, format!("{reason}; {} did not return", names::short(&lost)));
        }
    }

    fn back(&self, target: &Target, node: Option<&Node>) -> Look {
        match (target.told, target.prior.0) {
            // Never touched.
            (false, _) => Look::Staged,
            (true, 0) if self.state.aborted => progress::stayed(self.input, &self.state, node),
            // Nothing to go back to: it stays with a release that did not work.
            (true, 0) => Look::Failed,
            (true, _) => progress::returned(self.input, &self.state, target, node),
        }
    }

    /// The end: nothing more happens to this rollout.
    pub fn end(&mut self, phase: RolloutPhase, reason: String) {
        let words = if reason.is_empty() { phase.words().to_owned() } else { format!("{}: {reason}", phase.words()) };
        self.state.reason = reason;
        self.state.ended_at = Some(self.input.now);
        self.enter(phase, &format!("ended, {words}"));
        let entry = HistoryRecord { spec: Some(self.spec.clone()), state: self.state.clone() };
        self.out.history.push((self.state.id.clone(), entry));
        begin::cap_history(self.app, &mut self.out, HISTORY_MAX);
    }
}
