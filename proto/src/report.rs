//! What a server says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Digest, Generation, NodeName, Nonce, ReleaseId, RolloutId, Seq};
use crate::labels::Labels;
use crate::record::record;
use crate::room::Room;

/// `nodes/<node>/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node: NodeName,
    pub labels: Labels,
    #[serde(default)]
    pub addresses: Vec<String>,
    pub agent_version: String,
    /// Apps that its configuration allows; `*` for any.
    #[serde(default)]
    pub apps: Vec<String>,
    /// Unix seconds, by the server's own clock.
    pub since: i64,
}
record!(NodeInfo, "node info", 1);

/// `nodes/<node>/alive`: lease-bound presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Persisted with the agent's state: an agent restarted within its lease replaces its own presence.
    pub instance: Nonce,
    #[serde(default)]
    pub machine_id: String,
    #[serde(default)]
    pub boot_id: String,
    pub agent_version: String,
    /// Unix seconds, by the server's own clock.
    pub since: i64,
}
record!(Alive, "presence", 1);

/// `status/<node>/<app>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeName,
    pub app: AppName,
    /// Highest sequence number whose manifest was accepted.
    pub accepted: Seq,
    /// Never below this (I2).
    pub floor: Seq,
    /// What `current` points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// Sequence number that is staged and ready, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Seq>,
    /// Whose `after` tasks are settled, as this server saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_done: Option<Seq>,
    pub step: Step,
    /// The step in words: the same line as in the log and in systemd's STATUS=.
    pub words: String,
    pub health: HealthState,
    /// Generation of the desired record that this answers.
    pub generation: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// The last failure of what `generation` asked for; none once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Digest of the artifact that `current` was unpacked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes downloaded, of how many, while staging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The `restart` of the desired record that was obeyed last.
    #[serde(default)]
    pub restarted: u64,
    /// Releases that are there whole, with the artifact that each was unpacked from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<ReleaseId, Digest>,
    /// What was free on the app's file system when this was written; a hint for plans: the server looks again before a download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<Room>,
    /// Unix seconds, by the server's own clock.
    pub since: i64,
}
record!(Status, "status", 1);

/// What `current` points to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// 0 for a tree adopted from Capistrano or Ansistrano.
    pub seq: Seq,
    pub release: ReleaseId,
}

/// Bytes of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// What an agent is doing for one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    Idle,
    Fetching,
    Staging,
    Preparing,
    Migrating,
    WaitingForMigration,
    Draining,
    Switching,
    Restarting,
    Probing,
    Undraining,
    FallingBack,
    AfterTasks,
    Waiting,
    #[serde(other)]
    Unknown,
}

/// Does what runs there work?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    Healthy,
    Unhealthy,
    /// Not probed yet.
    #[default]
    Unproven,
    #[serde(other)]
    Unknown,
}

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub seq: Seq,
    pub step: Step,
    pub code: FailureCode,
    /// The error and its causes, outermost first.
    pub chain: Vec<String>,
    /// What to do about it, in one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The end of a hook's output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// Did the server return to the release that was healthy there?
    #[serde(default)]
    pub fell_back: bool,
    /// How often it failed like this for the same generation.
    pub attempt: u64,
}

/// The kind of failure; programs match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    ManifestMissing,
    ManifestRefused,
    SignatureInvalid,
    WrongEnvironment,
    BelowFloor,
    NotAllowed,
    DiskFull,
    InodesExhausted,
    Download,
    DigestMismatch,
    ArchiveRefused,
    SharedFileMissing,
    CurrentNotALink,
    HookFailed,
    HookTimedOut,
    UnitNotAllowed,
    MigrationFailed,
    MigrationUnknown,
    Unhealthy,
    /// The store (etcd) did not answer.
    Store,
    Io,
    #[serde(other)]
    Unknown,
}

impl FailureCode {
    /// Will waiting help, so that the agent tries again by itself?
    pub fn transient(self) -> bool {
        matches!(
            self,
            Self::Store | Self::Download | Self::ManifestMissing | Self::SharedFileMissing | Self::DiskFull | Self::InodesExhausted
        )
    }
}
