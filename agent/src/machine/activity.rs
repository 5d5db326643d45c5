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

    pub(super) fn complete(&mut self, activity: Activity) {
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

    pub(super) fn returned(&mut self) {
        self.health = if self.journal.running == self.journal.last_healthy { HealthState::Healthy } else { HealthState::Unproven };
        if let Some((_, failure)) = &mut self.journal.failure {
            failure.fell_back = true;
        }
    }

    /// A leg of the activity failed: back to what was healthy here, or stay and say so.
    pub(super) fn turn_back(&mut self, failure: Failure) {
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
    pub(super) fn may_return_to(&self, activity: &Activity) -> bool {
        let Some(previous) = &activity.previous else { return false };
        let other = previous.release != activity.release;
        let adopted = previous.seq == Seq(0) && self.journal.floor == Seq(0);
        let proven = self.journal.last_healthy.as_ref() == Some(previous) && previous.seq >= self.journal.floor;
        other && (adopted || proven)
    }

    /// The action of the activity's leg. After a restart the manifests must be loaded first.
    pub(super) fn go_on(&self, activity: &Activity) -> Option<Action> {
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
}
