//! Brings an artifact to the store: once per digest, resumed where it broke off.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coord_proto::manifest::Artifact;
use coord_proto::retry::Backoff;
use http::{HeaderName, StatusCode};
use reqwest::{Body, Client, Response};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::artifacts::server::{UPLOAD_LENGTH, UPLOAD_OFFSET};

/// Bytes per request: what is lost at most when a connection breaks.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// One part on a slow line: 8 MiB in four minutes are 35 KB/s.
const PART_TIMEOUT: Duration = Duration::from_secs(240);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries in a row without a byte of progress.
const TRIES_MAX: u32 = 6;
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MOST: Duration = Duration::from_secs(10);

/// Speaks to artifact stores with the operator's certificate.
#[derive(Debug, Clone)]
pub struct Uploader {
    client: Client,
}

/// The operator's TLS files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why an artifact did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the operator's certificate cannot be used")]
    Certificate(#[source] reqwest::Error),
    #[error("no artifact store is known; a coordinator publishes its own when it leads")]
    NoStore,
    #[error("the artifact store {url} does not answer")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the artifact store {url} refused the artifact: {status} {text}")]
    Refused { url: String, status: StatusCode, text: String },
    #[error("the artifact store {url} has {found} bytes under this digest; there should be {expected}")]
    Length { url: String, found: u64, expected: u64 },
}

/// Was anything sent?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    Sent,
    WasThere,
}

