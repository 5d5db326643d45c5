//! `coordinator run`: everything that one coordinator does, in one task set with one stop token.
//!
//! ```text
//!  managed etcd ◀── store ◀──┬── member ── controller  announces itself; campaigns, plans, writes
//!  (optional)                ├── fleet ── status page  http://127.0.0.1:7081/
//!                            │     └───── sweeper      removes artifacts that nothing names
//!                            └── artifacts             https://…:7080/artifacts/<digest>
//! ```
//!
//! At a stop the managed etcd goes last: the controller gives its leadership back through it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use coord_proto::coordinator::MemberRecord;
use coord_proto::ids::NodeName;
use coord_proto::store::etcd::{EtcdConfig, EtcdStore};
use coord_proto::store::{SharedStore, StoreError};
use rustls::ServerConfig;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::artifacts::local::LocalArtifacts;
use crate::artifacts::s3::BucketArtifacts;
use crate::artifacts::server::ArtifactServer;
use crate::artifacts::sweep::Sweeper;
use crate::artifacts::upload::Uploads;
use crate::artifacts::{ArtifactError, SharedArtifacts};
use crate::config::{ArtifactsUrl, Config};
use crate::controller::{self, ControllerError, ControllerOptions};
use crate::managed_etcd::{ManagedEtcd, ManagedEtcdError};
use crate::members::{self, Member, MemberError};
use crate::observe;
use crate::ui::words;
use crate::web::page::StatusPage;
use crate::web::tls::{self, TlsError};
use crate::web::{Listener, for_operators};

