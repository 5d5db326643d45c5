//! The file's shape: every key with its default, nothing checked yet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use coord_proto::keys::DEFAULT_PREFIX;
use coord_proto::labels::Labels;
use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    pub node: Node,
    pub etcd: Etcd,
    pub trust: Trust,
    pub download: Download,
    pub apps: Apps,
    pub http: Http,
    pub state: State,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    pub name: Option<String>,
    pub environment: Option<String>,
    pub labels: Labels,
    pub ec2: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    pub endpoints: Vec<String>,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub prefix: String,
    #[serde(with = "coord_proto::manifest::duration")]
    pub lease_ttl: Duration,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: vec!["https://127.0.0.1:2379".into()],
            ca: None,
            cert: None,
            key: None,
            prefix: DEFAULT_PREFIX.into(),
            lease_ttl: Duration::from_secs(15),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    pub file: PathBuf,
}

impl Default for Trust {
    fn default() -> Self {
        Self { file: "/etc/coord/trust.toml".into() }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Download {
    pub proxy: String,
    pub mirrors: Vec<String>,
    pub rate: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Apps {
    pub root: PathBuf,
    pub allow: Vec<String>,
    /// Every other key is an app's name.
    #[serde(flatten)]
    pub table: BTreeMap<String, App>,
}

impl Default for Apps {
    fn default() -> Self {
        Self { root: "/srv".into(), allow: vec![], table: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct App {
    pub path: Option<PathBuf>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub shared_mode: String,
    pub env_file: Option<PathBuf>,
    pub units: Vec<String>,
    pub hook_users: Vec<String>,
    pub search_path: String,
}

impl Default for App {
    fn default() -> Self {
        Self {
            path: None,
            user: None,
            group: None,
            shared_mode: "2770".into(),
            env_file: None,
            units: vec![],
            hook_users: vec![],
            search_path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    pub dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { dir: "/var/lib/coord-agent".into() }
    }
}
