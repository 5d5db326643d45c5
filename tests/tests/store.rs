//! One suite for both stores: what the rest of the project relies on, in memory and in a real etcd.

use std::path::Path;
use std::time::Duration;

use coord_proto::ids::Revision;
use coord_proto::store::etcd::EtcdStore;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{
    Change, Compare, Entry, LeaseId, Listing, Outcome, SharedStore, Store, StoreError, Transaction, Watch, WatchEvent, Write,
};
use coord_tests::etcd::Etcd;
use tempfile::TempDir;

/// The shortest TTL that etcd grants with its default election timeout.
const TTL: Duration = Duration::from_secs(2);
/// For what should happen at once.
const SOON: Duration = Duration::from_secs(20);

/// A store under test and what only its keeper can do.
struct Bed {
    store: SharedStore,
    keeper: Keeper,
}

enum Keeper {
    Memory(MemoryStore),
    Etcd(Box<Etcd>, #[expect(dead_code, reason = "held for its directory")] TempDir),
}

impl Bed {
    fn memory() -> Self {
        let memory = MemoryStore::new();
        Self { store: std::sync::Arc::new(memory.clone()), keeper: Keeper::Memory(memory) }
    }

    async fn etcd() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let etcd = Etcd::start(dir.path()).await;
        Self { store: std::sync::Arc::new(etcd.store()), keeper: Keeper::Etcd(Box::new(etcd), dir) }
    }

    fn compact(&self, revision: Revision) {
        match &self.keeper {
            Keeper::Memory(memory) => memory.compact(revision),
            Keeper::Etcd(etcd, _) => etcd.compact(revision),
        }
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        put(&*self.store, key, value).await
    }

    async fn delete(&self, key: &str) -> Revision {
        self.committed(Transaction::new().delete(key)).await
    }

    async fn committed(&self, transaction: Transaction) -> Revision {
        committed(&*self.store, transaction).await
    }

    async fn refused(&self, transaction: Transaction) {
        let outcome = self.store.commit(transaction).await.expect("answered");
        assert!(!outcome.committed(), "{outcome:?}");
    }

    async fn entry(&self, key: &str) -> Option<Entry> {
        self.store.read(key).await.expect("read").entry
    }

    async fn list(&self, prefix: &str) -> Listing {
        self.store.list(prefix).await.expect("listed")
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Watch {
        self.store.watch(prefix, from).await.expect("watched")
    }
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    committed(store, Transaction::new().put(key, value)).await
}

async fn committed(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.expect("answered") {
        Outcome::Committed(revision) => revision,
        Outcome::Refused(at) => panic!("refused at {at}"),
    }
}

fn put_under(lease: LeaseId, key: &str) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.writes.push(Write::Put { key: key.into(), value: b"x".into(), lease: Some(lease) });
    transaction
}

async fn next_event(watch: &mut Watch) -> Option<WatchEvent> {
    tokio::time::timeout(SOON, watch.recv()).await.expect("an event in time")
}

/// The next `count` changes as `+key` and `-key`, with their revisions; lost and back again in between is allowed.
async fn changes(watch: &mut Watch, count: usize) -> Vec<(String, Revision)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match next_event(watch).await {
            Some(WatchEvent::Changes { changes, .. }) => seen.extend(changes.into_iter().map(|change| match change {
                Change::Put(entry) => (format!("+{}", entry.key), entry.modified),
                Change::Deleted { key, revision } => (format!("-{key}"), revision),
            })),
            Some(WatchEvent::Lost) => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

fn named(expected: &[(&str, Revision)]) -> Vec<(String, Revision)> {
    expected.iter().map(|(name, revision)| ((*name).to_owned(), *revision)).collect()
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::cases::$case(super::Bed::memory()).await; })*
        }
        mod real {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::cases::$case(super::Bed::etcd().await).await; })*
        }
    };
}

conformance!(
    revisions_tell_when_a_key_was_made_and_changed,
    lists_are_in_byte_order_and_of_one_revision,
    conditions_compare_with_absent_keys_too,
    a_transaction_is_all_or_nothing_at_one_revision,
    what_changes_nothing_makes_no_revision,
    a_key_made_again_has_another_create_revision,
    malformed_transactions_are_refused,
    a_watch_from_the_past_loses_nothing,
    a_watch_from_the_future_waits_for_it,
    a_watch_stays_within_its_prefix,
    keys_go_with_their_lease_at_one_revision,
    a_renewed_lease_lives_on,
    an_unrenewed_lease_ends,
    a_put_without_the_lease_takes_the_key_off_it,
    an_ended_lease_takes_no_keys_and_no_renewal,
    a_compacted_watch_says_so_and_ends,
    the_store_stays_who_it_is,
);

