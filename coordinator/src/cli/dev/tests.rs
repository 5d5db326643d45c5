use super::*;
use crate::cli_config::Context;
use crate::config::Config;

#[test]
fn keys_and_certificates_stay_and_configurations_are_accepted() {
    let dir = tempfile::tempdir().expect("directory");
    let apps = ["*".to_owned()];
    let fleet = Fleet::prepare(dir.path(), 3, &apps).expect("made");
    let kept = ["release.key", "pki/ca.pem", "pki/operator.pem", "pki/node-web-1.pem", "trust.toml"];
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect(name);
    let before: Vec<Vec<u8>> = kept.iter().map(|name| read(name)).collect();
    let config = Config::load(&fleet.coordinator_config()).expect("coordinator.toml");
    assert!(config.etcd.managed && config.public_url().starts_with("https://127.0.0.1:"));
    let ports = [fleet.etcd, fleet.artifacts, fleet.status].map(|address| address.port());
    assert!(ports.iter().all(|port| *port < 32_768), "an outgoing connection may take one of {ports:?}");
    let context = Context::load(&fleet.operator_config(), None).expect("coordctl.toml");
    assert_eq!(context.name, "dev");
    assert!(fleet.nodes.iter().all(|node| node.config().exists() && node.apps().exists()));
    let again = Fleet::prepare(dir.path(), 4, &apps).expect("made again");
    assert_eq!(again.nodes.len(), 4);
    for (name, bytes) in kept.iter().zip(before) {
        assert_eq!(read(name), bytes, "{name}");
    }
}

#[test]
fn one_fleet_per_directory() {
    let dir = tempfile::tempdir().expect("directory");
    let first = lock(dir.path()).expect("locked");
    assert_eq!(lock(dir.path()).expect_err("refused").exit, Exit::Refused);
    drop(first);
    assert!(lock(dir.path()).is_ok());
}

/// A program that is a shell script.
fn script(dir: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

async fn until_exists(path: &Path) {
    let looked = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looked).await.unwrap_or_else(|_| panic!("there is no {}", path.display()));
}

#[tokio::test]
async fn a_child_that_ends_is_told_with_its_log_and_the_rest_is_stopped() {
    let dir = tempfile::tempdir().expect("directory");
    script(dir.path(), "ends", "echo the port is taken >&2; exit 3");
    script(dir.path(), "stays", "trap 'touch \"$1/stopped\"; exit 0' TERM; touch \"$1/up\"; while :; do sleep 0.01; done");
    let mut children = Children::new(dir.path(), &dir.path().join("log")).expect("directory");
    children.start("web-1", "stays", &[dir.path().as_os_str()]).expect("started");
    let pid = children.pid("web-1").expect("it runs");
    until_exists(&dir.path().join("up")).await;
    children.start("web-2", "ends", &[]).expect("started");
    let failure = children.first_to_end().await.expect_err("one ended");
    assert!(failure.chain[0].contains("web-2 ended by itself with exit status: 3"), "{failure:?}");
    assert!(failure.hint.contains("web-2.log") && failure.hint.contains("the port is taken"), "{failure:?}");
    children.stop().await;
    assert!(dir.path().join("stopped").exists(), "it was asked to end");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_program_that_is_missing_is_said() {
    let dir = tempfile::tempdir().expect("directory");
    let mut children = Children::new(dir.path(), dir.path()).expect("directory");
    let missing = children.start("x", "coordinator", &[]).expect_err("missing");
    assert!(missing.chain[0].contains("there is no coordinator in"), "{missing:?}");
}
