//! The files of a development fleet: what a real one has, at other paths.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::{DevError, NAME};
use crate::pki::{Authority, CertificateFiles, Role};

/// Shorter than in production: a stopped server is noticed while you watch.
const LEASE_TTL: &str = "5s";
const ZONES: [&str; 3] = ["a", "b", "c"];

/// A fleet's directory.
#[derive(Debug, Clone)]
pub struct Files {
    pub dir: PathBuf,
    /// Names of the servers: `web-1`, `web-2`, …
    pub nodes: Vec<String>,
    /// Address of the status page.
    pub status_page: String,
}

impl Files {
    /// Makes what is missing in `dir`; what is there stays. `public_key` is the line for the trust file, `signing_key` its
    /// other half's file.
    ///
    /// # Errors
    /// A file that cannot be written, or no free port.
    pub fn prepare(dir: &Path, nodes: usize, signing_key: &Path, public_key: &str) -> Result<Self, DevError> {
        let dir = dir.to_owned();
        for sub in ["pki", "coordinator", "nodes", "log"] {
            make(&dir.join(sub))?;
        }
        let names: Vec<String> = (1..=nodes).map(|i| format!("web-{i}")).collect();
        let mut files = Self { dir, nodes: names, status_page: String::new() };
        let ports = files.ports()?;
        files.status_page = format!("http://127.0.0.1:{}/", ports[3]);
        let authority = Authority::ensure(&files.dir.join("pki"))?;
        write_new(&files.dir.join("trust.toml"), &trust_file(public_key))?;
        files.write_coordinator(&authority, &ports)?;
        files.write_coordctl(&authority, ports[0], signing_key)?;
        for (index, node) in files.nodes.iter().enumerate() {
            files.write_node(&authority, ports[0], node, ZONES[index % ZONES.len()])?;
        }
        Ok(files)
    }

    /// A server's application directories lie in here.
    pub fn app_root(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node).join("srv")
    }
    /// coordctl's configuration.
    pub fn coordctl_config(&self) -> PathBuf {
        self.dir.join("coordctl.toml")
    }
    pub(super) fn coordinator_config(&self) -> PathBuf {
        self.dir.join("coordinator/coordinator.toml")
    }
    pub(super) fn agent_config(&self, node: &str) -> PathBuf {
        self.dir.join("nodes").join(node).join("agent.toml")
    }
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// etcd's client and peer ports, the artifact store's, the status page's: chosen once, kept in `ports`.
    fn ports(&self) -> Result<Vec<u16>, DevError> {
        let path = self.dir.join("ports");
        if let Ok(text) = fs::read_to_string(&path) {
            let kept: Vec<u16> = text.split_whitespace().filter_map(|p| p.parse().ok()).collect();
            if kept.len() == 4 {
                return Ok(kept);
            }
        }
        let fresh = ports(4)?;
        let text: Vec<String> = fresh.iter().map(ToString::to_string).collect();
        write(&path, &text.join(" "))?;
        Ok(fresh)
    }

    fn write_coordinator(&self, authority: &Authority, ports: &[u16]) -> Result<(), DevError> {
        let pki = issue_once(authority, &self.dir, "coordinator", Role::Coordinator, &["localhost", "127.0.0.1"])?;
        let state = make(&self.dir.join("coordinator/state"))?;
        let text = format!(
            "[etcd]\nmanaged = true\nclient_listen = \"127.0.0.1:{client}\"\npeer_listen = \"127.0.0.1:{peer}\"\n{tls}lease_ttl = \"{LEASE_TTL}\"\n\
             \n[http]\nlisten = \"127.0.0.1:{artifacts}\"\npublic_url = \"https://127.0.0.1:{artifacts}\"\nstatus_listen = \"127.0.0.1:{status}\"\n{tls}\
             \n[state]\ndir = \"{state}\"\n",
            client = ports[0],
            peer = ports[1],
            artifacts = ports[2],
            status = ports[3],
            tls = self.tls_lines(authority, &pki),
            state = state.display(),
        );
        write_new(&self.coordinator_config(), &text)
    }

    fn write_coordctl(&self, authority: &Authority, etcd: u16, signing_key: &Path) -> Result<(), DevError> {
        let pki = issue_once(authority, &self.dir, "operator", Role::Operator, &[])?;
        let text = format!(
            "[context.{NAME}]\nendpoints = [\"https://127.0.0.1:{etcd}\"]\n{tls}environment = \"{NAME}\"\nsigning_key = \"{key}\"\ntrust = \"{trust}\"\n",
            tls = self.tls_lines(authority, &pki),
            key = signing_key.display(),
            trust = self.dir.join("trust.toml").display(),
        );
        write_new(&self.coordctl_config(), &text)
    }

    fn write_node(&self, authority: &Authority, etcd: u16, node: &str, zone: &str) -> Result<(), DevError> {
        let home = make(&self.dir.join("nodes").join(node))?;
        let root = make(&self.app_root(node))?;
        let pki = issue_once(authority, &self.dir, &format!("node:{node}"), Role::Node, &[])?;
        let text = format!(
            "[node]\nname = \"{node}\"\nenvironment = \"{NAME}\"\nlabels = {{ role = \"web\", zone = \"{zone}\" }}\n\
             \n[etcd]\nendpoints = [\"https://127.0.0.1:{etcd}\"]\n{tls}lease_ttl = \"{LEASE_TTL}\"\n\n[trust]\nfile = \"{trust}\"\n\
             \n[apps]\nroot = \"{root}\"\nallow = [\"*\"]\n\n[http]\nlisten = \"\"\n\n[state]\ndir = \"{state}\"\n",
            tls = self.tls_lines(authority, &pki),
            trust = self.dir.join("trust.toml").display(),
            root = root.display(),
            state = home.join("state").display(),
        );
        write_new(&self.agent_config(node), &text)
    }

    fn tls_lines(&self, authority: &Authority, pki: &CertificateFiles) -> String {
        let (ca, cert, key) = (authority.certificate().display(), pki.certificate.display(), pki.key.display());
        format!("ca = \"{ca}\"\ncert = \"{cert}\"\nkey = \"{key}\"\n")
    }
}

