use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{Extension, Request};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use coord_proto::ids::Digest;
use coord_proto::manifest::Compression;
use http::Method;

use super::*;
use crate::artifacts::SharedArtifacts;
use crate::artifacts::local::LocalArtifacts;
use crate::artifacts::server::ArtifactServer;
use crate::artifacts::upload::Uploads;
use crate::pki::Role;
use crate::web::tls::Peer;

struct Bench {
    dir: tempfile::TempDir,
    url: String,
    store: SharedArtifacts,
    patches: Arc<AtomicU32>,
}

/// The real store behind a door that turns away the PATCH requests with the given numbers, counted from 1.
async fn bench(turned_away: &'static [u32]) -> Bench {
    bench_with(turned_away, StatusCode::SERVICE_UNAVAILABLE).await
}

async fn bench_with(turned_away: &'static [u32], with: StatusCode) -> Bench {
    let dir = tempfile::tempdir().expect("directory");
    let store: SharedArtifacts = Arc::new(LocalArtifacts::open(&dir.path().join("kept")).expect("store"));
    let uploads = Uploads::open(&dir.path().join("spool"), store.clone(), 1 << 30).expect("spool");
    let patches = Arc::new(AtomicU32::new(0));
    let count = patches.clone();
    let door = move |request: Request, next: Next| {
        let count = count.clone();
        async move {
            let patch = request.method() == Method::PATCH;
            if patch && turned_away.contains(&(count.fetch_add(1, Ordering::SeqCst) + 1)) {
                return with.into_response();
            }
            next.run(request).await
        }
    };
    let operator = Peer::Known { role: Role::Operator, name: "operator".into() };
    let server = ArtifactServer::new(store.clone(), uploads, 4, 1 << 30);
    let router = server.router().layer(from_fn(door)).layer(Extension(operator));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Bench { dir, url, store, patches }
}

fn uploader() -> Uploader {
    coord_proto::tls::install_provider();
    Uploader::with(Client::builder()).expect("client")
}

impl Bench {
    fn artifact(&self, len: usize) -> (Artifact, PathBuf) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        let path = self.dir.path().join("artifact");
        std::fs::write(&path, &bytes).expect("file");
        let artifact = Artifact {
            digest: Digest::of(&bytes),
            compression: Compression::Zstd,
            size: len as u64,
            unpacked_size: 1,
            entries: 1,
            piece_size: len as u64,
            pieces: vec![Digest::of(&bytes)],
            strip_components: 0,
            allow_symlinks_to: vec![],
        };
        (artifact, path)
    }

    async fn send(&self, artifact: &Artifact, path: &Path) -> Result<Uploaded, UploadError> {
        uploader().ensure(std::slice::from_ref(&self.url), artifact, path, &mut |_| ()).await
    }
}

#[tokio::test]
async fn an_artifact_is_sent_once() {
    let bench = bench(&[]).await;
    let (artifact, path) = bench.artifact(PART_BYTES as usize * 2 + 7);
    let mut seen = Vec::new();
    let sent = uploader().ensure(std::slice::from_ref(&bench.url), &artifact, &path, &mut |n| seen.push(n)).await;
    assert_eq!(sent.expect("sent"), Uploaded::Sent);
    assert_eq!(seen, [PART_BYTES, 2 * PART_BYTES, artifact.size]);
    assert_eq!(bench.store.size(&artifact.digest).await.expect("store"), Some(artifact.size));
    assert_eq!(bench.send(&artifact, &path).await.expect("there"), Uploaded::WasThere);
    assert_eq!(bench.patches.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_was() {
    let bench = bench(&[2, 3]).await;
    let (artifact, path) = bench.artifact(PART_BYTES as usize * 3);
    assert_eq!(bench.send(&artifact, &path).await.expect("sent"), Uploaded::Sent);
    assert_eq!(bench.patches.load(Ordering::SeqCst), 5, "three parts and two refusals: no part twice");
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on() {
    let bench = bench_with(&[2], StatusCode::REQUEST_TIMEOUT).await;
    let (artifact, path) = bench.artifact(PART_BYTES as usize * 2);
    assert_eq!(bench.send(&artifact, &path).await.expect("sent"), Uploaded::Sent);
    assert_eq!(bench.patches.load(Ordering::SeqCst), 3);
}

/// A coordinator that died between an upload's last byte and its keeping leaves such parts behind.
#[tokio::test]
async fn a_whole_part_that_was_not_kept_is_finished() {
    let bench = bench(&[]).await;
    let (artifact, path) = bench.artifact(100);
    let part = bench.dir.path().join("spool").join(format!("{}.part", artifact.digest));
    std::fs::copy(&path, &part).expect("part");
    assert_eq!(bench.send(&artifact, &path).await.expect("sent"), Uploaded::Sent);
    assert_eq!(bench.store.size(&artifact.digest).await.expect("store"), Some(artifact.size));
    assert!(!part.exists());
}

#[tokio::test]
async fn a_part_of_other_bytes_is_dropped_and_the_next_upload_begins_anew() {
    let bench = bench(&[]).await;
    let (artifact, path) = bench.artifact(100);
    for len in [100, 101] {
        std::fs::write(bench.dir.path().join("spool").join(format!("{}.part", artifact.digest)), vec![7; len]).expect("part");
        let refused = bench.send(&artifact, &path).await.expect_err("refused");
        assert!(matches!(refused, UploadError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, .. }), "{refused}");
    }
    assert_eq!(bench.send(&artifact, &path).await.expect("sent"), Uploaded::Sent);
}

#[tokio::test]
async fn bytes_that_do_not_match_the_digest_are_refused_and_not_tried_again() {
    let bench = bench(&[]).await;
    let (artifact, path) = bench.artifact(100);
    std::fs::write(&path, [7; 100]).expect("file");
    let refused = bench.send(&artifact, &path).await.expect_err("refused");
    assert!(matches!(refused, UploadError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, .. }), "{refused}");
    assert_eq!(bench.patches.load(Ordering::SeqCst), 1);
    assert_eq!(bench.store.size(&artifact.digest).await.expect("store"), None);
}

#[tokio::test]
async fn the_next_store_is_tried_and_none_is_an_error() {
    let bench = bench(&[]).await;
    let (artifact, path) = bench.artifact(100);
    let stores = ["http://127.0.0.1:1".to_owned(), bench.url.clone()];
    assert_eq!(uploader().ensure(&stores, &artifact, &path, &mut |_| ()).await.expect("sent"), Uploaded::Sent);
    let none = uploader().ensure(&[], &artifact, &path, &mut |_| ()).await;
    assert!(matches!(none, Err(UploadError::NoStore)));
}
