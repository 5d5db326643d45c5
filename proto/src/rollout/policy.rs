//! How a release is rolled out: batches, budgets, and what happens when they are spent.
//!
//! What is signed must be understood, so a deploy file and a manifest with an unknown key are refused. The same policy
//! inside a record is read [`tolerant`]ly, as every record is: a newer program may have written it.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

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

impl RolloutPolicy {
    /// With the operator's `--serial`, if one was given.
    #[must_use]
    pub fn with_serial(self, serial: Option<&Serial>) -> Self {
        Self { serial: serial.cloned().unwrap_or(self.serial), ..self }
    }
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

/// The policy inside a record: unknown keys are ignored, and an unknown word is taken for the most careful one, which
/// waits for a person. The agent needs none of it, and a coordinator goes on with what it knows.
pub(super) fn tolerant<'de, D: Deserializer<'de>>(from: D) -> Result<RolloutPolicy, D::Error> {
    let known = serde_json::to_value(RolloutPolicy::default()).map_err(de::Error::custom)?;
    let mut policy = serde_json::Map::<String, Value>::deserialize(from)?;
    policy.retain(|key, _| known.get(key).is_some());
    careful::<Promote>(&mut policy, "promote", Promote::Manual);
    careful::<Spread>(&mut policy, "spread", Spread::None);
    careful::<OnFailure>(&mut policy, "on_failure", OnFailure::Halt);
    serde_json::from_value(policy.into()).map_err(de::Error::custom)
}

fn careful<T: Serialize + for<'a> Deserialize<'a>>(policy: &mut serde_json::Map<String, Value>, key: &str, instead: T) {
    if policy.get(key).is_some_and(|word| T::deserialize(word).is_err()) {
        policy.insert(key.to_owned(), serde_json::to_value(instead).expect("a word is a string"));
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

    #[derive(Deserialize)]
    struct Holder {
        #[serde(deserialize_with = "tolerant")]
        policy: RolloutPolicy,
    }

    /// Strict where it is signed, tolerant where it is recorded.
    #[test]
    fn what_a_newer_program_wrote_is_refused_in_a_manifest_and_read_in_a_record() {
        for newer in [r#"{"serial":2,"key_of_the_future":1}"#, r#"{"serial":2,"promote":"when-quiet","on_failure":"ask","spread":"rack"}"#]
        {
            assert!(serde_json::from_str::<RolloutPolicy>(newer).is_err(), "{newer}");
            let holder: Holder = serde_json::from_str(&format!(r#"{{"policy":{newer}}}"#)).expect("read");
            assert_eq!(holder.policy.serial.size(0, 9), 2, "{newer}");
            if newer.contains("promote") {
                assert_eq!((holder.policy.promote, holder.policy.on_failure), (Promote::Manual, OnFailure::Halt));
            }
        }
    }

    #[test]
    fn budgets_round_down() {
        assert_eq!(Amount::Percent(25).of(7), 1);
        assert_eq!(Amount::Percent(10).of(5), 0);
        assert_eq!(Amount::Count(2).of(1), 2);
    }
}
