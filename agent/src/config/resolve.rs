//! From the configuration as written to the one that is meant on this host.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, NodeName};
use coord_proto::limits::{DURATION_MIN, LEASE_TTL_MIN};
use coord_proto::store::etcd::EtcdConfig;
use coord_proto::trust::{Trust, TrustError};
use nix::unistd::{Gid, Group, Uid, User};
use url::Url;

use super::file::App;
use super::merge::Merged;
use super::{AppPlace, Config, ConfigError, Download, Http, Node, Patience};

/// What the configuration depends on besides its files.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    /// The agent's own user; 0 may act for others.
    pub uid: u32,
    /// `STATE_DIRECTORY`, as systemd sets it.
    pub state_directory: Option<OsString>,
}

impl Host {
    /// This host, this process.
    pub fn this() -> Self {
        let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Self { name, uid: Uid::effective().as_raw(), state_directory: std::env::var_os("STATE_DIRECTORY") }
    }
}

/// Checks everything that the types cannot say.
pub fn resolve(merged: &Merged, host: &Host) -> Result<Config, ConfigError> {
    let file = &merged.file;
    for (key, path) in [("trust.file", &file.trust.file), ("apps.root", &file.apps.root)] {
        absolute(merged, key, path)?;
    }
    for name in file.apps.allow.iter().filter(|a| *a != "*") {
        name.parse::<AppName>().map_err(|e| merged.complain("apps.allow", format!("will not do: {e}")))?;
    }
    Ok(Config {
        node: node(merged, host)?,
        etcd: etcd(merged)?,
        prefix: file.etcd.prefix.clone(),
        lease_ttl: file.etcd.lease_ttl,
        trust_file: file.trust.file.clone(),
        download: download(merged)?,
        http: Http {
            listen: listen(merged, "http.listen", &file.http.listen)?,
            ready_listen: listen(merged, "http.ready_listen", &file.http.ready_listen)?,
        },
        state_dir: state_dir(merged, host)?,
        root: file.apps.root.clone(),
        allow: file.apps.allow.clone(),
        places: places(merged, host)?,
    })
}

/// The files that the configuration names: found missing now, not in the middle of a rollout.
pub fn check_files(merged: &Merged, config: &Config) -> Result<(), ConfigError> {
    let etcd = &config.etcd;
    for (key, path) in [("etcd.ca", &etcd.ca), ("etcd.cert", &etcd.cert), ("etcd.key", &etcd.key)] {
        let Some(path) = path else { continue };
        std::fs::File::open(path).map_err(|e| merged.complain(key, format!("{} cannot be read: {e}", path.display())))?;
    }
    let trust = Trust::load(&config.trust_file).map_err(|e| merged.complain("trust.file", trust_problem(&e)))?;
    if trust.environment == config.node.environment {
        return Ok(());
    }
    let problem = format!("is `{}`, but {} is for `{}`", config.node.environment, config.trust_file.display(), trust.environment);
    Err(merged.complain("node.environment", problem))
}

fn trust_problem(error: &TrustError) -> String {
    let hint = match error {
        TrustError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "; it lists the public keys whose releases this server takes, and is made beside the signing key (coordctl key generate)"
        }
        _ => "",
    };
    format!("will not do: {}{hint}", inline(error))
}

fn node(merged: &Merged, host: &Host) -> Result<Node, ConfigError> {
    let written = &merged.file.node;
    let environment = written.environment.clone().ok_or_else(|| {
        merged.complain("node.environment", "is missing; write the name that the trust file has, e.g. environment = \"production\"")
    })?;
    if written.ec2 {
        return Err(merged.complain("node.ec2", "is not supported by this version; write name and labels"));
    }
    let name = match &written.name {
        Some(name) => name.clone(),
        None => host
            .name
            .parse::<NodeName>()
            .map_err(|e| merged.complain("node.name", format!("is missing, and the host name will not do: {e}")))?,
    };
    let mut known_by = written.labels.clone();
    known_by.insert("node".to_owned(), name.to_string());
    Ok(Node { name, environment, labels: written.labels.clone(), known_by })
}

