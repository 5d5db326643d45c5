//! `/etc/coord/agent.toml` and its drop-ins `agent.d/*.toml`, merged key by key in the order of their names.
//!
//! `default-agent.toml` is the commented default and the documentation; a test holds the two together.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coord_proto::ids::{AppName, Environment, IdError, NodeName};
use coord_proto::keys::DEFAULT_PREFIX;
use coord_proto::labels::Labels;
use coord_proto::limits::LEASE_TTL_MIN;
use coord_proto::store::etcd::EtcdConfig;
use nix::unistd::{Group, User, geteuid};

use crate::effects::link::Ownership;

mod raw;

use raw::Raw;

/// The commented default file.
pub const DEFAULT: &str = include_str!("default-agent.toml");

/// The configuration, checked.
#[derive(Debug, Clone)]
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
    apps: BTreeMap<AppName, raw::App>,
}

/// `[node]`.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: NodeName,
    pub environment: Environment,
    pub labels: Labels,
}

/// `[download]`.
#[derive(Debug, Clone)]
pub struct Download {
    pub proxy: Option<String>,
    pub mirrors: Vec<String>,
    /// Bytes per second.
    pub rate: Option<u64>,
}

/// `[http]`.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    pub listen: Option<SocketAddr>,
    pub ready_listen: Option<SocketAddr>,
}

/// Where one app lives on this server, and what it may do here.
#[derive(Debug, Clone, Default)]
pub struct AppPlace {
    pub path: PathBuf,
    pub user: Option<String>,
    pub group: Option<String>,
    pub shared_mode: u32,
    pub env_file: Option<PathBuf>,
    /// Patterns of units that hooks may touch.
    pub units: Vec<String>,
    pub hook_users: Vec<String>,
    pub search_path: String,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a valid configuration:\n{problem}", path.display())]
    Syntax { path: PathBuf, problem: String },
    #[error("{}: `{key}` {problem}", path.display())]
    Value { path: PathBuf, key: String, problem: String },
}

impl Config {
    /// Reads `path` and the drop-ins beside it.
    ///
    /// # Errors
    /// A file that cannot be read; a key that is not known, with its file and line; a value that cannot be used.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut merged = read_table(path)?;
        for file in drop_ins(&path.with_extension("d"))? {
            merge(&mut merged, read_table(&file)?);
        }
        let raw: Raw = toml::Value::Table(merged).try_into().map_err(|e: toml::de::Error| syntax(path, &e))?;
        Self::check(raw).map_err(|(key, problem)| ConfigError::Value { path: path.into(), key: key.into(), problem })
    }

    /// From text, for tests and `config check`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let path = Path::new("agent.toml");
        let raw: Raw = toml::from_str(text).map_err(|e| syntax(path, &e))?;
        Self::check(raw).map_err(|(key, problem)| ConfigError::Value { path: path.into(), key: key.into(), problem })
    }

    fn check(raw: Raw) -> Result<Self, (&'static str, String)> {
        let id = |key: &'static str| move |e: IdError| (key, e.to_string());
        let environment = raw
            .node
            .environment
            .ok_or(("node.environment", "is missing; it names the environment that the trust file and the releases name too".to_owned()))?;
        let name = raw.node.name.map_or_else(host_name, Ok).map_err(|e| ("node.name", e))?;
        if raw.node.ec2 {
            return Err(("node.ec2", "is not available in this version; give name and labels here".into()));
        }
        if raw.etcd.lease_ttl < LEASE_TTL_MIN {
            return Err(("etcd.lease_ttl", format!("must be at least {LEASE_TTL_MIN:?}")));
        }
        if !raw.etcd.prefix.starts_with('/') || raw.etcd.prefix.trim_end_matches('/').is_empty() {
            return Err(("etcd.prefix", format!("must begin with a slash, as {DEFAULT_PREFIX} does")));
        }
        let paths = [("trust.file", &raw.trust.file), ("apps.root", &raw.apps.root), ("state.dir", &raw.state.dir)];
        if let Some((key, path)) = paths.into_iter().find(|(_, p)| !p.is_absolute()) {
            return Err((key, format!("must be an absolute path, not {}", path.display())));
        }
        let mut apps = BTreeMap::new();
        for (app, place) in raw.apps.table {
            check_place(&place)?;
            apps.insert(app.parse::<AppName>().map_err(id("apps"))?, place);
        }
        Ok(Self {
            node: Node {
                name: name.parse().map_err(id("node.name"))?,
                environment: environment.parse().map_err(id("node.environment"))?,
                labels: raw.node.labels,
            },
            etcd: EtcdConfig { endpoints: raw.etcd.endpoints, ca: raw.etcd.ca, cert: raw.etcd.cert, key: raw.etcd.key },
            prefix: raw.etcd.prefix,
            lease_ttl: raw.etcd.lease_ttl,
            trust_file: raw.trust.file,
            download: Download {
                proxy: Some(raw.download.proxy).filter(|p| !p.is_empty()),
                mirrors: raw.download.mirrors,
                rate: parse_rate(&raw.download.rate).map_err(|e| ("download.rate", e))?,
            },
            http: Http {
                listen: parse_listen(&raw.http.listen).map_err(|e| ("http.listen", e))?,
                ready_listen: parse_listen(&raw.http.ready_listen).map_err(|e| ("http.ready_listen", e))?,
            },
            // systemd's StateDirectory= wins: the unit may place it elsewhere.
            state_dir: std::env::var_os("STATE_DIRECTORY").map_or(raw.state.dir, PathBuf::from),
            root: raw.apps.root,
            allow: raw.apps.allow,
            apps,
        })
    }

    /// May this app run here?
    pub fn allows(&self, app: &AppName) -> bool {
        self.allow.iter().any(|a| a == "*" || a == app.as_str())
    }

    /// The names in `allow`, for the server's info record.
    pub fn allowed(&self) -> &[String] {
        &self.allow
    }

    /// Where an app lives.
    pub fn place(&self, app: &AppName) -> AppPlace {
        let raw = self.apps.get(app).cloned().unwrap_or_default();
        AppPlace {
            path: raw.path.unwrap_or_else(|| self.root.join(app.as_str())),
            user: raw.user,
            group: raw.group,
            shared_mode: u32::from_str_radix(&raw.shared_mode, 8).unwrap_or(0o2770),
            env_file: raw.env_file,
            units: raw.units,
            hook_users: raw.hook_users,
            search_path: raw.search_path,
        }
    }
}