mod cases {
    use super::*;

    pub async fn revisions_tell_when_a_key_was_made_and_changed(bed: Bed) {
        let first = bed.put("/t/a", "1").await;
        let second = bed.put("/t/b", "1").await;
        let third = bed.put("/t/a", "2").await;
        assert_eq!((second.0, third.0), (first.0 + 1, first.0 + 2));
        let entry = bed.entry("/t/a").await.expect("there");
        assert_eq!((entry.created, entry.modified, entry.value.as_slice(), entry.lease), (first, third, b"2".as_slice(), None));
        let absent = bed.store.read("/t/c").await.expect("read");
        assert_eq!((absent.entry, absent.revision), (None, third));
    }

    pub async fn lists_are_in_byte_order_and_of_one_revision(bed: Bed) {
        // More than one page, and names that byte order and number order disagree on.
        let mut keys: Vec<String> = (0..600).map(|i| format!("/t/{i}")).collect();
        for keys in keys.chunks(100) {
            bed.committed(keys.iter().fold(Transaction::new(), |t, key| t.put(key, "x"))).await;
        }
        bed.put("/t", "beside").await;
        let last = bed.put("/t0", "beside").await;
        keys.sort();
        let listing = bed.list("/t/").await;
        assert_eq!(listing.revision, last);
        assert_eq!(listing.entries.iter().map(|e| e.key.clone()).collect::<Vec<_>>(), keys);
        assert_eq!(bed.list("/none/").await, Listing { entries: vec![], revision: last });
    }

    pub async fn conditions_compare_with_absent_keys_too(bed: Bed) {
        let make = || Transaction::new().when(Compare::absent("/t/a")).put("/t/a", "made");
        let made = bed.committed(make()).await;
        bed.refused(make()).await;
        let entry = bed.entry("/t/a").await.expect("there");
        let change = |entry| Transaction::new().when(Compare::unchanged("/t/a", entry)).put("/t/a", "changed");
        bed.refused(change(None)).await;
        let changed = bed.committed(change(Some(&entry))).await;
        bed.refused(change(Some(&entry))).await;
        let guard = |revision| Transaction::new().when(Compare::CreateRevision { key: "/t/a".into(), revision }).put("/t/b", "x");
        bed.committed(guard(made)).await;
        bed.refused(guard(changed)).await;
        let gone = Compare::ModRevision { key: "/t/none".into(), revision: Revision(0) };
        bed.committed(Transaction::new().when(gone).put("/t/c", "x")).await;
    }

    pub async fn a_transaction_is_all_or_nothing_at_one_revision(bed: Bed) {
        let before = bed.put("/t/old", "1").await;
        let half = Transaction::new().when(Compare::absent("/t/new")).when(Compare::absent("/t/old"));
        let outcome = bed.store.commit(half.put("/t/new", "x").delete("/t/old")).await.expect("answered");
        assert_eq!(outcome, Outcome::Refused(before));
        assert_eq!(bed.entry("/t/new").await, None);
        assert!(bed.entry("/t/old").await.is_some());
        let at = bed.committed(Transaction::new().put("/t/1", "x").put("/t/2", "x").delete("/t/old")).await;
        assert_eq!(at.0, before.0 + 1);
        let mut watch = bed.watch("/t/", at).await;
        assert_eq!(changes(&mut watch, 3).await, named(&[("+/t/1", at), ("+/t/2", at), ("-/t/old", at)]));
    }

    pub async fn what_changes_nothing_makes_no_revision(bed: Bed) {
        let at = bed.put("/t/a", "1").await;
        assert_eq!(bed.committed(Transaction::new()).await, at);
        assert_eq!(bed.delete("/t/none").await, at);
        assert_eq!(bed.put("/t/a", "1").await.0, at.0 + 1, "the same value again is a change");
    }

    pub async fn a_key_made_again_has_another_create_revision(bed: Bed) {
        let first = bed.put("/t/lock", "me").await;
        bed.delete("/t/lock").await;
        let second = bed.put("/t/lock", "me").await;
        let guarded =
            |created| Transaction::new().when(Compare::CreateRevision { key: "/t/lock".into(), revision: created }).put("/t/work", "done");
        bed.refused(guarded(first)).await;
        bed.committed(guarded(second)).await;
    }

