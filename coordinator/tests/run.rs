//! The coordinator as a process, with its own etcd: one box.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coordinator::pki::{Authority, Role};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A level must be reached in this time.
const BOUND: Duration = Duration::from_secs(60);

struct Coordinator {
    process: Child,
    status: SocketAddr,
    _dir: tempfile::TempDir,
}

/// Kept from others for as long as this test's process lives.
fn free_port() -> SocketAddr {
    let port = coordinator::ports::free();
    let address = port.address();
    std::mem::forget(port);
    address
}

fn configure(dir: &Path, status: SocketAddr) -> std::path::PathBuf {
    let authority = Authority::create(&dir.join("pki")).expect("authority");
    let own = authority.issue(dir, "coordinator", Role::Coordinator, &["127.0.0.1"]).expect("certificate");
    let pki = format!("ca = {:?}\ncert = {:?}\nkey = {:?}\n", authority.certificate(), own.certificate, own.key);
    let etcd = std::env::var_os("COORD_TEST_ETCD").unwrap_or_else(|| "etcd".into());
    let text = format!(
        "[etcd]\nmanaged = true\nbinary = {etcd:?}\nclient_listen = \"{}\"\npeer_listen = \"{}\"\nlease_ttl = \"2s\"\n{pki}\
         [http]\nlisten = \"{}\"\nstatus_listen = \"{status}\"\n{pki}[state]\ndir = {:?}\n",
        free_port(),
        free_port(),
        free_port(),
        dir.join("state"),
    );
    let file = dir.join("coordinator.toml");
    std::fs::write(&file, text).expect("configuration");
    file
}

impl Coordinator {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let status = free_port();
        let config = configure(dir.path(), status);
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(["run", "--config"]).arg(config).env_remove("STATE_DIRECTORY").stdin(Stdio::null());
        Self { process: command.spawn().expect("started"), status, _dir: dir }
    }

    /// Waits until it answers that etcd answers.
    fn healthy(&mut self) {
        until("a healthy coordinator", || get(self.status, "/healthz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    }

    /// The etcd that it started.
    fn etcd(&self) -> Pid {
        let tasks = format!("/proc/{0}/task", self.process.id());
        let children = std::fs::read_dir(tasks).expect("running").map(|task| task.expect("task").path().join("children"));
        let pids: String = children.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        Pid::from_raw(pids.trim().parse().expect("one child"))
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < BOUND, "{what} was not there in {BOUND:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn gone(pid: Pid) -> bool {
    kill(pid, None) == Err(Errno::ESRCH)
}

#[test]
fn it_serves_its_page_and_sigterm_ends_it_and_its_etcd() {
    let mut coordinator = Coordinator::start();
    coordinator.healthy();
    let page = get(coordinator.status, "/").expect("page");
    assert!(page.contains("Nothing is published yet"), "{page}");
    let etcd = coordinator.etcd();
    kill(Pid::from_raw(coordinator.process.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    let status = coordinator.process.wait().expect("waited for");
    assert!(status.success(), "{status}");
    assert!(gone(etcd), "etcd is left behind");
}

#[test]
fn a_coordinator_that_is_killed_leaves_no_etcd_behind() {
    let mut coordinator = Coordinator::start();
    coordinator.healthy();
    let etcd = coordinator.etcd();
    coordinator.process.kill().expect("killed");
    coordinator.process.wait().expect("waited for");
    until("the end of etcd", || gone(etcd));
}

#[test]
fn check_names_file_line_and_key_and_the_default_file_passes() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("coordinator.toml");
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_coordinator")).args(args).arg("--config").arg(&file).output().expect("run");
    let default = Command::new(env!("CARGO_BIN_EXE_coordinator")).arg("default-config").output().expect("run");
    std::fs::write(&file, &default.stdout).expect("file");
    assert!(run(&["config", "check"]).status.success());
    std::fs::write(&file, "[etcd]\nmanaged = true\nqouta = 1\n").expect("file");
    let refused = run(&["config", "check"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    for part in ["coordinator.toml", "line 3", "qouta"] {
        assert!(text.contains(part), "{text}");
    }
}
