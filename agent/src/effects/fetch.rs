//! Downloads an artifact piece by piece, from several stores, with resume.
//!
//! While one piece arrives, the one before it is verified and the one before that unpacked.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coord_proto::manifest::Artifact;
use rand::Rng;
use reqwest::redirect;
use tokio::task::JoinHandle;
use url::Url;

use super::pieces::{Piece, PieceSender};
use super::verify::Verifier;
use crate::config::{Patience, is_loopback};
use crate::durable::DurableError;

mod sources;
mod transfer;

use sources::{Source, Sources};
use transfer::Transfer;
pub use transfer::TransferError;

const REDIRECTS_MAX: usize = 3;
/// Longest wait before the first request of a staging.
const SPREAD_MAX: Duration = Duration::from_secs(2);
/// 100 MB per second, what a store with a gigabit or little more gives to all.
const SPREAD_BYTES_PER_MILLI: u64 = 100_000;

/// How artifacts are downloaded: certificates as PEM bytes, all optional. Not to be shown: there is a private key in it.
#[derive(Clone, Default)]
pub struct FetchOptions {
    /// The only certificate authorities that are trusted; none: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Certificate chain and key of this server, in one PEM.
    pub identity_pem: Option<Vec<u8>>,
    /// None unless configured; the environment's proxy variables are not read.
    pub proxy: Option<String>,
    /// Bytes per second.
    pub rate: Option<u64>,
    pub patience: Patience,
}

/// Downloads artifacts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: reqwest::Client,
    rate: Option<u64>,
    patience: Patience,
}

/// Why an artifact could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the download options are not usable")]
    Options(#[source] reqwest::Error),
    #[error("no artifact store is known; is a coordinator running?")]
    NoStores,
    #[error("gave up after {tries} tries at {stores} stores")]
    GaveUp {
        tries: u32,
        stores: usize,
        #[source]
        last: TransferError,
    },
    #[error("every store sent bytes that are not the signed ones")]
    NoHonestStore(#[source] TransferError),
    #[error("all pieces are the signed ones, but the whole has another digest; the manifest contradicts itself, publish again")]
    WholeDigest,
    #[error("unpacking stopped")]
    UnpackingStopped,
    #[error("the verifying thread ended unexpectedly")]
    Thread(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Part(#[from] DurableError),
}

/// How many bytes came from where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    pub downloaded: u64,
    /// From pieces that an earlier try kept.
    pub resumed: u64,
}

/// Called with bytes verified, of how many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

impl Fetcher {
    /// Builds the HTTP client.
    ///
    /// # Errors
    /// A PEM or the proxy's address cannot be read.
    pub fn new(options: FetchOptions) -> Result<Self, FetchError> {
        let client = build(&options).map_err(FetchError::Options)?;
        Ok(Self { client, rate: options.rate.filter(|r| *r > 0), patience: options.patience })
    }

    /// Sends every piece of `artifact` to `out`, verified and in order, then [`Piece::End`]. Stores are tried in the order of `bases`
    /// (`GET <base>/artifacts/<digest>`); one that sends wrong bytes is not asked again.
    ///
    /// # Errors
    /// No store gave the signed bytes, or pieces cannot be kept in `parts`. Pieces verified so far wait there for the next try.
    pub async fn fetch(
        &self,
        artifact: &Artifact,
        bases: &[String],
        parts: &Path,
        out: PieceSender,
        progress: Progress<'_>,
    ) -> Result<Fetched, FetchError> {
        let mut line = Line::open(artifact, parts, out, progress).await?;
        line.resume().await?;
        let mut fetched = Fetched { downloaded: 0, resumed: line.done() };
        let mut sources = Sources::new(bases, &artifact.digest);
        if !line.complete() {
            let part: f64 = rand::rng().random();
            tokio::time::sleep(spread(artifact.size).mul_f64(part)).await;
        }
        while !line.complete() {
            let before = line.next;
            let source = sources.pick().await?;
            let ended = self.download(&source, &mut line).await;
            // A piece that was still being verified when the transfer ended counts as well.
            let ended = match line.settle().await? {
                Settled::Wrong(index) => Err(source.wrong_piece(index)),
                Settled::Right => ended,
            };
            if line.next > before {
                sources.progressed();
            }
            match ended {
                Err(Ended::Fatal(e)) => return Err(e),
                Err(Ended::Source(e)) => sources.failed(&source, e)?,
                Ok(()) => {}
            }
        }
        fetched.downloaded = artifact.size - fetched.resumed;
        line.finish().await?;
        Ok(fetched)
    }

    /// One request, from the first missing piece to the end.
    async fn download(&self, source: &Source, line: &mut Line<'_>) -> Result<(), Ended> {
        let mut transfer = Transfer::start(self, source, line.start(), line.artifact.size).await?;
        while line.queued() < line.artifact.pieces.len() {
            let (start, end) = line.artifact.piece_range(line.queued());
            let piece = transfer.piece((end - start) as usize).await?;
            if let Settled::Wrong(index) = line.push(piece).await? {
                return Err(source.wrong_piece(index));
            }
        }
        Ok(transfer.end().await?)
    }
}

/// Over how long the servers that are told to stage at once begin to download; each draws its own time from it. An agent does
/// not know how many they are, but what a herd costs the store, and how long a download takes anyway, both grow with the
/// size: a small release on a few servers is not slowed.
fn spread(bytes: u64) -> Duration {
    Duration::from_millis(bytes / SPREAD_BYTES_PER_MILLI).min(SPREAD_MAX)
}

/// Why one request ended early.
enum Ended {
    /// Another try or another store may do better.
    Source(TransferError),
    Fatal(FetchError),
}

impl From<TransferError> for Ended {
    fn from(error: TransferError) -> Self {
        Self::Source(error)
    }
}

impl From<FetchError> for Ended {
    fn from(error: FetchError) -> Self {
        Self::Fatal(error)
    }
}

impl Source {
    fn wrong_piece(&self, index: usize) -> Ended {
        Ended::Source(TransferError::WrongPiece { url: self.shown(), index })
    }
}

fn build(options: &FetchOptions) -> Result<reqwest::Client, reqwest::Error> {
    let same_store = redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().map(Url::origin);
        if first == Some(attempt.url().origin()) && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
    });
    let mut builder = reqwest::Client::builder()
        .connect_timeout(options.patience.connect)
        .redirect(same_store)
        // One big body on one connection: HTTP/2's flow control only costs.
        .http1_only()
        .pool_idle_timeout(Duration::from_secs(5))
        .no_proxy();
    if let Some(pem) = &options.ca_pem {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    if let Some(pem) = &options.identity_pem {
        builder = builder.identity(reqwest::Identity::from_pem(pem)?);
    }
    if let Some(proxy) = &options.proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy)?);
    }
    builder.build()
}

