//! The coordinator's two listeners: artifacts over TLS, and the status page in plain HTTP.
//!
//! ```text
//!  [http] listen         TLS, client certificates   /artifacts /uploads (by role), the status pages for operators
//!  [http] status_listen  plain, loopback by default /  /healthz  /metrics
//! ```

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::pki::Role;
use idle::IdleStream;
use tls::Peer;

pub mod idle;
pub mod metrics;
pub mod page;
pub mod tls;

/// Connections of one listener at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2048;
/// The TLS handshake, and the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A connection on which nothing moves. Above what a large upload takes to become durable.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// Requests under way may end in this time after a stop.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed: out of file descriptors does not pass by itself at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One listener with what it serves.
pub struct Listener {
    pub socket: TcpListener,
    /// None: plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    pub router: Router,
}

impl Listener {
    /// Serves until `stop`, then lets requests under way end. A connection's failure is its own.
    pub async fn run(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        while let Some(stream) = stop.run_until_cancelled(accept(&self.socket, &mut connections)).await {
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (tls, router, stop) = (self.tls.clone(), self.router.clone(), stop.clone());
            connections.spawn(async move {
                let _held = place;
                if let Err(e) = connection(stream, tls, router, stop).await {
                    tracing::debug!(error = %e, "a connection ended early");
                }
            });
        }
        drop(self.socket);
        if tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!(left = connections.len(), "requests were cut off by the stop");
        }
    }
}

/// The next connection; reaps those that ended meanwhile.
async fn accept(socket: &TcpListener, connections: &mut JoinSet<()>) -> TcpStream {
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => return stream,
                Err(e) => {
                    tracing::warn!(error = %e, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<Arc<ServerConfig>>, router: Router, stop: CancellationToken) -> io::Result<()> {
    // Answers are small or written in large pieces: waiting to fill packets only adds delay.
    stream.set_nodelay(true)?;
    let stream = IdleStream::new(stream, IDLE_MAX);
    let Some(tls) = tls else { return http(stream, Peer::Anonymous, router, stop).await };
    let handshake = tokio::time::timeout(HEAD_MAX, TlsAcceptor::from(tls).accept(stream));
    let stream = handshake.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let peer = Peer::of(stream.get_ref().1);
    http(stream, peer, router, stop).await
}

async fn http<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(HEAD_BYTES_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_BYTES_MAX as u32);
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

/// Lets only operators and coordinators through: for the status pages on the listener that is open to the network.
pub fn for_operators(router: Router) -> Router {
    router.layer(middleware::from_fn(operators_only))
}

async fn operators_only(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    match peer {
        Peer::Known { role: Role::Operator | Role::Coordinator, .. } => next.run(request).await,
        Peer::Anonymous => (StatusCode::UNAUTHORIZED, "an operator's certificate is needed\n").into_response(),
        _ => (StatusCode::FORBIDDEN, "this certificate is not an operator's\n").into_response(),
    }
}

#[cfg(test)]
mod tests;
