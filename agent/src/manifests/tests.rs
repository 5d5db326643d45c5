use std::io::Cursor;
use std::sync::Arc;

use coord_proto::signature::KeyId;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{Store, Transaction};
use coord_proto::trust::Envelope;
use minisign::KeyPair;

use super::*;

const SEQ: Seq = Seq(3);

struct Bench {
    store: MemoryStore,
    manifests: Manifests,
    key: KeyPair,
    app: AppName,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    of_keys(1, &[])
}

/// With these keys beside its own.
fn of_keys(threshold: usize, others: &[&KeyPair]) -> Bench {
    let (store, dir) = (MemoryStore::new(), tempfile::tempdir().expect("dir"));
    let key = KeyPair::generate_unencrypted_keypair().expect("a key pair");
    let lines: Vec<String> = std::iter::once(&key).chain(others.iter().copied()).map(|key| key.pk.to_base64()).collect();
    let file = format!("version = 1\nenvironment = \"production\"\nthreshold = {threshold}\nkeys = {lines:?}\n");
    let trust = Trust::parse(&file).expect("a trust file");
    let manifests = Manifests { store: Arc::new(store.clone()), keys: KeySpace::default(), trust, apps: dir.path().into() };
    Bench { store, manifests, key, app: "a".parse().expect("app"), _dir: dir }
}

fn manifest(environment: &str) -> Vec<u8> {
    manifest_of("a", SEQ, environment)
}

fn manifest_of(app: &str, seq: Seq, environment: &str) -> Vec<u8> {
    let digest = coord_proto::ids::Digest::of(b"x");
    format!(
        r#"{{"version":1,"app":"{app}","environment":"{environment}","release":"r3","seq":{seq},"floor":1,"created":1,"revision":"x",
        "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}}}"#
    )
    .into_bytes()
}

fn signature(by: &KeyPair, manifest: &[u8]) -> String {
    minisign::sign(Some(&by.pk), &by.sk, Cursor::new(manifest), None, None).expect("signed").into_string()
}

fn pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key pair")
}

impl Bench {
    async fn publish(&self, bytes: Vec<u8>) {
        let key = self.manifests.keys.key(&Key::Manifest(self.app.clone(), SEQ));
        self.store.commit(Transaction::new().put(key, bytes)).await.expect("published");
    }

    /// Adds a signature under the id of a key, as `release sign` does.
    async fn add(&self, id: KeyId, signature: String) {
        let key = self.manifests.keys.key(&Key::ManifestSignature(self.app.clone(), SEQ, id));
        self.store.commit(Transaction::new().put(key, signature.into_bytes())).await.expect("added");
    }

    fn signed(&self, by: &KeyPair, manifest: Vec<u8>) -> Vec<u8> {
        let signature = signature(by, &manifest);
        Envelope { manifest, signatures: vec![signature] }.encode()
    }

    async fn publish_good(&self) {
        self.publish(self.signed(&self.key, manifest("production"))).await;
    }

    async fn load(&self) -> Result<Seq, FailureCode> {
        self.manifests.load(&self.app, SEQ).await.map(|m| m.seq).map_err(|e| e.code())
    }

    fn kept(&self) -> PathBuf {
        self.manifests.path(&self.app, SEQ)
    }
}

#[tokio::test]
async fn what_is_missing_not_signed_or_not_for_here_is_refused_by_its_name_and_not_kept() {
    let bench = bench();
    assert_eq!(bench.load().await, Err(FailureCode::ManifestMissing));
    let foreign = KeyPair::generate_unencrypted_keypair().expect("a key pair");
    let bare = Envelope { manifest: manifest("production"), signatures: vec![] }.encode();
    for (bytes, code) in [
        (bare, FailureCode::SignatureInvalid),
        (bench.signed(&foreign, manifest("production")), FailureCode::SignatureInvalid),
        (b"no envelope".to_vec(), FailureCode::SignatureInvalid),
        (bench.signed(&bench.key, manifest("staging")), FailureCode::WrongEnvironment),
        (bench.signed(&bench.key, b"{}".to_vec()), FailureCode::ManifestRefused),
    ] {
        bench.publish(bytes).await;
        assert_eq!(bench.load().await, Err(code));
        assert!(!bench.kept().exists(), "{code:?}");
    }
}

