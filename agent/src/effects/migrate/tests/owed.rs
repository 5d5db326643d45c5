use super::*;
use crate::effects::migrate::owed::Settler;

struct Settling {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn settle(world: &World, host: &Host) -> Settling {
    let stop = CancellationToken::new();
    let MigrateContext { store, node, claims, presence, .. } = host.context.clone();
    let settler = Settler { store, keys: world.keys.clone(), node, claims, presence, stop: stop.clone() };
    Settling { stop, task: tokio::spawn(settler.run()) }
}

impl Settling {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }
}

async fn until_progress(world: &World, host: &Host, wanted: Option<Progress>) {
    for _ in 0..2_000 {
        if host.progress(world).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the claim is {:?}, not {wanted:?}, after ten seconds", host.progress(world).await);
}

/// The command ends while the store is away, and the goal goes elsewhere: nobody asks for the task any more.
#[tokio::test]
async fn an_ending_is_told_when_the_store_is_back_although_the_goal_went_elsewhere() {
    let world = world().await;
    world.open.send_replace(false);
    let (store, mut host) = (world.store.another_client(), world.host("a", TaskState::Succeeded).await);
    host.context.store = Arc::new(store.clone());
    let settling = settle(&world, &host);
    let outage = async {
        until(|| host.starts() == 1).await;
        store.set_offline(true);
        host.give_way.cancel();
        world.open.send_replace(true);
    };
    let (ended, ()) = tokio::join!(host.ensure(&world, OnUnknown::Stop), outage);
    assert!(ended.is_err(), "the store is away");
    assert_eq!(world.record().await.state, TaskState::Claimed, "under a living lease: nobody may decide it");
    store.set_offline(false);
    until_state(&world, TaskState::Succeeded).await;
    until_progress(&world, &host, Some(Progress::Over)).await;
    assert!(look(&world).await.head.is_some_and(|(head, _)| !head.open), "the next release may go on");
    settling.stop().await;
}

/// The agent died while the command ran, and comes back under another goal.
#[tokio::test]
async fn a_start_that_a_restart_cut_off_is_told_as_unknown() {
    let world = world().await;
    world.open.send_replace(false);
    let host = world.host("a", TaskState::Succeeded).await;
    tokio::select! {
        biased;
        _ = host.ensure(&world, OnUnknown::Stop) => panic!("the gate is closed"),
        () = until(|| host.starts() == 1) => {}
    }
    let settling = settle(&world, &host);
    until_state(&world, TaskState::Unknown).await;
    until_progress(&world, &host, Some(Progress::Over)).await;
    assert!(look(&world).await.head.is_some_and(|(head, _)| head.open), "a person must look first");
    settling.stop().await;
}

#[tokio::test]
async fn a_claim_that_nothing_was_started_under_is_given_back() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.claimed_before(&world).await;
    let settling = settle(&world, &host);
    until_progress(&world, &host, None).await;
    assert_eq!(world.record().await.state, TaskState::Pending);
    settling.stop().await;
    let other = world.host("b", TaskState::Succeeded).await;
    other.ensure(&world, OnUnknown::Stop).await.expect("settled");
    assert_eq!((host.starts(), other.starts()), (0, 1));
}

/// The lock is gone: whether something was started is for a person to say, also when this journal says no.
#[tokio::test]
async fn a_claim_without_its_lock_is_not_given_back() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.claimed_before(&world).await;
    let lock = world.id.lock_key(&world.keys);
    world.store.commit(Transaction::new().delete(lock)).await.expect("deleted");
    let settling = settle(&world, &host);
    until_progress(&world, &host, None).await;
    assert_eq!(world.record().await.state, TaskState::Unknown);
    settling.stop().await;
}

#[tokio::test]
async fn another_s_word_stands() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.claimed_before(&world).await;
    let held = host.context.claims.hold(&world.id).await;
    let claim = held.load().expect("readable").expect("claimed");
    let ending = Ending { state: TaskState::Failed, detail: "scripted".into(), log_tail: String::new(), now: 7 };
    held.save(&Claim { progress: Progress::Ended(ending.into()), ..claim }).expect("saved");
    drop(held);
    world.store.commit(Transaction::new().delete(world.id.lock_key(&world.keys))).await.expect("deleted");
    let word =
        migration::resolve(&world.keys, &world.id, &look(&world).await, Resolution::Succeeded, "looked at it", 9).expect("decidable");
    world.store.commit(word).await.expect("decided");
    let settling = settle(&world, &host);
    until_progress(&world, &host, Some(Progress::Over)).await;
    assert_eq!((world.record().await.state, world.record().await.detail.as_str()), (TaskState::Succeeded, "looked at it"));
    settling.stop().await;
}

/// What runs is its own effect's; and without a presence, another agent of this name may be at work.
#[tokio::test(start_paused = true)]
async fn what_is_held_and_what_a_clone_finds_is_left_alone() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.claimed_before(&world).await;
    let held = host.context.claims.hold(&world.id).await;
    let settling = settle(&world, &host);
    tokio::time::sleep(LOOK_AGAIN * 3).await;
    assert_eq!(world.record().await.state, TaskState::Claimed);
    host.presence.send_replace(None);
    drop(held);
    tokio::time::sleep(LOOK_AGAIN * 3).await;
    assert_eq!((world.record().await.state, host.progress(&world).await), (TaskState::Claimed, Some(Progress::Intended)));
    settling.stop().await;
}
