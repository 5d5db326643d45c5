//! Artifacts in a directory of this machine: one file each, named by its digest.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use coord_proto::ids::Digest;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{ArtifactError, Artifacts, ByteStream};

/// Bytes read from disk at a time: large enough for one TLS record batch, small enough for hundreds of downloads.
const READ_BYTES: usize = 128 * 1024;

/// Artifacts in a directory.
#[derive(Debug, Clone)]
pub struct LocalArtifacts {
    dir: PathBuf,
}

impl LocalArtifacts {
    /// Opens the directory, making it when it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Self, ArtifactError> {
        fs::create_dir_all(dir).map_err(ArtifactError::file("making the artifact directory", dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

#[async_trait]
impl Artifacts for LocalArtifacts {
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, ArtifactError> {
        let path = self.path(digest);
        match tokio::fs::metadata(&path).await {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ArtifactError::file("looking at", &path)(e)),
        }
    }

    async fn read(&self, digest: &Digest, range: Range<u64>) -> Result<Option<ByteStream>, ArtifactError> {
        let path = self.path(digest);
        let mut file = match tokio::fs::File::open(&path).await {
            Ok(file) => file,
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(ArtifactError::file("opening", &path)(e)),
        };
        file.seek(io::SeekFrom::Start(range.start)).await.map_err(ArtifactError::file("reading", &path))?;
        file.set_max_buf_size(READ_BYTES);
        Ok(Some(ReaderStream::with_capacity(file.take(range.end - range.start), READ_BYTES).boxed()))
    }

    async fn keep(&self, digest: &Digest, file: &Path) -> Result<(), ArtifactError> {
        let (from, to, dir) = (file.to_owned(), self.path(digest), self.dir.clone());
        blocking(move || {
            // An upload may have waited for its end: its age begins now.
            set_young(&from).map_err(ArtifactError::file("touching", &from))?;
            fs::rename(&from, &to).map_err(ArtifactError::file("moving an upload to", &to))?;
            // The rename is durable only with its directory: an upload that was acknowledged survives a power cut.
            fs::File::open(&dir).and_then(|d| d.sync_all()).map_err(ArtifactError::file("syncing", &dir))
        })
        .await
    }

    async fn ages(&self) -> Result<BTreeMap<Digest, Duration>, ArtifactError> {
        let dir = self.dir.clone();
        blocking(move || ages_in(&dir, SystemTime::now()).map_err(ArtifactError::file("listing", &dir))).await
    }

    async fn touch(&self, digest: &Digest) -> Result<(), ArtifactError> {
        let path = self.path(digest);
        blocking(move || match set_young(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ArtifactError::file("touching", &path)(e)),
            _ => Ok(()),
        })
        .await
    }

    async fn remove(&self, digest: &Digest) -> Result<u64, ArtifactError> {
        let path = self.path(digest);
        blocking(move || {
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ArtifactError::file("removing", &path)(e)),
                _ => Ok(size),
            }
        })
        .await
    }
}

fn set_young(path: &Path) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.set_modified(SystemTime::now())
}

fn ages_in(dir: &Path, now: SystemTime) -> io::Result<BTreeMap<Digest, Duration>> {
    let mut ages = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Whatever is not named by a digest is not ours: it is neither served nor removed.
        if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            // A time in the future (the clock was set back) is young.
            ages.insert(digest, now.duration_since(entry.metadata()?.modified()?).unwrap_or_default());
        }
    }
    Ok(ages)
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => Err(ArtifactError::File { doing: "file work in", path: PathBuf::new(), source: io::Error::other(ended) }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn kept(store: &LocalArtifacts, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(store.path(&digest), bytes).expect("written");
        digest
    }

    #[tokio::test]
    async fn sweep_never_removes_what_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let store = LocalArtifacts::open(dir.path()).expect("store");
        let (old, new) = (kept(&store, b"old"), kept(&store, b"new"));
        fs::create_dir(dir.path().join("uploads")).expect("directory");
        let sweep = async |keep: &BTreeSet<Digest>| store.sweep(keep, Duration::ZERO).await.expect("swept");
        assert_eq!(sweep(&BTreeSet::new()).await.removed, 0, "an empty set is a failed read");
        let swept = sweep(&BTreeSet::from([new.clone()])).await;
        assert_eq!((swept.removed, swept.bytes), (1, 3));
        assert_eq!(store.ages().await.expect("ages").into_keys().collect::<Vec<_>>(), [new]);
        assert_eq!(store.size(&old).await.expect("size"), None);
        assert!(dir.path().join("uploads").exists());
    }

    #[tokio::test]
    async fn sweep_leaves_what_is_young_or_was_touched() {
        let dir = tempfile::tempdir().expect("directory");
        let store = LocalArtifacts::open(dir.path()).expect("store");
        let (old, touched, young, named) = (kept(&store, b"1"), kept(&store, b"2"), kept(&store, b"3"), kept(&store, b"4"));
        for digest in [&old, &touched] {
            let file = fs::File::options().write(true).open(store.path(digest)).expect("file");
            file.set_modified(SystemTime::now() - DAY).expect("made old");
        }
        let waited = dir.path().join("waited.part");
        fs::write(&waited, b"5").expect("file");
        fs::File::options().write(true).open(&waited).and_then(|file| file.set_modified(SystemTime::now() - DAY)).expect("made old");
        let waited_long = Digest::of(b"5");
        store.keep(&waited_long, &waited).await.expect("kept");
        store.touch(&touched).await.expect("touched");
        store.touch(&Digest::of(b"gone")).await.expect("no error");
        store.sweep(&BTreeSet::from([named.clone()]), DAY).await.expect("swept");
        assert_eq!(
            store.ages().await.expect("ages").into_keys().collect::<BTreeSet<_>>(),
            BTreeSet::from([touched, young, named, waited_long])
        );
    }
}
