use coord_proto::trust::Trust;

use super::*;
use crate::config::Config;

fn init(dir: &Path, etcd: &[&str]) -> Result<Exit, Failure> {
    init_with(dir, &["coord.example.net"], etcd, None)
}

fn init_with(dir: &Path, coordinators: &[&str], etcd: &[&str], artifacts: Option<&str>) -> Result<Exit, Failure> {
    let init = Init {
        dir: dir.to_owned(),
        environment: "production".parse().expect("environment"),
        coordinator: coordinators.iter().map(|host| (*host).to_owned()).collect(),
        artifacts: artifacts.map(|url| url.parse().expect("url")),
        etcd: etcd.iter().map(|host| (*host).to_owned()).collect(),
        node: vec!["web-1".parse().expect("node")],
        labels: "role=web".parse().expect("labels"),
        no_password: true,
    };
    run(Command::Init(init), Ui::new())
}

#[test]
fn a_new_fleet_has_the_files_of_operator_coordinator_and_servers() {
    let scratch = tempfile::tempdir().expect("directory");
    let dir = scratch.path().join("fleet");
    assert_eq!(init(&dir, &[]), Ok(Exit::Done));
    let config = Config::load(&dir.join("coordinator/coordinator.toml")).expect("coordinator.toml");
    assert!(config.etcd.managed);
    assert_eq!(config.public_url(), "https://coord.example.net:7080");
    Trust::load(&dir.join("nodes/web-1/trust.toml")).expect("trust.toml");
    let context = Context::load(&dir.join(CTL_FILE), None).expect("coordctl.toml");
    assert_eq!(context.endpoints, ["https://coord.example.net:2379"]);
    for path in [&context.tls.ca, &context.tls.cert, &context.tls.key] {
        assert!(path.exists(), "{}", path.display());
    }
    for name in ["ca.pem", "agent.pem", "agent-key.pem"] {
        assert!(dir.join("nodes/web-1/pki").join(name).exists(), "{name}");
    }
    let agent: toml::Table = std::fs::read_to_string(dir.join("nodes/web-1/agent.toml")).expect("agent.toml").parse().expect("TOML");
    assert_eq!(agent["node"]["labels"]["role"].as_str(), Some("web"));
}

#[test]
fn nothing_is_ever_made_twice() {
    let scratch = tempfile::tempdir().expect("directory");
    let dir = scratch.path().join("fleet");
    init(&dir, &["etcd-1", "etcd-2"]).expect("made");
    let key = std::fs::read(dir.join(KEY_FILE)).expect("key");
    assert_eq!(init(&dir, &[]).expect_err("refused").exit, Exit::Refused);
    assert_eq!(std::fs::read(dir.join(KEY_FILE)).expect("key"), key);
    let again = Command::Node { dir: dir.clone(), name: "web-1".parse().expect("node"), labels: Selector::default() };
    assert_eq!(run(again, Ui::new()).expect_err("refused").exit, Exit::Refused);
    let more = Command::Node { dir: dir.clone(), name: "web-2".parse().expect("node"), labels: Selector::default() };
    assert_eq!(run(more, Ui::new()), Ok(Exit::Done));
    assert!(dir.join("etcd/etcd-2/pki/etcd.pem").exists());
    assert!(!Config::load(&dir.join("coordinator/coordinator.toml")).expect("coordinator.toml").etcd.managed);
}

#[test]
fn several_coordinators_share_etcd_and_a_bucket_or_are_refused() {
    let scratch = tempfile::tempdir().expect("directory");
    let dir = scratch.path().join("fleet");
    let two = ["c1.example.net", "c2.example.net"];
    let etcd = ["e1", "e2", "e3"];
    for (etcd, artifacts, hint) in [
        (&etcd[..0], Some("s3://b/x"), "--etcd"),
        (&etcd[..], None, "--artifacts s3://"),
        (&etcd[..], Some("file:///srv/artifacts"), "--artifacts s3://"),
    ] {
        let refused = init_with(&dir, &two, etcd, artifacts).expect_err("refused");
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.hint.contains(hint), "{refused:?}");
        assert!(!dir.exists(), "nothing was made");
    }
    init_with(&dir, &two, &etcd, Some("s3://b/x")).expect("made");
    for host in two {
        let home = dir.join("coordinator").join(host);
        let config = Config::load(&home.join("coordinator.toml")).expect("coordinator.toml");
        assert_eq!(config.public_url(), format!("https://{host}:7080"));
        assert_eq!((config.artifacts_url().to_string().as_str(), config.etcd.managed), ("s3://b/x", false));
        assert!(home.join("pki/coordinator-key.pem").exists());
    }
}
