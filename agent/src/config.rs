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
use coord_proto::keys::KeySpace;
use coord_proto::labels::Labels;
use coord_proto::store::etcd::EtcdConfig;

use crate::effects::link::Ownership;

mod file;
mod merge;
mod resolve;

pub use resolve::Host;

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/coord/agent.toml";
/// The commented default file: what `coord-agent default-config` prints, and the reference of every key.
pub const DEFAULT_FILE: &str = include_str!("default-agent.toml");
/// `PATH` of hooks unless `[apps.X] search_path` says otherwise.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node: NodeConfig,
    pub etcd: EtcdSettings,
    /// The trust file, which was there and could be read.
    pub trust_file: PathBuf,
    pub download: DownloadConfig,
    pub apps: AppsConfig,
    pub http: HttpConfig,
    pub state_dir: PathBuf,
}

/// `[node]`: who this server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: NodeName,
    pub environment: Environment,
    pub labels: Labels,
}

/// `[etcd]`: the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    pub connection: EtcdConfig,
    pub prefix: String,
    pub lease_ttl: Duration,
}

/// `[download]`: how artifacts are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadConfig {
    pub proxy: Option<String>,
    /// Asked before the stores that coordinators announce.
    pub mirrors: Vec<String>,
    /// Bytes per second.
    pub rate: Option<u64>,
}

/// `[apps]`: which apps, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppsConfig {
    pub root: PathBuf,
    pub allow: Allow,
    /// Apps with a table of their own.
    pub places: BTreeMap<AppName, AppPlace>,
}

/// `[apps] allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Any app that a trusted key signed for this server's labels.
    Any,
    Named(Vec<AppName>),
}

/// What one app is given on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPlace {
    pub app: AppName,
    /// Holds `releases/`, `shared/` and `current`.
    pub path: PathBuf,
    /// Owns what the app may write to, and runs its hooks; none: the agent's own.
    pub user: Option<String>,
    pub group: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Mode of shared directories, e.g. 0o2775.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// `/healthz /metrics /ready/<app>`.
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
    /// Reads `path` and the drop-ins beside it (`agent.toml` → `agent.d/*.toml` in lexical order, merged key by key).
    ///
    /// # Errors
    /// Unreadable, not TOML of this shape, or values that cannot be meant on this host.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_on(path, &Host::this())
    }

    /// [`Config::load`] as if on `host`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_on(path: &Path, host: &Host) -> Result<Self, ConfigError> {
        let merged = merge::read(path)?;
        resolve::resolve(&merged, host)
    }

    /// May this server run the app at all?
    pub fn allows(&self, app: &AppName) -> bool {
        match &self.apps.allow {
            Allow::Any => true,
            Allow::Named(names) => names.contains(app),
        }
    }

    /// What the app is given here: its table, or the defaults.
    pub fn place(&self, app: &AppName) -> AppPlace {
        self.apps.places.get(app).cloned().unwrap_or_else(|| AppPlace::bare(app, &self.apps.root))
    }

    /// The keys of this environment.
    pub fn keys(&self) -> KeySpace {
        KeySpace::new(&self.etcd.prefix)
    }

    /// `allow` as text, for the node's record.
    pub fn allowed_names(&self) -> Vec<String> {
        match &self.apps.allow {
            Allow::Any => vec!["*".to_owned()],
            Allow::Named(names) => names.iter().map(ToString::to_string).collect(),
        }
    }
}

impl AppPlace {
    /// An app without a table.
    pub fn bare(app: &AppName, root: &Path) -> Self {
        Self {
            app: app.clone(),
            path: root.join(app.as_str()),
            user: None,
            group: None,
            uid: None,
            gid: None,
            shared_mode: file::SHARED_MODE,
            env_file: None,
            units: Vec::new(),
            hook_users: Vec::new(),
            search_path: SEARCH_PATH.to_owned(),
        }
    }

    /// Who owns what the app may write to.
    pub fn ownership(&self) -> Ownership {
        Ownership { uid: self.uid, gid: self.gid, shared_mode: self.shared_mode }
    }
}

#[cfg(test)]
mod tests;
