use coord_proto::trust::Trust;

use super::*;
use crate::config::Config;

fn init(dir: &Path, etcd: &[&str]) -> Result<Exit, Failure> {
    let init = Init {
        dir: dir.to_owned(),
        environment: "production".parse().expect("environment"),
        coordinator: vec!["coord.example.net".into()],
        etcd: etcd.iter().map(|host| (*host).to_owned()).collect(),
        node: vec!["web-1".parse().expect("node")],
        labels: "role=web".parse().expect("labels"),
        no_password: true,
    };
    run(Command::Init(init), Ui::new())
}

#[test]
fn every_file_of_a_new_fleet_is_accepted_by_its_program() {
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
