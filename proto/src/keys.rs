//! Every key in etcd: built here, parsed here, written nowhere else as text.

use std::fmt;

use crate::ids::{AppName, NodeName, ReleaseId, RolloutId, Seq};
use crate::migration::TaskName;
use crate::signature::KeyId;

/// The prefix where none is configured.
pub const DEFAULT_PREFIX: &str = "/coord/v1";

/// All keys below one prefix: one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpace {
    prefix: String,
}

/// What a key means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    AppSeq(AppName),
    Manifest(AppName, Seq),
    ManifestSignature(AppName, Seq, KeyId),
    Release(AppName, ReleaseId),
    Stable(AppName),
    RolloutSpec(AppName),
    RolloutState(AppName),
    RolloutWish(AppName),
    History(AppName, RolloutId),
    MigrationHead(AppName),
    Migration(AppName, ReleaseId, TaskName),
    MigrateLock(AppName),
    NodeInfo(NodeName),
    NodeAlive(NodeName),
    NodeCordon(NodeName),
    Desired(NodeName, AppName),
    Status(NodeName, AppName),
    Leader,
    Stores,
    /// By its instance.
    Member(String),
    Event(String),
}

impl Default for KeySpace {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX)
    }
}

impl fmt::Display for KeySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

impl KeySpace {
    /// The key space below `prefix`, e.g. `/coord/v1` (a trailing slash is dropped).
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// The text of a key.
    pub fn key(&self, key: &Key) -> String {
        let p = &self.prefix;
        match key {
            Key::AppSeq(app) => format!("{p}/apps/{app}/seq"),
            // Twenty digits: etcd lists keys in byte order, so this lists manifests by sequence number.
            Key::Manifest(app, seq) => format!("{p}/apps/{app}/manifests/{:020}", seq.0),
            Key::ManifestSignature(app, seq, id) => format!("{p}/apps/{app}/manifests/{:020}/sigs/{id}", seq.0),
            Key::Release(app, release) => format!("{p}/apps/{app}/releases/{release}"),
            Key::Stable(app) => format!("{p}/apps/{app}/stable"),
            Key::RolloutSpec(app) => format!("{p}/apps/{app}/rollout/spec"),
            Key::RolloutState(app) => format!("{p}/apps/{app}/rollout/state"),
            Key::RolloutWish(app) => format!("{p}/apps/{app}/rollout/wish"),
            Key::History(app, rollout) => format!("{p}/apps/{app}/history/{rollout}"),
            Key::MigrationHead(app) => format!("{p}/apps/{app}/migrations/head"),
            Key::Migration(app, release, task) => format!("{p}/apps/{app}/migrations/{release}/{task}"),
            Key::MigrateLock(app) => format!("{p}/apps/{app}/locks/migrate"),
            Key::NodeInfo(node) => format!("{p}/nodes/{node}/info"),
            Key::NodeAlive(node) => format!("{p}/nodes/{node}/alive"),
            Key::NodeCordon(node) => format!("{p}/nodes/{node}/cordon"),
            Key::Desired(node, app) => format!("{p}/desired/{node}/{app}"),
            Key::Status(node, app) => format!("{p}/status/{node}/{app}"),
            Key::Leader => format!("{p}/coordinator/leader"),
            Key::Stores => format!("{p}/coordinator/stores"),
            Key::Member(instance) => format!("{p}/coordinator/members/{instance}"),
            Key::Event(id) => format!("{p}/events/{id}"),
        }
    }

