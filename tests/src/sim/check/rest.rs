//! What must have come to be when it is calm: liveness.

use coord_agent::goal::effective;
use coord_agent::machine::Action;
use coord_proto::desired::Desired;
use coord_proto::ids::Seq;
use coord_proto::keys::Key;
use coord_proto::report::HealthState;
use coord_proto::rollout::{ActiveRollout, RolloutPhase, StableRecord};

use super::super::world::World;

impl World {
    /// In calm weather every server that is there runs what it should, or has said why not; and rests.
    pub fn check_rest(&mut self) {
        let stable: Option<StableRecord> = self.record(&Key::Stable(self.app.clone()));
        let spec: Option<ActiveRollout> = self.record(&Key::RolloutSpec(self.app.clone()));
        let halted = self.state().is_some_and(|s| s.phase == RolloutPhase::Halted);
        for index in (0..self.servers.len()).filter(|i| !self.servers[*i].gone) {
            let server = &self.servers[index];
            let Some(process) = &server.process else {
                return self.check.fail(|| format!("{} did not come back", self.servers[index].name));
            };
            let desired: Option<Desired> = self.record(&Key::Desired(server.name.clone(), self.app.clone()));
            let Some(desired) = desired else { continue };
            let goal = effective(desired, stable.as_ref(), spec.as_ref().map(|s| &s.id));
            // What is stable now may not be meant for this server any more.
            if self.releases.get(&goal.run).is_some_and(|r| !r.manifest.targets.matches(&server.labels)) {
                continue;
            }
            let journal = &server.disk.journal;
            let runs = journal.running.as_ref().is_some_and(|r| r.seq == goal.run) && journal.health == HealthState::Healthy;
            let said = journal.failed.get(&goal.run) == Some(&goal.generation) && journal.failure.is_some();
            let rests = process.action.is_none() && journal.activity.is_none();
            // A rollout that halted leaves its servers as they are, and one without a way back leaves those outside the next rollout:
            // waiting for a task that nobody is told to run any more.
            let past = goal.rollout.as_ref() != spec.as_ref().map(|s| &s.id);
            let left = (halted || past) && matches!(process.action, Some(Action::EnsureTasks { .. }));
            if !((runs || said || goal.run == Seq(0)) && rests || left) {
                let words = format!(
                    "{} should run {} and rest, but runs {:?} ({:?}), does {:?}, failure {:?} (liveness)",
                    server.name, goal.run, journal.running, journal.health, process.action, journal.failure
                );
                return self.check.fail(|| words);
            }
        }
    }

    /// The last release reached everybody that it is for.
    pub fn check_all_run(&mut self, last: Seq) {
        for server in self.servers.iter().filter(|s| !s.gone) {
            let running = server.disk.journal.running.as_ref().map(|r| r.seq);
            if running != Some(last) {
                let words = format!("{} runs {running:?} after a rollout of {last} that succeeded (liveness)", server.name);
                return self.check.fail(|| words);
            }
        }
        if self.check.stable.as_ref().map(|s| s.seq) != Some(last) {
            self.check.fail(|| format!("stable did not move to {last} (liveness)"));
        }
    }
}
