//! TLS with client certificates: optional at the handshake, checked against the authority when given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pki::Role;

/// Who is at the other end; every request carries it as an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// No certificate: loopback, browsers, load balancers.
    Anonymous,
    /// Ours, but of no role that this version knows.
    Unknown,
    Known {
        role: Role,
        name: String,
    },
}

impl Peer {
    /// Whoever finished this handshake; the certificate's chain was checked by it.
    pub fn of(connection: &ServerConnection) -> Self {
        let Some(leaf) = connection.peer_certificates().and_then(<[_]>::first) else { return Self::Anonymous };
        match Role::of_certificate(leaf) {
            Some((role, name)) => Self::Known { role, name },
            None => Self::Unknown,
        }
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what} cannot be read from {}", path.display())]
    Pem {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("{} holds no usable authority", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the certificate {} and its key cannot be used", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

/// The listener's TLS settings, from PEM files: TLS 1.2 and 1.3, h2 and http/1.1.
///
/// # Errors
/// Files that cannot be read or do not belong together.
pub fn server_config(cert: &Path, key: &Path, ca: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let roots = authority(ca)?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    let verifier = verifier.map_err(|e| TlsError::Authority { path: ca.into(), source: Box::new(e) })?;
    let chain = certificates(cert, "the certificate")?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem { what: "the key", path: key.into(), source })?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Certificate { path: cert.into(), source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "the authority")? {
        roots.add(certificate).map_err(|e| TlsError::Authority { path: path.into(), source: Box::new(e) })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { what, path: path.into(), source };
    CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
}
