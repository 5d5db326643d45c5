//! The files of a fleet on one machine. Keys, certificates and state stay from one start to the next; configurations are written anew, because
//! the free ports may be others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use coord_proto::ids::{Environment, NodeName};

use crate::cli::cluster::{CTL_FILE, KEY_FILE, OPERATOR, PKI, TRUST_FILE, quoted};
use crate::pki::{Authority, Role};
use crate::ports::{self, Port};
use crate::sign::{self, KeySource, Protection, Signer};
use crate::ui::Failure;

/// The environment and the context.
const ENVIRONMENT: &str = "dev";
/// Short: a server that is killed is noticed while one still looks.
const LEASE_TTL: &str = "5s";
const ZONES: [&str; 3] = ["a", "b", "c"];

/// A fleet's files and addresses.
#[derive(Debug)]
pub struct Fleet {
    pub dir: PathBuf,
    pub etcd: SocketAddr,
    pub artifacts: SocketAddr,
    pub status: SocketAddr,
    pub nodes: Vec<Node>,
    _ports: Vec<Port>,
}

/// One server's files.
#[derive(Debug)]
pub struct Node {
    pub name: NodeName,
    pub dir: PathBuf,
    pub http: SocketAddr,
    zone: &'static str,
}

impl Node {
    /// Its configuration; drop-ins in `agent.d` beside it are the user's own.
    pub fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// Where its apps live.
    pub fn apps(&self) -> PathBuf {
        self.dir.join("srv")
    }
}

impl Fleet {
    /// Makes what is missing and writes all configurations.
    ///
    /// # Errors
    /// Files that cannot be written, no free ports.
    pub fn prepare(dir: &Path, nodes: u16, apps: &[String]) -> Result<Self, Failure> {
        let mut ports = Vec::new();
        let mut port = || {
            let free = ports::find().ok_or_else(|| Failure::new(crate::exit::Exit::Error, "there are not enough free ports"))?;
            let address = free.address();
            ports.push(free);
            Ok::<_, Failure>(address)
        };
        let (etcd, peer, artifacts, status) = (port()?, port()?, port()?, port()?);
        let named = (1..=nodes).zip(ZONES.iter().cycle()).map(|(number, zone)| {
            let name: NodeName = format!("web-{number}").parse()?;
            Ok(Node { dir: dir.join("nodes").join(name.as_str()), name, http: port()?, zone })
        });
        let nodes = named.collect::<Result<_, Failure>>()?;
        let fleet = Self { dir: dir.to_owned(), etcd, artifacts, status, nodes, _ports: ports };
        fleet.certificates()?;
        fleet.operator()?;
        replace(&fleet.coordinator_config(), &fleet.coordinator_toml(peer))?;
        for node in &fleet.nodes {
            std::fs::create_dir_all(node.apps())?;
            std::fs::create_dir_all(node.dir.join("state"))?;
            replace(&node.config(), &fleet.agent_toml(node, apps))?;
        }
        Ok(fleet)
    }

    pub fn coordinator_config(&self) -> PathBuf {
        self.dir.join("coordinator.toml")
    }

    pub fn operator_config(&self) -> PathBuf {
        self.dir.join(CTL_FILE)
    }

    pub fn status_page(&self) -> String {
        format!("http://{}/", self.status)
    }

    fn pki(&self) -> PathBuf {
        self.dir.join(PKI)
    }

    fn certificates(&self) -> Result<(), Failure> {
        let authority = Authority::ensure(&self.pki())?;
        let issue = |name: &str, role, sans: &[&str]| {
            if self.pki().join(format!("{}.pem", name.replace(':', "-"))).exists() {
                return Ok(());
            }
            authority.issue(&self.pki(), name, role, sans).map(drop)
        };
        issue(OPERATOR, Role::Operator, &[])?;
        issue("coordinator", Role::Coordinator, &["127.0.0.1", "localhost"])?;
        for node in &self.nodes {
            issue(&format!("node:{}", node.name), Role::Node, &[])?;
        }
        Ok(())
    }

    /// Signing key, trust file, and the context.
    fn operator(&self) -> Result<(), Failure> {
        let environment: Environment = ENVIRONMENT.parse()?;
        let key = self.dir.join(KEY_FILE);
        let line = if key.exists() {
            Signer::read(&KeySource::File(key), || Err(std::io::Error::other("keys of `dev` have no password")))?.public_line()
        } else {
            sign::generate(&key, &Protection::None)?
        };
        replace(
            &self.dir.join(TRUST_FILE),
            &format!("version = 1\nenvironment = {}\nthreshold = 1\nkeys = [{}]\n", quoted(&environment), quoted(line)),
        )?;
        let text = format!(
            "[context.{ENVIRONMENT}]\n{}environment = {}\nsigning_key = \"{KEY_FILE}\"\ntrust = \"{TRUST_FILE}\"\n",
            self.etcd_lines(OPERATOR),
            quoted(&environment)
        );
        replace(&self.operator_config(), &text)
    }

    /// Endpoint and certificate of one holder.
    fn etcd_lines(&self, holder: &str) -> String {
        format!("endpoints = [{}]\n{}", quoted(format!("https://{}", self.etcd)), self.tls_lines(holder))
    }

    fn tls_lines(&self, holder: &str) -> String {
        let pki = self.pki();
        let file = |name: String| quoted(pki.join(name).display());
        let (ca, cert, key) = (file("ca.pem".into()), file(format!("{holder}.pem")), file(format!("{holder}-key.pem")));
        format!("ca = {ca}\ncert = {cert}\nkey = {key}\n")
    }

    fn coordinator_toml(&self, peer: SocketAddr) -> String {
        let tls = self.tls_lines("coordinator");
        format!(
            "[etcd]\nmanaged = true\nclient_listen = \"{}\"\npeer_listen = \"{peer}\"\nlease_ttl = \"{LEASE_TTL}\"\n{tls}\n[http]\nlisten = \"{}\"\n\
             public_url = \"https://{}\"\nstatus_listen = \"{}\"\n{tls}\n[state]\ndir = {}\n",
            self.etcd,
            self.artifacts,
            self.artifacts,
            self.status,
            quoted(self.dir.join("coordinator").display())
        )
    }

    fn agent_toml(&self, node: &Node, apps: &[String]) -> String {
        let allow: Vec<String> = apps.iter().map(quoted).collect();
        format!(
            "# Written by `coordctl dev up` at every start; put your own settings into agent.d/*.toml beside it.\n\
             [node]\nname = {}\nenvironment = \"{ENVIRONMENT}\"\nlabels = {{ role = \"web\", zone = \"{}\" }}\n\n[etcd]\n{}lease_ttl = \"{LEASE_TTL}\"\n\n\
             [trust]\nfile = {}\n\n[apps]\nroot = {}\nallow = [{}]\n\n[http]\nlisten = \"{}\"\n\n[state]\ndir = {}\n",
            quoted(&node.name),
            node.zone,
            self.etcd_lines(&format!("node-{}", node.name)),
            quoted(self.dir.join(TRUST_FILE).display()),
            quoted(node.apps().display()),
            allow.join(", "),
            node.http,
            quoted(node.dir.join("state").display())
        )
    }
}

fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| Failure::new(crate::exit::Exit::Error, format!("cannot write {}: {e}", path.display())))
}
