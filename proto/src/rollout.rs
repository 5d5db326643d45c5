//! What is to be rolled out, and how far it has come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, NodeName, ReleaseId, RolloutId, Seq};
use crate::labels::Selector;
use crate::record::record;

pub use policy::{Amount, OnFailure, Promote, RolloutPolicy, Serial, Spread};

mod policy;
mod targets;

/// `rollout/spec`: what is to be rolled out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    pub id: RolloutId,
    pub app: AppName,
    pub seq: Seq,
    pub release: ReleaseId,
    pub kind: RolloutKind,
    /// From the signed manifest, with what the operator overrode on the command line.
    #[serde(deserialize_with = "policy::tolerant")]
    pub policy: RolloutPolicy,
    /// `--limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Selector>,
    /// Servers that must run it even when they already do: `restart`.
    #[serde(default)]
    pub force_run: bool,
    /// What `retry` goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<Retried>,
    /// Who, from where, when (Unix seconds), why.
    pub by: Actor,
}
record!(RolloutSpec, "rollout spec", 1);

/// The rollout that a `retry` goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub rollout: RolloutId,
    /// What that one was for; never itself a retry.
    pub kind: RolloutKind,
}

impl RolloutSpec {
    /// What it is for: a retry is for what the rollout was that it goes on with.
    pub fn purpose(&self) -> RolloutKind {
        self.retried.as_ref().map_or(self.kind, |r| r.kind)
    }
}

/// What an agent reads of `rollout/spec`: how a rollout goes on is not its business, and must not make it deaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveRollout {
    pub id: RolloutId,
    pub seq: Seq,
}
record!(ActiveRollout, "rollout spec", 1);

/// Why a rollout exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutKind {
    Publish,
    Rollback,
    Retry,
    Restart,
    #[serde(other)]
    Unknown,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub user: String,
    pub host: String,
    /// Unix seconds.
    pub at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `rollout/state`: written only by the leading coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutState {
    pub id: RolloutId,
    pub seq: Seq,
    pub release: ReleaseId,
    pub phase: RolloutPhase,
    /// In order; servers that appear later are appended.
    #[serde(with = "targets")]
    pub targets: Vec<Target>,
    /// Index of the open batch.
    pub batch: usize,
    /// Batches in total.
    pub batches: usize,
    /// Tolerated over the whole rollout, fixed at the start.
    pub max_failed: usize,
    pub max_unreachable: usize,
    /// The open batch: seconds it has been open (without migration and pause time), and healthy.
    #[serde(default)]
    pub batch_elapsed: u64,
    /// Did this rollout cover every matching server that is not cordoned? Only then `stable` moves.
    pub whole: bool,
    /// Stable when the rollout began: where a rollback goes.
    pub previous_stable: Seq,
    /// Why it halted, failed or waits, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Counts the desired records written by this rollout.
    pub generation: u64,
    /// Unix seconds, for people.
    pub started_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
    /// Revision of the wish that was last obeyed.
    #[serde(default)]
    pub wish_revision: i64,
    #[serde(default)]
    pub paused: bool,
    /// Did an operator promote the first batch?
    #[serde(default)]
    pub promoted: bool,
    /// Were the servers told to go back? It stays so when one does not return and the way back halts.
    #[serde(default)]
    pub turned_back: bool,
    /// Did an operator turn them back?
    #[serde(default)]
    pub aborted: bool,
}
record!(RolloutState, "rollout state", 1);

impl RolloutState {
    /// Targets of batch `index`.
    pub fn batch_targets(&self, index: usize) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(move |t| t.batch == index)
    }
}

/// One server in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub node: NodeName,
    pub batch: usize,
    /// What it ran when the rollout began: where a rollback takes it.
    pub prior: Seq,
    /// Was it told to run the release?
    #[serde(default)]
    pub told: bool,
    #[serde(default)]
    pub outcome: Outcome,
}

