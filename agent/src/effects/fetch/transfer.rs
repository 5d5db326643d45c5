//! One request for the rest of an artifact.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use tokio::time::Instant;

use super::sources::Source;

/// Why one request did not bring what it should.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("`{base}` is not an address that artifacts may come from: it must be https, or http to this machine")]
    Address { base: String },
    #[error("GET {url} failed")]
    Request {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("GET {url} was answered with {status}")]
    Status { url: String, status: StatusCode, retry_after: Option<Duration> },
    #[error("GET {url} was answered with another range than the one asked for")]
    Range { url: String },
    #[error("GET {url} gives {found} bytes instead of {expected}")]
    Length { url: String, expected: u64, found: u64 },
    #[error("GET {url}: piece {index} is not the signed one")]
    WrongPiece { url: String, index: usize },
}

impl TransferError {
    /// Did the store ask to come back later?
    pub(super) fn busy(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, .. })
    }

    /// When to come back, if the store said so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The body of one answer, cut into pieces.
pub(super) struct Transfer {
    url: String,
    response: Response,
    rest: bytes::Bytes,
    /// Bytes of the body that belong to pieces that are here already: a store without ranges sends from the beginning.
    skip: u64,
    pace: Pace,
    expected: u64,
    received: u64,
}

impl Transfer {
    /// Asks for the bytes `[start, size)`.
    pub async fn start(client: &Client, source: &Source, start: u64, size: u64, rate: Option<u64>) -> Result<Self, TransferError> {
        let url = source.shown();
        let mut request = client.get(source.url.clone()).header(ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let response = request.send().await.map_err(|e| TransferError::Request { url: url.clone(), source: e.without_url() })?;
        let skip = match response.status() {
            StatusCode::OK => start,
            StatusCode::PARTIAL_CONTENT if starts_at(&response, start) => 0,
            StatusCode::PARTIAL_CONTENT => return Err(TransferError::Range { url }),
            status => return Err(TransferError::Status { url, status, retry_after: retry_after(&response) }),
        };
        let expected = size - start + skip;
        match response.content_length() {
            Some(found) if found != expected => return Err(TransferError::Length { url, expected, found }),
            _ => {}
        }
        Ok(Self { url, response, rest: bytes::Bytes::new(), skip, pace: Pace::new(rate), expected, received: 0 })
    }

    /// The next `length` bytes, complete.
    pub async fn piece(&mut self, length: usize) -> Result<Vec<u8>, TransferError> {
        let mut piece = Vec::with_capacity(length);
        while piece.len() < length {
            if self.rest.is_empty() && !self.receive().await? {
                return Err(TransferError::Length { url: self.url.clone(), expected: self.expected, found: self.received });
            }
            let skipped = self.rest.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            let _ = self.rest.split_to(skipped);
            self.skip -= skipped as u64;
            let n = self.rest.len().min(length - piece.len());
            piece.extend_from_slice(&self.rest.split_to(n));
        }
        Ok(piece)
    }

    /// Nothing may follow the last piece.
    pub async fn end(mut self) -> Result<(), TransferError> {
        while self.rest.is_empty() && self.receive().await? {}
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(TransferError::Length { url: self.url, expected: self.expected, found: self.received })
    }

    async fn receive(&mut self) -> Result<bool, TransferError> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|e| TransferError::Request { url: self.url.clone(), source: e.without_url() })?;
        let Some(chunk) = chunk else { return Ok(false) };
        self.received += chunk.len() as u64;
        self.rest = chunk;
        self.pace.wait(self.received).await;
        Ok(true)
    }
}

/// Is the answer's `Content-Range` `bytes START-…`? (RFC 9110, 14.4)
fn starts_at(response: &Response, start: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok()) == Some(start)
}

/// Seconds only: the date form would compare this server's clock with the store's.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Keeps the average below a rate.
struct Pace {
    rate: Option<u64>,
    began: Instant,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self { rate, began: Instant::now() }
    }

    async fn wait(&self, received: u64) {
        if let Some(rate) = self.rate {
            tokio::time::sleep_until(self.began + Duration::from_secs_f64(received as f64 / rate as f64)).await;
        }
    }
}
