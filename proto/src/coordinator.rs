//! What the leading coordinator writes about itself, and the marks that operators leave for it.

use serde::{Deserialize, Serialize};

use crate::ids::Nonce;
use crate::record::record;
use crate::rollout::{Actor, RolloutSpec, RolloutState};

/// `coordinator/leader`: lease-bound. Absent: no coordinator drives rollouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    pub host: String,
    pub pid: u32,
    /// Names this leadership: a write whose reply was lost is recognised by it.
    pub instance: Nonce,
    /// Unix seconds by the leader's clock, for people.
    pub since: i64,
}
record!(LeaderRecord, "leader record", 1);

/// `coordinator/members/<instance>`: lease-bound. A coordinator that runs, whether it leads or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub host: String,
    /// Base URL of its artifact store.
    pub url: String,
    /// Where its artifacts are: `file://…` is its own, `s3://…` may be shared.
    pub artifacts: String,
    /// Unix seconds by its own clock, for people.
    pub since: i64,
}
record!(MemberRecord, "coordinator's record", 1);

impl MemberRecord {
    /// May another coordinator keep its artifacts in the same place?
    pub fn shares(&self) -> bool {
        self.artifacts.starts_with("s3://")
    }
}

/// `coordinator/stores`: base URLs of the artifact stores. Not trusted: the digest is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoresRecord {
    pub urls: Vec<String>,
}
record!(StoresRecord, "list of artifact stores", 1);

/// `apps/<app>/history/<rollout>`: a rollout that ended, as it was asked for and as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// Absent for a rollout that another one took the place of: its spec was overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<RolloutSpec>,
    pub state: RolloutState,
}
record!(HistoryRecord, "finished rollout", 1);

/// `nodes/<node>/cordon`: the server takes part in no rollout. The key's existence counts, whatever it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CordonRecord {
    pub by: Actor,
}
record!(CordonRecord, "cordon", 1);
