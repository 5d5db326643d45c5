//! The configuration as it is written: every key with its default, before anything is looked up on the host.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use coord_proto::ids::{AppName, Environment, NodeName};
use coord_proto::keys::DEFAULT_PREFIX;
use coord_proto::labels::Labels;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Patience;

/// Mode of shared directories: the group may write, and new files belong to it.
pub const SHARED_MODE: u32 = 0o2770;

/// All of `agent.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub node: Node,
    pub etcd: Etcd,
    pub trust: Trust,
    pub download: Download,
    pub apps: Apps,
    pub http: Http,
    pub state: State,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    pub name: Option<NodeName>,
    pub environment: Option<Environment>,
    pub labels: Labels,
    pub ec2: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    pub endpoints: Vec<String>,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub prefix: String,
    #[serde(with = "coord_proto::manifest::duration")]
    pub lease_ttl: Duration,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: vec!["https://127.0.0.1:2379".into()],
            ca: "/etc/coord/pki/ca.pem".into(),
            cert: "/etc/coord/pki/agent.pem".into(),
            key: "/etc/coord/pki/agent-key.pem".into(),
            prefix: DEFAULT_PREFIX.into(),
            lease_ttl: Duration::from_secs(15),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    pub file: PathBuf,
}

impl Default for Trust {
    fn default() -> Self {
        Self { file: "/etc/coord/trust.toml".into() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Download {
    pub proxy: String,
    pub mirrors: Vec<String>,
    pub rate: String,
    pub min_rate: String,
    #[serde(with = "coord_proto::manifest::duration")]
    pub connect_timeout: Duration,
    #[serde(with = "coord_proto::manifest::duration")]
    pub header_timeout: Duration,
    #[serde(with = "coord_proto::manifest::duration")]
    pub idle_timeout: Duration,
}

impl Default for Download {
    fn default() -> Self {
        let patience = Patience::default();
        Self {
            proxy: String::new(),
            mirrors: Vec::new(),
            rate: String::new(),
            min_rate: "4k".into(),
            connect_timeout: patience.connect,
            header_timeout: patience.headers,
            idle_timeout: patience.idle,
        }
    }
}

/// `[apps]` holds two keys of its own; every other key is an app's table.
#[derive(Debug, Serialize)]
pub struct Apps {
    pub root: PathBuf,
    pub allow: Vec<String>,
    #[serde(flatten)]
    pub tables: BTreeMap<AppName, App>,
}

impl Default for Apps {
    fn default() -> Self {
        Self { root: "/srv".into(), allow: Vec::new(), tables: BTreeMap::new() }
    }
}

/// By hand, because serde cannot both flatten and refuse unknown keys, and a flattened value has no line any more.
impl<'de> Deserialize<'de> for Apps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AppsVisitor)
    }
}

struct AppsVisitor;

impl<'de> Visitor<'de> for AppsVisitor {
    type Value = Apps;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with `root`, `allow` and one table for each app")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Apps, M::Error> {
        let mut apps = Apps::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "root" => apps.root = map.next_value()?,
                "allow" => apps.allow = map.next_value()?,
                name => {
                    let app = name.parse().map_err(M::Error::custom)?;
                    apps.tables.insert(app, map.next_value()?);
                }
            }
        }
        Ok(apps)
    }
}

/// `[apps.NAME]`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct App {
    pub path: Option<PathBuf>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub shared_mode: Option<String>,
    pub env_file: Option<PathBuf>,
    pub units: Vec<String>,
    pub hook_users: Vec<String>,
    pub search_path: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub listen: String,
    pub ready_listen: String,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7070".into(), ready_listen: String::new() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    pub dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { dir: "/var/lib/coord-agent".into() }
    }
}
