//! What to do next, from the goal and the journal: towards `run`, then `stage`, then `after`, then pruning.

use std::collections::BTreeSet;

use coord_proto::ids::{ReleaseId, Seq};
use coord_proto::migration::Phase;
use coord_proto::report::{Failure, FailureCode, Step};

use super::{Action, Goal, Machine};
use crate::journal::{Activity, Direction, Leg};

impl Machine {
    pub(super) fn decide(&mut self) -> Option<Action> {
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

    pub(super) fn toward_run(&mut self, goal: &Goal) -> Option<Action> {
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
    pub(super) fn make_ready(&mut self, goal: &Goal, seq: Seq) -> Option<Option<Action>> {
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

    pub(super) fn toward_stage(&mut self, goal: &Goal) -> Option<Action> {
        self.make_ready(goal, goal.stage?)?
    }

    pub(super) fn toward_after(&mut self, goal: &Goal) -> Option<Action> {
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

    pub(super) fn toward_prune(&mut self, goal: &Goal) -> Option<Action> {
        if !self.prune_due {
            return None;
        }
        let running = self.journal.running.as_ref()?;
        let keep = self.manifests.get(&running.seq)?.layout.keep_releases;
        Some(Action::Prune { keep, protected: self.protected(goal) })
    }

    /// Never pruned: current, run, stage, the last healthy one, the previous good one, the journaled one.
    pub(super) fn protected(&self, goal: &Goal) -> BTreeSet<ReleaseId> {
        let j = &self.journal;
        let named = [&j.running, &j.last_healthy, &j.previous_good].into_iter().flatten().map(|r| r.release.clone());
        let wanted = j.releases.iter().filter(|(_, f)| f.seq == goal.run || goal.stage == Some(f.seq)).map(|(r, _)| r.clone());
        let active = j.activity.iter().map(|a| a.release.clone());
        named.chain(wanted).chain(active).collect()
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
