//! The names of things: each its own type, checked once, where it enters.

use std::fmt;
use std::str::FromStr;

use rand::RngCore;
use serde::{Deserialize, Serialize};

/// Longest name of an app, release, node or environment, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{kind} is empty")]
    Empty { kind: &'static str },
    #[error("{kind} `{}` is {len} bytes long; the limit is {NAME_BYTES_MAX}", shown(value))]
    TooLong { kind: &'static str, value: String, len: usize },
    #[error("{kind} `{}` has the character {bad:?}; allowed are a-z A-Z 0-9 . _ - and it starts with a letter or digit", shown(value))]
    Character { kind: &'static str, value: String, bad: char },
    #[error("{kind} `{}` is not 64 lower-case hexadecimal characters", shown(value))]
    Digest { kind: &'static str, value: String },
}

/// What is refused goes into logs and onto terminals: no line ends, no escapes, and not more than a name may have.
fn shown(value: &str) -> String {
    value.chars().take(NAME_BYTES_MAX).flat_map(char::escape_debug).collect()
}

fn check_name(kind: &'static str, value: &str) -> Result<(), IdError> {
    if value.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if value.len() > NAME_BYTES_MAX {
        let shown = value.chars().take(NAME_BYTES_MAX).collect();
        return Err(IdError::TooLong { kind, value: shown, len: value.len() });
    }
    let allowed = |(i, c): (usize, char)| c.is_ascii_alphanumeric() || (i > 0 && matches!(c, '.' | '_' | '-'));
    match value.char_indices().find(|&at| !allowed(at)) {
        None => Ok(()),
        Some((_, bad)) => Err(IdError::Character { kind, value: value.into(), bad }),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                check_name($kind, s).map(|()| Self(s.to_owned()))
            }
        }
        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                s.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// An application, e.g. `mootube`: one directory tree on every server.
    AppName, "app name"
);
name!(
    /// A release of an app: the name of its directory under `releases/`, the same on every server.
    ReleaseId, "release id"
);
name!(
    /// A server, e.g. `web-1`.
    NodeName, "node name"
);
name!(
    /// An environment, e.g. `production`: bound into manifests, trust files and configurations.
    Environment, "environment"
);
name!(
    /// One rollout of one app; unique within the app.
    RolloutId, "rollout id"
);
name!(
    /// The NAME of a `[once.NAME]` table.
    OnceName, "once name"
);

macro_rules! number {
    ($(#[$doc:meta])* $type:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub $inner);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Sequence number of a manifest within its app: 1, 2, 3, …, allotted by compare-and-swap.
    Seq, u64
);
number!(
    /// Counts the writes of one desired record; a status names the generation it answers.
    Generation, u64
);
number!(
    /// An etcd revision; a claim's revision is the fence that its migration carries.
    Revision, i64
);

impl Seq {
    /// The sequence number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A SHA-256 digest: 64 lower-case hexadecimal characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// A digest computed elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
impl FromStr for Digest {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let refuse = || IdError::Digest { kind: "digest", value: s.chars().take(80).collect() };
        if s.len() != 64 || !s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}
impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}
impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}

/// 128 random bits that name one claim, one agent instance or one request: a repeated write is recognised by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(String);

impl Nonce {
    /// A fresh one from the operating system's generator.
    pub fn random() -> Self {
        let mut bytes = [0u8; 16];
        rand::rngs::ThreadRng::default().fill_bytes(&mut bytes);
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// A fixed one, for tests and simulations.
    pub fn fixed(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The nonce as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ReleaseId {
    /// The default id for a release made at `unix_seconds`: UTC `YYYYMMDDHHMMSS`, as Capistrano and Ansistrano name them.
    pub fn from_time(unix_seconds: i64) -> Self {
        let at = jiff::Timestamp::from_second(unix_seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self(at.strftime("%Y%m%d%H%M%S").to_string())
    }

    /// The id to try when `self` is taken: `-2`, then `-3`, …
    #[must_use]
    pub fn on_collision(&self, attempt: u32) -> Self {
        if attempt < 2 { self.clone() } else { Self(format!("{}-{attempt}", self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attack 88: what somebody else wrote in place of a name reaches logs and terminals in the error.
    #[test]
    fn a_refused_name_is_told_on_one_line_without_escapes() {
        let long = format!("\x1b[2J\n{}", "x".repeat(1 << 20));
        let errors =
            ["a\nERROR forged", "\x1b[31mred", long.as_str()].map(|bad| bad.parse::<ReleaseId>().expect_err("refused").to_string());
        let digest = long.parse::<Digest>().expect_err("refused").to_string();
        for text in errors.into_iter().chain([digest]) {
            assert!(text.len() < 300 && !text.chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn names_refuse_what_could_leave_a_directory_or_a_key() {
        for bad in ["", ".", "..", "../x", "a/b", "-x", ".hidden", "a b", "ä", "a\n", "a\0"] {
            assert!(bad.parse::<ReleaseId>().is_err(), "{bad:?} was accepted");
        }
        assert!("x".repeat(65).parse::<AppName>().is_err());
        for good in ["a", "20261124101112-2", "v1.2.3", "web_1"] {
            assert_eq!(good.parse::<ReleaseId>().expect("accepted").as_str(), good);
        }
    }

    #[test]
    fn release_id_is_the_utc_time() {
        assert_eq!(ReleaseId::from_time(1_700_000_000).as_str(), "20231114221320");
        assert_eq!(ReleaseId::from_time(0).on_collision(2).as_str(), "19700101000000-2");
    }

    #[test]
    fn digest_round_trips_and_refuses_upper_case() {
        let d = Digest::of(b"");
        assert_eq!(d.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(d.to_string().parse::<Digest>(), Ok(d.clone()));
        assert!(d.to_string().to_uppercase().parse::<Digest>().is_err());
    }
}
