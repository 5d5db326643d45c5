use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use coord_proto::coordinator::LeaderRecord;
use coord_proto::ids::Digest;
use coord_proto::manifest::Compression;
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::record;
use coord_proto::rollout::{RolloutState, StableRecord};
use coord_proto::store::Outcome;
use coord_proto::store::around::Around;
use coord_proto::store::memory::MemoryStore;

use super::*;

const NOW: i64 = 1_700_000_000;

pub(super) fn app() -> AppName {
    "mootube".parse().expect("app")
}

fn environment() -> Environment {
    "production".parse().expect("environment")
}

pub(super) fn keys() -> KeySpace {
    KeySpace::default()
}

pub(super) fn actor(user: &str) -> Actor {
    Actor { user: user.into(), host: "laptop".into(), at: NOW, message: None }
}

pub(super) fn deploy() -> DeployFile {
    DeployFile::parse("app = \"mootube\"\n[rollout]\nserial = 2", Path::new("deploy.toml"), Some(&environment())).expect("deploy file")
}

fn artifact() -> Artifact {
    Artifact {
        digest: Digest::of(b"x"),
        compression: Compression::Zstd,
        size: 1,
        unpacked_size: 1,
        entries: 1,
        piece_size: 4,
        pieces: vec![Digest::of(b"x")],
        strip_components: 0,
        allow_symlinks_to: vec![],
    }
}

pub(super) fn request<'a>(deploy: &'a DeployFile, user: &str) -> Request<'a> {
    Request {
        deploy,
        environment: environment(),
        artifact: artifact(),
        release: None,
        revision: None,
        serial: None,
        limit: None,
        supersede: false,
        by: actor(user),
    }
}

pub(super) async fn led() -> MemoryStore {
    let store = MemoryStore::new();
    let leader = LeaderRecord { host: "coord-1".into(), pid: 1, instance: Nonce::fixed("l"), since: NOW };
    put(&store, Key::Leader, record::encode(&leader)).await;
    store
}

pub(super) async fn put(store: &dyn Store, key: Key, value: Vec<u8>) {
    assert!(store.commit(Transaction::new().put(keys().key(&key), value)).await.expect("commit").committed());
}

async fn spec(store: &dyn Store) -> RolloutSpec {
    read_record(store, &keys().key(&Key::RolloutSpec(app()))).await.expect("read").expect("a spec").0
}

async fn end(store: &dyn Store, published: &Published, phase: RolloutPhase) {
    end_spec(store, &published.spec, phase).await;
}

pub(super) async fn end_spec(store: &dyn Store, spec: &RolloutSpec, phase: RolloutPhase) {
    let state = RolloutState {
        id: spec.id.clone(),
        seq: spec.seq,
        release: spec.release.clone(),
        phase,
        targets: vec![],
        batch: 0,
        batches: 0,
        max_failed: 0,
        max_unreachable: 0,
        batch_elapsed: 0,
        whole: true,
        previous_stable: Seq(0),
        reason: String::new(),
        generation: 0,
        started_at: NOW,
        ended_at: None,
        wish_revision: 0,
        paused: false,
        promoted: false,
        turned_back: false,
        aborted: false,
    };
    put(store, Key::RolloutState(app()), record::encode(&state)).await;
}

