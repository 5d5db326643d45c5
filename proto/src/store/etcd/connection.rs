//! One connection to one member at a time; given up, the next one goes to the next member.
//!
//! A client of all members at once would cost a large cluster of agents three connections each, and would go on sending to a
//! dead member. So the members take turns, from a random one on, which also spreads the agents over them.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions, Txn};
use rand::Rng as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::EtcdConfig;
use super::convert::Failure;
use crate::store::StoreError;

/// TCP, TLS and the first answer.
const CONNECT_DEADLINE: Duration = Duration::from_millis(1500);
/// HTTP/2 pings: a member that is frozen or cut off is given up after both.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// Without TLS etcd answers HTTP/2 by grpc-go, which ends connections that ping more often than every five seconds.
const PLAIN_PING_EVERY: Duration = Duration::from_secs(6);

/// The way to etcd.
pub(super) struct Connection {
    config: EtcdConfig,
    state: Mutex<State>,
}

struct State {
    turn: usize,
    live: Option<Live>,
}

/// A connection that has answered once. Whoever sees it fail says so; all its users then leave it.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) client: Client,
    broken: CancellationToken,
}

impl Live {
    /// Gives the connection up: the next caller connects to the next member.
    pub(super) fn broken(&self) {
        self.broken.cancel();
    }

    /// Gives it up unless the failure is an answer.
    pub(super) fn broken_if(&self, failure: Failure) -> Failure {
        if failure.passing() {
            self.broken();
        }
        failure
    }

    /// Was it given up?
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Resolves when it is given up.
    pub(super) async fn gone(&self) {
        self.broken.cancelled().await;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot reach etcd at {endpoint}")]
struct Unreachable {
    endpoint: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Connection {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, StoreError> {
        if config.endpoints.is_empty() {
            return Err(setup("no endpoint is configured; name at least one, like https://etcd-1:2379".to_owned()));
        }
        config.endpoints.iter().try_for_each(|endpoint| check_endpoint(endpoint, &config))?;
        tls_options(&config)?;
        let turn = rand::rng().random_range(0..config.endpoints.len());
        Ok(Self { config, state: Mutex::new(State { turn, live: None }) })
    }

    /// The live connection; without one, one try at the next member. Every failure means that nothing of the caller's was sent.
    pub(super) async fn get(&self) -> Result<Live, Failure> {
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| !live.is_broken()) {
            return Ok(live.clone());
        }
        state.live = None;
        let endpoint = &self.config.endpoints[state.turn % self.config.endpoints.len()];
        // Before the try: a caller that gives up in the middle of it must not send the next one to the same member.
        state.turn = state.turn.wrapping_add(1);
        let fail = |source| Failure::NotSent(Box::new(Unreachable { endpoint: endpoint.clone(), source }));
        let client = match tokio::time::timeout(CONNECT_DEADLINE, self.connect(endpoint)).await {
            Ok(connected) => connected.map_err(fail)?,
            Err(elapsed) => return Err(fail(Box::new(elapsed))),
        };
        let live = Live { client, broken: CancellationToken::new() };
        state.live = Some(live.clone());
        Ok(live)
    }

    async fn connect(&self, endpoint: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
        let plain = endpoint.starts_with("http://");
        // With a leader or not at all: a member cut off from the others is given up like a dead one.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_keep_alive(if plain { PLAIN_PING_EVERY } else { PING_EVERY }, PING_DEADLINE)
            .with_keep_alive_while_idle(!plain)
            .with_require_leader(true);
        if !plain {
            // Read again each time: certificates are replaced while programs run.
            options = options.with_tls(tls_options(&self.config)?);
        }
        let mut client = Client::connect([endpoint], Some(options)).await?;
        // The client connects when it is first used. An empty transaction needs no permission and changes nothing.
        client.txn(Txn::new()).await?;
        Ok(client)
    }
}

fn setup(problem: String) -> StoreError {
    StoreError::Setup { problem, source: None }
}

fn check_endpoint(endpoint: &str, config: &EtcdConfig) -> Result<(), StoreError> {
    let malformed = || setup(format!("the endpoint `{endpoint}` is not like https://host:2379"));
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(malformed)?;
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(malformed)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let shaped = bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_'));
    if bare.is_empty() || !shaped || port.parse::<u16>().is_err() {
        return Err(malformed());
    }
    match scheme {
        "https" if config.ca.is_none() => Err(setup(format!("the endpoint `{endpoint}` needs `ca`, the authority's certificate"))),
        "https" => Ok(()),
        "http" if bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) => Ok(()),
        "http" => Err(setup(format!("the endpoint `{endpoint}` is not on this machine: it must be https://"))),
        _ => Err(malformed()),
    }
}

fn tls_options(config: &EtcdConfig) -> Result<TlsOptions, StoreError> {
    let mut options = TlsOptions::new();
    if let Some(path) = &config.ca {
        options = options.ca_certificate(Certificate::from_pem(read_certificate(path)?));
    }
    match (&config.cert, &config.key) {
        (Some(cert), Some(key)) => Ok(options.identity(Identity::from_pem(read_certificate(cert)?, read_key(key)?))),
        (None, None) => Ok(options),
        _ => Err(setup("`cert` and `key` belong together: name both or none".to_owned())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let fail = |e| StoreError::Setup { problem: format!("cannot read {}", path.display()), source: Some(Box::new(e)) };
    std::fs::read(path).map_err(fail)
}

fn read_certificate(path: &Path) -> Result<Vec<u8>, StoreError> {
    let text = read(path)?;
    match CertificateDer::from_pem_slice(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(setup(format!("{} holds no certificate in PEM form", path.display()))),
    }
}

fn read_key(path: &Path) -> Result<Vec<u8>, StoreError> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(setup(format!("{} holds no private key in PEM form", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(endpoints: &[&str]) -> String {
        let endpoints = endpoints.iter().map(|&e| e.to_owned()).collect();
        match Connection::new(EtcdConfig { endpoints, ..EtcdConfig::default() }) {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["http://127.0.0.1:2379", "http://[::1]:2379", "http://localhost:2379/"] {
            assert_eq!(refused(&[good]), "", "{good}");
        }
        assert!(refused(&["http://10.0.0.1:2379"]).contains("must be https://"));
        assert!(refused(&["http://localhost.example:2379"]).contains("must be https://"));
    }

    #[test]
    fn malformed_endpoints_are_named() {
        for bad in ["etcd-1:2379", "https://etcd-1", "https://:2379", "https://etcd-1:port", "ftp://etcd-1:2379", "https://a b:1", ""] {
            assert!(refused(&[bad]).contains(&format!("`{bad}`")), "{bad}: {}", refused(&[bad]));
        }
        assert!(refused(&[]).contains("no endpoint"));
        assert!(refused(&["https://etcd-1:2379"]).contains("needs `ca`"));
    }

    #[test]
    fn unreadable_certificates_are_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ca = dir.path().join("ca.pem");
        let config = EtcdConfig { endpoints: vec!["https://etcd-1:2379".into()], ca: Some(ca.clone()), ..EtcdConfig::default() };
        let missing = Connection::new(config.clone()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(missing.contains(&format!("cannot read {}", ca.display())), "{missing}");
        std::fs::write(&ca, "no certificate").expect("written");
        let empty = Connection::new(config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(empty.contains("holds no certificate"), "{empty}");
    }
}
