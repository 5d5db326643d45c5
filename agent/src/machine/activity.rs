//! The activity: a change of `current`, leg by leg, and the way back (I2).

use coord_proto::ids::Seq;
use coord_proto::manifest::HookPhase;
use coord_proto::report::{Failure, HealthState, Running};

use super::{Action, Machine};
use crate::journal::{Activity, Direction, Leg, ReleaseOutcome};

impl Machine {
    /// The activity's leg is done: the next one, or the end.
    pub(super) fn advance(&mut self) {
        let Some(mut activity) = self.journal.activity.take() else { return };
        let adopted = activity.previous.as_ref().is_some_and(|p| p.seq == Seq(0));
        activity.leg = match (activity.leg, activity.direction) {
            (Leg::Drain, _) => Leg::Switch,
            (Leg::Switch, _) => {
                self.journal.activity = Some(activity.clone());
                self.note_switched();
                Leg::Restart
            }
            // An adopted tree has no manifest: it must not be asked with the newcomer's health check.
            (Leg::Restart, Direction::Back) if adopted => {
                self.journal.health = HealthState::Unproven;
                Leg::Undrain
            }
            (Leg::Restart, _) => Leg::Probe,
            (Leg::Probe, Direction::Forward) => Leg::Undrain,
            (Leg::Probe, Direction::Back) => {
                self.journal.health = HealthState::Healthy;
                Leg::Undrain
            }
            (Leg::Undrain, Direction::Forward) => return self.complete(activity),
            (Leg::Undrain, Direction::Back) => return self.returned(),
        };
        self.journal.activity = Some(activity);
    }

    /// `current` points to where the activity leads, and nothing of that is proven.
    pub(super) fn note_switched(&mut self) {
        let Some(activity) = &self.journal.activity else { return };
        self.journal.running = match activity.direction {
            Direction::Forward => Some(Running { seq: activity.seq, release: activity.release.clone() }),
            Direction::Back => activity.previous.clone(),
        };
        self.journal.health = HealthState::Unproven;
    }

    fn complete(&mut self, activity: Activity) {
        let now = Running { seq: activity.seq, release: activity.release };
        // What failed and was left for this release stays told.
        let left = activity.previous.as_ref().map(|p| p.seq).filter(|seq| self.journal.failed.contains_key(seq));
        match &mut self.journal.failure {
            Some((_, failure)) if Some(failure.seq) == left && failure.seq != now.seq => failure.fell_back = true,
            failure => *failure = None,
        }
        if let Some(left) = activity.previous.as_ref().filter(|p| p.seq > now.seq) {
            self.doubt(left);
        }
        let adopted = activity.previous.filter(|p| p.seq == Seq(0));
        let good = adopted.or(self.journal.last_healthy.take()).filter(|g| g.release != now.release);
        self.journal.previous_good = good.or(self.journal.previous_good.take());
        // The floor rises when a release has passed health, not when it was accepted (I2).
        if let Some(manifest) = self.manifests.get(&now.seq) {
            self.journal.floor = self.journal.floor.max(manifest.floor);
        }
        self.mark(now.seq, |facts| facts.outcome = ReleaseOutcome::Good);
        self.journal.failed.remove(&now.seq);
        self.journal.restarted = activity.restart;
        self.journal.cleanup = Some(now.seq);
        self.journal.last_healthy = Some(now);
        self.journal.health = HealthState::Healthy;
        self.prune_due = true;
    }

    /// It worked here, and the fleet was taken back from it all the same: it must not push a good one out.
    fn doubt(&mut self, left: &Running) {
        if let Some(facts) = self.journal.releases.get_mut(&left.release).filter(|f| f.outcome == ReleaseOutcome::Good) {
            facts.outcome = ReleaseOutcome::Staged;
        }
    }

    fn returned(&mut self) {
        if let Some((_, failure)) = &mut self.journal.failure {
            failure.fell_back = true;
        }
    }

    /// A leg of the activity failed: undo the drain, or go back to what was healthy here, or stay and say so.
    pub(super) fn leg_failed(&mut self, failure: Failure) {
        let Some(activity) = self.journal.activity.take() else { return };
        if activity.direction == Direction::Back {
            return self.way_back_failed(failure);
        }
        self.give_up(activity.seq, failure);
        if !self.has_moved(&activity) {
            return self.undo_drain(activity);
        }
        self.mark(activity.seq, |facts| facts.outcome = ReleaseOutcome::Failed);
        self.journal.health = HealthState::Unhealthy;
        let back = self.way_back(&activity);
        self.journal.activity = back.map(|to| Activity { previous: Some(to), direction: Direction::Back, leg: Leg::Switch, ..activity });
    }