async fn publish_as(store: &dyn Store, user: &str, change: impl FnOnce(&mut Request<'_>)) -> Result<Published, PublishError> {
    let deploy = deploy();
    let mut request = request(&deploy, user);
    change(&mut request);
    let signers = [Signer::generate().expect("key")];
    publish(store, &keys(), &Signing { signers: &signers, trust: None }, &request, NOW).await
}

#[tokio::test]
async fn everything_appears_at_one_revision() {
    let store = led().await;
    let before = store.identity().await.expect("identity").revision;
    let published = publish_as(&store, "alice", |_| ()).await.expect("published");
    assert_eq!(published.at.0, before.0 + 1, "one transaction: killed anywhere, all of it is there or nothing");
    let listing = store.list(&keys().all()).await.expect("list");
    let written: Vec<_> = listing.entries.iter().filter(|e| e.modified > before).collect();
    assert!(written.iter().all(|e| e.modified == published.at));
    let kinds: Vec<Key> = written.iter().filter_map(|e| keys().parse(&e.key)).collect();
    for key in
        [Key::AppSeq(app()), Key::Manifest(app(), Seq(1)), Key::RolloutSpec(app()), Key::Release(app(), published.spec.release.clone())]
    {
        assert!(kinds.contains(&key), "{key:?}");
    }
    let event = written.iter().find(|e| matches!(keys().parse(&e.key), Some(Key::Event(_)))).expect("audit event");
    assert!(event.lease.is_some(), "an event must not stay for ever");
    assert_eq!(written.len(), 5);
}

#[tokio::test]
async fn the_manifest_is_signed_numbered_and_floored() {
    let store = led().await;
    let first = publish_as(&store, "alice", |_| ()).await.expect("published");
    assert_eq!((first.manifest.seq, first.manifest.floor, first.manifest.created), (Seq(1), Seq(0), NOW));
    assert_eq!((first.spec.release.as_str(), first.manifest.revision.as_str()), ("20231114221320", "20231114221320"));
    end(&store, &first, RolloutPhase::Succeeded).await;
    put(&store, Key::Stable(app()), record::encode(&StableRecord { seq: Seq(1), release: first.spec.release.clone(), back_from: None }))
        .await;
    let signers = [Signer::generate().expect("key"), Signer::generate().expect("key")];
    let trust = format!(
        "version = 1\nenvironment = \"production\"\nthreshold = 2\nkeys = [\"{}\", \"{}\"]",
        signers[0].public_line(),
        signers[1].public_line()
    );
    let trust = Trust::parse(&trust).expect("trust file");
    let deploy = deploy();
    let mut wanted = request(&deploy, "alice");
    wanted.serial = Some("50%".parse().expect("serial"));
    wanted.limit = Some("role=web".parse().expect("selector"));
    wanted.revision = Some("abc123".into());
    let second = publish(&store, &keys(), &Signing { signers: &signers, trust: Some(&trust) }, &wanted, NOW).await.expect("published");
    assert_eq!((second.manifest.seq, second.manifest.floor), (Seq(2), Seq(1)));
    assert_eq!(second.manifest.created, NOW + 1, "strictly increasing, whatever the clock says");
    assert_eq!(second.spec.release.as_str(), "20231114221320-2", "the second of one second");
    assert_eq!((second.spec.policy.serial.to_string(), second.manifest.rollout.serial.to_string()), ("50%".into(), "2".into()));
    assert_eq!(second.spec.limit, wanted.limit);
    let stored = store.read(&keys().key(&Key::Manifest(app(), Seq(2)))).await.expect("read").entry.expect("manifest");
    assert_eq!(trust.open_envelope(&stored.value).expect("trusted"), second.manifest);
}

#[tokio::test]
async fn a_key_that_servers_do_not_trust_changes_nothing() {
    let store = led().await;
    let before = store.identity().await.expect("identity").revision;
    let (mine, theirs) = ([Signer::generate().expect("key")], Signer::generate().expect("key"));
    let trust = Trust::parse(&format!("version = 1\nenvironment = \"production\"\nkeys = [\"{}\"]", theirs.public_line())).expect("trust");
    let deploy = deploy();
    let refused = publish(&store, &keys(), &Signing { signers: &mine, trust: Some(&trust) }, &request(&deploy, "alice"), NOW).await;
    assert!(matches!(refused, Err(PublishError::NotTrusted(_))), "{refused:?}");
    assert_eq!(store.identity().await.expect("identity").revision, before);
}

#[tokio::test]
async fn without_a_coordinator_nothing_is_published_and_the_way_out_is_said() {
    let store = MemoryStore::new();
    let refused = publish_as(&store, "alice", |_| ()).await.expect_err("refused");
    assert!(matches!(refused, PublishError::NoCoordinator));
    let failure = refused.failure();
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.hint.contains("systemctl start coordinator"), "{failure:?}");
    assert!(store.list(&keys().all()).await.expect("list").entries.is_empty());
}

