//! Over real TLS, as agents and `coordctl` speak to it.

use std::path::PathBuf;

use reqwest::{Certificate, Client, Identity, Response as Answer};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use bytes::Bytes;

use super::*;
use crate::artifacts::local::LocalArtifacts;
use crate::pki::{Authority, CertificateFiles};
use crate::web::{Listener, tls};

const BYTES: &[u8] = b"0123456789";
const SIZE_MAX: u64 = 64;

struct Bench {
    dir: tempfile::TempDir,
    url: String,
    authority: Authority,
    server: ArtifactServer,
    _stop: DropGuard,
}

impl Bench {
    async fn start(downloads: usize) -> Self {
        coord_proto::tls::install_provider();
        let dir = tempfile::tempdir().expect("directory");
        let authority = Authority::create(&dir.path().join("pki")).expect("authority");
        let own = authority.issue(dir.path(), "coordinator", Role::Coordinator, &["127.0.0.1"]).expect("certificate");
        let store: SharedArtifacts = Arc::new(LocalArtifacts::open(&dir.path().join("artifacts")).expect("store"));
        let uploads = Uploads::open(&dir.path().join("artifacts/uploads"), store.clone(), SIZE_MAX).expect("uploads");
        let server = ArtifactServer::new(store, uploads, downloads, SIZE_MAX);
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("socket");
        let url = format!("https://{}", socket.local_addr().expect("address"));
        let tls = tls::server_config(&own.certificate, &own.key, authority.certificate()).expect("tls");
        let stop = CancellationToken::new();
        let listener = Listener { socket, tls: Some(tls), router: server.clone().router() };
        tokio::spawn(listener.run(stop.clone()));
        Self { dir, url, authority, server, _stop: stop.drop_guard() }
    }

    fn client(&self, name: &str, role: Role) -> Client {
        let CertificateFiles { certificate, key } = self.authority.issue(self.dir.path(), name, role, &[]).expect("certificate");
        client(self.authority.certificate(), Some((certificate, key)))
    }

    fn operator(&self) -> Client {
        self.client("operator", Role::Operator)
    }

    fn node(&self) -> Client {
        self.client("node:web-1", Role::Node)
    }

    fn artifact(&self, digest: impl std::fmt::Display) -> String {
        format!("{}/artifacts/{digest}", self.url)
    }

    fn upload(&self, digest: &Digest) -> String {
        format!("{}/uploads/{digest}", self.url)
    }

    async fn kept(&self) -> Digest {
        let digest = Digest::of(BYTES);
        let answer = self.operator().put(self.artifact(&digest)).body(BYTES).send().await.expect("answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        digest
    }
}

fn client(ca: &std::path::Path, own: Option<(PathBuf, PathBuf)>) -> Client {
    let read = |path: &std::path::Path| std::fs::read(path).expect("file");
    let ca = Certificate::from_pem(&read(ca)).expect("authority");
    let builder = Client::builder().tls_certs_only([ca]).no_proxy();
    let builder = match own {
        None => builder,
        Some((cert, key)) => builder.identity(Identity::from_pem(&[read(&cert), read(&key)].concat()).expect("identity")),
    };
    builder.build().expect("client")
}

fn header(answer: &Answer, name: impl http::header::AsHeaderName) -> &str {
    answer.headers().get(name).map_or("", |v| v.to_str().expect("ASCII"))
}

#[tokio::test]
async fn an_artifact_is_served_with_its_digest_as_etag() {
    let bench = Bench::start(4).await;
    let digest = bench.kept().await;
    let answer = bench.node().get(bench.artifact(&digest)).send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, ETAG), format!("\"{digest}\""));
    assert_eq!(header(&answer, ACCEPT_RANGES), "bytes");
    assert_eq!(header(&answer, CONTENT_LENGTH), "10");
    assert_eq!(answer.bytes().await.expect("body"), BYTES);
    let head = bench.node().head(bench.artifact(&digest)).send().await.expect("answer");
    assert_eq!((head.status(), header(&head, CONTENT_LENGTH)), (StatusCode::OK, "10"));
}

