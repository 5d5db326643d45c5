//! The manifest: everything that a release key signs about one release.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Digest, Environment, OnceName, ReleaseId, Seq};
use crate::labels::{Labels, Selector};
use crate::limits::{DURATION_MAX, DURATION_MIN, HOOK_TIMEOUT, MANIFEST_BYTES_MAX};
use crate::migration::{Phase, TaskName};
use crate::rollout::RolloutPolicy;

mod check;

/// The version of manifest that this program writes.
pub const MANIFEST_VERSION: u32 = 1;

/// One release, as signed. Unknown fields are refused: what is signed must be understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    pub app: AppName,
    pub environment: Environment,
    pub release: ReleaseId,
    pub seq: Seq,
    /// The sequence number that was stable when this was published: nobody goes below it afterwards (I2).
    pub floor: Seq,
    /// When the release was made, Unix seconds: the mtime of every unpacked file; strictly increasing per app.
    pub created: i64,
    /// The VCS commit, else the release id: written to `REVISION`.
    pub revision: String,
    pub artifact: Artifact,
    #[serde(default)]
    pub targets: Selector,
    #[serde(default)]
    pub layout: Layout,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<Migrate>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub once: BTreeMap<OnceName, Once>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    #[serde(default)]
    pub rollout: RolloutPolicy,
    /// A change to this release may not start before this, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// A change to this release may not start after this, Unix seconds; keeping it is always allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent_version: Option<String>,
}

/// How the archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Zstd,
    Gzip,
}

/// The archive: digest and sizes, whole and in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    pub digest: Digest,
    pub compression: Compression,
    /// Bytes as downloaded.
    pub size: u64,
    /// Bytes of all regular files, unpacked.
    pub unpacked_size: u64,
    /// Regular files, directories and links, after `strip_components`.
    pub entries: u64,
    /// Bytes of each piece but the last.
    pub piece_size: u64,
    /// SHA-256 of each piece, in order.
    pub pieces: Vec<Digest>,
    #[serde(default)]
    pub strip_components: u32,
    /// Absolute link targets that are allowed: exact paths or shell patterns with `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_symlinks_to: Vec<String>,
}

impl Artifact {
    /// Byte range `[start, end)` of piece `index`.
    pub fn piece_range(&self, index: usize) -> (u64, u64) {
        let start = index as u64 * self.piece_size;
        (start, (start + self.piece_size).min(self.size))
    }
}

/// What lies beside the release, and how many releases stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layout {
    pub keep_releases: u32,
    pub shared_dirs: Vec<String>,
    pub shared_files: Vec<String>,
    pub writable_dirs: Vec<String>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { keep_releases: 5, shared_dirs: vec![], shared_files: vec![], writable_dirs: vec![] }
    }
}

/// A command without a shell: program and arguments.
pub type Command = Vec<String>;

/// Hooks by phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    pub prepare: Vec<Hook>,
    pub drain: Vec<Hook>,
    pub restart: Vec<Hook>,
    pub undrain: Vec<Hook>,
    pub cleanup: Vec<Hook>,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPhase {
    Prepare,
    Drain,
    Restart,
    Undrain,
    Cleanup,
}

impl HookPhase {
    /// As in `[[hooks.NAME]]` and `COORD_PHASE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Drain => "drain",
            Self::Restart => "restart",
            Self::Undrain => "undrain",
            Self::Cleanup => "cleanup",
        }
    }
}

impl Hooks {
    /// The hooks of one phase, in the order they run.
    pub fn of(&self, phase: HookPhase) -> &[Hook] {
        match phase {
            HookPhase::Prepare => &self.prepare,
            HookPhase::Drain => &self.drain,
            HookPhase::Restart => &self.restart,
            HookPhase::Undrain => &self.undrain,
            HookPhase::Cleanup => &self.cleanup,
        }
    }

    /// All phases with their hooks.
    pub fn phases(&self) -> impl Iterator<Item = (HookPhase, &[Hook])> {
        [HookPhase::Prepare, HookPhase::Drain, HookPhase::Restart, HookPhase::Undrain, HookPhase::Cleanup]
            .into_iter()
            .map(|phase| (phase, self.of(phase)))
    }
}

/// One hook: a command, or systemd units with an action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hook {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Command,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<UnitAction>,
    #[serde(with = "crate::manifest::opt_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub when: Labels,
}

impl Hook {
    /// The deadline, with its default.
    pub fn deadline(&self) -> Duration {
        self.timeout.unwrap_or(HOOK_TIMEOUT)
    }
}

/// What systemd is asked to do with a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitAction {
    Restart,
    Reload,
    #[default]
    ReloadOrRestart,
    Start,
    Stop,
}