#[tokio::test]
async fn an_active_rollout_refuses_and_names_who_published_it() {
    let store = led().await;
    let first = publish_as(&store, "alice", |_| ()).await.expect("published");
    let unseen = publish_as(&store, "bob", |_| ()).await.expect_err("nobody rolled it out yet");
    assert!(unseen.to_string().contains("20231114221320 by alice@laptop at 2023-11-14T22:13:20Z"), "{unseen}");
    for phase in
        [RolloutPhase::Staging, RolloutPhase::Running, RolloutPhase::AwaitingDecision, RolloutPhase::RollingBack, RolloutPhase::Unknown]
    {
        end(&store, &first, phase).await;
        let refused = publish_as(&store, "bob", |_| ()).await.expect_err("refused");
        assert!(matches!(refused, PublishError::Active { .. }), "{phase:?}");
        assert_eq!(refused.failure().exit, Exit::Refused);
    }
    for phase in [RolloutPhase::Halted, RolloutPhase::RolledBack] {
        end(&store, &first, phase).await;
        let standing = Standing::look(&store, &keys(), &app()).await.expect("look");
        assert!(standing.admit_rollout(false).is_ok(), "{phase:?}");
    }
    assert!(publish_as(&store, "bob", |_| ()).await.is_ok());
}

fn head(open: bool) -> Head {
    Head { seq: Seq(1), release: "r1".parse().expect("release"), task: "before".parse().expect("task"), open }
}

#[tokio::test]
async fn nothing_is_published_while_an_older_release_s_task_is_open() {
    let store = led().await;
    let first = publish_as(&store, "alice", |_| ()).await.expect("published");
    end(&store, &first, RolloutPhase::RolledBack).await;
    put(&store, Key::MigrationHead(app()), record::encode(&head(true))).await;
    let refused = publish_as(&store, "bob", |_| ()).await.expect_err("refused");
    assert!(refused.to_string().contains("`before` of release r1"), "{refused}");
    let failure = refused.failure();
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.hint.contains("coordctl migration resolve mootube r1 --as"), "{}", failure.hint);
    put(&store, Key::MigrationHead(app()), record::encode(&head(false))).await;
    assert!(publish_as(&store, "bob", |_| ()).await.is_ok());
}

fn task(state: TaskState) -> TaskRecord {
    TaskRecord {
        seq: Seq(1),
        release: "r1".parse().expect("release"),
        task: "before".parse().expect("task"),
        state,
        holder: "web-1".parse().expect("node"),
        nonce: Nonce::fixed("n"),
        attempt: 1,
        detail: String::new(),
        log_tail: String::new(),
        claimed_at: NOW,
        settled_at: None,
        history: vec![],
    }
}

#[tokio::test]
async fn one_that_supersedes_takes_the_place_of_what_goes_on_and_waits_for_a_task_that_runs() {
    for (state, admitted) in [(TaskState::Claimed, true), (TaskState::Unknown, false)] {
        let store = led().await;
        let first = publish_as(&store, "alice", |_| ()).await.expect("published");
        end(&store, &first, RolloutPhase::Running).await;
        put(&store, Key::MigrationHead(app()), record::encode(&head(true))).await;
        let key = Key::Migration(app(), "r1".parse().expect("release"), "before".parse().expect("task"));
        put(&store, key, record::encode(&task(state))).await;
        let hint = publish_as(&store, "bob", |_| ()).await.expect_err("one goes on").failure().hint;
        assert!(hint.contains("--supersede") && hint.contains("rollout abort mootube"), "{hint}");
        let second = publish_as(&store, "bob", |r| r.supersede = true).await;
        match second {
            Ok(second) => assert_eq!((admitted, spec(&store).await), (true, second.spec)),
            Err(refused) => assert!(!admitted && matches!(refused, PublishError::TaskOpen { .. }), "{state:?}: {refused}"),
        }
    }
}

#[tokio::test]
async fn of_two_that_supersede_one_wins() {
    let store = led().await;
    let first = publish_as(&store, "alice", |_| ()).await.expect("published");
    end(&store, &first, RolloutPhase::Running).await;
    let other = store.another_client();
    let meanwhile = async move { drop(publish_as(&other, "bob", |r| r.supersede = true).await.expect("bob wins")) };
    let carol = interrupted(&store, meanwhile);
    let lost = publish_as(&carol, "carol", |r| r.supersede = true).await.expect_err("carol lost");
    assert!(matches!(lost, PublishError::Lost { .. }) && lost.to_string().contains("by bob@laptop"), "{lost}");
}

