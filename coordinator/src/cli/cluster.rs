//! `coordctl cluster init|node`: what a new fleet needs before its first release, made on the operator's machine.
//!
//! ```text
//!  DIR/pki/              the authority (ca-key.pem stays here), the operator's certificate
//!  DIR/release.key       signs releases
//!  DIR/coordctl.toml     for the operator
//!  DIR/coordinator/      becomes /etc/coord on the coordinator's host; with several, DIR/coordinator/HOST/ on each
//!  DIR/etcd/HOST/pki/    for members of an etcd of one's own
//!  DIR/nodes/NAME/       becomes /etc/coord on that server
//! ```

use std::path::{Path, PathBuf};

use clap::Subcommand;
use coord_proto::ids::{Environment, NodeName};
use coord_proto::labels::Selector;

use super::Done;
use crate::cli_config::Context;
use crate::config::ArtifactsUrl;
use crate::exit::Exit;
use crate::pki::{Authority, Role};
use crate::sign::{self, Protection};
use crate::ui::{Failure, Ui};

mod files;

pub(super) use files::{CTL_FILE, KEY_FILE, TRUST_FILE, copy, quoted, write};

use files::{agent_toml, coordctl_toml, coordinator_toml, trust_toml};

/// The authority and the operator's certificate, below the directory.
pub(super) const PKI: &str = "pki";
/// The operator's name in certificates.
pub(super) const OPERATOR: &str = "operator";
/// etcd's port for clients.
const ETCD_PORT: u16 = 2379;

/// `coordctl cluster …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make authority, certificates, signing key and configuration for a new fleet
    Init(Init),
    /// Make the files of one more server
    Node {
        /// The directory that `cluster init` made
        dir: PathBuf,
        name: NodeName,
        /// The server's labels: role=web,zone=a
        #[arg(long, default_value = "", value_name = "LABELS")]
        labels: Selector,
    },
}

/// What `init` is told.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// A new directory
    dir: PathBuf,
    #[arg(long, default_value = "production")]
    environment: Environment,
    /// Host name or address of a coordinator, as servers reach it; may be given several times
    #[arg(long, required = true, value_name = "HOST", value_delimiter = ',')]
    coordinator: Vec<String>,
    /// A member of an etcd of your own; without it the coordinator runs one
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    etcd: Vec<String>,
    /// Where releases are kept: s3://BUCKET/PREFIX, which several coordinators need [default: a directory of the coordinator]
    #[arg(long, value_name = "URL")]
    artifacts: Option<ArtifactsUrl>,
    /// A server; may be given several times, and later with `cluster node`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    node: Vec<NodeName>,
    /// Labels of these servers: role=web,zone=a
    #[arg(long, default_value = "", value_name = "LABELS")]
    labels: Selector,
    /// Protect the signing key by its permissions alone
    #[arg(long)]
    no_password: bool,
}

/// Runs it.
///
/// # Errors
/// Files that are there already or cannot be written.
pub fn run(command: Command, ui: Ui) -> Done {
    match command {
        Command::Init(init) => init.run(ui),
        Command::Node { dir, name, labels } => {
            let context = Context::load(&dir.join(CTL_FILE), None)?;
            let authority = Authority::load(&dir.join(PKI))?;
            node(&dir, &authority, &Server { name: &name, labels: &labels, context: &context })?;
            ui.out(next_node(&dir, &name))?;
            Ok(Exit::Done)
        }
    }
}

impl Init {
    fn run(&self, ui: Ui) -> Done {
        if self.dir.join(PKI).exists() {
            return Err(Failure::refused(format!("{} holds a fleet's files already; nothing was changed", self.dir.display()))
                .hint("`coordctl cluster node DIR NAME` adds a server"));
        }
        self.check()?;
        let protection = if self.no_password { Protection::None } else { Protection::Password(super::key::new_password()?) };
        let authority = Authority::create(&self.dir.join(PKI))?;
        authority.issue(&self.dir.join(PKI), OPERATOR, Role::Operator, &[])?;
        let line = sign::generate(&self.dir.join(KEY_FILE), &protection)?;
        write(&self.dir.join(TRUST_FILE), &trust_toml(&self.environment, &line))?;
        write(&self.dir.join(CTL_FILE), &coordctl_toml(&self.environment, &self.endpoints()))?;
        self.coordinator_files(&authority)?;
        for host in &self.etcd {
            let pki = self.dir.join("etcd").join(host).join(PKI);
            authority.issue(&pki, "etcd", Role::EtcdServer, &[host, "localhost", "127.0.0.1"])?;
            copy(authority.certificate(), &pki.join("ca.pem"))?;
        }
        let context = Context::load(&self.dir.join(CTL_FILE), None)?;
        for name in &self.node {
            node(&self.dir, &authority, &Server { name, labels: &self.labels, context: &context })?;
        }
        ui.out(self.next())?;
        Ok(Exit::Done)
    }

