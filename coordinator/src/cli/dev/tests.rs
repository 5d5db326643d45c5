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
    assert!(ports.iter().all(|port| (10_000..15_000).contains(port)), "an outgoing connection may take one of {ports:?}");
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

#[tokio::test]
async fn a_child_that_ends_is_told_with_its_log_and_the_rest_is_stopped() {
    let dir = tempfile::tempdir().expect("directory");
    let mut children = Children::new(dir.path()).expect("directory");
    let missing = children.start("x", "no-such-program-here", &[]).expect_err("missing");
    assert!(missing.chain[0].contains("there is no no-such-program-here"), "{missing:?}");
    children.stop().await;
}
