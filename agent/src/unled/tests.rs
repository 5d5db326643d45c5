use std::io::Cursor;
use std::sync::Arc;

use coord_proto::coordinator::{CordonRecord, LeaderRecord};
use coord_proto::ids::{Nonce, Seq};
use coord_proto::keys::KeySpace;
use coord_proto::rollout::Actor;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{Store, Transaction};
use coord_proto::trust::{Envelope, Trust};
use minisign::KeyPair;

use super::*;

const TTL: Duration = Duration::from_secs(15);

struct Bench {
    store: MemoryStore,
    keys: KeySpace,
    key: KeyPair,
    dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let key = KeyPair::generate_unencrypted_keypair().expect("a key pair");
    Bench { store: MemoryStore::new(), keys: KeySpace::default(), key, dir: tempfile::tempdir().expect("dir") }
}

fn ready() -> Mirror {
    Mirror { ready: true, fresh: true, ..Mirror::default() }
}

impl Bench {
    fn unled(&self, allowed: &[&str], role: &str) -> Unled {
        let file = format!("version = 1\nenvironment = \"production\"\nthreshold = 1\nkeys = [\"{}\"]\n", self.key.pk.to_base64());
        let trust = Trust::parse(&file).expect("a trust file");
        let manifests = Manifests { store: Arc::new(self.store.clone()), keys: self.keys.clone(), trust, apps: self.dir.path().into() };
        let allowed = allowed.iter().map(|a| (*a).to_owned()).collect();
        Unled::new("web-1".parse().expect("node"), Labels::from([("role".into(), role.into())]), allowed, manifests, TTL)
    }

    async fn put(&self, key: &Key, value: impl Into<Vec<u8>>) {
        self.store.commit(Transaction::new().put(self.keys.key(key), value)).await.expect("put");
    }

    async fn delete(&self, key: &Key) {
        self.store.commit(Transaction::new().delete(self.keys.key(key))).await.expect("deleted");
    }

    /// `stable` of an app is number 3, for servers with `role=web`, signed by `by`.
    async fn publish(&self, app: &str, by: &KeyPair) {
        let digest = coord_proto::ids::Digest::of(b"x");
        let manifest = format!(
            r#"{{"version":1,"app":"{app}","environment":"production","release":"r3","seq":3,"floor":1,"created":1,"revision":"x","targets":{{"role":"web"}},
            "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,"pieces":["{digest}"]}}}}"#
        );
        let manifest = manifest.into_bytes();
        let signature = minisign::sign(Some(&by.pk), &by.sk, Cursor::new(&manifest), None, None).expect("signed").into_string();
        let app: AppName = app.parse().expect("app");
        self.put(&Key::Manifest(app.clone(), Seq(3)), Envelope { manifest, signatures: vec![signature] }.encode()).await;
        let stable = StableRecord { seq: Seq(3), release: "r3".parse().expect("release"), back_from: None };
        self.put(&Key::Stable(app), coord_proto::record::encode(&stable)).await;
    }

    async fn lead(&self) {
        let record = LeaderRecord { host: "c".into(), pid: 1, instance: Nonce::random(), since: 0 };
        self.put(&Key::Leader, coord_proto::record::encode(&record)).await;
    }
}

/// Looks whenever it is due, for this long; what it found, and when first.
async fn looked(unled: &mut Unled, mirror: &Mirror, time: Duration) -> (Vec<(String, u64)>, Duration) {
    let (begun, mut found, mut at) = (Instant::now(), vec![], Duration::ZERO);
    while begun.elapsed() < time {
        let goals = unled.look(mirror).await.expect("a store");
        if found.is_empty() && !goals.is_empty() {
            at = begun.elapsed();
            found = goals.iter().map(|(app, goal)| (app.to_string(), goal.run.0)).collect();
        }
        assert!(goals.iter().all(|(_, goal)| !goal.may_migrate && goal.stage.is_none()), "{goals:?}");
        let Some(next) = unled.next_look() else { break };
        assert!(next > Instant::now(), "it does not spin");
        tokio::time::sleep_until(next).await;
    }
    (found, at)
}