    /// Does `current` point elsewhere than before the activity, or is it already restarted?
    fn has_moved(&self, activity: &Activity) -> bool {
        let points_to = |running: &Option<Running>| running.as_ref().is_some_and(|r| r.release == activity.release);
        match activity.leg {
            Leg::Drain => false,
            Leg::Switch => points_to(&self.journal.running) && !points_to(&activity.previous),
            Leg::Restart | Leg::Probe | Leg::Undrain => true,
        }
    }

    /// Only the drain was done. What could not be switched to is looked at again on the disk before the next try.
    fn undo_drain(&mut self, activity: Activity) {
        if activity.leg == Leg::Switch {
            self.journal.releases.remove(&activity.release);
        }
        self.journal.activity = Some(Activity { direction: Direction::Back, leg: Leg::Undrain, ..activity });
    }

    /// A person is needed; the first failure stays the one that is told.
    fn way_back_failed(&mut self, failure: Failure) {
        self.journal.activity = None;
        self.journal.health = HealthState::Unhealthy;
        let generation = self.generation();
        self.journal.failure.get_or_insert((generation, failure));
    }

    /// Where an activity that fails would go back to: the adopted tree that it replaces, else what was healthy here last
    /// and is not below the floor (I2).
    pub(super) fn way_back(&self, activity: &Activity) -> Option<Running> {
        let j = &self.journal;
        let adopted = activity.previous.as_ref().filter(|p| p.seq == Seq(0) && j.floor == Seq(0));
        let here = |r: &Running| activity.previous.as_ref() == Some(r) || j.releases.contains_key(&r.release);
        let proven = j.last_healthy.as_ref().filter(|h| h.seq >= j.floor && here(h) && !self.unloadable.contains(&h.seq));
        adopted.or(proven).filter(|to| to.release != activity.release).cloned()
    }

    /// The manifest of what served here cannot be had: no way back then, and its hooks cannot run.
    pub(super) fn served_is_lost(&mut self, seq: Seq, failure: Failure) {
        self.unloadable.insert(seq);
        if self.journal.cleanup == Some(seq) {
            self.journal.cleanup = None;
        }
        let stuck = self.journal.activity.as_ref().is_some_and(|a| a.leg != Leg::Undrain || self.unloadable.contains(&self.hooks_of(a)));
        if stuck {
            self.way_back_failed(failure);
        }
    }

    /// Whose hooks the activity runs. An adopted tree has no manifest, and one that cannot be loaded is as good as none:
    /// the newcomer's hooks restart and undrain it.
    fn hooks_of(&self, activity: &Activity) -> Seq {
        match (activity.direction, &activity.previous) {
            (Direction::Back, Some(p)) if p.seq != Seq(0) && !self.unloadable.contains(&p.seq) => p.seq,
            _ => activity.seq,
        }
    }

    /// The next action of the activity, if one is under way. Legs in which the manifest asks for nothing are passed at once:
    /// each would cost a journal entry of its own.
    pub(super) fn toward_end_of_activity(&mut self) -> Option<Action> {
        while self.journal.activity.as_ref().is_some_and(|a| self.asks_nothing(a)) {
            self.advance();
        }
        self.journal.activity.as_ref().map(|activity| self.go_on(activity))
    }

    fn asks_nothing(&self, activity: &Activity) -> bool {
        let Some(manifest) = self.manifests.get(&self.hooks_of(activity)) else { return false };
        match activity.leg {
            Leg::Switch => false,
            Leg::Drain => manifest.hooks.drain.is_empty(),
            Leg::Restart => manifest.hooks.restart.is_empty(),
            Leg::Probe => manifest.health.is_none(),
            Leg::Undrain => manifest.hooks.undrain.is_empty(),
        }
    }

    /// The action of the activity's leg. After a restart the manifests must be loaded first.
    fn go_on(&self, activity: &Activity) -> Action {
        let hooks = self.hooks_of(activity);
        if !self.manifests.contains_key(&hooks) {
            return match activity.direction {
                Direction::Forward => Action::Load(hooks),
                Direction::Back => Action::LoadServed(hooks),
            };
        }
        match activity.leg {
            Leg::Drain => Action::RunHooks { seq: hooks, phase: HookPhase::Drain },
            Leg::Switch => Action::Switch(activity.heading_to().clone()),
            Leg::Restart => Action::RunHooks { seq: hooks, phase: HookPhase::Restart },
            Leg::Probe => Action::Probe(hooks),
            Leg::Undrain => Action::RunHooks { seq: hooks, phase: HookPhase::Undrain },
        }
    }
}
