//! What the machine says of itself: the status record and its words.

use coord_proto::ids::Seq;
use coord_proto::manifest::HookPhase;
use coord_proto::migration::Phase;
use coord_proto::report::{Failure, Status, Step};

use super::{Action, Machine};
use crate::journal::{Direction, Leg};

impl Machine {
    /// What to report; `now` is the server's clock in Unix seconds.
    pub fn status(&self, now: i64) -> Status {
        let j = &self.journal;
        let running_facts = j.running.as_ref().and_then(|r| j.releases.get(&r.release));
        let goal = self.goal.as_ref();
        Status {
            node: self.node.clone(),
            app: self.app.clone(),
            accepted: j.accepted,
            floor: j.floor,
            running: j.running.clone(),
            staged: goal.and_then(|g| g.stage).filter(|seq| self.is_prepared(*seq)),
            after_done: j.after_done,
            step: self.step(),
            words: self.words(),
            health: j.health,
            generation: self.generation(),
            rollout: goal.and_then(|g| g.rollout.clone()),
            failure: self.failure().cloned(),
            digest: running_facts.map(|f| f.digest.clone()),
            progress: self.progress,
            restarted: j.restarted,
            held: j.releases.iter().map(|(release, facts)| (release.clone(), facts.digest.clone())).collect(),
            // Not the machine's to know: the reporter looks when it writes.
            free: None,
            since: now,
        }
    }

    fn is_prepared(&self, seq: Seq) -> bool {
        let Some(manifest) = self.manifests.get(&seq) else { return false };
        let facts = self.journal.releases.get(&manifest.release);
        facts.is_some_and(|f| f.digest == manifest.artifact.digest && f.prepared)
    }

    fn failure(&self) -> Option<&Failure> {
        self.journal.failure.as_ref().map(|(_, failure)| failure)
    }

    /// An activity is its leg, whatever that needs to have loaded: what is drained must not look idle.
    fn step(&self) -> Step {
        if let Some(activity) = &self.journal.activity {
            return match (activity.direction, activity.leg) {
                (Direction::Back, _) => Step::FallingBack,
                (Direction::Forward, Leg::Drain) => Step::Draining,
                (Direction::Forward, Leg::Switch) => Step::Switching,
                (Direction::Forward, Leg::Restart) => Step::Restarting,
                (Direction::Forward, Leg::Probe) => Step::Probing,
                (Direction::Forward, Leg::Undrain) => Step::Undraining,
            };
        }
        match &self.in_flight {
            None if self.resting => Step::Waiting,
            Some(Action::Load(_) | Action::LoadServed(_)) => Step::Fetching,
            Some(Action::Stage(_)) => Step::Staging,
            Some(Action::Prepare(_)) => Step::Preparing,
            Some(Action::EnsureTasks { phase: Phase::After, .. }) => Step::AfterTasks,
            Some(Action::EnsureTasks { .. }) if self.waiting.is_some() => Step::WaitingForMigration,
            Some(Action::EnsureTasks { .. }) => Step::Migrating,
            // Cleaning up is nobody's concern: the release serves.
            None | Some(Action::RunHooks { .. } | Action::Switch(_) | Action::Probe(_) | Action::Prune { .. }) => Step::Idle,
        }
    }

    /// One transition = one line = the same words in the log, in `STATUS=` and in the record.
    pub(super) fn words(&self) -> String {
        if let Some(waiting) = &self.waiting {
            return waiting.clone();
        }
        let name = |seq: &Seq| self.name(*seq);
        match &self.in_flight {
            Some(Action::Load(seq) | Action::LoadServed(seq)) => format!("fetching the manifest of {}", name(seq)),
            Some(Action::Stage(seq)) => format!("staging {}", name(seq)),
            Some(Action::Prepare(seq)) => format!("preparing {}", name(seq)),
            // One server of all runs it, and this one does not know yet who.
            Some(Action::EnsureTasks { seq, phase: Phase::Before, .. }) if !self.runs_task => {
                format!("seeing who migrates for {}", name(seq))
            }
            Some(Action::EnsureTasks { seq, phase: Phase::Before, .. }) => format!("migrating for {}", name(seq)),
            Some(Action::EnsureTasks { seq, .. }) => format!("running what comes after {}", name(seq)),
            Some(Action::RunHooks { phase: HookPhase::Cleanup, .. } | Action::Prune { .. }) | None => self.resting_words(),
            Some(Action::RunHooks { seq, phase }) => format!("running the {} hooks of {}", phase.name(), name(seq)),
            Some(Action::Switch(release)) => format!("switching to {release}"),
            Some(Action::Probe(seq)) => format!("probing {}", name(seq)),
        }
    }

    fn name(&self, seq: Seq) -> String {
        self.manifests.get(&seq).map_or_else(|| format!("release number {seq}"), |m| m.release.to_string())
    }

    fn resting_words(&self) -> String {
        let on = self.journal.running.as_ref().map_or("nothing".into(), |r| r.release.to_string());
        match self.failure() {
            Some(f) if f.fell_back => format!("running {on} again: {} failed", self.name(f.seq)),
            Some(f) => format!("running {on}; {}", f.chain.first().map_or("the last step failed", String::as_str)),
            None => format!("running {on}"),
        }
    }
}