#[tokio::test]
async fn a_task_that_is_claimed_while_one_publishes_refuses_the_transaction() {
    let store = led().await;
    let before = Standing::look(&store, &keys(), &app()).await.expect("look");
    put(&store, Key::MigrationHead(app()), record::encode(&head(true))).await;
    let outcome = store.commit(before.unchanged(&keys(), &app()).put("/coord/v1/x", "y")).await.expect("commit");
    assert!(!outcome.committed());
}

#[tokio::test]
async fn a_release_id_is_never_used_again() {
    let store = led().await;
    let id: ReleaseId = "v1".parse().expect("release");
    let first = publish_as(&store, "alice", |r| r.release = Some(id.clone())).await.expect("published");
    end(&store, &first, RolloutPhase::Succeeded).await;
    let before = store.identity().await.expect("identity").revision;
    let refused = publish_as(&store, "bob", |r| r.release = Some(id.clone())).await.expect_err("refused");
    assert!(refused.to_string().contains("v1 was published before, by alice@laptop"), "{refused}");
    assert_eq!(refused.failure().exit, Exit::Refused);
    assert_eq!(store.identity().await.expect("identity").revision, before);
}

/// Does something just before one of its commits: what another publisher does between this one's look and its commit.
struct Interrupted {
    inner: MemoryStore,
    /// Commits that go through before.
    after: AtomicUsize,
    once: Mutex<Option<futures::future::BoxFuture<'static, ()>>>,
}

#[async_trait]
impl Around for Interrupted {
    fn inner(&self) -> &MemoryStore {
        &self.inner
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let due = self.after.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        let meanwhile = if due { self.once.lock().expect("no panic holds it").take() } else { None };
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        self.inner.commit(transaction).await
    }
}

fn interrupted(inner: &MemoryStore, what: impl Future<Output = ()> + Send + 'static) -> Interrupted {
    Interrupted { inner: inner.clone(), after: AtomicUsize::new(0), once: Mutex::new(Some(Box::pin(what))) }
}

#[tokio::test]
async fn of_two_publishers_at_once_one_wins_and_the_other_is_told_by_whom() {
    let store = led().await;
    let other = store.another_client();
    let alice = interrupted(&store, async move { drop(publish_as(&other, "bob", |_| ()).await.expect("bob wins")) });
    let lost = publish_as(&alice, "alice", |_| ()).await.expect_err("alice lost");
    assert!(matches!(lost, PublishError::Lost { .. }), "{lost}");
    assert!(lost.to_string().contains("by bob@laptop"), "{lost}");
    assert_eq!(lost.failure().exit, Exit::Refused);
    let listing = store.list(&keys().manifests(&app())).await.expect("list");
    assert_eq!(listing.entries.len(), 1, "nothing of alice's is there");
}

#[tokio::test]
async fn a_loser_is_told_even_when_the_winner_has_ended_already() {
    let store = led().await;
    let other = store.another_client();
    let alice = interrupted(&store, async move {
        let won = publish_as(&other, "bob", |_| ()).await.expect("bob wins");
        end(&other, &won, RolloutPhase::Succeeded).await;
    });
    assert!(matches!(publish_as(&alice, "alice", |_| ()).await, Err(PublishError::Lost { .. })));
}

#[tokio::test]
async fn a_moved_stable_is_read_again_for_the_floor() {
    let store = led().await;
    put(&store, Key::AppSeq(app()), record::encode(&SeqRecord { seq: Seq(1), created: NOW + 50 })).await;
    let other = store.another_client();
    let alice = interrupted(&store, async move {
        let release: ReleaseId = "r".parse().expect("release");
        put(&other, Key::Stable(app()), record::encode(&StableRecord { seq: Seq(1), release, back_from: None })).await;
    });
    let published = publish_as(&alice, "alice", |_| ()).await.expect("published");
    assert_eq!((published.manifest.seq, published.manifest.floor, published.manifest.created), (Seq(2), Seq(1), NOW + 51));
}

