//! `agent.toml` and its drop-ins: read once at start, checked completely; errors name file, line and key.
//!
//! ```text
//!  agent.toml, agent.d/*.toml ─▶ merge ─▶ file (as written) ─▶ resolve ─▶ Config (checked, nothing optional left to guess)
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coord_proto::ids::{AppName, Environment, NodeName};
use coord_proto::labels::Labels;
use coord_proto::store::etcd::EtcdConfig;

use crate::effects::link::Ownership;

mod file;
mod merge;
mod resolve;

pub use resolve::{Host, is_loopback};

/// The commented default file: what `coord-agent default-config` prints, and the reference of every key.
pub const DEFAULT: &str = include_str!("default-agent.toml");
/// `PATH` of hooks unless `[apps.X] search_path` says otherwise.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node: Node,
    pub etcd: EtcdConfig,
    pub prefix: String,
    pub lease_ttl: Duration,
    pub trust_file: PathBuf,
    pub download: Download,
    pub http: Http,
    pub state_dir: PathBuf,
    root: PathBuf,
    allow: Vec<String>,
    /// Apps with a table of their own.
    places: BTreeMap<AppName, AppPlace>,
}

/// `[node]`: who this server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: NodeName,
    pub environment: Environment,
    /// As they were written.
    pub labels: Labels,
    /// What selectors are compared with: the labels, and `node`, the name.
    pub known_by: Labels,
}

/// `[download]`: how artifacts are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub proxy: Option<String>,
    /// Asked before the stores that coordinators announce.
    pub mirrors: Vec<String>,
    /// Bytes per second.
    pub rate: Option<u64>,
    pub patience: Patience,
}

/// How long a store may keep a download waiting before the next one is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the connection, TLS with it.
    pub connect: Duration,
    /// From the request to the end of the answer's headers, redirects with it.
    pub headers: Duration,
    /// Between two reads of the body.
    pub idle: Duration,
    /// Bytes per second that must come on average in every `idle` that is waited for them; none: however few.
    pub min_rate: Option<u64>,
}

impl Default for Patience {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self { connect: Duration::from_secs(5), headers: half_a_minute, idle: half_a_minute, min_rate: Some(4_000) }
    }
}

/// What one app is given on this server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppPlace {
    /// Holds `releases/`, `shared/` and `current`.
    pub path: PathBuf,
    /// Owns what the app may write to, and runs its hooks; none: the agent's own.
    pub user: Option<String>,
    pub group: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Mode of shared directories, e.g. 0o2770.
    pub shared_mode: u32,
    /// `KEY=VALUE` lines with the app's secrets, for hooks.
    pub env_file: Option<PathBuf>,
    /// Unit names and patterns that hooks may touch.
    pub units: Vec<String>,
    /// Users other than `user` that a manifest may name for a hook.
    pub hook_users: Vec<String>,
    /// `PATH` of hooks.
    pub search_path: String,
}

/// `[http]`: none where switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// `/healthz /metrics /standing/<app> /ready/<app>`.
    pub listen: Option<SocketAddr>,
    /// `/ready/<app>` alone.
    pub ready_listen: Option<SocketAddr>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration {} is {len} bytes long; the limit is {}", path.display(), merge::FILE_BYTES_MAX)]
    TooLarge { path: PathBuf, len: u64 },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{}, line {line}: {}{problem}", path.display(), named(key))]
    Syntax { path: PathBuf, line: usize, key: Option<String>, problem: String },
    /// A value that cannot be meant; `place` is the file and line that set it, or the file where it is missing.
    #[error("{place}: {key} {problem}")]
    Value { place: String, key: String, problem: String },
}

fn named(key: &Option<String>) -> String {
    key.as_ref().map(|k| format!("{k}: ")).unwrap_or_default()
}

impl Config {
    /// Reads `path` and the drop-ins beside it (`agent.toml` → `agent.d/*.toml` in lexical order, merged key by key), and
    /// looks at the files that it names.
    ///
    /// # Errors
    /// Unreadable, not TOML of this shape, or values that cannot be meant on this host.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let merged = merge::read(path)?;
        let config = resolve::resolve(&merged, &Host::this())?;
        resolve::check_files(&merged, &config)?;
        Ok(config)
    }

    /// From text, as if on `host`; files that it names are not looked at.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, host: &Host) -> Result<Self, ConfigError> {
        resolve::resolve(&merge::from_text(text, Path::new("agent.toml"))?, host)
    }

    /// May this app run here?
    pub fn allows(&self, app: &AppName) -> bool {
        self.allow.iter().any(|a| a == "*" || a == app.as_str())
    }

    /// The names in `allow`, for the server's info record.
    pub fn allowed(&self) -> &[String] {
        &self.allow
    }

    /// What the app is given here: its table, or the defaults.
    pub fn place(&self, app: &AppName) -> AppPlace {
        self.places.get(app).cloned().unwrap_or_else(|| AppPlace::bare(&self.root, app))
    }
}

impl AppPlace {
    /// An app without a table.
    fn bare(root: &Path, app: &AppName) -> Self {
        Self { path: root.join(app.as_str()), shared_mode: file::SHARED_MODE, search_path: SEARCH_PATH.to_owned(), ..Self::default() }
    }

    /// Does the configuration let hooks touch this unit (or every unit of this pattern)?
    pub fn allows_unit(&self, unit: &str) -> bool {
        self.units.iter().any(|allowed| glob(allowed.as_bytes(), unit.as_bytes()))
    }

    /// Who owns what the app may write to.
    pub fn ownership(&self) -> Ownership {
        Ownership { uid: self.uid, gid: self.gid, shared_mode: self.shared_mode }
    }
}

/// `*` matches any run of characters, everything else itself. So when the unit is a pattern too, whatever that one matches
/// is matched here: its wildcards were taken by a `*`, or are the same ones.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((first, rest)) => text.split_first().is_some_and(|(c, tail)| c == first && glob(rest, tail)),
    }
}

#[cfg(test)]
mod tests;