fn etcd(merged: &Merged) -> Result<EtcdConfig, ConfigError> {
    let written = &merged.file.etcd;
    if written.endpoints.is_empty() {
        return Err(merged.complain("etcd.endpoints", "is empty; write [\"https://HOST:2379\", …]"));
    }
    let mut encrypted = false;
    for endpoint in &written.endpoints {
        encrypted |= is_encrypted(endpoint).map_err(|problem| merged.complain("etcd.endpoints", problem))?;
    }
    if !written.prefix.starts_with('/') || written.prefix.trim_end_matches('/').is_empty() {
        return Err(
            merged.complain("etcd.prefix", format!("`{}` must begin with a slash and name something, like /coord/v1", written.prefix))
        );
    }
    if written.lease_ttl < LEASE_TTL_MIN {
        let (ttl, min) = (humantime::format_duration(written.lease_ttl), humantime::format_duration(LEASE_TTL_MIN));
        return Err(
            merged.complain("etcd.lease_ttl", format!("{ttl} is too short, a busy moment would look like a dead server; at least {min}"))
        );
    }
    let endpoints = written.endpoints.clone();
    if !encrypted {
        return Ok(EtcdConfig { endpoints, ..EtcdConfig::default() });
    }
    let certificate = |key: &str, path: &PathBuf| match path.as_os_str().is_empty() {
        true => Ok(None),
        false => absolute(merged, key, path).map(|()| Some(path.clone())),
    };
    Ok(EtcdConfig {
        endpoints,
        ca: certificate("etcd.ca", &written.ca)?,
        cert: certificate("etcd.cert", &written.cert)?,
        key: certificate("etcd.key", &written.key)?,
    })
}

/// `https://`, or `http://` to this host. The error is what is wrong.
fn is_encrypted(text: &str) -> Result<bool, String> {
    // Never shown whole: a mirror's address may hold a password.
    let url = Url::parse(text).map_err(|e| format!("has what is not an address like https://HOST:2379: {e}"))?;
    let host = url.host_str().unwrap_or_default();
    match url.scheme() {
        "https" => Ok(true),
        "http" if is_loopback(&url) => Ok(false),
        "http" => Err(format!("has http://{host}, which is not encrypted; http:// is accepted for loopback addresses only")),
        other => Err(format!("has an address that begins with {other}:; write https://")),
    }
}

/// What is sent to this address cannot leave the machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn download(merged: &Merged) -> Result<Download, ConfigError> {
    let written = &merged.file.download;
    for mirror in &written.mirrors {
        is_encrypted(mirror).map_err(|problem| merged.complain("download.mirrors", problem))?;
    }
    let proxy = (!written.proxy.is_empty()).then(|| written.proxy.clone());
    if let Some(proxy) = &proxy {
        // Not shown: a proxy's address may hold a password.
        Url::parse(proxy).map_err(|e| merged.complain("download.proxy", format!("is not an address like http://HOST:3128: {e}")))?;
    }
    let rate = parse_rate(&written.rate).map_err(|problem| merged.complain("download.rate", problem))?;
    Ok(Download { proxy, mirrors: written.mirrors.clone(), rate, patience: patience(merged)? })
}

fn patience(merged: &Merged) -> Result<Patience, ConfigError> {
    let written = &merged.file.download;
    let deadlines = [
        ("download.connect_timeout", written.connect_timeout),
        ("download.header_timeout", written.header_timeout),
        ("download.idle_timeout", written.idle_timeout),
    ];
    for (key, deadline) in deadlines {
        if deadline < DURATION_MIN {
            let (found, min) = (humantime::format_duration(deadline), humantime::format_duration(DURATION_MIN));
            return Err(merged.complain(key, format!("{found} is too short for any answer; at least {min}")));
        }
    }
    Ok(Patience {
        connect: written.connect_timeout,
        headers: written.header_timeout,
        idle: written.idle_timeout,
        min_rate: parse_rate(&written.min_rate).map_err(|problem| merged.complain("download.min_rate", problem))?,
    })
}

/// Bytes per second: `"800k"`, `"10M"` (powers of 1000), `""` for no limit.
fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 1_000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let rate = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|rate| *rate > 0);
    rate.map(Some).ok_or_else(|| format!("`{text}` is not a number of bytes per second like \"10M\""))
}

fn places(merged: &Merged, host: &Host) -> Result<BTreeMap<AppName, AppPlace>, ConfigError> {
    let mut places = BTreeMap::new();
    for (app, table) in &merged.file.apps.tables {
        places.insert(app.clone(), place(merged, host, app, table)?);
    }
    check_paths_differ(merged, &places)?;
    Ok(places)
}