/// TLS everywhere; plain HTTP only where it cannot leave the machine. Nothing link-local: there are a cloud's machine credentials.
fn allowed(url: &Url) -> bool {
    let encrypted = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url));
    encrypted && !is_link_local(url)
}

/// 169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291), and the one that EC2's metadata service has beside them, fd00:ec2::254.
fn is_link_local(url: &Url) -> bool {
    const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_link_local(),
        Some(url::Host::Ipv6(ip)) => {
            ip.is_unicast_link_local() || ip == EC2_METADATA || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local())
        }
        Some(url::Host::Domain(_)) | None => false,
    }
}

/// Was the piece before this one right?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Right,
    Wrong(usize),
}

type Verified = (Verifier, Result<Option<Vec<u8>>, DurableError>);

/// The assembly line: at most one piece is being verified while the next one arrives.
struct Line<'a> {
    artifact: &'a Artifact,
    out: PieceSender,
    progress: Progress<'a>,
    /// Idle, or at work on piece `next`.
    verifier: Option<Verifier>,
    work: Option<JoinHandle<Verified>>,
    /// Pieces verified and sent on.
    next: usize,
}

impl<'a> Line<'a> {
    async fn open(artifact: &'a Artifact, parts: &Path, out: PieceSender, progress: Progress<'a>) -> Result<Self, FetchError> {
        let (own, parts): (Artifact, PathBuf) = (artifact.clone(), parts.to_owned());
        let verifier = tokio::task::spawn_blocking(move || Verifier::open(own, &parts)).await.map_err(FetchError::Thread)??;
        Ok(Self { artifact, out, progress, verifier: Some(verifier), work: None, next: 0 })
    }

    fn complete(&self) -> bool {
        self.next == self.artifact.pieces.len()
    }

    /// Index of the piece to download next, the one at work counted as right.
    fn queued(&self) -> usize {
        self.next + usize::from(self.work.is_some())
    }

    /// First byte to download.
    fn start(&self) -> u64 {
        self.artifact.piece_range(self.queued()).0
    }

    /// Bytes verified.
    fn done(&self) -> u64 {
        self.artifact.piece_range(self.next).0.min(self.artifact.size)
    }

    /// Sends on what an earlier try kept.
    async fn resume(&mut self) -> Result<(), FetchError> {
        loop {
            self.begin(|verifier| verifier.resume_next());
            let before = self.next;
            self.settle().await?;
            if self.next == before {
                return Ok(());
            }
        }
    }

    /// Settles the piece at work, and puts the next one to work.
    async fn push(&mut self, piece: Vec<u8>) -> Result<Settled, FetchError> {
        let settled = self.settle().await?;
        if settled == Settled::Right {
            self.begin(|verifier| verifier.verify(piece));
        }
        Ok(settled)
    }

    fn begin(&mut self, job: impl FnOnce(&mut Verifier) -> Result<Option<Vec<u8>>, DurableError> + Send + 'static) {
        let mut verifier = self.verifier.take().expect("a job begins only after the one before was settled");
        self.work = Some(tokio::task::spawn_blocking(move || {
            let piece = job(&mut verifier);
            (verifier, piece)
        }));
    }

    /// Waits for the piece at work, if any, and sends it on.
    async fn settle(&mut self) -> Result<Settled, FetchError> {
        let Some(work) = self.work.take() else { return Ok(Settled::Right) };
        let (verifier, piece) = work.await.map_err(FetchError::Thread)?;
        self.verifier = Some(verifier);
        let Some(piece) = piece.map_err(FetchError::Part)? else { return Ok(Settled::Wrong(self.next)) };
        self.out.send(Piece::Verified(piece)).await.map_err(|_| FetchError::UnpackingStopped)?;
        self.next += 1;
        (self.progress)(self.done(), self.artifact.size);
        Ok(Settled::Right)
    }

    async fn finish(mut self) -> Result<(), FetchError> {
        let verifier = self.verifier.take().expect("the last piece was settled");
        let whole = tokio::task::spawn_blocking(move || verifier.is_whole()).await.map_err(FetchError::Thread)??;
        if !whole {
            return Err(FetchError::WholeDigest);
        }
        self.out.send(Piece::End).await.map_err(|_| FetchError::UnpackingStopped)
    }
}

#[cfg(test)]
mod tests;
