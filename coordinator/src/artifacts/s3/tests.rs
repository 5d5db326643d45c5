//! Against object_store's own in-memory store: paths, ranges, parts. A real S3 speaks in the tests of the whole.

use std::collections::BTreeSet;

use coord_proto::ids::Digest;
use futures::TryStreamExt as _;
use object_store::memory::InMemory;

use super::*;

async fn kept(store: &BucketArtifacts, bytes: &[u8]) -> Digest {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), bytes).expect("written");
    let digest = Digest::of(bytes);
    store.keep(&digest, file.path()).await.expect("kept");
    assert!(!file.path().exists(), "the spooled file is gone");
    digest
}

async fn read(store: &BucketArtifacts, digest: &Digest, range: Range<u64>) -> Vec<u8> {
    let stream = store.read(digest, range).await.expect("read").expect("there");
    stream.try_fold(Vec::new(), |all, chunk| async move { Ok([all, chunk.to_vec()].concat()) }).await.expect("bytes")
}

#[tokio::test]
async fn what_is_kept_is_read_in_ranges() {
    let bucket = Arc::new(InMemory::new());
    let store = BucketArtifacts::over(bucket.clone(), "releases/v1");
    let bytes: Vec<u8> = (0..PART_BYTES + 5).map(|i| (i % 251) as u8).collect();
    let digest = kept(&store, &bytes).await;
    assert_eq!(store.size(&digest).await.expect("size"), Some(bytes.len() as u64));
    let end = bytes.len() as u64;
    assert_eq!(read(&store, &digest, end - 10..end).await, bytes[bytes.len() - 10..]);
    assert_eq!(read(&store, &digest, 0..end).await, bytes, "both parts, in order");
    assert!(bucket.head(&Location::from(format!("releases/v1/{digest}"))).await.is_ok());
}

#[tokio::test]
async fn an_empty_artifact_is_one() {
    let store = BucketArtifacts::over(Arc::new(InMemory::new()), "");
    let digest = kept(&store, b"").await;
    assert_eq!(store.size(&digest).await.expect("size"), Some(0));
    assert_eq!(read(&store, &digest, 0..0).await, b"");
}

#[tokio::test]
async fn sweep_keeps_what_is_named_and_what_is_not_ours() {
    let bucket = Arc::new(InMemory::new());
    let store = BucketArtifacts::over(bucket.clone(), "releases");
    let (old, new) = (kept(&store, b"old").await, kept(&store, b"new").await);
    bucket.put(&Location::from("releases/README"), "notes".into()).await.expect("put");
    store.touch(&old).await.expect("touched");
    let sweep = async |keep: &BTreeSet<Digest>, age_min| store.sweep(keep, age_min).await.expect("swept");
    let named = BTreeSet::from([new.clone()]);
    assert_eq!(sweep(&BTreeSet::new(), Duration::ZERO).await.removed, 0, "an empty set is a failed read");
    assert_eq!(sweep(&named, Duration::from_secs(3600)).await.removed, 0, "young");
    let swept = sweep(&named, Duration::ZERO).await;
    assert_eq!((swept.removed, swept.bytes), (1, 3));
    assert_eq!(store.ages().await.expect("ages").into_keys().collect::<Vec<_>>(), [new]);
    assert!(matches!(bucket.head(&store.touched(&old)).await, Err(Error::NotFound { .. })));
    assert_eq!(store.size(&old).await.expect("size"), None);
    assert_eq!(store.remove(&old).await.expect("already gone"), 0);
    assert!(bucket.head(&Location::from("releases/README")).await.is_ok());
}
