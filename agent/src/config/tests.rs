use std::collections::BTreeSet;
use std::fs;

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use super::*;

const LEAST: &str = "[node]\nenvironment = \"e\"\n";
/// From the documentation of minisign.
const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

fn host() -> Host {
    Host { name: "web-9".into(), uid: Uid::effective().as_raw(), state_directory: None }
}

fn parse(more: &str) -> Config {
    Config::parse(&format!("{LEAST}{more}"), &host()).expect("valid")
}

fn problem(text: &str) -> String {
    Config::parse(text, &host()).expect_err("refused").to_string()
}

/// A directory with an `agent.toml` that can be loaded, and what else is wanted in it.
fn written(main: &str, others: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("dir");
    let trust = dir.path().join("trust.toml");
    fs::write(&trust, format!("version = 1\nenvironment = \"e\"\nkeys = [\"{KEY}\"]\n")).expect("trust");
    fs::create_dir(dir.path().join("agent.d")).expect("drop-ins");
    let here = format!("[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n[trust]\nfile = \"{}\"\n", trust.display());
    fs::write(dir.path().join("agent.d/00-here.toml"), here).expect("drop-in");
    for (name, text) in others {
        fs::write(dir.path().join(name), text).expect("file");
    }
    let path = dir.path().join("agent.toml");
    fs::write(&path, main).expect("main");
    (dir, path)
}

fn load_problem(path: &Path) -> String {
    Config::load(path).expect_err("refused").to_string()
}

/// The keys of a table as `a.b.c`.
fn keys(value: &serde_json::Value, prefix: &str, into: &mut BTreeSet<String>) {
    let Some(object) = value.as_object().filter(|o| !o.is_empty()) else {
        into.insert(prefix.to_owned());
        return;
    };
    object.iter().for_each(|(k, v)| keys(v, format!("{prefix}.{k}").trim_start_matches('.'), into));
}

#[test]
fn the_default_file_parses_and_shows_every_key_and_its_default() {
    let plain = Config::parse(DEFAULT, &host()).expect("the default file is valid");
    let uncommented: String = DEFAULT
        .lines()
        .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ") || l.starts_with('[')).unwrap_or(l))
        .map(|l| format!("{l}\n"))
        .collect();
    let shown: file::File = toml::from_str(&uncommented).expect("every key in the default file is known");

    let mut all = file::File::default();
    all.apps.tables.insert("mootube".parse().expect("app"), file::App::default());
    all.node.labels = shown.node.labels.clone();
    let (mut known, mut documented) = (BTreeSet::new(), BTreeSet::new());
    keys(&serde_json::to_value(&all).expect("json"), "", &mut known);
    keys(&serde_json::to_value(&shown).expect("json"), "", &mut documented);
    let table = uncommented.parse::<toml::Table>().expect("toml");
    for key in &known {
        let found = key.split('.').try_fold(&toml::Value::Table(table.clone()), |at, part| at.get(part)).is_some();
        assert!(found, "{key} is not in the default file");
    }
    assert_eq!(known, documented);
    // What is shown as a default is one: taking it in changes nothing.
    let own = ["[apps.mootube]", "# name", "# labels"];
    let defaults: String = DEFAULT
        .lines()
        .scan(false, |in_app, l| {
            *in_app = (*in_app || l.contains(own[0])) && !l.starts_with('[');
            Some((*in_app, l))
        })
        .map(|(in_app, l)| if in_app || own.iter().any(|o| l.starts_with(o)) { "" } else { l.trim_start_matches("# ") })
        .filter(|l| l.contains(" = ") || l.starts_with('['))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(Config::parse(&defaults, &host()).expect("valid"), plain);
}