/// How one server fared, as the coordinator counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    #[default]
    Pending,
    Done,
    Failed,
    Unreachable,
    RolledBack,
    #[serde(other)]
    Unknown,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutPhase {
    /// All targets download, verify and unpack.
    Staging,
    /// Batch by batch.
    Running,
    /// Waits for `rollout promote` after the first batch.
    AwaitingPromotion,
    /// A run-once task waits for `migration resolve`.
    AwaitingDecision,
    /// After the last batch: the `after` tasks.
    Finishing,
    /// Ended: every target runs it (or the budgets held).
    Succeeded,
    /// Ended: budget spent, left as it is.
    Halted,
    /// Servers return to what they had.
    RollingBack,
    /// Ended: budget spent, servers returned.
    RolledBack,
    /// Ended by an operator.
    Aborted,
    /// Ended because another rollout took its place.
    Superseded,
    #[serde(other)]
    Unknown,
}

impl RolloutKind {
    /// The word that people read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Rollback => "rollback",
            Self::Retry => "retry",
            Self::Restart => "restart",
            Self::Unknown => "unknown",
        }
    }
}

impl RolloutPhase {
    /// Will nothing more happen?
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Halted | Self::RolledBack | Self::Aborted | Self::Superseded)
    }

    /// The words that people read.
    pub fn words(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Running => "running",
            Self::AwaitingPromotion => "awaiting promotion",
            Self::AwaitingDecision => "awaiting a decision",
            Self::Finishing => "finishing",
            Self::Succeeded => "succeeded",
            Self::Halted => "halted",
            Self::RollingBack => "rolling back",
            Self::RolledBack => "rolled back",
            Self::Aborted => "aborted",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown (a newer coordinator wrote it)",
        }
    }
}

/// `rollout/wish`: what an operator wants of the rollout; written only by operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub rollout: RolloutId,
    pub verb: Verb,
    pub by: Actor,
}
record!(Wish, "rollout wish", 1);

/// What an operator may wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Pause,
    Resume,
    Promote,
    Abort,
    #[serde(other)]
    Unknown,
}

impl Verb {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Unknown => "unknown",
        }
    }

    /// Past tense.
    pub fn past(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Promote => "promoted",
            Self::Abort => "aborted",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Actor {
    /// `ann@laptop`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.user, self.host)
    }
}

/// `apps/<app>/seq`: the last sequence number allotted, with the creation time that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeqRecord {
    pub seq: Seq,
    /// Creation time of that release, Unix seconds: the next one's is greater.
    pub created: i64,
}
record!(SeqRecord, "sequence record", 1);

/// `apps/<app>/stable`: what a joining server takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StableRecord {
    pub seq: Seq,
    pub release: ReleaseId,
    /// An operator moved it back: releases above `seq` up to this one are wanted no more, whoever runs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_from: Option<Seq>,
}
record!(StableRecord, "stable record", 1);

impl StableRecord {
    /// Must a server that was told `run`, and by no rollout that goes on, take `seq` instead?
    pub fn overrules(&self, run: Seq) -> bool {
        run < self.seq || self.back_from.is_some_and(|from| run > self.seq && run <= from)
    }
}

/// `apps/<app>/releases/<release>`: an id is never reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// The sequence number that first published it.
    pub seq: Seq,
    #[serde(default)]
    pub verdict: Verdict,
    pub by: Actor,
    /// Labels of a person's choosing: VCS revision, build number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// Set until enough people have signed it: nothing is rolled out before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waiting>,
}

/// A release that waits for signatures: what it waits for, and what its publisher asked for beside the manifest. For people and for whoever
/// signs last; servers count the signatures themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// How many more are needed.
    pub signatures: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Selector>,
}
record!(ReleaseRecord, "release record", 1);

/// How a release fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Never rolled out to the end.
    #[default]
    Untried,
    Good,
    Bad,
    #[serde(other)]
    Unknown,
}