/// What to do when nobody knows whether a run-once command finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknown {
    /// Stop the rollout; an operator decides. Starts at most once.
    #[default]
    Stop,
    /// Start again: only for commands declared safe to repeat.
    Retry,
}

/// `[migrate]`: once per release in the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Command,
    #[serde(default, with = "opt_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who may run it; default: any target.
    #[serde(default)]
    pub on: Labels,
    #[serde(default)]
    pub on_unknown: OnUnknown,
    #[serde(default = "yes")]
    pub reversible: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
}

/// `[migrate.after]`: the contract phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    pub command: Command,
    #[serde(default, with = "opt_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// `[once.NAME]`: other work that runs once per release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Once {
    pub command: Command,
    pub when: Phase,
    #[serde(default, with = "opt_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default)]
    pub on: Labels,
    #[serde(default)]
    pub on_unknown: OnUnknown,
}

/// One run-once task of a release: a migration phase or a `[once.NAME]`, in one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnceTask {
    pub name: TaskName,
    pub command: Command,
    pub timeout: Duration,
    pub user: Option<String>,
    pub on: Labels,
    pub on_unknown: OnUnknown,
}

/// Deadline of a migration where the manifest names none.
pub const MIGRATE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Manifest {
    /// The run-once tasks of one phase in their order: the migration first, then `[once.NAME]` by name.
    pub fn once_tasks(&self, phase: Phase) -> Vec<OnceTask> {
        let migration = self.migrate.as_ref().and_then(|m| {
            let (command, timeout) = match (phase, &m.after) {
                (Phase::Before, _) => (&m.command, m.timeout),
                (Phase::After, Some(after)) => (&after.command, after.timeout.or(m.timeout)),
                (Phase::After, None) => return None,
            };
            (!command.is_empty()).then(|| OnceTask {
                name: TaskName { phase, once: None },
                command: command.clone(),
                timeout: timeout.unwrap_or(MIGRATE_TIMEOUT),
                user: m.user.clone(),
                on: m.on.clone(),
                on_unknown: m.on_unknown,
            })
        });
        let others = self.once.iter().filter(|(_, o)| o.when == phase).map(|(name, o)| OnceTask {
            name: TaskName { phase, once: Some(name.clone()) },
            command: o.command.clone(),
            timeout: o.timeout.unwrap_or(MIGRATE_TIMEOUT),
            user: o.user.clone(),
            on: o.on.clone(),
            on_unknown: o.on_unknown,
        });
        migration.into_iter().chain(others).collect()
    }

    /// May the release be left again once its `before` migration was claimed?
    pub fn reversible(&self) -> bool {
        self.migrate.as_ref().is_none_or(|m| m.reversible)
    }
}

/// How a server knows that the release works.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Command,
    #[serde(with = "opt_duration", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(with = "opt_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

fn yes() -> bool {
    true
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is {len} bytes long; the limit is {MANIFEST_BYTES_MAX}")]
    TooLarge { len: usize },
    #[error("the manifest is not one that this version can read; a newer coordctl may have made it")]
    Syntax(#[source] serde_json::Error),
    #[error("the manifest has version {found}; this program reads version {MANIFEST_VERSION}; upgrade it")]
    Version { found: u32 },
    #[error("the manifest's {field} is {value}; the limit is {limit}")]
    Limit { field: &'static str, value: u64, limit: u64 },
    #[error(
        "the manifest's {field} is {}; it must be between {} and {}",
        humantime::format_duration(*value), humantime::format_duration(DURATION_MIN), humantime::format_duration(DURATION_MAX)
    )]
    Duration { field: &'static str, value: Duration },
    #[error("the manifest's {field} `{value}` {problem}")]
    Field { field: &'static str, value: String, problem: &'static str },
}

impl Manifest {
    /// The bytes that get signed and stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest holds only strings, numbers and maps with string keys")
    }

    /// Reads bytes whose signature was checked, and checks every limit.
    ///
    /// # Errors
    /// Over 256 KiB, unknown fields or version, piece list that does not add up, paths that leave the release.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { len: bytes.len() });
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes).map_err(ManifestError::Syntax)?;
        if version != MANIFEST_VERSION {
            return Err(ManifestError::Version { found: version });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Syntax)?;
        manifest.check()?;
        Ok(manifest)
    }
}

/// Durations as people write them: `"30s"`, `"5m"`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*d))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text).map_err(|e| D::Error::custom(format!("`{text}` is not a duration like \"30s\" or \"5m\": {e}")))
    }
}

/// An optional duration as people write it.
pub mod opt_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::duration::serialize(d, s),
            None => s.serialize_none(),
        }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Wrap(#[serde(with = "super::duration")] Duration);
        Option::<Wrap>::deserialize(d).map(|w| w.map(|Wrap(d)| d))
    }
}

#[cfg(test)]
mod tests;
