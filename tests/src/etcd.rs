//! Real etcd: one member or three, with TLS and client certificates, on free ports of 127.0.0.1.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coord_proto::ids::Revision;
use coord_proto::store::Store as _;
use coord_proto::store::etcd::{EtcdConfig, EtcdStore};
use coordinator::pki::{Authority, Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::ports::{self, Port};
use crate::wait::until;

/// A member starts in one to three seconds on an idle machine.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// A cluster of one or more members. Dropped, its processes are ended and waited for; the directory is the caller's.
pub struct Etcd {
    dir: PathBuf,
    authority: Authority,
    members: Vec<Member>,
}

struct Member {
    name: String,
    client: Port,
    peer: Port,
    process: Option<Child>,
}

impl Member {
    fn client_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client.number)
    }

    fn peer_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.peer.number)
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the member runs");
        kill(pid(process), signal).expect("the member's process takes a signal");
    }

    /// Ends the process and waits for it; one that is frozen is ended by SIGKILL alone.
    fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself, then there is only its exit status to take.
            let _ = kill(pid(&process), signal);
            let _ = process.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id()).expect("process ids are small"))
}

/// Is the thread stopped by a signal (proc_pid_stat(5): the state follows the name in parentheses)? One that has ended is.
fn is_stopped(task: &Path) -> bool {
    let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// The program: `COORD_TEST_ETCD`, else `etcd` in PATH.
pub fn program() -> PathBuf {
    std::env::var_os("COORD_TEST_ETCD").map_or_else(|| "etcd".into(), PathBuf::from)
}

impl Etcd {
    /// One member with its data below `dir`, healthy.
    pub async fn start(dir: &Path) -> Self {
        Self::cluster(dir, 1).await
    }

    /// `size` members, healthy.
    pub async fn cluster(dir: &Path, size: usize) -> Self {
        coord_proto::tls::install_provider();
        let authority = Authority::ensure(&dir.join("pki")).expect("an authority");
        authority.issue(&dir.join("pki"), "etcd", Role::EtcdServer, &["127.0.0.1", "localhost"]).expect("a certificate");
        let member = |i| Member { name: format!("m{i}"), client: ports::free(), peer: ports::free(), process: None };
        let mut etcd = Self { dir: dir.to_owned(), authority, members: (0..size).map(member).collect() };
        (0..size).for_each(|i| etcd.spawn(i));
        for i in 0..size {
            etcd.wait_healthy(i).await;
        }
        etcd
    }

    /// Where the certificates are.
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// The authority of all certificates, to issue more.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// All members' client URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::client_url).collect()
    }

    /// How `name` (the common name, like `operator` or `node:web-1`) reaches all members.
    pub fn config_for(&self, name: &str, role: Role) -> EtcdConfig {
        let files = self.authority.issue(&self.pki(), name, role, &["127.0.0.1", "localhost"]).expect("a certificate");
        EtcdConfig {
            endpoints: self.endpoints(),
            ca: Some(self.authority.certificate().to_owned()),
            cert: Some(files.certificate),
            key: Some(files.key),
        }
    }

    /// An operator's store on all members.
    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(self.config_for("operator", Role::Operator)).expect("a store")
    }

    /// An operator's store on one member alone.
    pub fn store_on(&self, member: usize) -> EtcdStore {
        let config = EtcdConfig { endpoints: vec![self.members[member].client_url()], ..self.config_for("operator", Role::Operator) };
        EtcdStore::new(config).expect("a store")
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self, member: usize) {
        self.members[member].end(Signal::SIGKILL);
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self, member: usize) {
        self.members[member].end(Signal::SIGTERM);
    }

    /// SIGSTOP: its sockets stay open and say nothing. Returns when every thread stands still: one that runs may still answer.
    pub fn freeze(&self, member: usize) {
        self.members[member].signal(Signal::SIGSTOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid(member)));
        until("etcd stands still", || Ok(std::fs::read_dir(&tasks)?.flatten().all(|task| is_stopped(&task.path())))).expect("frozen");
    }

    /// SIGCONT.
    pub fn thaw(&self, member: usize) {
        self.members[member].signal(Signal::SIGCONT);
    }

    /// Starts a member that was ended, with its data, and waits until it is healthy.
    pub async fn restart(&mut self, member: usize) {
        self.members[member].end(Signal::SIGTERM);
        self.spawn(member);
        self.wait_healthy(member).await;
    }

    /// The member's process.
    pub fn pid(&self, member: usize) -> Pid {
        pid(self.members[member].process.as_ref().expect("the member runs"))
    }

    /// Waits until a member answers linearizable reads.
    ///
    /// # Panics
    /// When it does not within a minute; the end of its log is printed.
    pub async fn wait_healthy(&self, member: usize) {
        let store = self.store_on(member);
        let deadline = Instant::now() + HEALTHY_WITHIN;
        while let Err(error) = store.identity().await {
            if Instant::now() > deadline {
                panic!("{} is not healthy: {error:?}\n{}", self.members[member].name, self.log_tail(member));
            }
        }
    }

    /// Forgets the history below `revision`, as etcd's auto-compaction does.
    pub fn compact(&self, revision: Revision) {
        let config = self.config_for("operator", Role::Operator);
        let path = |file: &Option<PathBuf>| file.clone().expect("config_for names all files");
        let output = Command::new(std::env::var_os("COORD_TEST_ETCDCTL").unwrap_or_else(|| "etcdctl".into()))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &config.endpoints.join(","), "compact", &revision.to_string()])
            .args(["--cacert".as_ref(), path(&config.ca).as_os_str(), "--cert".as_ref(), path(&config.cert).as_os_str()])
            .args(["--key".as_ref(), path(&config.key).as_os_str()])
            .output()
            .expect("etcdctl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn spawn(&mut self, member: usize) {
        let cluster: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
        let (pki, log) = (self.pki(), self.log(member));
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let member = &mut self.members[member];
        let mut command = Command::new(program());
        command
            .args(["--name", &member.name, "--initial-cluster-state", "new", "--initial-cluster", &cluster.join(",")])
            .args(["--listen-client-urls", &member.client_url(), "--advertise-client-urls", &member.client_url()])
            .args(["--listen-peer-urls", &member.peer_url(), "--initial-advertise-peer-urls", &member.peer_url()])
            .args(["--logger", "zap", "--client-cert-auth", "--peer-client-cert-auth"])
            .arg("--data-dir")
            .arg(self.dir.join(&member.name));
        for side in ["", "peer-"] {
            command.arg(format!("--{side}trusted-ca-file")).arg(pki.join("ca.pem"));
            command.arg(format!("--{side}cert-file")).arg(pki.join("etcd.pem"));
            command.arg(format!("--{side}key-file")).arg(pki.join("etcd-key.pem"));
        }
        let errors = log.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        member.process = Some(command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", program().display())));
    }

    fn log(&self, member: usize) -> PathBuf {
        self.dir.join(format!("{}.log", self.members[member].name))
    }

    fn log_tail(&self, member: usize) -> String {
        let text = std::fs::read_to_string(self.log(member)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