#[tokio::test]
async fn a_taken_sequence_number_is_not_taken_twice() {
    let store = led().await;
    let other = store.another_client();
    let alice = interrupted(&store, async move {
        put(&other, Key::AppSeq(app()), record::encode(&SeqRecord { seq: Seq(4), created: NOW })).await;
    });
    assert_eq!(publish_as(&alice, "alice", |_| ()).await.expect("published").manifest.seq, Seq(5));
}

#[tokio::test]
async fn a_rollout_without_a_new_release_wins_too() {
    let store = led().await;
    let first = publish_as(&store, "alice", |_| ()).await.expect("published");
    end(&store, &first, RolloutPhase::Succeeded).await;
    let other = store.another_client();
    let spec = RolloutSpec { id: "1-again".parse().expect("rollout"), kind: RolloutKind::Rollback, by: actor("bob"), ..first.spec };
    let alice = interrupted(&store, async move { put(&other, Key::RolloutSpec(app()), record::encode(&spec)).await });
    let lost = publish_as(&alice, "alice", |_| ()).await.expect_err("lost");
    assert!(matches!(lost, PublishError::Lost { .. }) && lost.to_string().contains("by bob@laptop"), "{lost}");
}

#[tokio::test]
async fn a_rollout_that_goes_on_after_all_refuses() {
    let store = led().await;
    let first = publish_as(&store, "alice", |_| ()).await.expect("published");
    end(&store, &first, RolloutPhase::Halted).await;
    let other = store.another_client();
    let bob = interrupted(&store, async move { end(&other, &first, RolloutPhase::Running).await });
    assert!(matches!(publish_as(&bob, "bob", |_| ()).await, Err(PublishError::Active { .. })));
}

#[tokio::test]
async fn a_release_id_that_is_taken_in_between_is_not_overwritten() {
    let store = led().await;
    let id: ReleaseId = "v1".parse().expect("release");
    let taken =
        ReleaseRecord { seq: Seq(9), verdict: Verdict::Good, by: actor("bob"), notes: std::collections::BTreeMap::new(), waits: None };
    let (other, key) = (store.another_client(), Key::Release(app(), id.clone()));
    let alice = interrupted(&store, async move { put(&other, key, record::encode(&taken)).await });
    let refused = publish_as(&alice, "alice", |r| r.release = Some(id)).await.expect_err("refused");
    assert!(matches!(&refused, PublishError::ReleaseTaken { by, .. } if by.user == "bob"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_by_reading_back() {
    let store = led().await;
    store.drop_next_reply();
    let published = publish_as(&store, "alice", |_| ()).await.expect("it happened");
    let listing = store.list(&keys().manifests(&app())).await.expect("list");
    assert_eq!(listing.entries.len(), 1, "and only once");
    assert_eq!(listing.entries[0].modified, published.at);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_also_when_somebody_else_has_published_since() {
    let store = led().await;
    store.drop_next_reply();
    let other = store.another_client();
    let alice = interrupted(&store, async move {
        end_spec(&other, &spec(&other).await, RolloutPhase::Succeeded).await;
        publish_as(&other, "bob", |_| ()).await.expect("bob publishes");
    });
    // Her transaction happens, its reply is lost, and bob comes before she asks again.
    alice.after.store(1, Ordering::SeqCst);
    let published = publish_as(&alice, "alice", |_| ()).await.expect("it happened");
    assert_eq!(published.manifest.seq, Seq(1));
    assert_eq!(spec(&store).await.by.user, "bob");
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_not_an_empty_fleet() {
    let store = led().await;
    store.set_offline(true);
    let failed = publish_as(&store, "alice", |_| ()).await.expect_err("away");
    assert!(matches!(failed, PublishError::Store(_)));
    assert_eq!(failed.failure().exit, Exit::Error);
}

#[tokio::test]
async fn a_manifest_over_its_limits_changes_nothing() {
    let store = led().await;
    let before = store.identity().await.expect("identity").revision;
    let refused = publish_as(&store, "alice", |r| r.artifact.entries = u64::MAX).await;
    assert!(matches!(refused, Err(PublishError::Manifest(_))));
    assert_eq!(store.identity().await.expect("identity").revision, before);
}
