use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_proto::ids::Seq;
use coord_proto::store::Store;

use super::*;
use world::*;

mod owed;
mod world;

#[tokio::test]
async fn twenty_servers_at_once_start_it_once() {
    let world = world().await;
    let mut hosts = vec![];
    for i in 0..20 {
        hosts.push(world.host(&format!("web-{i}"), TaskState::Succeeded).await);
    }
    let all = futures::future::join_all(hosts.iter().map(|h| h.ensure(&world, OnUnknown::Stop))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(hosts.iter().map(Host::starts).sum::<usize>(), 1);
    assert_eq!(world.record().await.state, TaskState::Succeeded);
}

#[tokio::test]
async fn a_failed_one_fails_for_all_and_is_not_started_again() {
    let world = world().await;
    let (a, b) = (world.host("a", TaskState::Failed).await, world.host("b", TaskState::Failed).await);
    for host in [&a, &b] {
        assert!(matches!(host.ensure(&world, OnUnknown::Stop).await, Err(MigrateError::Failed { .. })));
    }
    assert_eq!(a.starts() + b.starts(), 1);
}

#[tokio::test]
async fn the_reply_of_the_claim_is_lost_and_the_claim_is_found_by_its_nonce() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    world.store.drop_next_reply();
    host.ensure(&world, OnUnknown::Stop).await.expect("settled");
    assert_eq!(host.starts(), 1);
    assert_eq!(world.record().await.attempt, 1);
}

/// The agent dies while the command runs, and comes back: the journal says `started`, and nobody knows.
#[tokio::test]
async fn an_agent_that_died_during_the_command_never_starts_it_again() {
    let world = world().await;
    world.open.send_replace(false);
    let host = world.host("a", TaskState::Succeeded).await;
    tokio::select! {
        biased;
        _ = host.ensure(&world, OnUnknown::Stop) => panic!("the gate is closed"),
        () = until(|| host.starts() == 1) => {}
    }
    world.open.send_replace(true);
    tokio::select! {
        biased;
        _ = host.ensure(&world, OnUnknown::Stop) => panic!("it must wait for a person"),
        () = until_state(&world, TaskState::Unknown) => {}
    }
    assert_eq!(host.starts(), 1);
    let (id, keys) = (&world.id, &world.keys);
    let view = look(&world).await;
    assert!(view.head.as_ref().is_some_and(|(h, _)| h.open), "nothing newer may start beside a command that may run");
    let resolved = migration::resolve(keys, id, &view, Resolution::Succeeded, "looked at it", 9).expect("may be resolved");
    assert!(world.store.commit(resolved).await.expect("commit").committed());
    host.ensure(&world, OnUnknown::Stop).await.expect("settled by a person");
    assert!(look(&world).await.head.is_some_and(|(h, _)| !h.open));
}

#[tokio::test]
async fn retry_starts_it_again_with_a_higher_fence_and_attempt() {
    let world = world().await;
    world.open.send_replace(false);
    let host = world.host("a", TaskState::Succeeded).await;
    tokio::select! {
        biased;
        _ = host.ensure(&world, OnUnknown::Retry) => panic!("the gate is closed"),
        () = until(|| host.starts() == 1) => {}
    }
    world.open.send_replace(true);
    host.ensure(&world, OnUnknown::Retry).await.expect("settled at the second start");
    let starts = host.script.starts.lock().expect("no panic holds it").clone();
    assert_eq!(starts.iter().map(|s| s.1).collect::<Vec<_>>(), [1, 2]);
    assert!(starts[1].2 > starts[0].2, "the fence grows");
}

#[tokio::test]
async fn a_waiter_says_whose_migration_it_waits_for() {
    let world = world().await;
    world.open.send_replace(false);
    let (a, b) = (world.host("a", TaskState::Succeeded).await, world.host("b", TaskState::Succeeded).await);
    let said = std::sync::Mutex::new(Vec::new());
    let say = |saying| said.lock().expect("no panic holds it").push(saying);
    let wait = async {
        until(|| a.starts() == 1).await;
        tokio::select! {
            biased;
            _ = b.ensure_saying(&world, OnUnknown::Stop, &say) => panic!("a runs it"),
            () = until(|| !said.lock().expect("no panic holds it").is_empty()) => {}
        }
        world.open.send_replace(true);
    };
    let (ended, ()) = tokio::join!(a.ensure(&world, OnUnknown::Stop), wait);
    ended.expect("settled");
    let words = format!("waiting for a's migration of {}", world.id.release);
    assert_eq!(said.lock().expect("no panic holds it").first(), Some(&Saying::Waits(words)));
}

