//! The files of a fleet: configuration, certificates, keys. The same files that a real server has, at other paths.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use coordinator::pki::Role;
use coordinator::sign::{self, Protection};

use super::{APP, CoordinatorPorts, ENVIRONMENT, Fleet, Node, OPERATOR};

/// Of agents and coordinator. Short, so that a lost server is noticed soon; long enough for a busy machine.
pub const LEASE_TTL: &str = "5s";

impl Fleet {
    /// Adds tables to the configuration of a server that is yet to be added, as a drop-in.
    ///
    /// # Errors
    /// The file system's.
    pub fn configure_agent(&self, name: &str, tables: &str) -> Result<()> {
        let dir = self.dir().join("nodes").join(name).join("agent.d");
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join("test.toml"), tables)?)
    }

    /// Signing key, trust file and coordctl's configuration.
    pub(super) fn write_operator_files(&self) -> Result<()> {
        let key = self.dir().join("release.key");
        let public = sign::generate(&key, &Protection::None)?;
        let trust = format!("version = 1\nenvironment = \"{ENVIRONMENT}\"\nthreshold = 1\nkeys = [\"{public}\"]\n");
        fs::write(self.dir().join("trust.toml"), trust)?;
        let etcd = self.etcd_lines("operator", OPERATOR, "");
        let text = format!("[context.{ENVIRONMENT}]\n{etcd}environment = \"{ENVIRONMENT}\"\nsigning_key = \"{}\"\n", key.display());
        fs::write(self.dir().join("coordctl.toml"), text)?;
        Ok(())
    }

    pub(super) fn write_coordinator_files(&self, dir: &Path) -> Result<PathBuf> {
        self.write_coordinator(dir, &self.ports)
    }

    /// The configuration of another coordinator of this fleet.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write_second_coordinator(&mut self, dir: &Path) -> Result<PathBuf> {
        let ports = CoordinatorPorts::free();
        let config = self.write_coordinator(dir, &ports)?;
        self.more_ports.push(ports);
        Ok(config)
    }

    fn write_coordinator(&self, dir: &Path, ports: &CoordinatorPorts) -> Result<PathBuf> {
        fs::create_dir_all(dir)?;
        let etcd = self.etcd_lines("coordinator", Role::Coordinator, LEASE_TTL);
        let pki = self.etcd.pki();
        let text = format!(
            "[etcd]\n{etcd}\n[http]\nlisten = \"127.0.0.1:{artifacts}\"\npublic_url = \"https://127.0.0.1:{artifacts}\"\n\
             status_listen = \"127.0.0.1:{status}\"\ncert = \"{pki}/coordinator.pem\"\nkey = \"{pki}/coordinator-key.pem\"\nca = \"{pki}/ca.pem\"\n\
             \n[state]\ndir = \"{state}\"\n\n{more}",
            artifacts = ports.artifacts.number,
            status = ports.status.number,
            more = self.coordinator_more,
            pki = pki.display(),
            state = dir.join("state").display(),
        );
        let path = dir.join("coordinator.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    pub(super) fn write_node_files(&self, name: &str, node: &Node) -> Result<()> {
        let shared = node.app_dir().join("shared");
        fs::create_dir_all(&shared)?;
        fs::write(shared.join(".env"), format!("MOOTUBE_PORT={}\nDATABASE_URL={}\n", node.port.number, self.database_url))?;
        let etcd = self.etcd_lines(&format!("node:{name}"), Role::Node, LEASE_TTL);
        let text = format!(
            "[node]\nname = \"{name}\"\nenvironment = \"{ENVIRONMENT}\"\nlabels = {{ role = \"web\" }}\n\n[etcd]\n{etcd}\n\
             [trust]\nfile = \"{trust}\"\n\n[apps]\nroot = \"{root}\"\nallow = [\"{APP}\"]\n\n[http]\nlisten = \"\"\n\n[state]\ndir = \"{state}\"\n",
            trust = self.dir().join("trust.toml").display(),
            root = node.dir.join("srv").display(),
            state = node.dir.join("state").display(),
        );
        fs::write(node.dir.join("agent.toml"), text)?;
        Ok(())
    }

    /// `endpoints`, certificates and the lease of one holder, for a `[etcd]` table.
    fn etcd_lines(&self, name: &str, role: Role, lease_ttl: &str) -> String {
        let config = self.etcd.config_for(name, role);
        let path = |file: &Option<PathBuf>| file.as_ref().map(|f| f.display().to_string()).unwrap_or_default();
        let mut text = format!(
            "endpoints = {:?}\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
            config.endpoints,
            path(&config.ca),
            path(&config.cert),
            path(&config.key)
        );
        if !lease_ttl.is_empty() {
            text.push_str(&format!("lease_ttl = \"{lease_ttl}\"\n"));
        }
        text
    }
}