#[tokio::test(start_paused = true)]
async fn after_three_lease_times_without_a_leader_it_takes_stable() {
    let bench = bench();
    bench.publish("a", &bench.key).await;
    for allowed in ["a", "*"] {
        let (found, at) = looked(&mut bench.unled(&[allowed], "web"), &ready(), TTL * 20).await;
        assert_eq!(found, [("a".to_owned(), 3)], "{allowed}");
        assert!(at >= TTL * 3 && at < TTL * 4, "{at:?}");
    }
    assert!(std::fs::read_dir(bench.dir.path()).expect("dir").next().is_none(), "a look leaves nothing on the disk");
}

#[tokio::test(start_paused = true)]
async fn while_somebody_leads_it_takes_nothing_and_a_new_leader_begins_the_time_again() {
    let bench = bench();
    bench.publish("a", &bench.key).await;
    bench.lead().await;
    let mut unled = bench.unled(&["a"], "web");
    assert_eq!(looked(&mut unled, &ready(), TTL * 20).await.0, []);
    bench.delete(&Key::Leader).await;
    assert_eq!(looked(&mut unled, &ready(), TTL * 2).await.0, [], "not yet");
    bench.lead().await;
    assert_eq!(looked(&mut unled, &ready(), TTL * 4).await.0, []);
    bench.delete(&Key::Leader).await;
    assert_eq!(looked(&mut unled, &ready(), TTL * 2).await.0, [], "three lease times from here");
    assert_eq!(looked(&mut unled, &ready(), TTL * 4).await.0.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_no_sign_that_nobody_leads() {
    let bench = bench();
    bench.publish("a", &bench.key).await;
    let mut unled = bench.unled(&["a"], "web");
    assert_eq!(looked(&mut unled, &ready(), TTL * 2).await.0, []);
    bench.store.set_offline(true);
    tokio::time::sleep(TTL * 5).await;
    unled.look(&ready()).await.expect_err("offline");
    bench.store.set_offline(false);
    let begun = Instant::now();
    while unled.look(&ready()).await.expect("online").is_empty() {
        tokio::time::sleep_until(unled.next_look().expect("it looks again")).await;
    }
    assert!(begun.elapsed() >= TTL * 3, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_takes_only_what_is_meant_for_it_and_trusted() {
    let bench = bench();
    bench.publish("a", &bench.key).await;
    bench.publish("evil", &KeyPair::generate_unencrypted_keypair().expect("a key pair")).await;
    assert_eq!(looked(&mut bench.unled(&["a"], "db"), &ready(), TTL * 10).await.0, [], "other labels");
    assert_eq!(looked(&mut bench.unled(&["b"], "web"), &ready(), TTL * 10).await.0, [], "another app");
    assert_eq!(looked(&mut bench.unled(&["evil"], "web"), &ready(), TTL * 10).await.0, [], "not signed by a trusted key");
    let app: AppName = "a".parse().expect("app");
    let mut told = ready();
    let key = bench.keys.key(&Key::Desired("web-1".parse().expect("node"), app));
    let revision = coord_proto::ids::Revision(1);
    let entry = coord_proto::store::Entry { key: key.clone(), value: vec![], created: revision, modified: revision, lease: None };
    told.entries.insert(key, entry);
    assert_eq!(looked(&mut bench.unled(&["a"], "web"), &told, TTL * 10).await.0, [], "it was told something");
    assert_eq!(looked(&mut bench.unled(&["*"], "web"), &told, TTL * 10).await.0, [], "it was told something");
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_server_takes_nothing() {
    let bench = bench();
    bench.publish("a", &bench.key).await;
    let by = Actor { user: "u".into(), host: "h".into(), at: 0, message: None };
    let cordon = Key::NodeCordon("web-1".parse().expect("node"));
    bench.put(&cordon, coord_proto::record::encode(&CordonRecord { by })).await;
    let mut unled = bench.unled(&["a"], "web");
    assert_eq!(looked(&mut unled, &ready(), TTL * 10).await.0, []);
    bench.delete(&cordon).await;
    assert_eq!(looked(&mut unled, &ready(), TTL * 10).await.0.len(), 1, "uncordoned");
}
