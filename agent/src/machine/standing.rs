//! Where the app stands, for whoever starts it at boot (`coord-agent wait-ready`).

use coord_proto::ids::{ReleaseId, Seq};
use serde::{Deserialize, Serialize};

use super::Machine;

/// Is the release that should run in place? Its health is no part of it: who waits here starts the application, and is
/// itself waited for by the restart hooks, before anything is probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "kebab-case")]
pub enum Standing {
    /// `current` is what this server should run, or went back to.
    InPlace { release: ReleaseId },
    /// It changes: staging, migrating, or about to switch.
    Underway { words: String },
    /// Nobody said what it should run since the agent started; what is there, if anything.
    Untold { release: Option<ReleaseId> },
    /// What it should run failed here, and there is nothing else.
    Failed { words: String },
}

impl Machine {
    /// Where the app stands now.
    pub fn standing(&self) -> Standing {
        let running = self.journal.running.as_ref();
        if let Some(activity) = &self.journal.activity {
            return match running.filter(|r| r.release == *activity.heading_to()) {
                Some(running) => Standing::InPlace { release: running.release.clone() },
                None => Standing::Underway { words: self.words() },
            };
        }
        let Some(goal) = &self.goal else { return Standing::Untold { release: running.map(|r| r.release.clone()) } };
        let target = self.target(goal);
        let given_up = self.has_failed(target, goal.generation);
        match running {
            Some(running) if running.seq == target || given_up => Standing::InPlace { release: running.release.clone() },
            None if given_up => Standing::Failed { words: self.words() },
            _ if target == Seq(0) => Standing::Underway { words: "nothing to run yet: it waits for its batch of the first rollout".into() },
            _ => Standing::Underway { words: self.words() },
        }
    }
}