/// The holder's lease ends while its command runs: others mark it unknown; under `stop` it goes on and settles late.
#[tokio::test]
async fn a_lost_lease_under_stop_settles_late_and_starts_nothing_else() {
    let world = world().await;
    world.open.send_replace(false);
    let (a, b) = (world.host("a", TaskState::Succeeded).await, world.host("b", TaskState::Succeeded).await);
    let play = async {
        until(|| a.starts() == 1).await;
        let presence = a.presence.borrow().clone().expect("held");
        presence.lost.cancel();
        world.store.end_lease(presence.guard.lease);
        until_state(&world, TaskState::Unknown).await;
        world.open.send_replace(true);
    };
    let (first, second, ()) = tokio::join!(a.ensure(&world, OnUnknown::Stop), b.ensure(&world, OnUnknown::Stop), play);
    first.expect("settled late by its holder");
    second.expect("found succeeded");
    assert_eq!((a.starts(), b.starts()), (1, 0));
}

#[tokio::test]
async fn an_older_release_never_starts_after_a_newer_one() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    let head = migration::Head { seq: Seq(2), release: "r2".parse().expect("release"), task: world.id.task.clone(), open: false };
    world.store.commit(Transaction::new().put_record(world.id.head_key(&world.keys), &head)).await.expect("head");
    assert!(matches!(host.ensure(&world, OnUnknown::Stop).await, Err(MigrateError::Overtaken { .. })));
    assert_eq!(host.starts(), 0);
}

/// Nobody told this server yet that its rollout was superseded; the store knows.
#[tokio::test(start_paused = true)]
async fn what_a_superseded_rollout_told_is_not_claimed() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    world.start_rollout("2", Seq(2)).await;
    let waited = tokio::time::timeout(LOOK_AGAIN * 3, host.ensure(&world, OnUnknown::Stop)).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(host.starts(), 0);
}

/// The holder's lease ends, its command ends with it, and another server starts it again.
#[tokio::test]
async fn a_lost_lease_under_retry_ends_the_command_and_another_starts_it() {
    let world = world().await;
    world.open.send_replace(false);
    let (a, b) = (world.host("a", TaskState::Succeeded).await, world.host("b", TaskState::Succeeded).await);
    let first = async {
        until(|| a.starts() == 1).await;
        let presence = a.presence.send_replace(None).expect("held");
        presence.lost.cancel();
        until_ended(&a, &world).await;
        world.store.end_lease(presence.guard.lease);
        world.open.send_replace(true);
    };
    let (late, second, ()) = tokio::join!(a.ensure(&world, OnUnknown::Retry), b.ensure(&world, OnUnknown::Retry), first);
    late.expect("found succeeded");
    second.expect("found succeeded");
    assert_eq!((a.starts(), b.starts()), (1, 1));
    assert!(b.fences()[0] > a.fences()[0], "the fence grows");
    let record = world.record().await;
    assert_eq!((record.state, record.attempt, record.holder.as_str()), (TaskState::Succeeded, 2, "b"));
}

/// Of a lease from before the agent's restart nobody notices the end, so under `retry` nothing starts under it.
#[tokio::test]
async fn a_claim_of_an_earlier_lease_is_given_back_under_retry_and_started_under_stop() {
    for (policy, same) in [(OnUnknown::Retry, false), (OnUnknown::Stop, true)] {
        let world = world().await;
        let host = world.host("a", TaskState::Succeeded).await;
        let fence = host.claimed_before(&world).await;
        host.register_again(&world).await;
        host.ensure(&world, policy).await.expect("settled");
        assert_eq!(host.fences().iter().map(|f| *f == fence).collect::<Vec<_>>(), [same], "{policy:?}");
        assert_eq!(world.record().await.attempt, 1, "one start");
    }
}

