//! `coordinator.toml`: read once at start, checked completely, errors name file, line and key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coord_proto::keys::{DEFAULT_PREFIX, KeySpace};
use serde::Deserialize;

use crate::deploy_file::place;

mod value;

pub use value::{ArtifactsUrl, ByteSize, LeaseTtl, Period, PublicUrl};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/coord/coordinator.toml";
/// The commented default file: what `coordinator default-config` prints, and the reference of every key.
pub const DEFAULT_FILE: &str = include_str!("default-coordinator.toml");
/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// All of `coordinator.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub etcd: EtcdConfig,
    #[serde(default)]
    pub artifacts: ArtifactsConfig,
    #[serde(default)]
    pub http: HttpConfig,
    #[serde(default)]
    pub state: StateConfig,
}

/// `[etcd]`: where it is, or that the coordinator runs its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    pub endpoints: Vec<String>,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub prefix: String,
    /// How long a coordinator that fell silent keeps the leadership.
    pub lease_ttl: LeaseTtl,
    /// Start and supervise an etcd process of its own.
    pub managed: bool,
    /// Everything below is for `managed = true` alone. Data directory; default `<state>/etcd`.
    pub data_dir: Option<PathBuf>,
    pub client_listen: Option<SocketAddr>,
    pub peer_listen: Option<SocketAddr>,
    /// `HOST:PORT` at which agents reach the managed etcd; default: `client_listen`.
    pub advertise: Option<String>,
    pub quota: Option<ByteSize>,
    pub compact_after: Option<Period>,
    /// The program; default: `etcd` in PATH.
    pub binary: Option<PathBuf>,
}

/// `[artifacts]`: where archives are kept.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArtifactsConfig {
    /// `file:///dir` or `s3://bucket/prefix`; default `file://<state>/artifacts`.
    pub url: Option<ArtifactsUrl>,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Plain HTTP to `endpoint`: loopback only.
    pub allow_http: bool,
    /// Releases kept per app.
    pub keep: usize,
    /// Largest artifact taken.
    pub max_size: ByteSize,
    /// Downloads served at once; beyond, clients are told to come back.
    pub downloads: usize,
}

/// `[http]`: the artifact server (TLS) and the status page.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// What agents are told; default `https://<host name>:<port of listen>`.
    pub public_url: Option<PublicUrl>,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Client certificates are checked against it.
    pub ca: PathBuf,
    /// Status page, /healthz and /metrics, plain HTTP and read-only.
    pub status_listen: SocketAddr,
}

/// `[state]`: the coordinator's own directory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    pub dir: PathBuf,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration {} is {len} bytes long; the limit is {FILE_BYTES_MAX}", path.display())]
    TooLarge { path: PathBuf, len: u64 },
    #[error("{}, {place}: {problem}", path.display())]
    Value { path: PathBuf, place: String, problem: String },
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            ca: "/etc/coord/pki/ca.pem".into(),
            cert: "/etc/coord/pki/coordinator.pem".into(),
            key: "/etc/coord/pki/coordinator-key.pem".into(),
            prefix: DEFAULT_PREFIX.into(),
            lease_ttl: LeaseTtl::DEFAULT,
            managed: false,
            data_dir: None,
            client_listen: None,
            peer_listen: None,
            advertise: None,
            quota: None,
            compact_after: None,
            binary: None,
        }
    }
}

impl Default for ArtifactsConfig {
    fn default() -> Self {
        Self { url: None, endpoint: None, region: None, allow_http: false, keep: 20, max_size: ByteSize(16 << 30), downloads: 64 }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7080)),
            public_url: None,
            cert: "/etc/coord/pki/coordinator.pem".into(),
            key: "/etc/coord/pki/coordinator-key.pem".into(),
            ca: "/etc/coord/pki/ca.pem".into(),
            status_listen: SocketAddr::from(([127, 0, 0, 1], 7081)),
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { dir: "/var/lib/coordinator".into() }
    }
}

