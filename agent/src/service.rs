//! `coord-agent run`: puts the parts together, and takes them down again.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coord_proto::ids::AppName;
use coord_proto::keys::KeySpace;
use coord_proto::report::NodeInfo;
use coord_proto::store::SharedStore;
use coord_proto::store::etcd::EtcdStore;
use coord_proto::store::mirror;
use coord_proto::trust::Trust;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::Config;
use crate::effects::fetch::{FetchOptions, Fetcher};
use crate::effects::migrate::Claims;
use crate::effects::migrate::owed::Settler;
use crate::effects::preflight;
use crate::http::{self, Facts};
use crate::identity::Identity;
use crate::layout::AppDir;
use crate::manifests::Manifests;
use crate::perform::Performer;
use crate::presence::{Keeper, Registration};
use crate::reporter::free::Measure;
use crate::reporter::{Reporter, Statuses};
use crate::run::{Agent, Inputs, Outputs, ReadyTable, Standings, unix_now};
use crate::source::Source;
use crate::systemd::{SystemBus, keep_told, notify, watchdog_interval};
use crate::unled::Unled;

/// Addresses told to people; a machine with a container network has hundreds.
const ADDRESSES_MAX: usize = 8;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration, trust file, certificates, state directory or an address cannot be used. A store that is away is no
/// error: what runs keeps running, and the agent keeps trying (I7).
pub async fn run(config: Config) -> anyhow::Result<()> {
    // The loop stops first; presence, reports and the watchdog go on until it has ended, which a running migration holds up.
    let (asked, stop) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signals(&asked)?;
    let identity = Identity::open(&config.state_dir)?;
    // Its environment was compared when the configuration was loaded.
    let trust = Trust::load(&config.trust_file)?;
    let store: SharedStore = Arc::new(EtcdStore::new(config.etcd.clone())?);
    let keys = KeySpace::new(&config.prefix);
    let apps_dir = config.state_dir.join("apps");
    let known = known_apps(&apps_dir).with_context(|| format!("cannot list {}", apps_dir.display()))?;
    let mut tasks = JoinSet::new();

    let registration = Registration { info: info_record(&config), alive: identity.alive(), ttl: config.lease_ttl };
    let (keeper, presence) = Keeper::new(store.clone(), keys.clone(), registration, stop.clone());
    let (goals, inputs) = mpsc::channel(16);
    let (statuses, statuses_seen) = watch::channel(Statuses::new());
    let (ready, ready_seen) = watch::channel(ReadyTable::new());
    let (standings, standings_seen) = watch::channel(Standings::new());
    let (words, words_seen) = watch::channel("nothing to run yet".to_owned());

    let facts = Facts { ready: ready_seen, standings: standings_seen, statuses: statuses_seen.clone(), presence: presence.clone() };
    listen(&config, facts, &stop, &mut tasks).await?;
    let mirror = mirror::follow(store.clone(), keys.desired(&config.node.name), stop.clone());
    let manifests = Manifests { store: store.clone(), keys: keys.clone(), trust, apps: apps_dir.clone() };
    let node = &config.node;
    let unled = Unled::new(node.name.clone(), node.known_by.clone(), config.allowed().to_vec(), manifests.clone(), config.lease_ttl);
    tasks.spawn(Source { store: store.clone(), keys: keys.clone(), mirror: mirror.clone(), unled, goals, stop: stop.clone() }.run());
    let refused = keeper.refused();
    tasks.spawn(keeper.run());
    tasks.spawn(
        Reporter {
            store: store.clone(),
            keys: keys.clone(),
            presence: presence.clone(),
            statuses: statuses_seen,
            measure: measure(&config),
            refused,
            stop: stop.clone(),
        }
        .run(),
    );
    tasks.spawn(keep_told(words_seen, stop.clone(), watchdog_interval(), notify));

    let claims = Claims::new(apps_dir);
    let settler = Settler {
        store: store.clone(),
        keys: keys.clone(),
        node: config.node.name.clone(),
        claims: claims.clone(),
        presence: presence.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(settler.run());
    let node = config.node.name.clone();
    let performer =
        Performer { fetcher: fetcher(&config)?, config, store, keys, manifests, presence, claims, mirror, units: Arc::new(SystemBus) };
    let agent = Agent::new(node.clone(), Arc::new(performer), Outputs { statuses, ready, standings, words });
    info!("agent {} of {node} is up", env!("CARGO_PKG_VERSION"));
    notify(&[NotifyState::Ready]);
    let ended = agent.run(known, Inputs { goals: inputs, stop: asked }).await;

    stop.cancel();
    // What still writes to the store may be stuck there: it is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} }).await;
    Ok(ended?)
}

fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify(&[NotifyState::Stopping]);
        stop.cancel();
    });
    Ok(())
}

/// Apps that were here before: their journals are looked at also when the store is away. A directory that cannot be read
/// is not an empty one (I6): an activity may wait in it to be brought to its end.
fn known_apps(dir: &Path) -> std::io::Result<Vec<AppName>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        read => read?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(|n| n.parse().ok())));
    names.filter_map(Result::transpose).collect()
}

fn info_record(config: &Config) -> NodeInfo {
    NodeInfo {
        node: config.node.name.clone(),
        labels: config.node.labels.clone(),
        addresses: addresses(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        apps: config.allowed().to_vec(),
        since: unix_now(),
    }
}

/// Where releases are unpacked is where there must be room.
fn measure(config: &Config) -> Measure {
    let config = config.clone();
    Arc::new(move |app| preflight::available_for(&AppDir::new(config.place(app).path).releases()))
}

/// Where people find this machine: its addresses but for loopback and link-local ones. They are shown and never used.
fn addresses() -> Vec<String> {
    let shown = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let found = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    found.filter(shown).map(|ip| ip.to_string()).take(ADDRESSES_MAX).collect()
}

fn fetcher(config: &Config) -> anyhow::Result<Fetcher> {
    let read = |path: &Option<std::path::PathBuf>| match path {
        Some(path) => std::fs::read(path).map(Some).with_context(|| format!("cannot read {}", path.display())),
        None => Ok(None),
    };
    let identity = match (read(&config.etcd.cert)?, read(&config.etcd.key)?) {
        (Some(mut cert), Some(key)) => {
            cert.push(b'\n');
            cert.extend(key);
            Some(cert)
        }
        _ => None,
    };
    let options = FetchOptions {
        ca_pem: read(&config.etcd.ca)?,
        identity_pem: identity,
        proxy: config.download.proxy.clone(),
        rate: config.download.rate,
        patience: config.download.patience,
    };
    Ok(Fetcher::new(options)?)
}

async fn listen(config: &Config, facts: Facts, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let all = config.http.listen.map(|a| (a, http::full(facts.clone())));
    let ready = config.http.ready_listen.map(|a| (a, http::readiness(facts)));
    for (address, router) in all.into_iter().chain(ready) {
        let listener = http::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        tasks.spawn(http::serve(listener, router, stop.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_read_is_not_an_empty_one() {
        let temp = tempfile::tempdir().expect("dir");
        let apps = temp.path().join("apps");
        assert!(known_apps(&apps).expect("a fresh server").is_empty());
        std::fs::create_dir_all(apps.join("mootube")).expect("made");
        std::fs::create_dir_all(apps.join("Not An App")).expect("made");
        assert_eq!(known_apps(&apps).expect("listed"), ["mootube".parse::<AppName>().expect("app")]);
        known_apps(&apps.join("mootube/file/below")).expect("nothing there");
        std::fs::write(temp.path().join("file"), "").expect("written");
        known_apps(&temp.path().join("file")).expect_err("not a directory");
    }
}