impl AppPlace {
    /// Does the configuration let hooks touch this unit (or every unit of this pattern)?
    pub fn allows_unit(&self, unit: &str) -> bool {
        self.units.iter().any(|allowed| allowed == unit || glob(allowed.as_bytes(), unit.as_bytes()))
    }

    /// Who owns what the app may write.
    pub fn ownership(&self) -> Ownership {
        let user = self.user.as_deref().and_then(|name| User::from_name(name).ok().flatten());
        let group = self.group.as_deref().and_then(|name| Group::from_name(name).ok().flatten());
        let gid = group.map(|g| g.gid).or(user.as_ref().map(|u| u.gid));
        Ownership { uid: user.map(|u| u.uid.as_raw()), gid: gid.map(|g| g.as_raw()), shared_mode: self.shared_mode }
    }
}

/// `*` matches any run of characters; a `*` in the unit's own name is only matched by an equal or wider pattern.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((first, rest)) => text.split_first().is_some_and(|(c, tail)| c == first && glob(rest, tail)),
    }
}

fn check_place(place: &raw::App) -> Result<(), (&'static str, String)> {
    if let Some(path) = place.path.as_ref().filter(|p| !p.is_absolute()) {
        return Err(("apps.NAME.path", format!("must be an absolute path, not {}", path.display())));
    }
    if u32::from_str_radix(&place.shared_mode, 8).is_err() {
        return Err(("apps.NAME.shared_mode", format!("`{}` is not an octal mode like \"2770\"", place.shared_mode)));
    }
    let me = User::from_uid(geteuid()).ok().flatten().map(|u| u.name);
    for user in place.user.iter().chain(&place.hook_users) {
        if !geteuid().is_root() && me.as_ref() != Some(user) {
            return Err(("apps.NAME.user", format!("is `{user}`, but without root the agent can only run hooks as itself; leave it out")));
        }
    }
    Ok(())
}

fn host_name() -> Result<String, String> {
    let name = nix::unistd::gethostname().map_err(|e| format!("is not given and the host name cannot be read: {e}"))?;
    Ok(name.to_string_lossy().into_owned())
}

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    full.parse().map(Some).map_err(|_| format!("`{text}` is not an address like 127.0.0.1:7070 or :7071"))
}

/// `10M`: bytes per second with k, M or G.
fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let refuse = || format!("`{text}` is not a number of bytes per second like \"10M\"");
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 1_000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| refuse())?;
    number.checked_mul(factor).filter(|rate| *rate > 0).map(Some).ok_or_else(refuse)
}

/// Each file is checked by itself: an unknown key is told with its own file and line.
fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str::<Raw>(&text).map_err(|e| syntax(path, &e))?;
    toml::from_str(&text).map_err(|e| syntax(path, &e))
}

fn syntax(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Syntax { path: path.into(), problem: error.to_string() }
}

fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let read = |source| ConfigError::Read { path: dir.into(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(read(e)),
    };
    let mut files: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(read)?;
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    Ok(files)
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => _ = base.insert(key, value),
        }
    }
}

#[cfg(test)]
mod tests;
