//! Time is paused: the runtime moves it on when nothing else can happen, so every deadline is met at once.

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::pki::Authority;

struct Bench {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

async fn start(tls: Option<Arc<ServerConfig>>, router: Router) -> Bench {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("socket");
    let address = socket.local_addr().expect("address");
    let stop = CancellationToken::new();
    let running = tokio::spawn(Listener { socket, tls, router }.run(stop.clone()));
    Bench { address, stop, running }
}

/// Sends `start` and nothing more; how long until the listener hangs up?
async fn patience(bench: &Bench, start: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(bench.address).await.expect("connected");
    stream.write_all(start).await.expect("sent");
    let _ = stream.read_to_end(&mut Vec::new()).await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_cut_off() {
    let bench = start(None, Router::new()).await;
    let waited = patience(&bench, b"GET / HTTP/1.1\r\nHost:").await;
    assert!(waited >= HEAD_MAX && waited < HEAD_MAX * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let bench = start(None, Router::new().route("/", get(std::future::pending::<()>))).await;
    let waited = patience(&bench, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(waited >= IDLE_MAX && waited < IDLE_MAX * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_handshake_is_cut_off() {
    coord_proto::tls::install_provider();
    let dir = tempfile::tempdir().expect("directory");
    let authority = Authority::create(dir.path()).expect("authority");
    let own = authority.issue(dir.path(), "coordinator", Role::Coordinator, &["127.0.0.1"]).expect("certificate");
    let tls = tls::server_config(&own.certificate, &own.key, authority.certificate()).expect("tls");
    let bench = start(Some(tls), Router::new()).await;
    let waited = patience(&bench, &[0x16, 0x03, 0x01]).await;
    assert!(waited >= HEAD_MAX && waited < HEAD_MAX * 2, "{waited:?}");
}

/// In real time: a paused clock could end the connection before its answer.
#[tokio::test]
async fn a_large_head_is_refused() {
    let bench = start(None, Router::new().route("/", get(|| async { "" }))).await;
    let mut stream = TcpStream::connect(bench.address).await.expect("connected");
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever_for_requests() {
    let bench = start(None, Router::new().route("/", get(std::future::pending::<()>))).await;
    let mut stream = TcpStream::connect(bench.address).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    // The connection is accepted before the stop: the kernel's queue is served in order.
    drop(TcpStream::connect(bench.address).await);
    let begun = Instant::now();
    bench.stop.cancel();
    bench.running.await.expect("no panic");
    assert!(begun.elapsed() <= GRACE * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_pages_on_the_open_listener_are_for_operators() {
    use tower::ServiceExt as _;

    let router = for_operators(Router::new().route("/", get(|| async { "fleet" })));
    let ask = async |peer: Peer| {
        let request = http::Request::get("/").body(axum::body::Body::empty()).expect("request");
        router.clone().layer(Extension(peer)).oneshot(request).await.expect("answer").status()
    };
    let known = |role| Peer::Known { role, name: "x".into() };
    assert_eq!(ask(known(Role::Operator)).await, StatusCode::OK);
    assert_eq!(ask(known(Role::Node)).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Peer::Unknown).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Peer::Anonymous).await, StatusCode::UNAUTHORIZED);
}