    /// Several coordinators share etcd and artifacts, or they are none.
    fn check(&self) -> Result<(), Failure> {
        if self.coordinator.len() < 2 {
            return Ok(());
        }
        if self.etcd.is_empty() {
            return Err(Failure::refused("several coordinators need an etcd that none of them runs; nothing was made")
                .hint("name its members with --etcd HOST, or one --coordinator"));
        }
        if !self.artifacts.as_ref().is_some_and(ArtifactsUrl::shared) {
            return Err(Failure::refused("several coordinators need one store for releases; nothing was made")
                .hint("name a bucket with --artifacts s3://BUCKET/PREFIX, or one --coordinator"));
        }
        Ok(())
    }

    fn endpoints(&self) -> Vec<String> {
        // A managed etcd is one member: it runs with the first coordinator.
        let hosts = if self.etcd.is_empty() { &self.coordinator[..1] } else { &self.etcd };
        hosts.iter().map(|host| format!("https://{host}:{ETCD_PORT}")).collect()
    }

    /// The files of one coordinator.
    fn home(&self, host: &str) -> PathBuf {
        let home = self.dir.join("coordinator");
        if self.coordinator.len() == 1 { home } else { home.join(host) }
    }

    fn coordinator_files(&self, authority: &Authority) -> Result<(), Failure> {
        let endpoints = if self.etcd.is_empty() { Vec::new() } else { self.endpoints() };
        for host in &self.coordinator {
            let pki = self.home(host).join(PKI);
            authority.issue(&pki, "coordinator", Role::Coordinator, &[host, "localhost", "127.0.0.1"])?;
            copy(authority.certificate(), &pki.join("ca.pem"))?;
            write(&self.home(host).join("coordinator.toml"), &coordinator_toml(host, &endpoints, self.artifacts.as_ref()))?;
        }
        Ok(())
    }

    fn next(&self) -> String {
        let dir = self.dir.display();
        let copies: Vec<String> =
            self.coordinator.iter().map(|host| format!("{}/ to /etc/coord on {host}", self.home(host).display())).collect();
        let mut text = format!(
            "made {dir}\n\nnext:\n  1. copy {}, then there: systemd-sysusers && chown -R coordinator: /etc/coord/pki && systemctl enable --now coordinator\n",
            copies.join(" and ")
        );
        text += &match self.node.as_slice() {
            [] => format!("  2. coordctl cluster node {dir} NAME, for each server\n"),
            _ => format!("  2. copy {dir}/nodes/NAME/ to /etc/coord on each server, then there: systemctl enable --now coord-agent\n"),
        };
        text + &format!(
            "  3. export COORDCTL_CONFIG={dir}/{CTL_FILE}\n  4. coordctl release publish ./app\n\nkeep {dir}/{KEY_FILE} and {dir}/{PKI}/ca-key.pem safe: \
             the first signs releases, the second makes certificates\n"
        )
    }
}

/// One server to be.
struct Server<'a> {
    name: &'a NodeName,
    labels: &'a Selector,
    context: &'a Context,
}

fn node(dir: &Path, authority: &Authority, server: &Server<'_>) -> Result<(), Failure> {
    let home = dir.join("nodes").join(server.name.as_str());
    if home.exists() {
        return Err(Failure::refused(format!("{} is there already; nothing was changed", home.display())));
    }
    let pki = home.join(PKI);
    let files = authority.issue(&pki, &format!("node:{}", server.name), Role::Node, &[])?;
    // The names that the agent's defaults expect.
    std::fs::rename(&files.certificate, pki.join("agent.pem"))?;
    std::fs::rename(&files.key, pki.join("agent-key.pem"))?;
    copy(authority.certificate(), &pki.join("ca.pem"))?;
    copy(&dir.join(TRUST_FILE), &home.join(TRUST_FILE))?;
    write(&home.join("agent.toml"), &agent_toml(server.name, &server.labels.all, server.context))?;
    Ok(())
}

fn next_node(dir: &Path, name: &NodeName) -> String {
    let dir = dir.display();
    format!("made {dir}/nodes/{name}; copy it to /etc/coord on {name}, then there: systemctl enable --now coord-agent")
}

#[cfg(test)]
mod tests;
