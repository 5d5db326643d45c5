//! With the etcd of this machine, or with the one that `COORD_TEST_ETCD` names.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::pki::{Authority, Role};

/// A level must be reached in this time; a member starts in one or two seconds on an idle machine.
const BOUND: Duration = Duration::from_secs(60);

struct Bench {
    _dir: tempfile::TempDir,
    etcd: ManagedEtcd,
    pid: watch::Receiver<Option<u32>>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ManagedEtcdError>>,
}

/// Kept from others for as long as this test's process lives.
fn free_port() -> SocketAddr {
    let port = crate::ports::free();
    let address = port.address();
    std::mem::forget(port);
    address
}

fn etcd(dir: &Path) -> ManagedEtcd {
    let authority = Authority::create(&dir.join("pki")).expect("authority");
    let own = authority.issue(dir, "coordinator", Role::Coordinator, &["127.0.0.1"]).expect("certificate");
    ManagedEtcd {
        binary: std::env::var_os("COORD_TEST_ETCD").unwrap_or_else(|| "etcd".into()).into(),
        data_dir: dir.join("state/etcd"),
        client_listen: free_port(),
        peer_listen: free_port(),
        advertise: None,
        ca: authority.certificate().to_owned(),
        cert: own.certificate,
        key: own.key,
        quota_bytes: 64 << 20,
        compact_after: Duration::from_secs(3600),
        pid: watch::Sender::new(None),
    }
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let etcd = etcd(dir.path());
        let (pid, stop) = (etcd.pid.subscribe(), CancellationToken::new());
        let running = tokio::spawn(etcd.clone().run(stop.clone()));
        Self { _dir: dir, etcd, pid, stop, running }
    }

    /// The process id, once it is another one than `before`.
    async fn pid_after(&mut self, before: Option<u32>) -> u32 {
        let next = self.pid.wait_for(|pid| pid.is_some() && *pid != before);
        tokio::time::timeout(BOUND, next).await.expect("started in time").expect("running").expect("a process")
    }

    async fn listening(&self) {
        let knock = async {
            while TcpStream::connect(self.etcd.client_listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(BOUND, knock).await.expect("etcd listens in time");
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(BOUND, self.running).await.expect("stopped in time").expect("no panic").expect("no error");
    }
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id"))
}

fn gone(pid: u32) -> bool {
    kill(raw(pid), None) == Err(Errno::ESRCH)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_started_again_when_killed_and_stop_leaves_no_process() {
    let mut bench = Bench::start();
    let first = bench.pid_after(None).await;
    bench.listening().await;
    kill(raw(first), Signal::SIGKILL).expect("killed");
    let second = bench.pid_after(Some(first)).await;
    bench.listening().await;
    assert!(gone(first) && !gone(second));
    let data = bench.etcd.data_dir.clone();
    assert!(data.join("member").is_dir());
    bench.stop().await;
    assert!(gone(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_supervisor_leaves_no_process() {
    let mut bench = Bench::start();
    let pid = bench.pid_after(None).await;
    bench.running.abort();
    let waited = async {
        while !gone(pid) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect("gone in time");
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused() {
    let mut bench = Bench::start();
    bench.pid_after(None).await;
    bench.listening().await;
    let ca = reqwest::Certificate::from_pem(&std::fs::read(&bench.etcd.ca).expect("file")).expect("authority");
    coord_proto::tls::install_provider();
    let client = |builder: reqwest::ClientBuilder| builder.tls_certs_only([ca.clone()]).no_proxy().build().expect("client");
    let url = format!("https://{}/health", bench.etcd.client_listen);
    assert!(client(reqwest::Client::builder()).get(&url).send().await.is_err());
    let own = [std::fs::read(&bench.etcd.cert).expect("file"), std::fs::read(&bench.etcd.key).expect("file")].concat();
    let known = client(reqwest::Client::builder().identity(reqwest::Identity::from_pem(&own).expect("identity")));
    known.get(&url).send().await.expect("an answer");
    bench.stop().await;
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("directory");
    let etcd = ManagedEtcd { binary: dir.path().join("no-etcd"), ..etcd(dir.path()) };
    let error = etcd.run(CancellationToken::new()).await.expect_err("missing");
    assert!(error.to_string().contains("install etcd"), "{error}");
}

#[tokio::test]
async fn its_last_words_are_kept() {
    let mut child = Child::start(Path::new("sh"), &["-c".into(), "echo out of luck >&2; exit 3".into()]).expect("started");
    assert_eq!(child.ended().await, "exit status: 3");
    assert_eq!(child.last_words(), "out of luck");
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed() {
    let script = "trap '' TERM; echo ready >&2; while :; do sleep 60 & wait; done";
    let mut child = Child::start(Path::new("sh"), &["-c".into(), script.into()]).expect("started");
    let ready = async {
        while child.last_words() != "ready" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, ready).await.expect("ready in time");
    child.stop(Duration::from_millis(50)).await;
    assert!(gone(child.pid()));
}

#[tokio::test]
async fn what_it_started_ends_with_it() {
    let mut child = Child::start(Path::new("sh"), &["-c".into(), "sleep 600 & echo $! >&2; exit 0".into()]).expect("started");
    let ended = tokio::time::timeout(BOUND, child.ended()).await.expect("ended in time");
    assert_eq!(ended, "exit status: 0");
    let grandchild: u32 = child.last_words().parse().expect("a process id");
    let waited = async {
        while !gone(grandchild) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, waited).await.expect("gone in time");
}
