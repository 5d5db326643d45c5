use std::os::unix::fs::{MetadataExt, symlink};

use coord_proto::archive::ArchiveError;
use coord_proto::ids::{Digest, Seq};
use coord_proto::manifest::Artifact;

use super::super::fetch::FetchOptions;
use super::super::fixture::{Answer, CREATED, PIECE, Store, artifact_of, manifest_of, noise, tar, zstd};
use super::*;

const OWN: Ownership = Ownership { uid: None, gid: None, shared_mode: 0o2770 };

struct App {
    _temp: tempfile::TempDir,
    dir: AppDir,
    parts: PathBuf,
    fetcher: Fetcher,
}

fn app() -> App {
    coord_proto::tls::install_provider();
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = AppDir::new(temp.path().join("app"));
    let parts = temp.path().join("state/parts");
    App { dir, parts, fetcher: Fetcher::new(FetchOptions::default()).expect("a client"), _temp: temp }
}

impl App {
    async fn stage(&self, manifest: &Manifest, bases: &[String]) -> Result<Staged, StageError> {
        let request = StageRequest {
            dir: &self.dir,
            manifest,
            fetcher: &self.fetcher,
            bases: bases.to_vec(),
            ownership: OWN,
            parts_dir: &self.parts,
            progress: &|_, _| (),
        };
        stage(request).await
    }

    /// Everything that staging may leave behind.
    fn left(&self) -> Vec<String> {
        let names =
            |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().map(|e| e.expect("entry").file_name().into_string().expect("text"));
        let mut all: Vec<String> = names(self.dir.releases()).chain(names(self.dir.proofs())).filter(|n| n != "lock").collect();
        all.sort();
        all
    }
}

/// An application of about twenty pieces.
fn packed() -> Vec<u8> {
    zstd(&tar(&[("index.php", b"<?php"), ("var/", b""), ("video", &noise(9, 20_000)), ("bin/console", b"#!/usr/bin/env php")]))
}

#[tokio::test]
async fn a_release_is_staged_and_nothing_that_the_app_sees_changes() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let mut manifest = manifest_of("20240101000000", &packed());
    manifest.layout.shared_dirs = vec!["var/log".into()];
    let staged = app.stage(&manifest, &[store.base()]).await.expect("staged");
    assert_eq!(staged, Staged::Unpacked(Fetched { downloaded: packed().len() as u64, resumed: 0 }));
    let release = app.dir.release(&manifest.release);
    assert!(fs::read(release.join("video")).expect("read") == noise(9, 20_000));
    assert_eq!(fs::read_to_string(release.join("REVISION")).expect("read"), "abc123\n");
    assert!(release.join("var/log").is_dir());
    let root = fs::metadata(&release).expect("there");
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o755, CREATED));
    assert!(app.dir.is_complete(&manifest.release, &manifest.artifact.digest).expect("looked"));
    assert_eq!(app.left(), ["20240101000000", "20240101000000.json"]);
    assert_eq!(fs::read_dir(&app.parts).expect("listed").count(), 0, "the pieces are not kept twice");
    assert_eq!(app.dir.current().expect("read"), None);
}

#[tokio::test]
async fn staging_again_changes_nothing_and_asks_nobody() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let manifest = manifest_of("1", &packed());
    app.stage(&manifest, &[store.base()]).await.expect("staged");
    fs::write(app.dir.release(&manifest.release).join("by-a-hook"), "").expect("written");
    let later = Manifest { seq: Seq(9), ..manifest.clone() };
    assert_eq!(app.stage(&later, &[]).await.expect("there"), Staged::AlreadyThere);
    assert!(app.dir.release(&manifest.release).join("by-a-hook").exists());
    assert_eq!(store.starts().len(), 1);
}

#[tokio::test]
async fn a_release_of_that_name_that_is_not_this_one_is_refused_untouched() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let manifest = manifest_of("1", &packed());
    fs::create_dir_all(app.dir.release(&manifest.release).join("theirs")).expect("made");
    let error = app.stage(&manifest, &[store.base()]).await.expect_err("made by another tool");
    assert!(matches!(error, StageError::Occupied { .. }), "{error:?}");
    app.dir.prove(&manifest.release, &Digest::of(b"other")).expect("written");
    let error = app.stage(&manifest, &[store.base()]).await.expect_err("another artifact");
    assert!(matches!(error, StageError::Occupied { .. }), "{error:?}");
    assert!(app.dir.release(&manifest.release).join("theirs").exists());
    assert_eq!(store.starts().len(), 0);
}

#[tokio::test]
async fn a_crash_leaves_nothing_in_the_way() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let manifest = manifest_of("1", &packed());
    app.dir.ensure_directories().expect("made");
    fs::create_dir_all(app.dir.staging(&manifest.release).join("half/unpacked")).expect("made");
    app.dir.prove(&manifest.release, &manifest.artifact.digest).expect("written just before the rename");
    app.stage(&manifest, &[store.base()]).await.expect("staged");
    assert!(!app.dir.release(&manifest.release).join("half").exists());
    assert_eq!(app.left(), ["1", "1.json"]);
}