    pub async fn malformed_transactions_are_refused(bed: Bed) {
        let before = bed.put("/t/a", "1").await;
        let twice = Transaction::new().put("/t/a", "2").put("/t/a", "3");
        let both = Transaction::new().put("/t/a", "2").delete("/t/a");
        let many = (0..129).fold(Transaction::new(), |t, i| t.put(format!("/t/{i}"), "x"));
        let large = Transaction::new().put("/t/a", vec![b'x'; 1600 * 1024]);
        for bad in [twice, both, many, large] {
            let result = bed.store.commit(bad).await;
            assert!(matches!(result, Err(StoreError::Refused { .. })), "{result:?}");
        }
        assert_eq!(bed.list("/t/").await.revision, before);
    }

    pub async fn a_watch_from_the_past_loses_nothing(bed: Bed) {
        let first = bed.put("/t/a", "1").await;
        let second = bed.put("/t/a", "2").await;
        let third = bed.delete("/t/a").await;
        let mut watch = bed.watch("/t/", second).await;
        assert_eq!(changes(&mut watch, 2).await, named(&[("+/t/a", second), ("-/t/a", third)]));
        let fourth = bed.put("/t/b", "1").await;
        assert_eq!(changes(&mut watch, 1).await, named(&[("+/t/b", fourth)]));
        let mut all = bed.watch("/t/", first).await;
        assert_eq!(changes(&mut all, 4).await.first(), Some(&("+/t/a".to_owned(), first)));
    }

    pub async fn a_watch_from_the_future_waits_for_it(bed: Bed) {
        let now = bed.put("/t/a", "1").await;
        let mut watch = bed.watch("/t/", Revision(now.0 + 2)).await;
        bed.put("/t/too-early", "1").await;
        let later = bed.put("/t/in-time", "1").await;
        assert_eq!(changes(&mut watch, 1).await, named(&[("+/t/in-time", later)]));
    }

    pub async fn a_watch_stays_within_its_prefix(bed: Bed) {
        let from = bed.put("/t", "beside").await;
        let mut watch = bed.watch("/t/", from).await;
        bed.put("/t0", "beside").await;
        bed.put("/s/x", "beside").await;
        let first = bed.put("/t/", "the shortest").await;
        let last = bed.put("/t/\u{10ffff}", "the highest").await;
        assert_eq!(changes(&mut watch, 2).await, named(&[("+/t/", first), ("+/t/\u{10ffff}", last)]));
    }

    pub async fn keys_go_with_their_lease_at_one_revision(bed: Bed) {
        let lease = bed.store.grant(TTL).await.expect("granted");
        bed.committed(put_under(lease, "/t/1")).await;
        let last = bed.committed(put_under(lease, "/t/2")).await;
        bed.put("/t/3", "stays").await;
        assert_eq!(bed.entry("/t/1").await.expect("there").lease, Some(lease));
        bed.store.revoke(lease).await.expect("revoked");
        let gone = Revision(last.0 + 2);
        let mut watch = bed.watch("/t/", gone).await;
        let mut seen = changes(&mut watch, 2).await;
        seen.sort();
        assert_eq!(seen, named(&[("-/t/1", gone), ("-/t/2", gone)]));
        assert_eq!(bed.list("/t/").await.entries.len(), 1);
    }

    pub async fn a_renewed_lease_lives_on(bed: Bed) {
        let lease = bed.store.grant(TTL).await.expect("granted");
        bed.committed(put_under(lease, "/t/alive")).await;
        let mut beats = tokio::time::interval(TTL / 4);
        for _ in 0..8 {
            beats.tick().await;
            assert_eq!(bed.store.renew(lease).await.expect("renewed"), TTL);
        }
        assert!(bed.entry("/t/alive").await.is_some());
    }

    pub async fn an_unrenewed_lease_ends(bed: Bed) {
        let lease = bed.store.grant(TTL).await.expect("granted");
        let put = bed.committed(put_under(lease, "/t/alive")).await;
        let mut watch = bed.watch("/t/", Revision(put.0 + 1)).await;
        assert_eq!(changes(&mut watch, 1).await[0].0, "-/t/alive");
        assert_eq!(bed.entry("/t/alive").await, None);
    }