fn trust_file(public_key: &str) -> String {
    format!("version = 1\nenvironment = \"{NAME}\"\nthreshold = 1\nkeys = [\"{public_key}\"]\n")
}

/// A certificate that is there is used again.
fn issue_once(authority: &Authority, dir: &Path, name: &str, role: Role, sans: &[&str]) -> Result<CertificateFiles, DevError> {
    let pki = dir.join("pki");
    let stem = name.replace(':', "-");
    let there = CertificateFiles { certificate: pki.join(format!("{stem}.pem")), key: pki.join(format!("{stem}-key.pem")) };
    if there.certificate.is_file() && there.key.is_file() {
        return Ok(there);
    }
    Ok(authority.issue(&pki, name, role, sans)?)
}

/// Free ports on 127.0.0.1, all different.
///
/// # Errors
/// There are none.
pub fn ports(count: usize) -> Result<Vec<u16>, DevError> {
    let bound: Vec<TcpListener> = (0..count).filter_map(|_| TcpListener::bind(("127.0.0.1", 0)).ok()).collect();
    let ports: Vec<u16> = bound.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.port()).collect();
    if ports.len() == count { Ok(ports) } else { Err(DevError::NoPort) }
}

fn make(dir: &Path) -> Result<PathBuf, DevError> {
    fs::create_dir_all(dir).map_err(|source| DevError::Io { path: dir.into(), source })?;
    Ok(dir.to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), DevError> {
    fs::write(path, text).map_err(|source| DevError::Io { path: path.into(), source })
}

/// What somebody may have edited is not written again.
fn write_new(path: &Path, text: &str) -> Result<(), DevError> {
    if path.exists() { Ok(()) } else { write(path, text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_up_again_with_its_ports_and_edits() {
        let dir = tempfile::tempdir().expect("dir");
        let key = dir.path().join("release.key");
        let first = Files::prepare(dir.path(), 2, &key, "RWx").expect("prepared");
        let agent = first.agent_config("web-1");
        let text = fs::read_to_string(&agent).expect("agent.toml");
        assert!(text.contains("web-1") && text.contains("zone = \"a\""), "{text}");
        fs::write(&agent, "edited").expect("edited");
        let second = Files::prepare(dir.path(), 3, &key, "RWx").expect("prepared again");
        assert_eq!(second.status_page, first.status_page);
        assert_eq!(fs::read_to_string(&agent).expect("agent.toml"), "edited");
        assert!(second.agent_config("web-3").exists());
        crate::config::Config::load(&second.coordinator_config()).expect("the coordinator's configuration is valid");
    }
}