#[test]
fn an_unknown_key_is_told_with_file_line_and_key() {
    for (text, line, key) in [
        ("[etcd]\nendpoint = \"https://e\"\n", 2, "endpoint"),
        ("\n[node]\n\nlabels = { a = \"b\" }\nzone = \"a\"\n", 5, "zone"),
        ("[apps]\nroot = \"/srv\"\n[apps.x]\npath = \"/srv/y\"\nusr = \"x\"\n", 5, "usr"),
        ("[nodes]\n", 1, "nodes"),
    ] {
        let (_dir, main) = written(LEAST, &[("agent.d/10-x.toml", text)]);
        let error = load_problem(&main);
        assert!(error.contains("10-x.toml") && error.contains(key) && error.contains(&format!("line {line}:")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_wrong_type_is_told_with_its_key() {
    let error = problem("[node]\nenvironment = \"e\"\nec2 = \"no\"\n");
    assert!(error.contains("line 3: node.ec2") && error.contains("boolean"), "{error}");
    let error = problem(&format!("{LEAST}[apps.x]\nunits = \"a.service\"\n"));
    assert!(error.contains("line 4: apps.x.units"), "{error}");
    assert!(problem("[node\n").contains("line 1"));
}

#[test]
fn a_value_that_cannot_be_meant_is_told_with_the_file_and_line_that_set_it() {
    let (dir, main) = written(&format!("{LEAST}[etcd]\nlease_ttl = \"9s\"\n"), &[("agent.d/20.toml", "\n[etcd]\nlease_ttl = \"1s\"\n")]);
    let error = load_problem(&main);
    let place = format!("{}, line 3: etcd.lease_ttl", dir.path().join("agent.d/20.toml").display());
    assert!(error.starts_with(&place), "{error}");
}

#[test]
fn drop_ins_are_merged_key_by_key_in_the_order_of_their_names() {
    let main = "[node]\nname = \"a\"\nenvironment = \"e\"\nlabels = { role = \"web\", zone = \"a\" }\n[apps]\nallow = [\"x\", \"y\"]\n";
    let others = [
        ("agent.d/20.toml", "[node]\nname = \"c\"\n[apps]\nallow = [\"z\"]\n"),
        ("agent.d/10.toml", "[node]\nname = \"b\"\nlabels = { zone = \"b\" }\n"),
        ("agent.d/.30.toml", "[node]\nname = \"hidden\"\n"),
        ("agent.d/30.toml.bak", "not toml"),
    ];
    let (_dir, path) = written(main, &others);
    let config = Config::load(&path).expect("valid");
    assert_eq!(config.node.name.as_str(), "c");
    assert_eq!(config.node.labels, Labels::from([("role".into(), "web".into()), ("zone".into(), "b".into())]));
    assert_eq!(config.node.known_by.get("node").map(String::as_str), Some("c"), "as coordctl's selectors have it");
    assert_eq!(config.allowed(), ["z"], "a list is replaced, not extended");
}

#[test]
fn a_main_file_that_is_missing_or_too_large_is_refused() {
    let (dir, path) = written(LEAST, &[]);
    assert!(load_problem(&dir.path().join("other.toml")).contains("other.toml"));
    fs::write(&path, "#".repeat(merge::FILE_BYTES_MAX as usize + 1)).expect("main");
    assert!(load_problem(&path).contains("limit"));
}

#[test]
fn what_cannot_work_is_refused_with_its_key() {
    assert!(problem("").contains("node.environment is missing"));
    for (more, key, words) in [
        ("[etcd]\nlease_ttl = \"1s\"", "etcd.lease_ttl", "at least 2s"),
        ("[etcd]\nlease_ttl = \"soon\"", "etcd.lease_ttl", "soon"),
        ("[etcd]\nprefix = \"coord\"", "etcd.prefix", "slash"),
        ("[etcd]\nprefix = \"/\"", "etcd.prefix", "slash"),
        ("[etcd]\nendpoints = []", "etcd.endpoints", "empty"),
        ("[etcd]\nendpoints = [\"http://etcd-1:2379\"]", "etcd.endpoints", "loopback"),
        ("[etcd]\nendpoints = [\"etcd-1:2379\"]", "etcd.endpoints", "https://"),
        ("[etcd]\nca = \"pki/ca.pem\"", "etcd.ca", "relative"),
        ("[trust]\nfile = \"trust.toml\"", "trust.file", "relative"),
        ("[state]\ndir = \"state\"", "state.dir", "relative"),
        ("[apps]\nroot = \"srv\"", "apps.root", "relative"),
        ("[apps]\nallow = [\"a/b\"]", "apps.allow", "a/b"),
        ("[apps.\"../x\"]", "apps", "app name"),
        ("[apps.x]\npath = \"x\"", "apps.x.path", "relative"),
        ("[apps.x]\nenv_file = \"x.env\"", "apps.x.env_file", "relative"),
        ("[apps.x]\nshared_mode = \"rwx\"", "apps.x.shared_mode", "rwx"),
        ("[apps.x]\nshared_mode = \"070\"", "apps.x.shared_mode", "070"),
        ("[apps.x]\nuser = \"no-such-user\"", "apps.x.user", "not a user"),
        ("[apps.x]\ngroup = \"no-such-group\"", "apps.x.group", "not a group"),
        ("[apps.x]\nunits = [\"sshd\"]", "apps.x.units", "sshd"),
        ("[apps.x]\npath = \"/srv/a\"\n[apps.y]\npath = \"/srv/a\"", "apps.y.path", "already"),
        ("[http]\nready_listen = \"seven\"", "http.ready_listen", "seven"),
        ("[http]\nlisten = \":99999\"", "http.listen", "99999"),
        ("[download]\nrate = \"fast\"", "download.rate", "fast"),
        ("[download]\nmirrors = [\"http://mirror\"]", "download.mirrors", "http://mirror, which is not encrypted"),
        ("[download]\nproxy = \"proxy\"", "download.proxy", "address"),
        ("[download]\nmin_rate = \"slow\"", "download.min_rate", "slow"),
        ("[download]\nconnect_timeout = \"0s\"", "download.connect_timeout", "at least 100ms"),
        ("[download]\nheader_timeout = \"1ms\"", "download.header_timeout", "at least 100ms"),
        ("[download]\nidle_timeout = \"0s\"", "download.idle_timeout", "at least 100ms"),
    ] {
        let error = problem(&format!("{LEAST}{more}"));
        assert!(error.contains(key) && error.contains(words) && error.contains("line "), "{more}: {error}");
    }
    assert!(problem("[node]\nenvironment = \"e\"\nec2 = true\n").contains("node.ec2"));
    let nameless = Host { name: "not a name".into(), ..host() };
    assert!(Config::parse(LEAST, &nameless).expect_err("refused").to_string().contains("node.name"));
}

/// Attack 87: what is wrong with an address is told without the password in it.
#[test]
fn an_address_that_is_refused_keeps_its_password() {
    for more in [
        "[download]\nmirrors = [\"http://user:secret@mirror\"]",
        "[download]\nmirrors = [\"ftp://user:secret@mirror\"]",
        "[download]\nmirrors = [\"//user:secret@mirror\"]",
        "[download]\nproxy = \"//user:secret@proxy\"",
    ] {
        let error = problem(&format!("{LEAST}{more}"));
        assert!(error.contains("download.") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn without_root_another_user_is_refused_at_start() {
    let other = Host { uid: 54_321, ..host() };
    let text = format!("{LEAST}[apps.x]\nuser = \"root\"\n");
    let error = Config::parse(&text, &other).expect_err("refused").to_string();
    assert!(error.contains("apps.x.user") && error.contains("needs root"), "{error}");
    let text = format!("{LEAST}[apps.x]\nhook_users = [\"root\"]\n");
    assert!(Config::parse(&text, &other).expect_err("refused").to_string().contains("apps.x.hook_users"));

    let own = User::from_uid(Uid::effective()).ok().flatten().expect("the tests' own user");
    let text = format!("{LEAST}[apps.x]\nuser = \"{}\"\n", own.name);
    let place = Config::parse(&text, &host()).expect("itself").place(&"x".parse().expect("app"));
    assert_eq!((place.uid, place.gid), (Some(own.uid.as_raw()), Some(own.gid.as_raw())));
}

#[test]
fn defaults_and_tables_of_apps() {
    let config = parse("[apps]\nroot = \"/data\"\nallow = [\"x\"]\n[apps.y]\nshared_mode = \"2775\"\n");
    let (x, y) = ("x".parse().expect("app"), "y".parse().expect("app"));
    assert!(config.allows(&x) && !config.allows(&y));
    assert_eq!((config.place(&x).path, config.place(&x).shared_mode), ("/data/x".into(), 0o2770));
    assert_eq!((config.place(&y).path, config.place(&y).shared_mode), ("/data/y".into(), 0o2775));
    assert_eq!(config.node.name.as_str(), "web-9");
    assert!(parse("[apps]\nallow = [\"*\"]\n").allows(&y));
    assert!(!parse("").allows(&y));
}

#[test]
fn addresses_rates_and_the_state_directory() {
    let config = parse("[http]\nlisten = \"\"\nready_listen = \":7071\"\n[download]\nrate = \"10M\"\n");
    assert_eq!((config.http.listen, config.http.ready_listen), (None, Some("[::]:7071".parse().expect("address"))));
    assert_eq!(config.download.rate, Some(10_000_000));
    assert_eq!(config.download.patience, Patience::default());
    let config = parse("[download]\nmin_rate = \"\"\nconnect_timeout = \"1s\"\nheader_timeout = \"2s\"\nidle_timeout = \"3s\"\n");
    let seconds = Duration::from_secs;
    let told = Patience { connect: seconds(1), headers: seconds(2), idle: seconds(3), min_rate: None };
    assert_eq!(config.download.patience, told);
    let systemd = Host { state_directory: Some("/run/a:/run/b".into()), ..host() };
    assert_eq!(Config::parse(&format!("{LEAST}[state]\ndir = \"/x\"\n"), &systemd).expect("valid").state_dir, Path::new("/run/a"));
}

#[test]
fn certificates_are_for_encrypted_connections_and_may_be_left_out() {
    let plain = parse("[etcd]\nendpoints = [\"http://[::1]:2379\", \"http://localhost:2379\"]\n").etcd;
    assert_eq!((plain.ca, plain.cert, plain.key), (None, None, None));
    let some = parse("[etcd]\nkey = \"\"\n").etcd;
    assert_eq!((some.ca, some.key), (Some("/etc/coord/pki/ca.pem".into()), None));
}

#[test]
fn files_that_are_named_must_be_there_and_agree() {
    let (dir, path) = written(LEAST, &[("agent.d/10.toml", "[etcd]\nendpoints = [\"https://a:1\"]\nca = \"/nowhere/ca.pem\"\n")]);
    assert!(load_problem(&path).contains("etcd.ca /nowhere/ca.pem cannot be read"));
    fs::remove_file(dir.path().join("agent.d/10.toml")).expect("removed");
    Config::load(&path).expect("valid");

    fs::write(&path, "[node]\nenvironment = \"f\"\n").expect("main");
    assert!(load_problem(&path).contains("node.environment is `f`, but"));
    fs::remove_file(dir.path().join("trust.toml")).expect("removed");
    let error = load_problem(&path);
    assert!(error.contains("trust.file") && error.contains("public keys"), "{error}");
}

#[test]
fn units_are_allowed_by_name_or_pattern() {
    let place = AppPlace { units: vec!["php8.2-fpm.service".into(), "worker@*.service".into()], ..AppPlace::default() };
    for good in ["php8.2-fpm.service", "worker@1.service", "worker@*.service", "worker@?.service"] {
        assert!(place.allows_unit(good), "{good}");
    }
    for bad in ["sshd.service", "*", "php8x2-fpm.service", "worker*.service", "worker@1.service.d", "*.service"] {
        assert!(!place.allows_unit(bad), "{bad}");
    }
}