impl Config {
    /// Reads and checks a file; `STATE_DIRECTORY`, which systemd sets, wins over `[state] dir`.
    ///
    /// # Errors
    /// Unreadable, not TOML of this shape, or values that contradict each other.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        let len = std::fs::metadata(path).map_err(read)?.len();
        if len > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge { path: path.into(), len });
        }
        let mut config = Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)?;
        if let Some(dir) = std::env::var("STATE_DIRECTORY").ok().as_deref().and_then(first_directory) {
            config.state.dir = dir;
        }
        Ok(config)
    }

    /// Checks the text of a file; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let refused = |(place, problem)| ConfigError::Value { path: path.into(), place, problem };
        let config: Self = toml::from_str(text).map_err(|error| refused(place::explain(text, &error)))?;
        match config.contradiction() {
            None => Ok(config),
            Some((key, problem)) => Err(refused((place::of_key(text, key), problem))),
        }
    }

    /// The first pair of values that cannot both be meant: the key to change, and why.
    fn contradiction(&self) -> Option<(&'static str, String)> {
        self.etcd.contradiction().or_else(|| self.artifacts.contradiction())
    }

    /// Keys below `[etcd] prefix`.
    pub fn keys(&self) -> KeySpace {
        KeySpace::new(&self.etcd.prefix)
    }

    /// Where artifacts are kept.
    pub fn artifacts_url(&self) -> ArtifactsUrl {
        self.artifacts.url.clone().unwrap_or_else(|| ArtifactsUrl::File(self.state.dir.join("artifacts")))
    }

    /// Data directory of the managed etcd.
    pub fn etcd_data_dir(&self) -> PathBuf {
        self.etcd.data_dir.clone().unwrap_or_else(|| self.state.dir.join("etcd"))
    }

    /// The base URL that agents and `coordctl` are told, without a slash at the end.
    pub fn public_url(&self) -> String {
        self.http.public_url.as_ref().map_or_else(|| self.default_url(), |url| url.0.clone())
    }

    fn default_url(&self) -> String {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        format!("https://{}:{}", host.as_deref().unwrap_or("localhost"), self.http.listen.port())
    }
}

impl EtcdConfig {
    fn contradiction(&self) -> Option<(&'static str, String)> {
        let only_managed = [
            ("etcd.data_dir", self.data_dir.is_some()),
            ("etcd.client_listen", self.client_listen.is_some()),
            ("etcd.peer_listen", self.peer_listen.is_some()),
            ("etcd.advertise", self.advertise.is_some()),
            ("etcd.quota", self.quota.is_some()),
            ("etcd.compact_after", self.compact_after.is_some()),
            ("etcd.binary", self.binary.is_some()),
        ];
        if self.managed {
            return (!self.endpoints.is_empty())
                .then(|| ("etcd.endpoints", "with `managed = true` the coordinator runs its own etcd; remove one of the two".into()));
        }
        if let Some((key, _)) = only_managed.into_iter().find(|(_, set)| *set) {
            return Some((key, "has a meaning only with `managed = true`".into()));
        }
        if self.endpoints.is_empty() {
            return Some((
                "etcd.endpoints",
                "name the endpoints of etcd, or set `managed = true` to let the coordinator run its own".into(),
            ));
        }
        let bad = self.endpoints.iter().find(|e| !value::endpoint_is_safe(e))?;
        Some(("etcd.endpoints", format!("`{bad}` is not https://HOST:PORT (plain http is for loopback addresses only)")))
    }

    /// Address on which the managed etcd listens for clients.
    pub fn client_listen(&self) -> SocketAddr {
        self.client_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 2379)))
    }

    /// Address on which the managed etcd listens for other members.
    pub fn peer_listen(&self) -> SocketAddr {
        self.peer_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 2380)))
    }

    /// Where this coordinator itself finds etcd.
    pub fn own_endpoints(&self) -> Vec<String> {
        if !self.managed {
            return self.endpoints.clone();
        }
        let listen = self.client_listen();
        match (&self.advertise, listen.ip().is_unspecified()) {
            // The certificate is written for the advertised name, not for 0.0.0.0.
            (Some(public), true) => vec![format!("https://{public}")],
            (None, true) => vec![format!("https://127.0.0.1:{}", listen.port())],
            (_, false) => vec![format!("https://{listen}")],
        }
    }

    /// Size at which the managed etcd refuses writes.
    pub fn quota(&self) -> ByteSize {
        self.quota.unwrap_or(ByteSize(2 << 30))
    }

    /// History that the managed etcd keeps.
    pub fn compact_after(&self) -> Duration {
        self.compact_after.map_or(Duration::from_secs(3600), |p| p.0)
    }
}

impl ArtifactsConfig {
    fn contradiction(&self) -> Option<(&'static str, String)> {
        let s3 = matches!(self.url, Some(ArtifactsUrl::S3 { .. }));
        let only_s3 = [("artifacts.endpoint", self.endpoint.is_some()), ("artifacts.region", self.region.is_some())];
        if let Some((key, _)) = only_s3.into_iter().find(|(_, set)| *set && !s3) {
            return Some((key, "has a meaning only with an s3:// url".into()));
        }
        let plain = self.endpoint.as_deref().is_some_and(|e| !e.starts_with("https://"));
        let loopback = self.endpoint.as_deref().is_some_and(value::endpoint_is_safe);
        if plain && !(self.allow_http && loopback) {
            return Some(("artifacts.endpoint", "must be https:// (plain http: a loopback address and `allow_http = true`)".into()));
        }
        if self.keep == 0 {
            return Some(("artifacts.keep", "at least 1 release is kept".into()));
        }
        (self.downloads == 0).then(|| ("artifacts.downloads", "at least 1 download must be possible".into()))
    }
}

/// systemd gives a list with colons when the unit names several directories; the first is ours.
fn first_directory(list: &str) -> Option<PathBuf> {
    list.split(':').next().filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests;