impl Uploader {
    /// A client that trusts the operator's authority and nobody else.
    ///
    /// # Errors
    /// Files that cannot be read or used.
    pub fn new(tls: &TlsFiles) -> Result<Self, UploadError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| UploadError::Read { path: path.into(), source });
        let roots = reqwest::Certificate::from_pem_bundle(&read(&tls.ca)?).map_err(UploadError::Certificate)?;
        let mut pem = read(&tls.cert)?;
        pem.extend(read(&tls.key)?);
        let identity = reqwest::Identity::from_pem(&pem).map_err(UploadError::Certificate)?;
        let client = Client::builder().tls_certs_only(roots).identity(identity).https_only(true);
        Self::with(client)
    }

    fn with(client: reqwest::ClientBuilder) -> Result<Self, UploadError> {
        // The store is a neighbour of etcd, which no proxy of the environment leads to either.
        let client = client.no_proxy().connect_timeout(CONNECT_TIMEOUT).timeout(PART_TIMEOUT);
        client.redirect(reqwest::redirect::Policy::none()).build().map(|client| Self { client }).map_err(UploadError::Certificate)
    }

    /// Makes sure that one of the stores has the artifact in `file`; `progress` gets the bytes that are there.
    ///
    /// # Errors
    /// What the last store said.
    pub async fn ensure(
        &self,
        stores: &[String],
        artifact: &Artifact,
        file: &Path,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Uploaded, UploadError> {
        let mut backoff = Backoff::new(WAIT_FIRST, WAIT_MOST);
        let mut most = vec![0; stores.len()];
        loop {
            let mut failed = UploadError::NoStore;
            let (mut again, mut moved) = (false, false);
            for (url, most) in stores.iter().zip(&mut most) {
                match self.attempt(url.trim_end_matches('/'), artifact, file, most, progress).await {
                    Ok(uploaded) => return Ok(uploaded),
                    Err(Trouble::Final(e)) => failed = e,
                    Err(Trouble::Passing { error, advanced }) => {
                        failed = error;
                        again = true;
                        moved |= advanced;
                    }
                }
            }
            if moved {
                backoff.reset();
            }
            if !again || backoff.tries() >= TRIES_MAX {
                return Err(failed);
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// One pass: is it there, how much of it is there, send the rest in parts.
    async fn attempt(
        &self,
        url: &str,
        artifact: &Artifact,
        file: &Path,
        most: &mut u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Uploaded, Trouble> {
        if self.is_there(url, artifact).await? {
            progress(artifact.size);
            return Ok(if *most > 0 { Uploaded::Sent } else { Uploaded::WasThere });
        }
        let begun = *most;
        let place = format!("{url}/uploads/{}", artifact.digest);
        let mut offset = self.offset(url, &place).await?;
        loop {
            // Where every byte is there and nothing is kept, this part is empty: the store compares and keeps what it has.
            let part = read_part(file, offset, artifact.size).await.map_err(Trouble::Final)?;
            let next = offset + part.len() as u64;
            let request =
                self.client.patch(&place).header(UPLOAD_OFFSET, offset).header(UPLOAD_LENGTH, artifact.size).body(Body::from(part));
            let advanced = *most > begun;
            let response = request.send().await.map_err(|e| Trouble::passing(url, e, advanced))?;
            match response.status() {
                StatusCode::CREATED | StatusCode::OK => {
                    progress(artifact.size);
                    return Ok(Uploaded::Sent);
                }
                StatusCode::NO_CONTENT if next < artifact.size => offset = next,
                StatusCode::NO_CONTENT => break,
                // A conflict too: somebody else sends the same artifact, or a reply was lost. The next pass asks how much is there.
                _ => return Err(Trouble::from_response(url, response, advanced).await),
            }
            *most = offset.max(*most);
            progress(offset);
        }
        // Everything is there and nobody said that it was kept: ask again.
        if self.is_there(url, artifact).await? {
            return Ok(Uploaded::Sent);
        }
        let text = "it took every byte and keeps nothing".to_owned();
        Err(Trouble::Final(UploadError::Refused { url: url.into(), status: StatusCode::NO_CONTENT, text }))
    }

    async fn is_there(&self, url: &str, artifact: &Artifact) -> Result<bool, Trouble> {
        let request = self.client.head(format!("{url}/artifacts/{}", artifact.digest));
        let response = request.send().await.map_err(|e| Trouble::passing(url, e, false))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            StatusCode::OK => match number(&response, &http::header::CONTENT_LENGTH) {
                Some(found) if found != artifact.size => {
                    Err(Trouble::Final(UploadError::Length { url: url.into(), found, expected: artifact.size }))
                }
                _ => Ok(true),
            },
            _ => Err(Trouble::from_response(url, response, false).await),
        }
    }

    async fn offset(&self, url: &str, place: &str) -> Result<u64, Trouble> {
        let response = self.client.head(place).send().await.map_err(|e| Trouble::passing(url, e, false))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(0),
            status if status.is_success() => Ok(number(&response, &UPLOAD_OFFSET).unwrap_or(0)),
            _ => Err(Trouble::from_response(url, response, false).await),
        }
    }
}

/// Why one pass ended.
enum Trouble {
    Final(UploadError),
    /// Worth another try; `advanced`: bytes arrived since the last one.
    Passing {
        error: UploadError,
        advanced: bool,
    },
}

impl Trouble {
    fn passing(url: &str, source: reqwest::Error, advanced: bool) -> Self {
        Self::Passing { error: UploadError::Unreachable { url: url.into(), source }, advanced }
    }

    async fn from_response(url: &str, response: Response, advanced: bool) -> Self {
        let status = response.status();
        let text = response.text().await.unwrap_or_default().trim().chars().take(300).collect();
        let error = UploadError::Refused { url: url.into(), status, text };
        match status {
            // The store was too slow, or this machine was: a laptop that slept in the middle of a part.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Self::Passing { error, advanced },
            StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => Self::Passing { error, advanced },
            _ => Self::Final(error),
        }
    }
}

fn number(response: &Response, name: &HeaderName) -> Option<u64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

async fn read_part(path: &Path, offset: u64, size: u64) -> Result<Vec<u8>, UploadError> {
    let fail = |source| UploadError::Read { path: path.into(), source };
    let mut file = tokio::fs::File::open(path).await.map_err(fail)?;
    file.seek(SeekFrom::Start(offset)).await.map_err(fail)?;
    let wanted = usize::try_from(size.saturating_sub(offset).min(PART_BYTES)).unwrap_or(usize::MAX);
    let mut part = vec![0; wanted];
    file.read_exact(&mut part).await.map_err(fail)?;
    Ok(part)
}

#[cfg(test)]
mod tests;
