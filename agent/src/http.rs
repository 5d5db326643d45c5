//! `/healthz`, `/metrics`, `/standing/<app>` and `/ready/<app>`; on the second address only `/ready/<app>`, for load balancers.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use coord_proto::report::HealthState;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::machine::Standing;
use crate::presence::Presence;
use crate::reporter::Statuses;
use crate::run::{ReadyTable, Standings};

/// Connections of one listener at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// From the connection, or the last answer, to the end of a request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection is closed after this time, however much is asked on it.
const CONNECTION_MAX: Duration = Duration::from_secs(300);
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers under way at a stop may end in this time.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// What the pages are made from.
#[derive(Clone)]
pub struct Facts {
    pub ready: watch::Receiver<ReadyTable>,
    pub standings: watch::Receiver<Standings>,
    pub statuses: watch::Receiver<Statuses>,
    pub presence: watch::Receiver<Option<Presence>>,
}

/// All pages.
pub fn full(facts: Facts) -> Router {
    let own =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/metrics", get(metrics)).route("/standing/{app}", get(standing));
    own.with_state(facts.clone()).merge(readiness(facts))
}

/// Only readiness.
pub fn readiness(facts: Facts) -> Router {
    Router::new().route("/ready/{app}", get(ready)).with_state(facts)
}

/// Listens; the port is bound when this returns. `[::]` means every address, also on a host without IPv6.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(e) if address.ip() == Ipv6Addr::UNSPECIFIED && is_no_ipv6(&e) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn is_no_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

/// Serves until stopped. `ready_listen` is open to the network: clients are limited in number, and slow ones are sent away (I8).
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok((stream, _)) => _ = connections.spawn(connection(stream, router.clone(), stop.clone(), place)),
                // Out of file descriptors does not pass by itself at once.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accepting).await;
    // A kept connection must not hold up the stop.
    let _ = tokio::time::timeout(STOP_GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

/// One connection, for a limited time: pages are small, and load balancers connect anew.
async fn connection(stream: TcpStream, router: Router, stop: CancellationToken, _place: OwnedSemaphorePermit) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    tokio::select! {
        // Its failure is its client's.
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(CONNECTION_MAX) => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(HEAD_MAX, connection).await;
}

/// 200 while the app takes traffic here, 503 from before its drain until after its health, 404 for an app unknown here.
async fn ready(State(facts): State<Facts>, Path(app): Path<String>) -> (StatusCode, &'static str) {
    let table = facts.ready.borrow();
    match table.iter().find(|(name, _)| name.as_str() == app) {
        Some((_, true)) => (StatusCode::OK, "ready\n"),
        Some((_, false)) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        None => (StatusCode::NOT_FOUND, "no such app here\n"),
    }
}

/// Where an app stands, for `coord-agent wait-ready`. An app that was never here is one that nobody spoke of yet.
async fn standing(State(facts): State<Facts>, Path(app): Path<String>) -> Json<Standing> {
    let table = facts.standings.borrow();
    let found = table.iter().find(|(name, _)| name.as_str() == app).map(|(_, standing)| standing.clone());
    Json(found.unwrap_or(Standing::Untold { release: None }))
}

/// Prometheus text format 0.0.4.
async fn metrics(State(facts): State<Facts>) -> String {
    let mut text = String::new();
    let present = facts.presence.borrow().is_some();
    let _ = writeln!(text, "# HELP coord_agent_present Whether this server is registered in the store.\n# TYPE coord_agent_present gauge");
    let _ = writeln!(text, "coord_agent_present {}", i32::from(present));
    let _ = writeln!(
        text,
        "# HELP coord_agent_app_healthy Whether what runs has passed its health check.\n# TYPE coord_agent_app_healthy gauge"
    );
    let statuses = facts.statuses.borrow().clone();
    for (app, status) in &statuses {
        let _ = writeln!(text, "coord_agent_app_healthy{{app=\"{app}\"}} {}", i32::from(status.health == HealthState::Healthy));
    }
    let _ = writeln!(text, "# HELP coord_agent_app_seq Sequence number of the release that runs.\n# TYPE coord_agent_app_seq gauge");
    for (app, status) in &statuses {
        let seq = status.running.as_ref().map_or(0, |r| r.seq.0);
        let _ = writeln!(text, "coord_agent_app_seq{{app=\"{app}\"}} {seq}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_is_200_503_or_404() {
        coord_proto::tls::install_provider();
        let (table, ready) = watch::channel(ReadyTable::from([("a".parse().expect("app"), true), ("b".parse().expect("app"), false)]));
        let (_statuses, statuses) = watch::channel(Statuses::new());
        let (_standings, standings) = watch::channel(Standings::new());
        let (_presence, presence) = watch::channel(None);
        let listener = bind("127.0.0.1:0".parse().expect("address")).await.expect("port");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, full(Facts { ready, standings, statuses, presence }), stop.clone()));
        let client = reqwest::Client::builder().no_proxy().build().expect("client");
        for (path, code) in [("/ready/a", 200), ("/ready/b", 503), ("/ready/c", 404), ("/healthz", 200), ("/metrics", 200)] {
            assert_eq!(client.get(format!("{base}{path}")).send().await.expect("answer").status().as_u16(), code, "{path}");
        }
        table.send_replace(ReadyTable::from([("a".parse().expect("app"), false)]));
        assert_eq!(client.get(format!("{base}/ready/a")).send().await.expect("answer").status().as_u16(), 503);
        stop.cancel();
        server.await.expect("ended");
    }

    /// More clients than there are places, each silent: a load balancer still gets its answer, within the time for a head.
    #[tokio::test]
    async fn silent_clients_are_sent_away() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (_ready, ready) = watch::channel(ReadyTable::from([("a".parse().expect("app"), true)]));
        let (_statuses, statuses) = watch::channel(Statuses::new());
        let (_standings, standings) = watch::channel(Standings::new());
        let (_presence, presence) = watch::channel(None);
        let listener = bind("127.0.0.1:0".parse().expect("address")).await.expect("port");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, readiness(Facts { ready, standings, statuses, presence }), stop.clone()));
        let mut silent = vec![];
        for _ in 0..CONNECTIONS_MAX + 8 {
            silent.push(TcpStream::connect(address).await.expect("connected"));
        }
        let mut balancer = TcpStream::connect(address).await.expect("connected");
        balancer.write_all(b"GET /ready/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("asked");
        let mut answer = String::new();
        tokio::time::timeout(HEAD_MAX * 4, balancer.read_to_string(&mut answer)).await.expect("in time").expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        stop.cancel();
        server.await.expect("ended");
    }
}
