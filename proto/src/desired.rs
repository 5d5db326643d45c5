//! `desired/<node>/<app>`: what one server should run. Written by the leading coordinator, read by that server's agent.

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Generation, NodeName, RolloutId, Seq};
use crate::record::record;

/// Always complete: enough for an empty server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub node: NodeName,
    pub app: AppName,
    /// What it runs: ensure the migration, switch, restart, probe.
    pub run: Seq,
    /// What it makes ready without anybody seeing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Seq>,
    /// Whose `after` tasks it ensures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    pub generation: Generation,
    /// The rollout that told it so; none for a server that takes `stable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// May this server claim the run-once tasks of `run` (a member of the active rollout), or only wait for them?
    #[serde(default)]
    pub may_migrate: bool,
    /// Greater than what the status answers: restart and probe again although `run` is current.
    #[serde(default)]
    pub restart: u64,
    /// Try again what failed before: a new number for each wish.
    #[serde(default)]
    pub attempt: u64,
}
record!(Desired, "desired record", 1);
