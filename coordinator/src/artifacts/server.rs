//! The artifact store over HTTPS.
//!
//! ```text
//!  GET|HEAD /artifacts/<digest>   node, operator, coordinator   one Range; ETag is the digest
//!  PUT      /artifacts/<digest>   operator, coordinator         Content-Length required; 201 kept, 200 was there already
//!  HEAD     /uploads/<digest>     operator, coordinator         Upload-Offset: bytes that are there
//!  PATCH    /uploads/<digest>     operator, coordinator         Upload-Offset required, Upload-Length (all bytes) welcome;
//!                                                               201 kept, 204 go on, 409 wrong offset (the right one is told)
//! ```
//!
//! 401 without a client certificate, 403 with one that may not, 408 broken off (it can go on), 413 too long, 422 another digest, 503 with Retry-After when
//! too many ask at once. The digest is parsed before anything touches the disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use coord_proto::chain;
use coord_proto::ids::Digest;
use futures::StreamExt;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use tokio::sync::Semaphore;

use super::upload::{Arrival, At, UploadError, Uploads};
use super::{ArtifactError, SharedArtifacts, Swept};
use crate::pki::Role;
use crate::web::tls::Peer;

pub mod range;

/// Bytes of an upload that are there; the name is that of tus and of the IETF draft on resumable uploads.
pub const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
/// Bytes that an upload will have.
pub const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
/// Seconds after which a client that was turned away may come back.
const RETRY_SECONDS: &str = "2";
/// An artifact lies in the store before its manifest is signed and published, perhaps by somebody else: so long it is nobody's to remove.
pub const UNNAMED_MIN: Duration = Duration::from_secs(24 * 3600);

/// What the handlers share.
#[derive(Clone)]
pub struct ArtifactServer {
    store: SharedArtifacts,
    uploads: Arc<Uploads>,
    downloads: Arc<Semaphore>,
    size_max: u64,
}

impl ArtifactServer {
    /// Serves `store`; at most `downloads` at once, none above `size_max` bytes taken.
    pub fn new(store: SharedArtifacts, uploads: Uploads, downloads: usize, size_max: u64) -> Self {
        Self { store, uploads: Arc::new(uploads), downloads: Arc::new(Semaphore::new(downloads)), size_max }
    }

    /// Downloads that may still begin.
    pub fn downloads_free(&self) -> usize {
        self.downloads.available_permits()
    }

    /// Removes artifacts that are neither `named` nor young, and uploads that were given up.
    ///
    /// # Errors
    /// The store's; what was removed until then stays removed.
    pub async fn sweep(&self, named: &BTreeSet<Digest>) -> Result<Swept, ArtifactError> {
        self.uploads.remove_stale().await?;
        self.store.sweep(named, UNNAMED_MIN).await
    }

    /// Is it there already, for somebody who is about to publish it? Then its age begins again: no sweep takes it away meanwhile.
    async fn held(&self, digest: &Digest) -> Result<bool, ArtifactError> {
        // In this order: what was touched is not removed after it was seen.
        self.store.touch(digest).await?;
        Ok(self.store.size(digest).await?.is_some())
    }

    /// The routes. Requests carry a [`Peer`] extension, set by the TLS listener.
    pub fn router(self) -> Router {
        Router::new()
            .route("/artifacts/{digest}", get(download).put(put))
            .route("/uploads/{digest}", patch(resume).head(offset))
            // Bodies are streamed and limited by what was announced.
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(self)
    }
}

