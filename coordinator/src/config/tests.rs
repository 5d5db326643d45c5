use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/coord/coordinator.toml"))
}

fn refusal(text: &str) -> String {
    coord_proto::chain::inline(&parse(text).expect_err("refused"))
}

#[test]
fn the_default_file_says_what_the_code_does() {
    assert_eq!(parse(DEFAULT_FILE).expect("default file"), parse("[etcd]\nmanaged = true\n").expect("defaults"));
}

#[test]
fn commented_keys_of_the_default_file_exist() {
    let bare = DEFAULT_FILE.lines().filter(|l| !l.starts_with("managed") && !l.starts_with("# endpoints"));
    let shown: String = bare.map(|line| format!("{}\n", uncomment(line))).collect();
    let text = shown.replace("[etcd]", "[etcd]\nmanaged = true").replace("file:///var/lib/coordinator/artifacts", "s3://bucket/releases");
    let config = parse(&text).expect("all keys");
    assert_eq!(config.etcd.client_listen, Some(config.etcd.client_listen()));
    assert_eq!(config.etcd.peer_listen, Some(config.etcd.peer_listen()));
    assert_eq!(config.etcd.quota, Some(EtcdConfig::default().quota()));
    assert_eq!(config.etcd.data_dir, Some(parse(DEFAULT_FILE).expect("default").etcd_data_dir()));
}

/// `# key = value` → `key = value`.
fn uncomment(line: &str) -> &str {
    let bare = line.strip_prefix("# ").unwrap_or(line);
    let key = bare.split('=').next().unwrap_or_default().trim();
    if bare.contains(" = ") && !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_') { bare } else { line }
}

#[test]
fn an_unknown_key_is_named_with_file_and_line() {
    let text = refusal("[etcd]\nmanaged = true\nendpoint = 1\n");
    for part in ["/etc/coord/coordinator.toml", "line 3", "unknown key `endpoint`", "did you mean `endpoints`?"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn values_are_checked_with_their_line() {
    for (line, part) in [
        ("[etcd]\nlease_ttl = \"1s\"", "at least 2s"),
        ("[etcd]\nlease_ttl = \"soon\"", "is not a duration"),
        ("[etcd]\nmanaged = true\nquota = \"2 GB\"", "is not a size"),
        ("[etcd]\nmanaged = true\n[artifacts]\nurl = \"ftp://x\"", "s3://BUCKET/PREFIX"),
        ("[etcd]\nmanaged = true\n[http]\npublic_url = \"http://coord\"", "is not https://"),
    ] {
        let text = refusal(line);
        assert!(text.contains(part) && text.contains("line "), "{text}");
    }
}

#[test]
fn contradictions_are_named_with_line_and_key() {
    for (text, key) in [
        ("[etcd]\nmanaged = true\nendpoints = [\"https://a:2379\"]", "line 3, `etcd.endpoints`"),
        ("[etcd]\nendpoints = [\"https://a:2379\"]\nquota = \"1GiB\"", "line 3, `etcd.quota`"),
        ("[etcd]\nprefix = \"/x\"", "`etcd.endpoints`"),
        ("[etcd]\nendpoints = [\"http://etcd-1:2379\"]", "line 2, `etcd.endpoints`"),
        ("[etcd]\nmanaged = true\n[artifacts]\nregion = \"eu\"", "line 4, `artifacts.region`"),
        (
            "[etcd]\nmanaged = true\n[artifacts]\nurl = \"s3://b\"\nendpoint = \"http://s3\"\nallow_http = true",
            "line 5, `artifacts.endpoint`",
        ),
        ("[etcd]\nmanaged = true\n[artifacts]\nurl = \"s3://b\"\nendpoint = \"http://127.0.0.1:9\"", "line 5, `artifacts.endpoint`"),
        ("[etcd]\nmanaged = true\n[artifacts]\nkeep = 0", "line 4, `artifacts.keep`"),
        ("[etcd]\nmanaged = true\n[artifacts]\ndownloads = 0", "line 4, `artifacts.downloads`"),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(key), "{key}: {refused}");
    }
}

#[test]
fn where_things_are() {
    let config =
        parse("[etcd]\nmanaged = true\nclient_listen = \"0.0.0.0:1\"\n[state]\ndir = \"/s\"\n[http]\npublic_url = \"https://c:1/\"")
            .expect("config");
    assert_eq!(config.artifacts_url(), ArtifactsUrl::File("/s/artifacts".into()));
    assert_eq!(config.etcd_data_dir(), PathBuf::from("/s/etcd"));
    assert_eq!(config.etcd.own_endpoints(), ["https://127.0.0.1:1"]);
    assert_eq!(config.public_url(), "https://c:1");
    assert_eq!(first_directory("/a:/b"), Some("/a".into()));
    assert_eq!(first_directory(""), None);
}

#[test]
fn a_missing_or_huge_file_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("coordinator.toml");
    assert!(matches!(Config::load(&path), Err(ConfigError::Read { .. })));
    std::fs::File::create(&path).and_then(|f| f.set_len(FILE_BYTES_MAX + 1)).expect("file");
    assert!(matches!(Config::load(&path), Err(ConfigError::TooLarge { .. })));
}
