//! What is to be rolled out, how, and how far it has come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, NodeName, ReleaseId, RolloutId, Seq};
use crate::labels::Selector;
use crate::record::record;

mod targets;

/// `[rollout]`: the policy that the manifest signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutPolicy {
    pub serial: Serial,
    pub promote: Promote,
    pub spread: Spread,
    #[serde(with = "crate::manifest::duration")]
    pub bake: Duration,
    pub max_failed: Amount,
    pub max_unreachable: Amount,
    pub on_failure: OnFailure,
    #[serde(with = "crate::manifest::duration")]
    pub batch_deadline: Duration,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self {
            serial: Serial(vec![Amount::Count(1)]),
            promote: Promote::Auto,
            spread: Spread::None,
            bake: Duration::from_secs(10),
            max_failed: Amount::Count(0),
            max_unreachable: Amount::Count(0),
            on_failure: OnFailure::Rollback,
            batch_deadline: Duration::from_secs(600),
        }
    }
}

/// A number of servers, or a percentage of the targets: `3` or `"25%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AmountText", into = "AmountText")]
pub enum Amount {
    Count(u32),
    Percent(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AmountText {
    Count(u32),
    Text(String),
}

impl TryFrom<AmountText> for Amount {
    type Error = String;
    fn try_from(text: AmountText) -> Result<Self, String> {
        match text {
            AmountText::Count(n) => Ok(Self::Count(n)),
            AmountText::Text(s) => s.parse(),
        }
    }
}
impl From<Amount> for AmountText {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(n) => Self::Count(n),
            Amount::Percent(_) => Self::Text(amount.to_string()),
        }
    }
}
impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}
impl std::str::FromStr for Amount {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let refuse = || format!("`{s}` is neither a number of servers nor a percentage like \"25%\"");
        match s.trim().strip_suffix('%') {
            None => s.trim().parse().map(Self::Count).map_err(|_| refuse()),
            Some(number) => match number.trim().parse() {
                Ok(p) if p <= 100 => Ok(Self::Percent(p)),
                _ => Err(refuse()),
            },
        }
    }
}

impl Amount {
    /// Of `total` servers, rounded down: for budgets.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(p) => total * usize::from(p) / 100,
        }
    }
}

/// `serial`: sizes of the batches; the last one repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SerialText", into = "Vec<Amount>")]
pub struct Serial(pub Vec<Amount>);

#[derive(Deserialize)]
#[serde(untagged)]
enum SerialText {
    One(Amount),
    List(Vec<Amount>),
}

impl TryFrom<SerialText> for Serial {
    type Error = String;
    fn try_from(text: SerialText) -> Result<Self, String> {
        let list = match text {
            SerialText::One(amount) => vec![amount],
            SerialText::List(list) => list,
        };
        Self::new(list)
    }
}
impl From<Serial> for Vec<Amount> {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}
/// From the command line: `1,25%`.
impl std::str::FromStr for Serial {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::new(s.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }
}
impl std::fmt::Display for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(", "))
    }
}

impl Serial {
    fn new(list: Vec<Amount>) -> Result<Self, String> {
        let zero = |a: &Amount| matches!(a, Amount::Count(0) | Amount::Percent(0));
        if list.is_empty() || list.iter().any(zero) {
            return Err("serial needs at least one size, each at least 1 server or 1%".into());
        }
        Ok(Self(list))
    }

    /// Servers in batch number `index` (from 0) when there are `total` targets; at least 1.
    pub fn size(&self, index: usize, total: usize) -> usize {
        let amount = self.0.get(index).or(self.0.last());
        amount.map_or(1, |a| a.of(total)).max(1)
    }
}

/// Who opens the second batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Promote {
    #[default]
    Auto,
    /// An operator, with `rollout promote`.
    Manual,
}

/// The order of the servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// By name.
    #[default]
    #[serde(rename = "")]
    None,
    /// One zone at a time.
    #[serde(rename = "zone")]
    Zone,
}

/// What happens when the budget is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    #[default]
    Rollback,
    Halt,
}

/// `rollout/spec`: what is to be rolled out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    pub id: RolloutId,
    pub app: AppName,
    pub seq: Seq,
    pub release: ReleaseId,
    pub kind: RolloutKind,
    /// From the signed manifest, with what the operator overrode on the command line.
    pub policy: RolloutPolicy,
    /// `--limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Selector>,
    /// Servers that must run it even when they already do: `restart`.
    #[serde(default)]
    pub force_run: bool,
    /// Who, from where, when (Unix seconds), why.
    pub by: Actor,
}
record!(RolloutSpec, "rollout spec", 1);

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
}
record!(StableRecord, "stable record", 1);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_is_a_number_a_percentage_or_a_list_whose_last_size_repeats() {
        let sizes = |json: &str, total| -> Vec<usize> {
            let serial: Serial = serde_json::from_str(json).expect("serial");
            (0..4).map(|i| serial.size(i, total)).collect()
        };
        assert_eq!(sizes("3", 10), [3, 3, 3, 3]);
        assert_eq!(sizes("\"25%\"", 10), [2, 2, 2, 2]);
        assert_eq!(sizes("\"25%\"", 2), [1, 1, 1, 1], "a percentage is at least one server");
        assert_eq!(sizes("[1, \"25%\"]", 12), [1, 3, 3, 3]);
    }

    #[test]
    fn serial_refuses_zero_empty_and_more_than_all() {
        for bad in ["0", "[]", "\"0%\"", "\"101%\"", "\"many\"", "[1, 0]", "-1"] {
            assert!(serde_json::from_str::<Serial>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn budgets_round_down() {
        assert_eq!(Amount::Percent(25).of(7), 1);
        assert_eq!(Amount::Percent(10).of(5), 0);
        assert_eq!(Amount::Count(2).of(1), 2);
    }
}