/// An answer that is not the artifact.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a client certificate is needed; give the one of this server or operator")]
    NoCertificate,
    #[error("the certificate of {0} may not do this")]
    NotAllowed(String),
    #[error(transparent)]
    Digest(#[from] coord_proto::ids::IdError),
    #[error("there is no artifact {0}")]
    Missing(Digest),
    #[error("the range is not within the artifact's {len} bytes")]
    Range { len: u64 },
    #[error("{0} is needed and must be a number")]
    Header(HeaderName),
    #[error("{len} bytes are more than the {limit} that `[artifacts] max_size` allows")]
    TooLarge { len: u64, limit: u64 },
    #[error("too many downloads at once; try again in {RETRY_SECONDS} seconds")]
    Crowded,
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoCertificate => StatusCode::UNAUTHORIZED,
            Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Digest(_) => StatusCode::BAD_REQUEST,
            Self::Upload(UploadError::BrokenOff { .. }) => StatusCode::REQUEST_TIMEOUT,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Header(CONTENT_LENGTH) => StatusCode::LENGTH_REQUIRED,
            Self::Header(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } | Self::Upload(UploadError::TooLong { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Crowded | Self::Upload(UploadError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upload(UploadError::Offset { .. }) => StatusCode::CONFLICT,
            Self::Upload(UploadError::Mismatch { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Artifact(e) | Self::Upload(UploadError::Artifact(e)) if e.full() => StatusCode::INSUFFICIENT_STORAGE,
            Self::Artifact(_) | Self::Upload(UploadError::Artifact(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut headers = HeaderMap::new();
        match &self {
            Self::Range { len } => drop(headers.insert(CONTENT_RANGE, value(format!("bytes */{len}")))),
            Self::Upload(UploadError::Offset { right, .. }) => drop(headers.insert(UPLOAD_OFFSET, (*right).into())),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => drop(headers.insert(RETRY_AFTER, value(RETRY_SECONDS.into()))),
            _ => {}
        }
        let text = chain::inline(&self);
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            // Paths and causes are for the log of this machine, not for whoever asked.
            tracing::error!(%status, error = text, "an artifact request failed");
            return (status, headers, "the artifact store failed; its log says why\n").into_response();
        }
        tracing::debug!(%status, error = text, "an artifact request was refused");
        (status, headers, format!("{text}\n")).into_response()
    }
}

fn value(text: String) -> http::HeaderValue {
    http::HeaderValue::try_from(text).expect("digits and ASCII words are a header value")
}

fn permit(peer: &Peer, may: impl FnOnce(Role) -> bool) -> Result<(), Refusal> {
    match peer {
        Peer::Anonymous => Err(Refusal::NoCertificate),
        Peer::Known { role, .. } if may(*role) => Ok(()),
        Peer::Known { name, .. } => Err(Refusal::NotAllowed(name.clone())),
        Peer::Unknown => Err(Refusal::NotAllowed("an unknown role".into())),
    }
}

fn may_read(role: Role) -> bool {
    matches!(role, Role::Node | Role::Operator | Role::Coordinator)
}

fn may_write(role: Role) -> bool {
    matches!(role, Role::Operator | Role::Coordinator)
}

async fn download(
    State(server): State<ArtifactServer>,
    Extension(peer): Extension<Peer>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    permit(&peer, may_read)?;
    let digest: Digest = digest.parse()?;
    if method == Method::HEAD && permit(&peer, may_write).is_ok() {
        server.held(&digest).await?;
    }
    let len = server.store.size(&digest).await?.ok_or_else(|| Refusal::Missing(digest.clone()))?;
    let etag = format!("\"{digest}\"");
    // If-Range with another ETag: the client holds parts of something else and wants all of this.
    let same = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let asked = headers.get(RANGE).filter(|_| same).and_then(|r| r.to_str().ok());
    let range = range::resolve(asked, len).map_err(|range::Unsatisfiable| Refusal::Range { len })?;
    let wanted = range.clone().unwrap_or(0..len);
    let mut response = Response::builder()
        .header(ETAG, etag)
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, wanted.end - wanted.start);
    if let Some(range) = range {
        let shown = format!("bytes {}-{}/{len}", range.start, range.end - 1);
        response = response.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, shown);
    }
    let body = if method == Method::HEAD { Body::empty() } else { server.body(&digest, wanted).await? };
    Ok(response.body(body).expect("all header values above are ASCII"))
}

impl ArtifactServer {
    /// The bytes, with a download's place held until the last one is sent or the client is gone.
    async fn body(&self, digest: &Digest, range: std::ops::Range<u64>) -> Result<Body, Refusal> {
        let place = self.downloads.clone().try_acquire_owned().map_err(|_| Refusal::Crowded)?;
        let bytes = self.store.read(digest, range).await?.ok_or_else(|| Refusal::Missing(digest.clone()))?;
        Ok(Body::from_stream(bytes.map(move |chunk| {
            let _held = &place;
            chunk
        })))
    }

    async fn append(&self, digest: &Digest, at: At, total: Option<u64>, body: Body) -> Result<Response, Refusal> {
        match self.uploads.append(digest, at, total, body.into_data_stream()).await? {
            Arrival::Complete => {
                tracing::info!(%digest, "artifact kept");
                Ok(StatusCode::CREATED.into_response())
            }
            Arrival::Partial { offset } => Ok((StatusCode::NO_CONTENT, [(UPLOAD_OFFSET, offset)]).into_response()),
        }
    }

    fn check_size(&self, len: u64) -> Result<(), Refusal> {
        if len > self.size_max { Err(Refusal::TooLarge { len, limit: self.size_max }) } else { Ok(()) }
    }
}

async fn put(
    State(server): State<ArtifactServer>,
    Extension(peer): Extension<Peer>,
    Path(digest): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    permit(&peer, may_write)?;
    let digest: Digest = digest.parse()?;
    let len = number(request.headers(), CONTENT_LENGTH)?.ok_or(Refusal::Header(CONTENT_LENGTH))?;
    server.check_size(len)?;
    if server.held(&digest).await? {
        return Ok(StatusCode::OK.into_response());
    }
    server.append(&digest, At::Start, Some(len), request.into_body()).await
}

async fn offset(
    State(server): State<ArtifactServer>,
    Extension(peer): Extension<Peer>,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    permit(&peer, may_write)?;
    let digest: Digest = digest.parse()?;
    if let Some(len) = server.store.size(&digest).await? {
        return Ok([(UPLOAD_OFFSET, len), (UPLOAD_LENGTH, len)].into_response());
    }
    Ok([(UPLOAD_OFFSET, server.uploads.offset(&digest).await?)].into_response())
}

async fn resume(
    State(server): State<ArtifactServer>,
    Extension(peer): Extension<Peer>,
    Path(digest): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    permit(&peer, may_write)?;
    let digest: Digest = digest.parse()?;
    let at = number(request.headers(), UPLOAD_OFFSET)?.ok_or(Refusal::Header(UPLOAD_OFFSET))?;
    let total = number(request.headers(), UPLOAD_LENGTH)?;
    server.check_size(total.unwrap_or(at))?;
    if server.held(&digest).await? {
        return Ok(StatusCode::OK.into_response());
    }
    server.append(&digest, At::Offset(at), total, request.into_body()).await
}

fn number(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or(Refusal::Header(name))
}

#[cfg(test)]
mod tests;