fn place(merged: &Merged, host: &Host, app: &AppName, table: &App) -> Result<AppPlace, ConfigError> {
    let key = |name: &str| format!("apps.{app}.{name}");
    let bare = AppPlace::bare(&merged.file.apps.root, app);
    let path = table.path.clone().unwrap_or(bare.path);
    absolute(merged, &key("path"), &path)?;
    if let Some(env_file) = &table.env_file {
        absolute(merged, &key("env_file"), env_file)?;
    }
    let user = table.user.as_deref().map(|name| user(merged, host, &key("user"), name)).transpose()?;
    for name in &table.hook_users {
        self::user(merged, host, &key("hook_users"), name)?;
    }
    let group = table.group.as_deref().map(|name| group(merged, &key("group"), name)).transpose()?;
    if let Some(pattern) = table.units.iter().find(|u| !u.contains('.') || u.contains('/')) {
        return Err(merged.complain(&key("units"), format!("`{pattern}` is not a unit's name or pattern like \"mootube@*.service\"")));
    }
    Ok(AppPlace {
        path,
        uid: user.as_ref().map(|u| u.uid.as_raw()),
        gid: group.or(user.map(|u| u.gid)).map(Gid::as_raw),
        user: table.user.clone(),
        group: table.group.clone(),
        shared_mode: table.shared_mode.as_deref().map_or(Ok(bare.shared_mode), |text| mode(merged, &key("shared_mode"), text))?,
        env_file: table.env_file.clone(),
        units: table.units.clone(),
        hook_users: table.hook_users.clone(),
        search_path: table.search_path.clone().unwrap_or(bare.search_path),
    })
}

fn user(merged: &Merged, host: &Host, key: &str, name: &str) -> Result<User, ConfigError> {
    let found = User::from_name(name).map_err(|e| merged.complain(key, format!("`{name}` cannot be looked up: {e}")))?;
    let user = found.ok_or_else(|| merged.complain(key, format!("`{name}` is not a user of this server; create it first")))?;
    // Only root can become somebody else: found out now, not in the middle of a rollout.
    if host.uid != 0 && user.uid.as_raw() != host.uid {
        return Err(merged.complain(
            key,
            format!("`{name}` is another user than the agent's own, which needs root; run the agent as root or as {name}"),
        ));
    }
    Ok(user)
}

fn group(merged: &Merged, key: &str, name: &str) -> Result<Gid, ConfigError> {
    let found = Group::from_name(name).map_err(|e| merged.complain(key, format!("`{name}` cannot be looked up: {e}")))?;
    found.map(|g| g.gid).ok_or_else(|| merged.complain(key, format!("`{name}` is not a group of this server; create it first")))
}

fn mode(merged: &Merged, key: &str, text: &str) -> Result<u32, ConfigError> {
    let parsed = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777 && m & 0o700 == 0o700);
    parsed.ok_or_else(|| merged.complain(key, format!("`{text}` is not a directory's mode like \"2770\" with all rights for its owner")))
}

/// Two apps in one directory would switch each other's `current`.
fn check_paths_differ(merged: &Merged, places: &BTreeMap<AppName, AppPlace>) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<&Path, &AppName> = BTreeMap::new();
    for (app, place) in places {
        if let Some(other) = seen.insert(&place.path, app) {
            return Err(merged.complain(&format!("apps.{app}.path"), format!("{} is the path of {other} already", place.path.display())));
        }
    }
    Ok(())
}

/// `HOST:PORT` with a numeric host; `:PORT` is every address; empty is off.
fn listen(merged: &Merged, key: &str, text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    let parsed = match text.strip_prefix(':') {
        _ if text.is_empty() => return Ok(None),
        Some(port) => port.parse().map(|port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).ok(),
        None => text.parse().ok(),
    };
    parsed.map(Some).ok_or_else(|| merged.complain(key, format!("`{text}` is not an address like \"127.0.0.1:7070\" or \":7071\"")))
}

fn state_dir(merged: &Merged, host: &Host) -> Result<PathBuf, ConfigError> {
    // systemd lists several directories with colons between them; the unit asks for one.
    let given = host.state_directory.as_deref().and_then(|dirs| std::env::split_paths(dirs).next()).filter(|d| d.is_absolute());
    match given {
        Some(dir) => Ok(dir),
        None => absolute(merged, "state.dir", &merged.file.state.dir).map(|()| merged.file.state.dir.clone()),
    }
}

fn absolute(merged: &Merged, key: &str, path: &Path) -> Result<(), ConfigError> {
    match path.is_absolute() {
        true => Ok(()),
        false => Err(merged.complain(key, format!("`{}` is a relative path; write it from the root", path.display()))),
    }
}