    pub async fn a_put_without_the_lease_takes_the_key_off_it(bed: Bed) {
        let lease = bed.store.grant(TTL).await.expect("granted");
        bed.committed(put_under(lease, "/t/kept")).await;
        bed.put("/t/kept", "now for good").await;
        bed.store.revoke(lease).await.expect("revoked");
        assert_eq!(bed.entry("/t/kept").await.expect("there").lease, None);
    }

    pub async fn an_ended_lease_takes_no_keys_and_no_renewal(bed: Bed) {
        let lease = bed.store.grant(TTL).await.expect("granted");
        bed.store.renew(lease).await.expect("renewed");
        bed.store.revoke(lease).await.expect("revoked");
        bed.store.revoke(lease).await.expect("to end it again is no error");
        assert!(matches!(bed.store.renew(lease).await, Err(StoreError::LeaseEnded(ended)) if ended == lease));
        let put = bed.store.commit(put_under(lease, "/t/a").put("/t/b", "x")).await;
        assert!(matches!(put, Err(StoreError::LeaseEnded(ended)) if ended == lease), "{put:?}");
        assert!(bed.list("/t/").await.entries.is_empty());
        bed.put("/t/c", "x").await;
        bed.refused(put_under(lease, "/t/a").when(Compare::absent("/t/c"))).await;
    }

    pub async fn a_compacted_watch_says_so_and_ends(bed: Bed) {
        let first = bed.put("/t/a", "1").await;
        bed.put("/t/a", "2").await;
        let third = bed.put("/t/a", "3").await;
        bed.compact(third);
        let mut late = bed.watch("/t/", first).await;
        let mut event = next_event(&mut late).await;
        if let Some(WatchEvent::Changes { changes, .. }) = &event {
            assert!(changes.is_empty(), "the store may say that it is there, and no more: {changes:?}");
            event = next_event(&mut late).await;
        }
        assert_eq!(event, Some(WatchEvent::Compacted));
        assert_eq!(next_event(&mut late).await, None);
        let mut exact = bed.watch("/t/", third).await;
        assert_eq!(changes(&mut exact, 1).await, named(&[("+/t/a", third)]));
        assert_eq!(bed.list("/t/").await.entries.len(), 1);
    }

    pub async fn the_store_stays_who_it_is(bed: Bed) {
        let before = bed.store.identity().await.expect("answered");
        let at = bed.put("/t/a", "1").await;
        let after = bed.store.identity().await.expect("answered");
        assert_eq!((after.cluster, after.revision), (before.cluster, at));
        assert!(before.revision < after.revision);
    }
}

