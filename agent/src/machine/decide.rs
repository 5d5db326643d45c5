//! What to do next, from the goal and the journal: towards `run`, then `stage`, then `after`, then cleaning up.

use std::collections::BTreeSet;

use coord_proto::ids::{ReleaseId, Seq};
use coord_proto::manifest::HookPhase;
use coord_proto::migration::Phase;
use coord_proto::report::{FailureCode, HealthState, Step};

use super::{Action, Goal, Machine};
use crate::failure::failure;
use crate::journal::{Activity, Direction, Leg};

/// Below what this server went past (I2).
#[derive(Debug, thiserror::Error)]
#[error("release number {seq} is below this server's floor {floor}")]
struct BelowFloor {
    seq: Seq,
    floor: Seq,
}

impl Machine {
    pub(super) fn decide(&mut self) -> Option<Action> {
        if self.resting {
            return None;
        }
        if let Some(action) = self.toward_end_of_activity() {
            return Some(action);
        }
        let goal = self.goal.clone()?;
        self.toward_run(&goal)
            .or_else(|| self.toward_stage(&goal))
            .or_else(|| self.toward_after(&goal))
            .or_else(|| self.toward_cleanup())
            .or_else(|| self.toward_prune(&goal))
    }

    /// What this server should run: what it was told, or `stable` where that failed here and nothing healthy was left to
    /// go back to (I2).
    pub(super) fn target(&self, goal: &Goal) -> Seq {
        let stranded = self.journal.health == HealthState::Unhealthy && self.has_failed(goal.run, goal.generation);
        let running = self.journal.running.as_ref().map(|r| r.seq);
        let stable = goal.stable.filter(|s| *s >= self.journal.floor && Some(*s) != running);
        stable.filter(|_| stranded).unwrap_or(goal.run)
    }

    /// Only what the rollout told this server to run may be claimed (I4).
    pub(super) fn may_claim(&self, goal: &Goal, seq: Seq) -> bool {
        goal.may_migrate && seq == goal.run
    }

    fn toward_run(&mut self, goal: &Goal) -> Option<Action> {
        let target = self.target(goal);
        let runs = self.journal.running.as_ref().is_some_and(|r| r.seq == target) && self.journal.health == HealthState::Healthy;
        if target == Seq(0) || (runs && self.journal.restarted >= goal.restart) {
            return None;
        }
        if let Some(action) = self.make_ready(goal, target)? {
            return Some(action);
        }
        let manifest = self.manifests.get(&target)?.clone();
        if !self.settled.contains(&target) && !manifest.once_tasks(Phase::Before).is_empty() {
            return Some(Action::EnsureTasks { seq: target, phase: Phase::Before, may_claim: self.may_claim(goal, target) });
        }
        let activity = Activity {
            seq: target,
            release: manifest.release.clone(),
            previous: self.journal.running.clone(),
            leg: Leg::Drain,
            direction: Direction::Forward,
            restart: goal.restart,
        };
        // What would be gone back to must be known before anything changes; where it cannot be, nothing is gone back to.
        let back = [activity.previous.clone(), self.way_back(&activity)].into_iter().flatten().map(|r| r.seq);
        let unknown = |seq: &Seq| *seq != Seq(0) && !self.manifests.contains_key(seq) && !self.unloadable.contains(seq);
        if let Some(seq) = back.into_iter().find(unknown) {
            return Some(Action::LoadServed(seq));
        }
        self.journal.activity = Some(activity);
        self.toward_end_of_activity()
    }

    /// `None`: it cannot be made ready. `Some(None)`: it is. `Some(action)`: do this first.
    fn make_ready(&mut self, goal: &Goal, seq: Seq) -> Option<Option<Action>> {
        if self.has_failed(seq, goal.generation) {
            return None;
        }
        let manifest = match self.manifests.get(&seq) {
            Some(manifest) if self.accepted.contains(&seq) => manifest.clone(),
            _ => return Some(Some(Action::Load(seq))),
        };
        if seq < self.journal.floor {
            let below = BelowFloor { seq, floor: self.journal.floor };
            self.give_up(seq, failure(seq, Step::Fetching, FailureCode::BelowFloor, &below));
            return None;
        }
        let facts = self.journal.releases.get(&manifest.release).filter(|f| f.digest == manifest.artifact.digest);
        Some(match facts {
            None => Some(Action::Stage(seq)),
            Some(facts) if !facts.prepared => Some(Action::Prepare(seq)),
            Some(_) => {
                self.mark(seq, |_| ());
                None
            }
        })
    }

    fn toward_stage(&mut self, goal: &Goal) -> Option<Action> {
        self.make_ready(goal, goal.stage?)?
    }

    fn toward_after(&mut self, goal: &Goal) -> Option<Action> {
        let seq = goal.after?;
        let running = self.journal.running.as_ref().is_some_and(|r| r.seq == seq);
        if !running || self.journal.after_done == Some(seq) || self.has_failed(seq, goal.generation) {
            return None;
        }
        match self.manifests.get(&seq) {
            None => Some(Action::Load(seq)),
            Some(_) => Some(Action::EnsureTasks { seq, phase: Phase::After, may_claim: goal.may_migrate }),
        }
    }

    /// What a release that serves cleans up behind itself: once, when nothing else is to be done.
    fn toward_cleanup(&mut self) -> Option<Action> {
        let seq = self.journal.cleanup?;
        match self.manifests.get(&seq) {
            None => Some(Action::LoadServed(seq)),
            Some(manifest) if manifest.hooks.cleanup.is_empty() => {
                self.journal.cleanup = None;
                None
            }
            Some(_) => Some(Action::RunHooks { seq, phase: HookPhase::Cleanup }),
        }
    }

    fn toward_prune(&mut self, goal: &Goal) -> Option<Action> {
        if !self.prune_due {
            return None;
        }
        let running = self.journal.running.as_ref()?;
        let keep = self.manifests.get(&running.seq)?.layout.keep_releases;
        Some(Action::Prune { keep, protected: self.protected(goal), manifests: self.needed() })
    }

    /// Never pruned: current, run, stage, stable, the last healthy one, the previous good one, the journaled one.
    fn protected(&self, goal: &Goal) -> BTreeSet<ReleaseId> {
        let j = &self.journal;
        let named = [&j.running, &j.last_healthy, &j.previous_good].into_iter().flatten().map(|r| r.release.clone());
        let wanted: Vec<Seq> = [Some(goal.run), goal.stage, goal.stable].into_iter().flatten().collect();
        let known = wanted.iter().filter_map(|seq| self.manifests.get(seq)).map(|m| m.release.clone());
        let noted = j.releases.iter().filter(|(_, f)| wanted.contains(&f.seq)).map(|(release, _)| release.clone());
        let active = j.activity.iter().map(|a| a.release.clone());
        named.chain(known).chain(noted).chain(active).collect()
    }

    /// The numbers whose manifests may be asked for again.
    pub(super) fn needed(&self) -> BTreeSet<Seq> {
        let j = &self.journal;
        let wanted = self.goal.iter().flat_map(|g| [Some(g.run), g.stage, g.after, g.stable]).flatten();
        let active = j.activity.iter().flat_map(|a| [Some(a.seq), a.previous.as_ref().map(|p| p.seq)]).flatten();
        let named = [&j.running, &j.last_healthy, &j.previous_good].into_iter().flatten().map(|r| r.seq);
        let in_flight = self.in_flight.as_ref().and_then(Action::seq);
        wanted.chain(active).chain(named).chain(j.cleanup).chain(in_flight).collect()
    }
}
