//! What the migration protocol keeps in the store: one record per task, the head, and the lock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{IdError, NodeName, Nonce, OnceName, ReleaseId, Seq};
use crate::record::record;

/// Before the first switch, or after every target runs the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Before,
    After,
}

/// `before`, `after`, `before.NAME` or `after.NAME`: which run-once task of a release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName {
    pub phase: Phase,
    pub once: Option<OnceName>,
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.phase {
            Phase::Before => "before",
            Phase::After => "after",
        })?;
        self.once.as_ref().map_or(Ok(()), |name| write!(f, ".{name}"))
    }
}
impl FromStr for TaskName {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let (phase, once) = s.split_once('.').map_or((s, None), |(p, o)| (p, Some(o)));
        let phase = match phase {
            "before" => Phase::Before,
            "after" => Phase::After,
            "" => return Err(IdError::Empty { kind: "task" }),
            other => return Err(IdError::Character { kind: "task", value: s.into(), bad: other.chars().next().unwrap_or('?') }),
        };
        Ok(Self { phase, once: once.map(str::parse).transpose()? })
    }
}
impl TryFrom<String> for TaskName {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<TaskName> for String {
    fn from(t: TaskName) -> String {
        t.to_string()
    }
}

/// `migrations/head`: the one open task of the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub seq: Seq,
    pub release: ReleaseId,
    pub task: TaskName,
    pub open: bool,
}
record!(Head, "migration head", 1);

/// `migrations/<release>/<task>`. An absent record is a task that nobody claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    pub seq: Seq,
    pub release: ReleaseId,
    pub task: TaskName,
    pub state: TaskState,
    pub holder: NodeName,
    pub nonce: Nonce,
    /// 1 for the first start.
    pub attempt: u32,
    /// Exit status, signal or operator's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The end of the command's output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// Unix seconds by the holder's clock, for people.
    pub claimed_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<i64>,
    /// Every start so far: node, attempt and fence of the claim before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastAttempt>,
}
record!(TaskRecord, "migration record", 1);

/// An attempt that an operator or the policy allowed to be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastAttempt {
    pub holder: NodeName,
    pub attempt: u32,
    pub state: TaskState,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// May be claimed: never claimed, or an operator or the policy said to try again.
    Pending,
    Claimed,
    Succeeded,
    /// The command said so itself, with a non-zero exit status.
    Failed,
    /// Nobody knows: the holder is gone, or a signal or the deadline ended the command.
    Unknown,
    #[serde(other)]
    Foreign,
}

/// `locks/migrate`: lease-bound; its create revision is the fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    pub holder: NodeName,
    pub nonce: Nonce,
}
record!(LockRecord, "migration lock", 1);
