//! One request for the rest of an artifact.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, timeout};
use url::Url;

use super::Fetcher;
use super::sources::Source;

/// A header's value, in an error.
const SHOWN_MAX: usize = 40;

/// Why one request did not bring what it should.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("`{base}` is not an address that artifacts may come from: it must be https, or http to this machine, and not link-local")]
    Address { base: String },
    #[error("GET {url} failed")]
    Request {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("GET {url}: no answer within {after:?}")]
    NoAnswer { url: String, after: Duration },
    #[error("GET {url}: nothing more came for {after:?}")]
    Idle { url: String, after: Duration },
    #[error("GET {url} gives {found} bytes in {over:?}, less than {least} per second")]
    TooSlow { url: String, found: u64, over: Duration, least: u64 },
    #[error("GET {url} redirects to {to}; only a few redirects inside one store are followed")]
    Redirect { url: String, to: String },
    #[error("GET {url} gives an answer that is encoded as {encoding:?}, which was not asked for")]
    Encoded { url: String, encoding: String },
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
    least: Least,
    idle: Duration,
    expected: u64,
    received: u64,
}

impl Transfer {
    /// Asks for the bytes `[start, size)`.
    pub async fn start(fetcher: &Fetcher, source: &Source, start: u64, size: u64) -> Result<Self, TransferError> {
        let (url, patience) = (source.shown(), fetcher.patience);
        let mut request = fetcher.client.get(source.url.clone()).header(ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let answer = timeout(patience.headers, request.send()).await;
        let answer = answer.map_err(|_| TransferError::NoAnswer { url: url.clone(), after: patience.headers })?;
        let response = answer.map_err(|e| TransferError::Request { url: url.clone(), source: e.without_url() })?;
        let skip = match response.status() {
            StatusCode::OK => start,
            StatusCode::PARTIAL_CONTENT if starts_at(&response, start) => 0,
            StatusCode::PARTIAL_CONTENT => return Err(TransferError::Range { url }),
            status if status.is_redirection() => return Err(TransferError::Redirect { url, to: redirected_to(&response) }),
            status => return Err(TransferError::Status { url, status, retry_after: retry_after(&response) }),
        };
        if let Some(encoding) = encoding(&response) {
            return Err(TransferError::Encoded { url, encoding });
        }
        let expected = size - start + skip;
        match response.content_length() {
            Some(found) if found != expected => return Err(TransferError::Length { url, expected, found }),
            _ => {}
        }
        let (pace, least) = (Pace::new(fetcher.rate), Least::new(patience.min_rate, patience.idle));
        Ok(Self { url, response, rest: bytes::Bytes::new(), skip, pace, least, idle: patience.idle, expected, received: 0 })
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
        let began = Instant::now();
        let chunk = timeout(self.idle, self.response.chunk()).await;
        let chunk = chunk.map_err(|_| TransferError::Idle { url: self.url.clone(), after: self.idle })?;
        let chunk = chunk.map_err(|e| TransferError::Request { url: self.url.clone(), source: e.without_url() })?;
        let Some(chunk) = chunk else { return Ok(false) };
        if let Some((found, over, least)) = self.least.missed_by(chunk.len() as u64, began.elapsed()) {
            return Err(TransferError::TooSlow { url: self.url.clone(), found, over, least });
        }
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

/// Where a redirect leads, host and no more: the rest may be meant for somebody else.
fn redirected_to(response: &Response) -> String {
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
    let url = location.and_then(|text| response.url().join(text).ok());
    url.map_or_else(|| "nowhere".to_owned(), |url| shortened(&Url::origin(&url).ascii_serialization()))
}

/// The body is taken as it was sent; what says that it is something else is not the artifact.
fn encoding(response: &Response) -> Option<String> {
    let named = response.headers().get(CONTENT_ENCODING)?;
    (named != "identity").then(|| shortened(&String::from_utf8_lossy(named.as_bytes())))
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// Is a store too slow? Only time that was spent waiting for it counts: not what our own rate, or a busy disk, took.
struct Least {
    rate: Option<u64>,
    window: Duration,
    waited: Duration,
    came: u64,
}

impl Least {
    fn new(rate: Option<u64>, window: Duration) -> Self {
        Self { rate, window, waited: Duration::ZERO, came: 0 }
    }

    /// Counts what came after a wait; once a window is over and was too poor: bytes, over how long, least rate.
    fn missed_by(&mut self, came: u64, waited: Duration) -> Option<(u64, Duration, u64)> {
        self.came += came;
        self.waited += waited;
        let rate = self.rate.filter(|_| self.waited >= self.window)?;
        let (came, over) = (std::mem::take(&mut self.came), std::mem::take(&mut self.waited));
        (came < (rate as f64 * over.as_secs_f64()) as u64).then_some((came, over, rate))
    }
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
