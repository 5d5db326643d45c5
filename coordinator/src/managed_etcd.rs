//! The coordinator's own etcd: one member, TLS on every port, started again when it dies.
//!
//! ```text
//!  run ──▶ child ──ended──▶ wait (backoff) ──▶ child …
//!            └──── stop ──▶ SIGTERM, wait, SIGKILL
//! ```
//!
//! It dies with the coordinator: `setpriv --pdeathsig` (util-linux) asks the kernel for SIGTERM when its parent dies, so that
//! a coordinator that was killed leaves nothing on the ports.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coord_proto::retry::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use child::Child;

mod child;

/// The member's name; it is alone.
const MEMBER: &str = "coord";
/// After SIGTERM; a member needs more than a second to close its files.
const STOP_MAX: Duration = Duration::from_secs(10);
/// A member that ran this long was healthy: the next wait is short again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MOST: Duration = Duration::from_secs(30);

/// How the member is started.
#[derive(Debug, Clone)]
pub struct ManagedEtcd {
    pub binary: PathBuf,
    pub data_dir: PathBuf,
    pub client_listen: SocketAddr,
    pub peer_listen: SocketAddr,
    /// `HOST:PORT` that clients are told; default: `client_listen`.
    pub advertise: Option<String>,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub quota_bytes: u64,
    pub compact_after: Duration,
    /// The running member's process id; `None` between two.
    pub pid: watch::Sender<Option<u32>>,
}

/// Why there is no managed etcd.
#[derive(Debug, thiserror::Error)]
pub enum ManagedEtcdError {
    #[error("etcd's data directory {} cannot be made", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} cannot be started; install etcd (package etcd-server), or name it in `[etcd] binary`")]
    Missing {
        program: String,
        #[source]
        source: io::Error,
    },
}

impl ManagedEtcd {
    /// As the configuration has it.
    pub fn from_config(config: &Config) -> Self {
        let etcd = &config.etcd;
        Self {
            binary: etcd.binary.clone().unwrap_or_else(|| "etcd".into()),
            data_dir: config.etcd_data_dir(),
            client_listen: etcd.client_listen(),
            peer_listen: etcd.peer_listen(),
            advertise: etcd.advertise.clone(),
            ca: etcd.ca.clone(),
            cert: etcd.cert.clone(),
            key: etcd.key.clone(),
            quota_bytes: etcd.quota().0,
            compact_after: etcd.compact_after(),
            pid: watch::Sender::new(None),
        }
    }

    /// Keeps the member running until `stop`; returns when no process is left.
    ///
    /// # Errors
    /// It cannot be started the first time. Later failures are tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ManagedEtcdError> {
        make_private(&self.data_dir).map_err(|source| ManagedEtcdError::DataDir { path: self.data_dir.clone(), source })?;
        let mut backoff = Backoff::new(RESTART_FIRST, RESTART_MOST);
        let mut started_once = false;
        loop {
            let started = Instant::now();
            match Child::start(&self.binary, &self.arguments()) {
                Ok(child) => {
                    started_once = true;
                    self.supervise(child, &stop).await;
                }
                Err(source) if !started_once => {
                    return Err(ManagedEtcdError::Missing { program: self.binary.display().to_string(), source });
                }
                Err(e) => tracing::warn!(error = %e, "etcd cannot be started again, trying later"),
            }
            if started.elapsed() > HEALTHY_AFTER {
                backoff.reset();
            }
            if stop.run_until_cancelled(tokio::time::sleep(backoff.next())).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Until the member ends, by itself or because of `stop`.
    async fn supervise(&self, mut child: Child, stop: &CancellationToken) {
        tracing::info!(pid = child.pid(), data = %self.data_dir.display(), listen = %self.client_listen, "managed etcd started");
        self.pid.send_replace(Some(child.pid()));
        tokio::select! {
            biased;
            () = stop.cancelled() => child.stop(STOP_MAX).await,
            status = child.ended() => {
                tracing::warn!(%status, last_words = child.last_words(), "managed etcd died; starting it again");
            }
        }
        self.pid.send_replace(None);
    }

    fn arguments(&self) -> Vec<OsString> {
        let client = format!("https://{}", self.client_listen);
        let peer = format!("https://{}", self.peer_listen);
        let told = self.advertise.as_ref().map_or_else(|| client.clone(), |public| format!("https://{public}"));
        let mut arguments = Vec::new();
        let mut flag = |name: &str, value: OsString| {
            let mut text = OsString::from(format!("--{name}="));
            text.push(value);
            arguments.push(text);
        };
        flag("name", MEMBER.into());
        flag("data-dir", self.data_dir.clone().into());
        flag("listen-client-urls", client.into());
        flag("advertise-client-urls", told.into());
        flag("listen-peer-urls", peer.clone().into());
        flag("initial-advertise-peer-urls", peer.clone().into());
        flag("initial-cluster", format!("{MEMBER}={peer}").into());
        for prefix in ["", "peer-"] {
            flag(&format!("{prefix}cert-file"), self.cert.clone().into());
            flag(&format!("{prefix}key-file"), self.key.clone().into());
            flag(&format!("{prefix}trusted-ca-file"), self.ca.clone().into());
            flag(&format!("{prefix}client-cert-auth"), "true".into());
        }
        // The JSON gateway asks with the server's certificate: whoever reached it would be the coordinator.
        flag("enable-grpc-gateway", "false".into());
        flag("auto-compaction-mode", "periodic".into());
        flag("auto-compaction-retention", format!("{}s", self.compact_after.as_secs().max(1)).into());
        flag("quota-backend-bytes", self.quota_bytes.to_string().into());
        flag("logger", "zap".into());
        flag("log-outputs", "stderr".into());
        arguments
    }
}

/// etcd refuses a data directory that others may read.
fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests;