    /// What `key` means; `None` for a key that this version does not know.
    pub fn parse(&self, key: &str) -> Option<Key> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        let key = match parts.as_slice() {
            ["apps", app, tail @ ..] => parse_app(app.parse().ok()?, tail)?,
            ["nodes", node, "info"] => Key::NodeInfo(node.parse().ok()?),
            ["nodes", node, "alive"] => Key::NodeAlive(node.parse().ok()?),
            ["nodes", node, "cordon"] => Key::NodeCordon(node.parse().ok()?),
            ["desired", node, app] => Key::Desired(node.parse().ok()?, app.parse().ok()?),
            ["status", node, app] => Key::Status(node.parse().ok()?, app.parse().ok()?),
            ["coordinator", "leader"] => Key::Leader,
            ["coordinator", "stores"] => Key::Stores,
            ["coordinator", "members", instance] => Key::Member((*instance).to_owned()),
            ["events", id] => Key::Event((*id).to_owned()),
            _ => return None,
        };
        Some(key)
    }

    /// Everything of this environment.
    pub fn all(&self) -> String {
        format!("{}/", self.prefix)
    }
    /// All apps.
    pub fn apps(&self) -> String {
        format!("{}/apps/", self.prefix)
    }
    /// All of one app.
    pub fn app(&self, app: &AppName) -> String {
        format!("{}/apps/{app}/", self.prefix)
    }
    /// One app's manifests, in order of their sequence numbers.
    pub fn manifests(&self, app: &AppName) -> String {
        format!("{}/apps/{app}/manifests/", self.prefix)
    }
    /// One app's releases.
    pub fn releases(&self, app: &AppName) -> String {
        format!("{}/apps/{app}/releases/", self.prefix)
    }
    /// One app's finished rollouts.
    pub fn history(&self, app: &AppName) -> String {
        format!("{}/apps/{app}/history/", self.prefix)
    }
    /// One app's migration records and their head.
    pub fn migrations(&self, app: &AppName) -> String {
        format!("{}/apps/{app}/migrations/", self.prefix)
    }
    /// All servers.
    pub fn nodes(&self) -> String {
        format!("{}/nodes/", self.prefix)
    }
    /// What one server should run: the only thing that its agent watches.
    pub fn desired(&self, node: &NodeName) -> String {
        format!("{}/desired/{node}/", self.prefix)
    }
    /// What all servers should run.
    pub fn all_desired(&self) -> String {
        format!("{}/desired/", self.prefix)
    }
    /// What all servers report.
    pub fn all_status(&self) -> String {
        format!("{}/status/", self.prefix)
    }
    /// All coordinators that run.
    pub fn members(&self) -> String {
        format!("{}/coordinator/members/", self.prefix)
    }
    /// The audit trail.
    pub fn events(&self) -> String {
        format!("{}/events/", self.prefix)
    }
}

fn parse_app(app: AppName, tail: &[&str]) -> Option<Key> {
    let key = match tail {
        ["seq"] => Key::AppSeq(app),
        ["manifests", seq] => Key::Manifest(app, parse_seq(seq)?),
        ["manifests", seq, "sigs", id] => Key::ManifestSignature(app, parse_seq(seq)?, id.parse().ok()?),
        ["releases", release] => Key::Release(app, release.parse().ok()?),
        ["stable"] => Key::Stable(app),
        ["rollout", "spec"] => Key::RolloutSpec(app),
        ["rollout", "state"] => Key::RolloutState(app),
        ["rollout", "wish"] => Key::RolloutWish(app),
        ["history", rollout] => Key::History(app, rollout.parse().ok()?),
        ["migrations", "head"] => Key::MigrationHead(app),
        ["migrations", release, task] => Key::Migration(app, release.parse().ok()?, task.parse().ok()?),
        ["locks", "migrate"] => Key::MigrateLock(app),
        _ => return None,
    };
    Some(key)
}

fn parse_seq(text: &str) -> Option<Seq> {
    let digits = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok().map(Seq)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_key() -> Vec<Key> {
        let app: AppName = "mootube".parse().expect("app");
        let node: NodeName = "web-1".parse().expect("node");
        let release: ReleaseId = "20261124101112".parse().expect("release");
        let rollout: RolloutId = "7".parse().expect("rollout");
        vec![
            Key::AppSeq(app.clone()),
            Key::Manifest(app.clone(), Seq(7)),
            Key::ManifestSignature(app.clone(), Seq(7), KeyId::of(&[7; 32])),
            Key::Release(app.clone(), release.clone()),
            Key::Stable(app.clone()),
            Key::RolloutSpec(app.clone()),
            Key::RolloutState(app.clone()),
            Key::RolloutWish(app.clone()),
            Key::History(app.clone(), rollout),
            Key::MigrationHead(app.clone()),
            Key::Migration(app.clone(), release, "before.assets".parse().expect("task")),
            Key::MigrateLock(app.clone()),
            Key::NodeInfo(node.clone()),
            Key::NodeAlive(node.clone()),
            Key::NodeCordon(node.clone()),
            Key::Desired(node.clone(), app.clone()),
            Key::Status(node, app),
            Key::Leader,
            Key::Stores,
            Key::Member("0a1b".into()),
            Key::Event("x".into()),
        ]
    }

    #[test]
    fn every_key_parses_back() {
        let space = KeySpace::new("/coord/v1/");
        for key in every_key() {
            let text = space.key(&key);
            assert!(text.starts_with("/coord/v1/"), "{text}");
            assert_eq!(space.parse(&text), Some(key), "{text}");
        }
    }

    #[test]
    fn foreign_keys_are_not_ours() {
        let space = KeySpace::default();
        for text in ["/coord/v2/apps/a/seq", "/coord/v1/apps/../seq", "/coord/v1/apps/a/manifests/7", "/coord/v1/new"] {
            assert_eq!(space.parse(text), None, "{text}");
        }
    }
}