/// What only a real etcd can do wrong.
mod faults {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use coord_proto::store::mirror::{self, Mirror};
    use coord_proto::store::session::Session;
    use tokio::time::{Instant, timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Ping, ping's deadline, and as much again for a loaded machine.
    const NOTICED: Duration = Duration::from_secs(10);

    fn dir() -> TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_frozen_member_is_noticed_within_seconds() {
        let dir = dir();
        let etcd = Etcd::start(dir.path()).await;
        let store = etcd.store();
        let from = put(&store, "/t/a", "1").await;
        let mut watch = store.watch("/t/", from).await.expect("watched");
        changes(&mut watch, 1).await;
        etcd.freeze(0);
        let frozen = Instant::now();
        // The watch first, alone: nothing but HTTP/2's own pings can tell.
        assert_eq!(timeout(NOTICED, watch.recv()).await.expect("noticed"), Some(WatchEvent::Lost));
        let read = timeout(NOTICED, store.read("/t/a")).await.expect("an answer");
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
        let commit = timeout(NOTICED, store.commit(Transaction::new().put("/t/b", "1"))).await.expect("an answer");
        assert!(matches!(commit, Err(StoreError::Unavailable { .. })), "{commit:?}");
        assert!(frozen.elapsed() < NOTICED * 2);
        etcd.thaw(0);
        etcd.wait_healthy(0).await;
        put(&store, "/t/c", "1").await;
        assert_eq!(changes(&mut watch, 1).await[0].0, "+/t/c", "and /t/b was never sent");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_a_frozen_member_every_question_ends_within_seconds() {
        let dir = dir();
        let etcd = Etcd::start(dir.path()).await;
        let store = etcd.store();
        let (renewed, revoked) = (store.grant(TTL).await.expect("granted"), store.grant(TTL).await.expect("granted"));
        store.renew(renewed).await.expect("renewed");
        etcd.freeze(0);
        let (list, grant, renew, revoke, identity) = tokio::join!(
            timeout(NOTICED, store.list("/t/")),
            timeout(NOTICED, store.grant(TTL)),
            timeout(NOTICED, store.renew(renewed)),
            timeout(NOTICED, store.revoke(revoked)),
            timeout(NOTICED, store.identity()),
        );
        let away = |answer: Result<(), StoreError>| assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
        away(list.expect("a listing that ends").map(drop));
        away(grant.expect("a grant that ends").map(drop));
        away(renew.expect("a renewal that ends").map(drop));
        away(revoke.expect("a revocation that ends"));
        away(identity.expect("an identity that ends").map(drop));
        etcd.thaw(0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_in_a_frozen_connection_is_indeterminate() {
        let dir = dir();
        let etcd = Etcd::start(dir.path()).await;
        let store = etcd.store();
        put(&store, "/t/a", "1").await;
        etcd.freeze(0);
        let commit = timeout(NOTICED, store.commit(Transaction::new().put("/t/b", "1"))).await.expect("an answer");
        assert!(matches!(commit, Err(StoreError::Indeterminate { .. })), "{commit:?}");
        etcd.thaw(0);
        etcd.wait_healthy(0).await;
        store.read("/t/b").await.expect("read back");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_watch_survives_a_restart_and_loses_nothing() {
        let dir = dir();
        let mut etcd = Etcd::start(dir.path()).await;
        let store = etcd.store();
        let from = put(&store, "/t/0", "1").await;
        let mut watch = store.watch("/t/", from).await.expect("watched");
        changes(&mut watch, 1).await;
        for round in 0..2 {
            put(&store, &format!("/t/{round}/before"), "1").await;
            etcd.kill(0);
            etcd.restart(0).await;
            put(&etcd.store(), &format!("/t/{round}/after"), "1").await;
        }
        let seen: Vec<String> = changes(&mut watch, 4).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(seen, ["+/t/0/before", "+/t/0/after", "+/t/1/before", "+/t/1/after"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn etcd_may_come_after_the_store() {
        let dir = dir();
        let mut etcd = Etcd::start(dir.path()).await;
        etcd.stop(0);
        let store = etcd.store();
        assert!(matches!(store.commit(Transaction::new().put("/t/a", "1")).await, Err(StoreError::Unavailable { .. })));
        etcd.restart(0).await;
        assert_eq!(store.read("/t/a").await.expect("read").entry, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_one_of_three_dead_every_call_succeeds() {
        let dir = dir();
        let mut etcd = Etcd::cluster(dir.path(), 3).await;
        // Three stores: whatever member each begins with, most meet the dead one.
        let stores: Vec<EtcdStore> = (0..3).map(|_| etcd.store()).collect();
        etcd.kill(0);
        etcd.wait_healthy(1).await;
        etcd.wait_healthy(2).await;
        for (n, store) in stores.iter().enumerate() {
            store.identity().await.expect("answered");
            for i in 0..200 {
                put(store, &format!("/t/{n}/{i}"), "1").await;
                assert!(store.read(&format!("/t/{n}/{i}")).await.expect("read").entry.is_some());
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_its_member_frozen_a_store_goes_on_at_another() {
        let dir = dir();
        let etcd = Etcd::cluster(dir.path(), 3).await;
        let store = etcd.store();
        let mut from = put(&store, "/t/start", "1").await;
        let mut watch = store.watch("/t/", from).await.expect("watched");
        changes(&mut watch, 1).await;
        // The store is connected to one of the three: freezing each in turn freezes that one.
        for member in 0..3 {
            etcd.freeze(member);
            store.read("/t/start").await.expect("read at another member");
            for i in 0..20 {
                from = make(&store, &format!("/t/{member}/{i}")).await;
            }
            let seen = changes(&mut watch, 20).await;
            assert_eq!(seen.last(), Some(&(format!("+/t/{member}/19"), from)));
            etcd.thaw(member);
            etcd.wait_healthy(member).await;
        }
    }

    /// Makes a key. A reply that was lost while the members elected a leader says nothing: the key itself tells.
    async fn make(store: &EtcdStore, key: &str) -> Revision {
        let making = async {
            loop {
                match store.commit(Transaction::new().when(Compare::absent(key)).put(key, "1")).await {
                    Ok(Outcome::Committed(at)) => return at,
                    Ok(Outcome::Refused(_)) => return store.read(key).await.expect("read").entry.expect("made").modified,
                    Err(StoreError::Indeterminate { .. }) => {}
                    Err(e) => panic!("{e:?}"),
                }
            }
        };
        timeout(SOON, making).await.expect("made at another member")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_knows_that_its_lease_is_lost() {
        let dir = dir();
        let etcd = Etcd::start(dir.path()).await;
        let stop = CancellationToken::new();
        let store: SharedStore = Arc::new(etcd.store());
        let revoked = Session::open(store.clone(), TTL, &stop).await.expect("opened");
        store.revoke(revoked.lease()).await.expect("revoked");
        timeout(SOON, revoked.lost()).await.expect("told by etcd");
        let frozen = Session::open(store.clone(), TTL, &stop).await.expect("opened");
        etcd.freeze(0);
        timeout(TTL + SOON, frozen.lost()).await.expect("its trusted time passed");
        etcd.thaw(0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_outlives_a_restart_and_closes_at_once() {
        let dir = dir();
        let mut etcd = Etcd::start(dir.path()).await;
        let stop = CancellationToken::new();
        let store: SharedStore = Arc::new(etcd.store());
        let session = Session::open(store.clone(), Duration::from_secs(60), &stop).await.expect("opened");
        let put = committed(&*store, put_under(session.lease(), "/t/alive")).await;
        etcd.kill(0);
        etcd.restart(0).await;
        store.renew(session.lease()).await.expect("renewed on a new stream");
        let mut watch = store.watch("/t/", Revision(put.0 + 1)).await.expect("watched");
        session.close().await.expect("closed");
        assert_eq!(changes(&mut watch, 1).await[0].0, "-/t/alive");
    }

    async fn mirrored(view: &mut tokio::sync::watch::Receiver<Arc<Mirror>>, keys: &[&str]) {
        let keys: BTreeSet<&str> = keys.iter().copied().collect();
        let same = |m: &Arc<Mirror>| m.fresh && m.entries.keys().map(String::as_str).collect::<BTreeSet<_>>() == keys;
        let waited = timeout(SOON, view.wait_for(same)).await;
        assert!(waited.is_ok_and(|seen| seen.is_ok()), "{:?} instead of {keys:?}", view.borrow());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_mirror_follows_over_a_compaction_and_a_restart() {
        let dir = dir();
        let mut etcd = Etcd::start(dir.path()).await;
        let stop = CancellationToken::new();
        let mut view = mirror::follow(Arc::new(etcd.store()), "/t/".into(), stop.clone());
        put(&etcd.store(), "/t/a", "1").await;
        mirrored(&mut view, &["/t/a"]).await;
        etcd.kill(0);
        timeout(SOON, view.wait_for(|m| !m.fresh)).await.expect("in time").expect("still following");
        assert_eq!(view.borrow().entries.len(), 1, "the last good view stays");
        etcd.restart(0).await;
        // The history is gone before the mirror may ask for it, or it asks first: both must end at the same view.
        let other = etcd.store();
        put(&other, "/t/b", "1").await;
        let last = committed(&other, Transaction::new().delete("/t/a")).await;
        etcd.compact(last);
        mirrored(&mut view, &["/t/b"]).await;
        put(&other, "/t/c", "1").await;
        mirrored(&mut view, &["/t/b", "/t/c"]).await;
        assert!(!view.borrow().restored);
        stop.cancel();
        timeout(SOON, async { while view.changed().await.is_ok() {} }).await.expect("the mirror stops");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_mirror_tells_another_cluster_from_its_own() {
        let (old, new) = (dir(), dir());
        let mut etcd = Etcd::start(old.path()).await;
        for i in 0..5 {
            put(&etcd.store(), &format!("/t/{i}"), "1").await;
        }
        let stop = CancellationToken::new();
        let mut view = mirror::follow(Arc::new(etcd.store()), "/t/".into(), stop.clone());
        mirrored(&mut view, &["/t/0", "/t/1", "/t/2", "/t/3", "/t/4"]).await;
        etcd.kill(0);
        forget_everything(&old, &new);
        etcd.restart(0).await;
        timeout(SOON, view.wait_for(|m| m.restored)).await.expect("in time").expect("still following");
        mirrored(&mut view, &[]).await;
    }

    /// The member's data moves away, as with a disk replaced by an empty one.
    fn forget_everything(old: &TempDir, new: &TempDir) {
        let data = |dir: &Path| dir.join("m0");
        std::fs::rename(data(old.path()), data(new.path())).expect("moved");
    }
}
