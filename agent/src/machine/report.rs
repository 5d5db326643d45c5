//! What the machine says of itself: the status record and its words.

use coord_proto::ids::Seq;
use coord_proto::manifest::HookPhase;
use coord_proto::migration::Phase;
use coord_proto::report::{Failure, Status, Step};

use super::{Action, Machine};
use crate::journal::Direction;

impl Machine {
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

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.journal.failure.as_ref().map(|(_, failure)| failure)
    }

    pub(super) fn step(&self) -> Step {
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
    pub(super) fn words(&self) -> String {
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

    pub(super) fn resting_words(&self) -> String {
        let on = self.journal.running.as_ref().map_or("nothing".into(), |r| r.release.to_string());
        match self.failure() {
            Some(f) if f.fell_back => format!("running {on} again: {} failed", f.seq),
            Some(f) => format!("running {on}; {}", f.chain.first().map_or("the last step failed", String::as_str)),
            None => format!("running {on}"),
        }
    }
}