#[tokio::test]
async fn with_the_store_away_a_kept_one_opens_and_another_does_not() {
    let bench = bench();
    bench.publish_good().await;
    assert_eq!(bench.load().await, Ok(SEQ));
    bench.store.set_offline(true);
    assert_eq!(bench.load().await, Ok(SEQ));
    let other = bench.manifests.load(&bench.app, Seq(4)).await.expect_err("never seen");
    assert!(other.code().transient(), "the store may be back: {other}");
}

/// The disk is trusted no more than the store.
#[tokio::test]
async fn a_damaged_or_planted_copy_is_read_again_from_the_store() {
    let bench = bench();
    bench.publish_good().await;
    bench.load().await.expect("kept");
    let good = std::fs::read(bench.kept()).expect("a copy");
    let foreign = KeyPair::generate_unencrypted_keypair().expect("a key pair");
    let other_seq = bench.signed(&bench.key, manifest_of("a", Seq(2), "production"));
    let other_app = bench.signed(&bench.key, manifest_of("b", SEQ, "production"));
    for copy in [good[..good.len() - 1].to_vec(), vec![], bench.signed(&foreign, manifest("production")), other_seq, other_app] {
        std::fs::write(bench.kept(), copy).expect("damaged");
        bench.store.set_offline(true);
        assert!(bench.load().await.is_err(), "the copy is as good as none");
        bench.store.set_offline(false);
        assert_eq!(bench.load().await, Ok(SEQ));
        assert_eq!(std::fs::read(bench.kept()).expect("a copy"), good, "and kept anew");
    }
}

#[tokio::test]
async fn only_what_is_named_is_retained() {
    let bench = bench();
    bench.publish_good().await;
    bench.load().await.expect("kept");
    bench.manifests.retain(&bench.app, &[SEQ]).expect("looked at");
    assert!(bench.kept().exists());
    bench.manifests.retain(&bench.app, &[Seq(4)]).expect("removed");
    assert!(!bench.kept().exists());
}

#[tokio::test]
async fn a_second_signature_that_was_added_later_counts_and_is_kept() {
    let second = pair();
    let bench = of_keys(2, &[&second]);
    bench.publish_good().await;
    assert_eq!(bench.load().await, Err(FailureCode::SignatureInvalid), "one of two");
    bench.add(KeyId::of(&[2; 32]), signature(&second, &manifest("production"))).await;
    assert_eq!(bench.load().await, Ok(SEQ));
    bench.store.set_offline(true);
    assert_eq!(bench.load().await, Ok(SEQ), "the copy on the disk has both");
}

#[tokio::test]
async fn one_key_under_two_ids_a_key_that_is_not_listed_and_other_bytes_are_no_second_signature() {
    let (second, revoked) = (pair(), pair());
    let bench = of_keys(2, &[&second]);
    bench.publish_good().await;
    for (n, text) in [
        signature(&bench.key, &manifest("production")),
        signature(&bench.key, &manifest("production")),
        signature(&revoked, &manifest("production")),
        signature(&second, b"other bytes"),
        "x".repeat(coord_proto::signature::SIGNATURE_BYTES_MAX + 1),
    ]
    .into_iter()
    .enumerate()
    {
        bench.add(KeyId::of(&[n as u8; 32]), text).await;
        assert_eq!(bench.load().await, Err(FailureCode::SignatureInvalid), "{n}");
    }
    assert!(!bench.kept().exists());
    // A manifest's signatures are its own: the next one's are listed by their own number.
    let next = Key::ManifestSignature(bench.app.clone(), Seq(4), KeyId::of(&[9; 32]));
    let text = signature(&second, &manifest("production"));
    bench.store.commit(Transaction::new().put(bench.manifests.keys.key(&next), text.into_bytes())).await.expect("added");
    assert_eq!(bench.load().await, Err(FailureCode::SignatureInvalid));
    bench.add(KeyId::of(&[10; 32]), signature(&second, &manifest("production"))).await;
    assert_eq!(bench.load().await, Ok(SEQ));
}

#[tokio::test]
async fn more_signatures_than_the_limit_are_left_out() {
    let bench = bench();
    bench.publish_good().await;
    for n in 0..2 * coord_proto::signature::SIGNATURES_MAX {
        bench.add(KeyId::of(&[n as u8; 32]), "no signature".to_owned()).await;
    }
    assert_eq!(bench.load().await, Ok(SEQ));
    let kept = Envelope::decode(&std::fs::read(bench.kept()).expect("a copy")).expect("within its limits");
    assert_eq!(kept.signatures.len(), coord_proto::signature::SIGNATURES_MAX);
}
