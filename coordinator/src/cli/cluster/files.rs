//! The text of a new fleet's files.

use std::path::Path;

use coord_proto::ids::{Environment, NodeName};
use coord_proto::labels::Labels;

use crate::cli_config::Context;
use crate::config::ArtifactsUrl;
use crate::new_file;
use crate::ui::Failure;

/// The operator's configuration.
pub const CTL_FILE: &str = "coordctl.toml";
/// The signing key.
pub const KEY_FILE: &str = "release.key";
/// Who may sign.
pub const TRUST_FILE: &str = "trust.toml";

/// A TOML string.
pub fn quoted(text: impl std::fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// Writes a file and the directories above it, durably, never over one that is there.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| new_file::write(path, text, 0o644))
        .map_err(|e| Failure::new(crate::exit::Exit::Error, format!("cannot write {}: {e}", path.display())))
}

/// Copies a file, never over one that is there.
pub fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(from);
    write(to, &text.map_err(|e| Failure::new(crate::exit::Exit::Error, format!("cannot read {}: {e}", from.display())))?)
}

/// Who may sign releases for this environment.
pub fn trust_toml(environment: &Environment, public: &str) -> String {
    format!(
        "# Who may sign releases for these servers. Part of the machine image: etcd cannot change it.\nversion = 1\nenvironment = {}\n\
         threshold = 1\nkeys = [{}]\n",
        quoted(environment),
        quoted(public)
    )
}

/// The operator's context.
pub fn coordctl_toml(environment: &Environment, endpoints: &[String]) -> String {
    format!(
        "# Paths are relative to this file.\n[context.{environment}]\nendpoints = [{}]\nca = \"pki/ca.pem\"\ncert = \"pki/operator.pem\"\n\
         key = \"pki/operator-key.pem\"\nenvironment = {}\nsigning_key = \"{KEY_FILE}\"\ntrust = \"{TRUST_FILE}\"\n",
        list(endpoints),
        quoted(environment)
    )
}

/// The coordinator's configuration; without endpoints it runs an etcd of its own.
pub fn coordinator_toml(host: &str, endpoints: &[String], artifacts: Option<&ArtifactsUrl>) -> String {
    let etcd = if endpoints.is_empty() {
        format!("managed = true\nclient_listen = \"0.0.0.0:2379\"\nadvertise = {}\n", quoted(format!("{host}:2379")))
    } else {
        format!("managed = false\nendpoints = [{}]\n", list(endpoints))
    };
    let artifacts = artifacts.map(|url| format!("[artifacts]\nurl = {}\n\n", quoted(url))).unwrap_or_default();
    format!(
        "# `coordinator default-config` prints every key with its default.\n[etcd]\n{etcd}\n{artifacts}[http]\npublic_url = {}\n",
        quoted(format!("https://{host}:7080"))
    )
}

/// One server's configuration, for the paths below /etc/coord.
pub fn agent_toml(name: &NodeName, labels: &Labels, context: &Context) -> String {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{} = {}", quoted(k), quoted(v))).collect();
    let prefix = context.keys.to_string();
    format!(
        "# `coord-agent default-config` prints every key with its default.\n[node]\nname = {}\nenvironment = {}\nlabels = {{ {} }}\n\n[etcd]\n\
         endpoints = [{}]\nprefix = {}\nca = \"/etc/coord/pki/ca.pem\"\ncert = \"/etc/coord/pki/agent.pem\"\nkey = \"/etc/coord/pki/agent-key.pem\"\n\n\
         [apps]\nallow = [\"*\"]\n",
        quoted(name),
        quoted(&context.environment),
        labels.join(", "),
        list(&context.endpoints),
        quoted(prefix),
    )
}

fn list(items: &[String]) -> String {
    items.iter().map(quoted).collect::<Vec<_>>().join(", ")
}
