use std::convert::Infallible;

use super::*;
use crate::artifacts::local::LocalArtifacts;

const SIZE_MAX: u64 = 1 << 20;

struct Bench {
    dir: tempfile::TempDir,
    store: SharedArtifacts,
    uploads: Uploads,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("directory");
    let store: SharedArtifacts = Arc::new(LocalArtifacts::open(&dir.path().join("artifacts")).expect("store"));
    let uploads = open(&dir, &store);
    Bench { dir, store, uploads }
}

fn open(dir: &tempfile::TempDir, store: &SharedArtifacts) -> Uploads {
    Uploads::open(&dir.path().join("artifacts/uploads"), store.clone(), SIZE_MAX).expect("uploads")
}

type Chunks = futures::stream::Iter<std::vec::IntoIter<Result<Bytes, Infallible>>>;

fn chunks(parts: &[&'static str]) -> Chunks {
    futures::stream::iter(parts.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect::<Vec<_>>())
}

impl Bench {
    async fn append(&self, digest: &Digest, at: At, total: Option<u64>, parts: &[&'static str]) -> Result<Arrival, UploadError> {
        self.uploads.append(digest, at, total, chunks(parts)).await
    }

    fn parts(&self) -> usize {
        fs::read_dir(self.dir.path().join("artifacts/uploads")).expect("directory").count()
    }
}

#[tokio::test]
async fn bytes_with_the_digest_are_kept_and_no_part_stays() {
    let bench = bench();
    let digest = Digest::of(b"hello");
    let arrival = bench.append(&digest, At::Start, Some(5), &["he", "llo"]).await.expect("kept");
    assert_eq!(arrival, Arrival::Complete);
    assert_eq!(bench.store.size(&digest).await.expect("size"), Some(5));
    assert_eq!(bench.parts(), 0);
}

#[tokio::test]
async fn bytes_with_another_digest_are_removed() {
    let bench = bench();
    let digest = Digest::of(b"hello");
    let refused = bench.append(&digest, At::Start, Some(5), &["jello"]).await;
    assert!(matches!(refused, Err(UploadError::Mismatch { found, .. }) if found == Digest::of(b"jello")));
    assert_eq!(bench.store.size(&digest).await.expect("size"), None);
    assert_eq!(bench.parts(), 0);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_ended_also_after_a_restart() {
    let mut bench = bench();
    let digest = Digest::of(b"hello world");
    let arrival = bench.append(&digest, At::Start, None, &["hel", "lo"]).await.expect("part");
    assert_eq!(arrival, Arrival::Partial { offset: 5 });
    assert_eq!(bench.uploads.offset(&digest).await.expect("offset"), 5);
    assert!(matches!(bench.append(&digest, At::Offset(3), None, &["x"]).await, Err(UploadError::Offset { asked: 3, right: 5 })));
    bench.append(&digest, At::Offset(5), None, &[" wor"]).await.expect("remembered hash");

    bench.uploads = open(&bench.dir, &bench.store);
    assert_eq!(bench.uploads.offset(&digest).await.expect("offset"), 9);
    assert_eq!(bench.append(&digest, At::Offset(9), Some(11), &["ld"]).await.expect("hash read again"), Arrival::Complete);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_what_it_sent() {
    let bench = bench();
    let digest = Digest::of(b"hello");
    let broken = futures::stream::iter([Ok(Bytes::from_static(b"hel")), Err("connection reset")]);
    let ended = bench.uploads.append(&digest, At::Start, Some(5), broken).await;
    assert!(matches!(ended, Err(UploadError::BrokenOff { offset: 3 })));
    assert_eq!(bench.append(&digest, At::Offset(3), Some(5), &["lo"]).await.expect("goes on"), Arrival::Complete);
}

#[tokio::test]
async fn a_dropped_handler_leaves_hash_and_file_in_step() {
    let bench = bench();
    let digest = Digest::of(b"hello");
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let chunks = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut upload = Box::pin(bench.uploads.append(&digest, At::Start, Some(5), chunks));
    sender.send(Ok(Bytes::from_static(b"he"))).await.expect("taken");
    // The channel has one place: it is free again only once the upload took the first chunk on.
    tokio::select! {
        _ = &mut upload => panic!("the upload is not complete"),
        sent = sender.send(Ok(Bytes::from_static(b"l"))) => sent.expect("taken"),
    }
    drop(upload);
    let offset = loop {
        match bench.uploads.offset(&digest).await {
            Err(UploadError::Busy) => tokio::task::yield_now().await,
            offset => break offset.expect("offset"),
        }
    };
    let rest = &"hello"[usize::try_from(offset).expect("small")..];
    assert_eq!(bench.append(&digest, At::Offset(offset), Some(5), &[rest]).await.expect("goes on"), Arrival::Complete);
}

#[tokio::test]
async fn one_writer_per_digest() {
    let bench = bench();
    let digest = Digest::of(b"hello");
    let claim = bench.uploads.claim(&digest).expect("free");
    assert!(matches!(bench.append(&digest, At::Start, Some(5), &["hello"]).await, Err(UploadError::Busy)));
    assert!(matches!(bench.uploads.offset(&digest).await, Err(UploadError::Busy)));
    drop(claim);
    assert_eq!(bench.append(&digest, At::Start, Some(5), &["hello"]).await.expect("free again"), Arrival::Complete);
}

#[tokio::test]
async fn uploads_at_once_are_limited() {
    let bench = bench();
    let claims: Vec<_> = (0..UPLOADS_MAX).map(|n| bench.uploads.claim(&Digest::of(&[n as u8])).expect("free")).collect();
    assert!(matches!(bench.uploads.claim(&Digest::of(b"one more")), Err(UploadError::Busy)));
    drop(claims);
    assert!(bench.uploads.claim(&Digest::of(b"one more")).is_ok());
}

#[tokio::test]
async fn more_than_announced_or_allowed_is_removed() {
    let bench = bench();
    let digest = Digest::of(b"hello");
    assert!(matches!(bench.append(&digest, At::Start, Some(4), &["he", "llo"]).await, Err(UploadError::TooLong { limit: 4 })));
    let huge = futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 65536])));
    let refused = bench.uploads.append(&digest, At::Start, None, huge).await;
    assert!(matches!(refused, Err(UploadError::TooLong { limit: SIZE_MAX })));
    assert_eq!(bench.parts(), 0);
}

#[tokio::test]
async fn a_client_that_falls_silent_is_given_up() {
    let mut bench = bench();
    bench.uploads.idle_max = Duration::from_millis(20);
    let silent = futures::stream::pending::<Result<Bytes, Infallible>>();
    let ended = bench.uploads.append(&Digest::of(b"hello"), At::Start, Some(5), silent).await;
    assert!(matches!(ended, Err(UploadError::BrokenOff { offset: 0 })));
}

#[test]
fn only_stale_parts_are_swept() {
    let dir = tempfile::tempdir().expect("directory");
    for name in ["old.part", "other"] {
        fs::write(dir.path().join(name), "x").expect("file");
    }
    let at = fs::metadata(dir.path().join("old.part")).and_then(|m| m.modified()).expect("time");
    remove_stale(dir.path(), at + STALE).expect("swept");
    assert!(dir.path().join("old.part").exists());
    remove_stale(dir.path(), at + STALE + Duration::from_secs(60)).expect("swept");
    assert!(!dir.path().join("old.part").exists());
    assert!(dir.path().join("other").exists(), "not an upload");
}