#[tokio::test]
async fn what_can_be_refused_is_refused_before_a_byte_is_downloaded() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let mut manifest = manifest_of("1", &packed());
    manifest.layout.shared_files = vec![".env".into()];
    let error = app.stage(&manifest, &[store.base()]).await.expect_err("no .env");
    assert_eq!(error.code(), FailureCode::SharedFileMissing);
    assert!(error.to_string().contains("shared/.env"), "{error}");

    let mut manifest = manifest_of("1", &packed());
    manifest.artifact.unpacked_size = u64::MAX / 4;
    let error = app.stage(&manifest, &[store.base()]).await.expect_err("too large");
    assert_eq!(error.code(), FailureCode::DiskFull);

    fs::create_dir_all(app.dir.current_link()).expect("made");
    let error = app.stage(&manifest_of("1", &packed()), &[store.base()]).await.expect_err("current is a directory");
    assert_eq!(error.code(), FailureCode::CurrentNotALink);
    assert_eq!(store.starts().len(), 0);
    assert!(app.left().is_empty(), "{:?}", app.left());
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_the_good_pieces_are_used_again() {
    let app = app();
    let manifest = manifest_of("1", &packed());
    let wrong = Store::serve(packed(), &[Answer::Flip(10 * PIECE as usize + 3)]);
    let error = app.stage(&manifest, &[wrong.base()]).await.expect_err("piece 10 is wrong");
    assert_eq!(error.code(), FailureCode::DigestMismatch);
    assert!(app.left().is_empty(), "{:?}", app.left());

    let good = Store::serve(packed(), &[Answer::Good]);
    let staged = app.stage(&manifest, &[good.base()]).await.expect("staged");
    let rest = packed().len() as u64 - 10 * PIECE;
    assert_eq!(staged, Staged::Unpacked(Fetched { downloaded: rest, resumed: 10 * PIECE }));
    assert_eq!(good.sent() as u64, rest);
}

/// What is signed is not the archive: sizes that lie, and entries that may not be.
#[tokio::test]
async fn a_bad_archive_is_refused_with_its_path_and_leaves_nothing() {
    let bad = zstd(&tar(&[("ok", b"x"), ("l -> /etc/passwd", b"")]));
    let artifact = Artifact { entries: 2, unpacked_size: 1, ..artifact_of(&bad, coord_proto::manifest::Compression::Zstd) };
    let manifest = Manifest { artifact, ..manifest_of("1", &bad) };
    let (app, store) = (app(), Store::serve(bad, &[Answer::Good]));
    let error = app.stage(&manifest, &[store.base()]).await.expect_err("refused");
    assert_eq!(error.code(), FailureCode::ArchiveRefused);
    let text = coord_proto::chain::inline(&error);
    assert!(text.contains("\"l\"") && text.contains("/etc/passwd"), "{text}");
    assert!(app.left().is_empty(), "{:?}", app.left());

    let mut manifest = manifest_of("1", &packed());
    manifest.artifact.entries += 1;
    let store = Store::serve(packed(), &[Answer::Good]);
    let error = app.stage(&manifest, &[store.base()]).await.expect_err("one entry too few");
    assert!(matches!(&error, StageError::Unpack { source: UnpackError::Archive(ArchiveError::Totals { .. }), .. }), "{error:?}");
    assert!(app.left().is_empty(), "{:?}", app.left());
}

#[tokio::test]
async fn an_artifact_that_is_no_archive_is_refused() {
    let bytes = noise(1, 5000);
    let (app, store) = (app(), Store::serve(bytes.clone(), &[Answer::Good]));
    let error = app.stage(&manifest_of("1", &bytes), &[store.base()]).await.expect_err("noise");
    assert_eq!(error.code(), FailureCode::ArchiveRefused, "{error:?}");
}

#[tokio::test]
async fn no_store_is_a_failure_that_waiting_may_cure() {
    let app = app();
    let error = app.stage(&manifest_of("1", &packed()), &[]).await.expect_err("no store");
    assert!(error.code() == FailureCode::Download && error.code().transient());
}

#[tokio::test]
async fn a_staging_that_was_dropped_does_not_disturb_the_next_one() {
    let (app, manifest) = (app(), manifest_of("1", &packed()));
    // Never answers beyond the first pieces, so the first staging hangs in its backoff until it is dropped.
    let stuck = Store::serve(packed(), &[Answer::Cut(3 * PIECE as usize), Answer::Status(503, "Retry-After: 60\r\n")]);
    let asked = async {
        while stuck.starts().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    let bases = [stuck.base()];
    tokio::select! {
        ended = app.stage(&manifest, &bases) => panic!("ended: {ended:?}"),
        () = asked => {}
    }
    let good = Store::serve(packed(), &[Answer::Good]);
    let staged = app.stage(&manifest, &[good.base()]).await.expect("staged");
    assert!(matches!(staged, Staged::Unpacked(Fetched { resumed, .. }) if resumed == 3 * PIECE), "{staged:?}");
    assert_eq!(app.left(), ["1", "1.json"]);
}

#[tokio::test]
async fn an_adopted_tree_keeps_serving() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let theirs = app.dir.releases().join("20200101000000");
    fs::create_dir_all(&theirs).expect("made");
    symlink(&theirs, app.dir.current_link()).expect("linked");
    app.stage(&manifest_of("1", &packed()), &[store.base()]).await.expect("staged");
    assert_eq!(app.dir.current().expect("read").expect("there").as_str(), "20200101000000");
}

#[tokio::test]
async fn several_stagings_at_once_take_turns() {
    let (app, store) = (app(), Store::serve(packed(), &[Answer::Good]));
    let (one, two) = (manifest_of("1", &packed()), manifest_of("2", &packed()));
    let bases = [store.base()];
    let (a, b, c) = tokio::join!(app.stage(&one, &bases), app.stage(&two, &bases), app.stage(&one, &bases));
    let unpacked = [a, b, c].into_iter().map(|r| r.expect("staged")).filter(|s| matches!(s, Staged::Unpacked(_))).count();
    assert_eq!((unpacked, store.starts().len()), (2, 2));
    assert_eq!(app.left(), ["1", "1.json", "2", "2.json"]);
}
