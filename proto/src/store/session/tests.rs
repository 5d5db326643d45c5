use tokio::time::Instant;

use super::*;
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

const TTL: Duration = Duration::from_secs(9);

/// Boot time that follows tokio's, so that tests decide how it passes.
fn clock() -> BootClock {
    let start = Instant::now();
    Arc::new(move || start.elapsed())
}

async fn open(store: &MemoryStore, clock: BootClock) -> Session {
    Session::open_by(Arc::new(store.clone()), TTL, &CancellationToken::new(), clock).await.expect("opened")
}

fn trusted(session: &Session) -> Option<Duration> {
    match *session.state().borrow() {
        SessionState::Alive { trusted_until_boottime } => Some(trusted_until_boottime),
        SessionState::Lost => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_every_third_of_its_ttl() {
    let store = MemoryStore::new();
    let session = open(&store, clock()).await;
    assert_eq!(trusted(&session), Some(TTL));
    let mut state = session.state();
    state.changed().await.expect("renewed");
    assert_eq!(trusted(&session).map(|t| t.as_secs()), Some((TTL + TTL / 3).as_secs()));
    tokio::time::sleep(TTL * 10).await;
    assert!(store.renew(session.lease()).await.is_ok() && trusted(&session).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_survived() {
    let store = MemoryStore::new();
    let session = open(&store, clock()).await;
    store.set_offline(true);
    tokio::time::sleep(TTL - Duration::from_secs(1)).await;
    store.set_offline(false);
    tokio::time::sleep(TTL).await;
    assert!(trusted(&session).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_outage_as_long_as_the_ttl_loses_the_lease() {
    let store = MemoryStore::new();
    let began = Instant::now();
    let session = open(&store, clock()).await;
    store.set_offline(true);
    session.lost().await;
    let lasted = began.elapsed();
    assert!(lasted >= TTL && lasted < TTL + Duration::from_millis(100), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ended_lease_is_lost_at_the_next_renewal() {
    let store = MemoryStore::new();
    let session = open(&store, clock()).await;
    store.end_lease(session.lease());
    let began = Instant::now();
    session.lost().await;
    assert!(began.elapsed() <= TTL / 3 + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn time_asleep_counts() {
    let store = MemoryStore::new();
    let suspended = Arc::new(std::sync::Mutex::new(Duration::ZERO));
    let (by, awake) = (suspended.clone(), clock());
    let session = open(&store, Arc::new(move || awake() + *by.lock().expect("not poisoned"))).await;
    *suspended.lock().expect("not poisoned") = TTL;
    session.lost().await;
    assert!(store.renew(session.lease()).await.is_ok(), "the store still had it: the clock alone decided");
}

#[tokio::test(start_paused = true)]
async fn a_reply_later_than_the_ttl_proves_nothing() {
    let store = MemoryStore::new();
    // The clock is read for the grant, before the first renewal and after its reply: asleep in between.
    let (reads, awake) = (std::sync::atomic::AtomicU32::new(0), clock());
    let slept = move || if reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 { Duration::ZERO } else { TTL * 2 };
    let began = Instant::now();
    let session = open(&store, Arc::new(move || awake() + slept())).await;
    session.lost().await;
    assert!(began.elapsed() < TTL / 2, "at once, not at the next renewal");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_lease_and_dropping_leaves_it_to_its_ttl() {
    let store = MemoryStore::new();
    let closed = open(&store, clock()).await;
    let lease = closed.lease();
    closed.close().await.expect("closed");
    assert!(matches!(store.renew(lease).await, Err(StoreError::LeaseEnded(_))));
    let dropped = open(&store, clock()).await;
    let lease = dropped.lease();
    drop(dropped);
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    assert!(matches!(store.renew(lease).await, Err(StoreError::LeaseEnded(_))));
}

#[test]
fn boottime_goes_forward() {
    let first = boottime();
    assert!(first > Duration::ZERO && boottime() >= first);
}
