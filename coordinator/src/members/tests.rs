use coord_proto::store::Store as _;
use coord_proto::store::memory::MemoryStore;

use super::*;

fn member(store: &MemoryStore, instance: &str, artifacts: &str) -> Member {
    let record = MemberRecord {
        host: format!("host-{instance}"),
        url: format!("https://{instance}:7080"),
        artifacts: artifacts.to_owned(),
        since: 0,
    };
    let (store, keys, ttl) = (std::sync::Arc::new(store.clone()), KeySpace::default(), Duration::from_secs(15));
    Member { store, keys, ttl, instance: instance.to_owned(), record }
}

async fn announced(store: &MemoryStore) -> Vec<String> {
    let entries = store.list(&KeySpace::default().members()).await.expect("listed").entries;
    entries.iter().map(|e| e.record::<MemberRecord>().expect("record").url).collect()
}

#[tokio::test(start_paused = true)]
async fn a_second_coordinator_with_artifacts_of_its_own_is_refused_and_told_whom_it_meets() {
    let stop = CancellationToken::new();
    for (first, second) in
        [("file:///a", "file:///a"), ("file:///a", "s3://bucket/x"), ("s3://bucket/x", "file:///a"), ("s3://bucket/x", "s3://bucket/y")]
    {
        let store = MemoryStore::new();
        let _session = member(&store, "one", first).join(&stop).await.expect("the first");
        let refused = member(&store, "two", second).join(&stop).await.map(|_| ()).expect_err("the second").to_string();
        for part in ["host-one", "https://one:7080", first, second] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        assert_eq!(announced(&store).await, ["https://one:7080"], "the second left nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn coordinators_with_one_bucket_run_beside_each_other() {
    let (store, stop) = (MemoryStore::new(), CancellationToken::new());
    let _one = member(&store, "one", "s3://bucket/x").join(&stop).await.expect("the first");
    let _two = member(&store, "two", "s3://bucket/x").join(&stop).await.expect("the second");
    assert_eq!(announced(&store).await, ["https://one:7080", "https://two:7080"]);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_starts_again_takes_its_own_place() {
    let (store, stop) = (MemoryStore::new(), CancellationToken::new());
    // It died: its record stays until its lease ends.
    let _dead = member(&store, "one", "file:///a").join(&stop).await.expect("the first start");
    let again = member(&store, "one", "file:///a");
    let session = again.join(&stop).await.expect("the second start");
    let staying = tokio::spawn({
        let stop = stop.clone();
        async move { again.stay(session, &stop).await }
    });
    stop.cancel();
    staying.await.expect("no panic").expect("stopped");
    assert_eq!(announced(&store).await, ["https://one:7080"], "within its lease nobody takes its place");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(announced(&store).await.is_empty(), "it goes with its lease");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_is_replaced_and_who_came_meanwhile_stays() {
    let (store, stop) = (MemoryStore::new(), CancellationToken::new());
    let one = member(&store, "one", "file:///a");
    let session = one.join(&stop).await.expect("joined");
    let lease = session.lease();
    let staying = tokio::spawn(async move { one.stay(session, &CancellationToken::new()).await });
    store.end_lease(lease);
    tokio::time::timeout(Duration::from_secs(60), async {
        while announced(&store).await.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("announced again");
    let leases = store.list(&KeySpace::default().members()).await.expect("listed").entries;
    // Another one comes in the moment in which its lease has ended.
    store.end_lease(leases[0].lease.expect("a lease"));
    let _two = member(&store, "two", "file:///b").join(&stop).await.expect("the place is free");
    let ended = tokio::time::timeout(Duration::from_secs(60), staying).await.expect("in time").expect("no panic");
    assert!(matches!(ended, Err(MemberError::SecondStore { other, .. }) if other == "host-two"));
}

#[test]
fn the_instance_stays_over_restarts() {
    let dir = tempfile::tempdir().expect("directory");
    let first = instance(dir.path()).expect("made");
    assert_eq!(instance(dir.path()).expect("read"), first);
    std::fs::write(dir.path().join(INSTANCE_FILE), "").expect("emptied");
    assert_ne!(instance(dir.path()).expect("made anew"), first);
}
