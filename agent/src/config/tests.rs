use super::*;

const LEAST: &str = "[node]\nenvironment = \"e\"\n";

fn problem(text: &str) -> String {
    Config::parse(text).expect_err("refused").to_string()
}

#[test]
fn the_default_file_parses_and_names_every_key() {
    Config::parse(DEFAULT).expect("the default file is valid");
    let uncommented: String = DEFAULT
        .lines()
        .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ") || l.starts_with('[')).unwrap_or(l))
        .map(|l| format!("{l}\n"))
        .collect();
    // With every key taken in, an unknown or misspelt one would be refused; `user` needs root, so only the shape is checked.
    toml::from_str::<Raw>(&uncommented).expect("every key in the default file is known");
    for key in [
        "name",
        "environment",
        "labels",
        "ec2",
        "endpoints",
        "ca",
        "cert",
        "key",
        "prefix",
        "lease_ttl",
        "file",
        "proxy",
        "mirrors",
        "rate",
        "root",
        "allow",
    ] {
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is not documented");
    }
    for key in ["path", "user", "group", "shared_mode", "env_file", "units", "hook_users", "search_path", "listen", "ready_listen", "dir"] {
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is not documented");
    }
}

#[test]
fn an_unknown_key_is_told_with_file_key_and_line() {
    let dir = tempfile::tempdir().expect("dir");
    let main = dir.path().join("agent.toml");
    std::fs::write(&main, LEAST).expect("file");
    std::fs::create_dir(dir.path().join("agent.d")).expect("dir");
    let extra = dir.path().join("agent.d/10-x.toml");
    std::fs::write(&extra, "[etcd]\nendpoint = \"https://e\"\n").expect("file");
    let error = Config::load(&main).expect_err("refused").to_string();
    assert!(error.contains("10-x.toml") && error.contains("endpoint") && error.contains("line 2"), "{error}");
}

#[test]
fn drop_ins_are_merged_key_by_key_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().expect("dir");
    let main = dir.path().join("agent.toml");
    std::fs::write(&main, "[node]\nname = \"a\"\nenvironment = \"e\"\nlabels = { role = \"web\", zone = \"a\" }\n").expect("file");
    std::fs::create_dir(dir.path().join("agent.d")).expect("dir");
    std::fs::write(dir.path().join("agent.d/20.toml"), "[node]\nname = \"c\"\n").expect("file");
    std::fs::write(dir.path().join("agent.d/10.toml"), "[node]\nname = \"b\"\nlabels = { zone = \"b\" }\n").expect("file");
    let config = Config::load(&main).expect("valid");
    assert_eq!(config.node.name.as_str(), "c");
    assert_eq!(config.node.labels, Labels::from([("role".into(), "web".into()), ("zone".into(), "b".into())]));
}

#[test]
fn what_cannot_work_is_refused_with_its_key() {
    let with = |more: &str| problem(&format!("{LEAST}{more}"));
    assert!(problem("").contains("node.environment"));
    assert!(with("[etcd]\nlease_ttl = \"1s\"").contains("etcd.lease_ttl"));
    assert!(with("[etcd]\nlease_ttl = \"soon\"").contains("soon"));
    assert!(with("[etcd]\nprefix = \"coord\"").contains("etcd.prefix"));
    assert!(with("[apps]\nroot = \"srv\"").contains("apps.root"));
    assert!(with("[apps.x]\nshared_mode = \"rwx\"").contains("shared_mode"));
    assert!(with("[http]\nready_listen = \"seven\"").contains("http.ready_listen"));
    assert!(with("[download]\nrate = \"fast\"").contains("download.rate"));
    assert!(with("[apps.\"../x\"]").contains("app name"));
}

#[test]
fn units_are_allowed_by_name_or_pattern() {
    let place = AppPlace { units: vec!["php8.2-fpm.service".into(), "worker@*.service".into()], ..AppPlace::default() };
    assert!(place.allows_unit("php8.2-fpm.service") && place.allows_unit("worker@1.service") && place.allows_unit("worker@*.service"));
    assert!(!place.allows_unit("sshd.service") && !place.allows_unit("*") && !place.allows_unit("php8x2-fpm.service"));
}