#[tokio::test]
async fn one_range_is_served_and_one_outside_is_416() {
    let bench = Bench::start(4).await;
    let url = bench.artifact(bench.kept().await);
    let node = bench.node();
    let answer = node.get(&url).header(RANGE, "bytes=7-").send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!((header(&answer, CONTENT_RANGE), header(&answer, CONTENT_LENGTH)), ("bytes 7-9/10", "3"));
    assert_eq!(answer.bytes().await.expect("body"), &b"789"[..]);
    let answer = node.get(&url).header(RANGE, "bytes=10-").send().await.expect("answer");
    assert_eq!((answer.status(), header(&answer, CONTENT_RANGE)), (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10"));
    let answer = node.get(&url).header(RANGE, "bytes=7-").header(IF_RANGE, "\"other\"").send().await.expect("answer");
    assert_eq!((answer.status(), answer.bytes().await.expect("body").len()), (StatusCode::OK, 10));
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_no_digest_400() {
    let bench = Bench::start(4).await;
    let node = bench.node();
    let status = async |path: String| node.get(path).send().await.expect("answer").status();
    assert_eq!(status(bench.artifact(Digest::of(b"other"))).await, StatusCode::NOT_FOUND);
    std::fs::write(bench.dir.path().join("artifacts/secret"), "x").expect("file");
    for bad in ["secret", "..%2fpki%2fca-key.pem", "ABCD", &Digest::of(b"x").to_string().to_uppercase()] {
        assert_eq!(status(bench.artifact(bad)).await, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn without_a_certificate_nothing_is_given_or_taken() {
    let bench = Bench::start(4).await;
    let digest = bench.kept().await;
    let nobody = client(bench.authority.certificate(), None);
    for request in [
        nobody.get(bench.artifact(&digest)),
        nobody.put(bench.artifact(&digest)).body(BYTES),
        nobody.head(bench.upload(&digest)),
        nobody.patch(bench.upload(&digest)).header(UPLOAD_OFFSET, 0),
    ] {
        assert_eq!(request.send().await.expect("answer").status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_server_may_read_and_not_write_and_etcd_neither() {
    let bench = Bench::start(4).await;
    let digest = bench.kept().await;
    let (node, etcd) = (bench.node(), bench.client("etcd", Role::EtcdServer));
    for request in [
        node.put(bench.artifact(&digest)).body(BYTES),
        node.head(bench.upload(&digest)),
        node.patch(bench.upload(&digest)).header(UPLOAD_OFFSET, 0),
        etcd.get(bench.artifact(&digest)),
    ] {
        assert_eq!(request.send().await.expect("answer").status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_connection() {
    let bench = Bench::start(4).await;
    let digest = bench.kept().await;
    let elsewhere = Authority::create(&bench.dir.path().join("elsewhere")).expect("authority");
    let files = elsewhere.issue(&bench.dir.path().join("elsewhere"), "operator", Role::Operator, &[]).expect("certificate");
    let stranger = client(bench.authority.certificate(), Some((files.certificate, files.key)));
    assert!(stranger.get(bench.artifact(&digest)).send().await.is_err());
}

#[tokio::test]
async fn a_second_upload_of_the_same_is_done_at_once() {
    let bench = Bench::start(4).await;
    let digest = bench.kept().await;
    let operator = bench.operator();
    // The body is another one: it is not even read.
    let answer = operator.put(bench.artifact(&digest)).body("other").send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = operator.head(bench.upload(&digest)).send().await.expect("answer");
    assert_eq!((header(&answer, UPLOAD_OFFSET), header(&answer, UPLOAD_LENGTH)), ("10", "10"));
}

#[tokio::test]
async fn another_digest_is_422_and_nothing_is_kept() {
    let bench = Bench::start(4).await;
    let (operator, digest) = (bench.operator(), Digest::of(BYTES));
    let answer = operator.put(bench.artifact(&digest)).body("987").send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.text().await.expect("text").contains(&Digest::of(b"987").to_string()));
    assert_eq!(operator.get(bench.artifact(&digest)).send().await.expect("answer").status(), StatusCode::NOT_FOUND);
    let answer = operator.head(bench.upload(&digest)).send().await.expect("answer");
    assert_eq!(header(&answer, UPLOAD_OFFSET), "0");
}

#[tokio::test]
async fn an_upload_is_resumed_at_its_offset() {
    let bench = Bench::start(4).await;
    let (operator, digest) = (bench.operator(), Digest::of(BYTES));
    let patch = |at: u64, body: &'static [u8]| operator.patch(bench.upload(&digest)).header(UPLOAD_OFFSET, at).body(body).send();
    let answer = patch(0, &BYTES[..4]).await.expect("answer");
    assert_eq!((answer.status(), header(&answer, UPLOAD_OFFSET)), (StatusCode::NO_CONTENT, "4"));
    let answer = operator.head(bench.upload(&digest)).send().await.expect("answer");
    assert_eq!((answer.status(), header(&answer, UPLOAD_OFFSET)), (StatusCode::OK, "4"));
    let answer = patch(9, &BYTES[9..]).await.expect("answer");
    assert_eq!((answer.status(), header(&answer, UPLOAD_OFFSET)), (StatusCode::CONFLICT, "4"));
    assert_eq!(patch(4, &BYTES[4..]).await.expect("answer").status(), StatusCode::CREATED);
    assert_eq!(bench.node().get(bench.artifact(&digest)).send().await.expect("answer").bytes().await.expect("body"), BYTES);
}

#[tokio::test]
async fn a_complete_upload_with_another_digest_is_422() {
    let bench = Bench::start(4).await;
    let request = bench.operator().patch(bench.upload(&Digest::of(BYTES)));
    let answer = request.header(UPLOAD_OFFSET, 0).header(UPLOAD_LENGTH, 3).body("987").send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[test]
fn an_upload_that_broke_off_is_408_which_clients_try_again() {
    assert_eq!(Refusal::Upload(UploadError::BrokenOff { offset: 3 }).status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn lengths_are_needed_and_limited() {
    let bench = Bench::start(4).await;
    let (operator, digest) = (bench.operator(), Digest::of(BYTES));
    let endless = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"x"))]));
    let answer = operator.put(bench.artifact(&digest)).body(endless).send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::LENGTH_REQUIRED);
    let answer = operator.put(bench.artifact(&digest)).body(vec![0; 65]).send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer = operator.patch(bench.upload(&digest)).header(UPLOAD_OFFSET, 0).body(vec![0; 65]).send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer = operator.patch(bench.upload(&digest)).body("x").send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn downloads_beyond_the_limit_are_told_to_come_back() {
    let bench = Bench::start(1).await;
    let digest = bench.kept().await;
    // A body that is held and not read keeps its place.
    let held = bench.server.body(&digest, 0..10).await.expect("the one place");
    let answer = bench.node().get(bench.artifact(&digest)).send().await.expect("answer");
    assert_eq!((answer.status(), header(&answer, RETRY_AFTER)), (StatusCode::SERVICE_UNAVAILABLE, RETRY_SECONDS));
    assert_eq!(bench.node().head(bench.artifact(&digest)).send().await.expect("answer").status(), StatusCode::OK);
    drop(held);
    assert_eq!(bench.node().get(bench.artifact(&digest)).send().await.expect("answer").status(), StatusCode::OK);
}