/// The parts may end in this time after a stop; then they are dropped.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Why a coordinator ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the state directory {} cannot be made", path.display())]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on {address}; `[http] {key}` names another address")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    #[error("the artifact listener has no TLS; see `[http]` cert, key and ca")]
    Tls(#[from] TlsError),
    #[error("artifacts cannot be kept")]
    Artifacts(#[from] ArtifactError),
    #[error("etcd cannot be reached with these settings; see `[etcd]`")]
    Store(#[from] StoreError),
    #[error("the managed etcd cannot run")]
    Etcd(#[from] ManagedEtcdError),
    #[error("rollouts cannot be driven")]
    Controller(#[from] ControllerError),
    #[error("this coordinator may not run here")]
    Member(#[from] MemberError),
    #[error("the {part} ended by itself")]
    Ended { part: &'static str },
    #[error("the {part} panicked")]
    Panicked {
        part: &'static str,
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Something cannot be set up, or a part ended that should not.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    let stopped = stop.clone();
    let listen = tokio::spawn(async move {
        signals.next().await;
        stopped.cancel();
    });
    let result = serve_until(config, stop).await;
    listen.abort();
    result
}

/// Runs until `stop`.
///
/// # Errors
/// As [`serve`].
pub async fn serve_until(config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    let state = &config.state.dir;
    std::fs::create_dir_all(state).map_err(|source| ServeError::State { path: state.clone(), source })?;
    raise_file_limit();
    // Whatever can be refused is refused before etcd is started.
    let listeners = Listeners::bind(&config).await?;
    let artifacts = artifacts(&config)?;
    let instance = members::instance(state)?;
    let store: SharedStore = Arc::new(EtcdStore::new(connection(&config))?);
    let etcd_stop = CancellationToken::new();
    let etcd = config.etcd.managed.then(|| tokio::spawn(ManagedEtcd::from_config(&config).run(etcd_stop.clone())));
    let mut parts = Parts { tasks: JoinSet::new(), etcd };
    parts.start(&config, member(&config, store, instance), artifacts, listeners, &stop);
    announce(&config);
    let result = parts.watch(&stop).await;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    tracing::info!("stopping");
    stop.cancel();
    parts.end(&etcd_stop).await;
    result
}

struct Listeners {
    artifacts: TcpListener,
    tls: Arc<ServerConfig>,
    status: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let http = &config.http;
        Ok(Self {
            tls: tls::server_config(&http.cert, &http.key, &http.ca)?,
            artifacts: bind("listen", http.listen).await?,
            status: bind("status_listen", http.status_listen).await?,
        })
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { key, address, source })
}

/// Opens what `[artifacts] url` names.
fn artifacts(config: &Config) -> Result<ArtifactServer, ArtifactError> {
    let limits = &config.artifacts;
    let (store, spool): (SharedArtifacts, PathBuf) = match config.artifacts_url() {
        // On the same file system, so that keeping an upload is a rename.
        ArtifactsUrl::File(dir) => (Arc::new(LocalArtifacts::open(&dir)?), dir.join("uploads")),
        ArtifactsUrl::S3 { bucket, prefix } => {
            (Arc::new(BucketArtifacts::connect(&bucket, &prefix, limits)?), config.state.dir.join("uploads"))
        }
    };
    let uploads = Uploads::open(&spool, store.clone(), limits.max_size.0)?;
    Ok(ArtifactServer::new(store, uploads, limits.downloads, limits.max_size.0))
}

fn connection(config: &Config) -> EtcdConfig {
    let etcd = &config.etcd;
    EtcdConfig { endpoints: etcd.own_endpoints(), ca: Some(etcd.ca.clone()), cert: Some(etcd.cert.clone()), key: Some(etcd.key.clone()) }
}

fn node_name() -> NodeName {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let named: Option<NodeName> = host.and_then(|name| name.parse().ok());
    named.unwrap_or_else(|| "coordinator".parse().expect("a plain word is a name"))
}

fn controller_options(config: &Config) -> ControllerOptions {
    ControllerOptions { node_name: node_name(), lease_ttl: config.etcd.lease_ttl.0, stores: vec![config.public_url()] }
}

fn member(config: &Config, store: SharedStore, instance: String) -> Member {
    let record = MemberRecord {
        host: node_name().to_string(),
        url: config.public_url(),
        artifacts: config.artifacts_url().to_string(),
        since: words::now(),
    };
    Member { store, keys: config.keys(), ttl: config.etcd.lease_ttl.0, instance, record }
}

/// Drives rollouts as long as no other coordinator excludes this one.
async fn lead(member: Member, options: ControllerOptions, stop: CancellationToken) -> Result<(), ServeError> {
    let session = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        joined = member.join(&stop) => joined?,
    };
    let leading = controller::run(member.store.clone(), member.keys.clone(), options, stop.clone());
    tokio::try_join!(async { leading.await.map_err(ServeError::from) }, async {
        member.stay(session, &stop).await.map_err(ServeError::from)
    })?;
    Ok(())
}

/// A download holds a connection and a file.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
}

fn announce(config: &Config) {
    let words = format!("artifacts on {}, status page on http://{}/", config.http.listen, config.http.status_listen);
    tracing::info!("{words}");
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&words)]);
}

type Part = (&'static str, Result<(), ServeError>);

struct Parts {
    tasks: JoinSet<Part>,
    etcd: Option<JoinHandle<Result<(), ManagedEtcdError>>>,
}

impl Parts {
    fn start(&mut self, config: &Config, member: Member, artifacts: ArtifactServer, listeners: Listeners, stop: &CancellationToken) {
        let fleets = observe::fleets(member.store.clone(), config.keys(), stop.clone());
        let sweeper = Sweeper {
            store: member.store.clone(),
            keys: config.keys(),
            artifacts: artifacts.clone(),
            keep: config.artifacts.keep,
            fleets: fleets.clone(),
            host: node_name().to_string(),
            pid: std::process::id(),
        };
        let page = StatusPage::new(fleets, config.keys(), Some(artifacts.clone()));
        let secure = artifacts.router().merge(for_operators(page.clone().router()));
        let leading = lead(member, controller_options(config), stop.clone());
        self.tasks.spawn(async move { ("controller", leading.await) });
        let stopped = stop.clone();
        self.tasks.spawn(async move {
            sweeper.run(stopped).await;
            ("sweeper", Ok(()))
        });
        self.listen("artifact listener", listeners.artifacts, Some(listeners.tls), secure, stop);
        self.listen("status listener", listeners.status, None, page.router(), stop);
    }

    fn listen(
        &mut self,
        part: &'static str,
        socket: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        router: Router,
        stop: &CancellationToken,
    ) {
        let running = Listener { socket, tls, router }.run(stop.clone());
        self.tasks.spawn(async move {
            running.await;
            (part, Ok(()))
        });
    }

    /// Until `stop`, or until a part ends, which none should.
    async fn watch(&mut self, stop: &CancellationToken) -> Result<(), ServeError> {
        let pace = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2);
        let mut watchdog = tokio::time::interval(pace);
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                ended = self.tasks.join_next() => ended,
                ended = of(&mut self.etcd) => {
                    self.etcd = None;
                    Some(ended.map(|result| ("managed etcd", result.map_err(ServeError::from))))
                }
                _ = watchdog.tick() => {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                    continue;
                }
            };
            return match ended {
                Some(Ok((_, Err(error)))) => Err(error),
                Some(Ok((part, Ok(())))) if !stop.is_cancelled() => Err(ServeError::Ended { part }),
                Some(Err(source)) => Err(ServeError::Panicked { part: "coordinator", source }),
                _ => Ok(()),
            };
        }
    }

    async fn end(mut self, etcd_stop: &CancellationToken) {
        if tokio::time::timeout(STOP_MAX, async { while self.tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("a part did not end in time and was dropped");
        }
        self.tasks.shutdown().await;
        etcd_stop.cancel();
        if let Some(etcd) = self.etcd {
            let _ = etcd.await;
        }
    }
}

/// The end of a task, or never.
async fn of<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