/// No attempt is burnt for want of a presence.
#[tokio::test(start_paused = true)]
async fn without_a_presence_nothing_is_journaled_as_started() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.claimed_before(&world).await;
    let presence = host.presence.send_replace(None);
    let waited = tokio::time::timeout(LOOK_AGAIN, host.ensure(&world, OnUnknown::Retry)).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(host.progress(&world).await, Some(Progress::Forgone));
    host.presence.send_replace(presence);
    host.ensure(&world, OnUnknown::Retry).await.expect("settled");
    assert_eq!((host.starts(), world.record().await.attempt), (1, 1));
}

#[tokio::test]
async fn a_claim_is_given_back_when_the_goal_went_elsewhere_before_it_started() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.claimed_before(&world).await;
    host.give_way.cancel();
    assert!(matches!(host.ensure(&world, OnUnknown::Stop).await, Err(MigrateError::Interrupted)));
    let view = look(&world).await;
    assert_eq!((host.starts(), world.record().await.state), (0, TaskState::Pending));
    assert!(view.lock.is_none() && view.head.is_some_and(|(head, _)| !head.open), "nobody waits for it");
}

/// An operator deletes the presence's key while its lease lives: every claim is refused until the agent has registered again.
#[tokio::test(start_paused = true)]
async fn a_claim_that_stays_refused_is_not_tried_in_a_circle() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    let key = world.keys.key(&Key::NodeAlive("a".parse().expect("node")));
    world.store.commit(Transaction::new().delete(key)).await.expect("deleted");
    let said = AtomicUsize::new(0);
    let count = |_| _ = said.fetch_add(1, Ordering::Relaxed);
    let waited = tokio::time::timeout(LOOK_AGAIN * 3, host.ensure_saying(&world, OnUnknown::Stop, &count)).await;
    assert!(waited.is_err(), "{waited:?}");
    assert!(said.load(Ordering::Relaxed) <= 4, "{said:?} tries in {:?}", LOOK_AGAIN * 3);
}

/// The record says "unclaimed" because the backup is older than the claim. The mirror has noticed, or will in a moment.
#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_or_started_by_the_word_of_a_restored_store() {
    let restored = Mirror { ready: true, fresh: true, restored: true, ..Mirror::default() };
    let behind = Mirror { ready: true, fresh: true, revision: Revision(1_000), ..Mirror::default() };
    let away = Mirror { ready: true, ..Mirror::default() };
    for doubt in [restored, behind, away] {
        let world = world().await;
        let host = world.host("a", TaskState::Succeeded).await;
        let sound = host.mirror.send_replace(Arc::new(doubt.clone()));
        // Twice, within the lease of 60 s.
        let waits = async || tokio::time::timeout(LOOK_AGAIN + Duration::from_secs(5), host.ensure(&world, OnUnknown::Stop)).await.is_err();
        assert!(waits().await, "{doubt:?}");
        assert!(look(&world).await.record.is_none(), "{doubt:?}: nothing was claimed");
        host.claimed_before(&world).await;
        assert!(waits().await, "{doubt:?}");
        assert_eq!(host.starts(), 0, "{doubt:?}: nor started");
        host.mirror.send_replace(sound);
        tokio::time::timeout(LOOK_AGAIN, host.ensure(&world, OnUnknown::Stop)).await.expect("in time").expect("settled");
    }
}

/// The presence comes after the look found none, and before the wait begins.
#[tokio::test(start_paused = true)]
async fn a_presence_that_comes_before_the_wait_is_not_slept_over() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    let presence = host.presence.send_replace(None);
    let began = tokio::time::Instant::now();
    let come = |said| {
        if said != Saying::Runs {
            _ = host.presence.send_replace(presence.clone())
        }
    };
    host.ensure_saying(&world, OnUnknown::Stop, &come).await.expect("settled");
    assert!(began.elapsed() < LOOK_AGAIN, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_waiter_gives_way_when_asked() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.presence.send_replace(None);
    host.give_way.cancel();
    assert!(matches!(host.ensure(&world, OnUnknown::Stop).await, Err(MigrateError::Interrupted)));
}

#[tokio::test]
async fn nothing_is_claimed_after_it_was_asked_to_give_way() {
    let world = world().await;
    let host = world.host("a", TaskState::Succeeded).await;
    host.give_way.cancel();
    assert!(matches!(host.ensure(&world, OnUnknown::Stop).await, Err(MigrateError::Interrupted)));
    assert_eq!(host.starts(), 0);
    assert!(look(&world).await.record.is_none(), "nothing was claimed");
}
