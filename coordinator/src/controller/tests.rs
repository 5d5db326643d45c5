//! Whole controllers on the in-memory store, with servers as tasks; time is virtual.

use std::time::Duration;

use coord_proto::ids::Seq;
use coord_proto::limits::RECORD_BYTES_MAX;
use coord_proto::rollout::{Outcome as Fared, RolloutPhase, Verdict};

use super::*;
use stage::{Agent, Stage};

mod stage;

#[tokio::test(start_paused = true)]
async fn three_servers_take_a_release_one_by_one() {
    let stage = Stage::new();
    let _agents = stage.agents(&["n1", "n2", "n3"]);
    let _leader = stage.controller("c1");
    stage.publish(1).await;
    let fleet = stage.until("the end", |f| stage.phase(f) == Some(RolloutPhase::Succeeded)).await;
    assert_eq!(stage.log(), ["n1 runs 1", "n2 runs 1", "n3 runs 1"]);
    let app = &fleet.apps[&stage.app];
    assert_eq!(app.stable.as_ref().map(|s| s.seq), Some(Seq(1)));
    assert_eq!(app.releases.values().map(|r| r.verdict).collect::<Vec<_>>(), [Verdict::Good]);
    assert_eq!(app.history.len(), 1);
    assert_eq!(fleet.stores, ["https://c1/artifacts"]);
    assert!(stage.events().await.iter().any(|e| e.contains("opened batch 1 of 3: n1")), "{:?}", stage.events().await);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_joins_takes_stable() {
    let stage = Stage::new();
    let _agents = stage.agents(&["n1"]);
    let _leader = stage.controller("c1");
    stage.publish(1).await;
    stage.until("the end", |f| stage.phase(f) == Some(RolloutPhase::Succeeded)).await;
    let _late = stage.agents(&["n9"]);
    stage.until("n9 on stable", |f| stage.runs(f, "n9") == Some(Seq(1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_server_takes_the_others_back() {
    let stage = Stage::new();
    let _agents = stage.agents(&["n1"]);
    let _bad = Agent::spawn(&stage, "n2", Some(Seq(2)));
    let _leader = stage.controller("c1");
    stage.publish(1).await;
    stage.until("release 1", |f| stage.phase(f) == Some(RolloutPhase::Succeeded)).await;
    stage.publish(2).await;
    let fleet = stage.until("the way back", |f| stage.phase(f) == Some(RolloutPhase::RolledBack)).await;
    assert_eq!(stage.log(), ["n1 runs 1", "n2 runs 1", "n1 runs 2", "n2 fails 2", "n1 runs 1"]);
    let app = &fleet.apps[&stage.app];
    assert_eq!(app.stable.as_ref().map(|s| s.seq), Some(Seq(1)));
    let state = app.state.as_ref().expect("a state");
    assert_eq!(state.targets.iter().map(|t| t.outcome).collect::<Vec<_>>(), [Fared::RolledBack, Fared::Failed]);
}

#[tokio::test(start_paused = true)]
async fn another_coordinator_goes_on_where_one_lost_its_lease_and_nothing_is_done_twice() {
    let stage = Stage::new();
    let _agents = stage.agents(&["n1", "n2", "n3"]);
    let first = stage.store.another_client();
    let _one = stage.controller_on(first.clone(), "c1");
    stage.publish(1).await;
    stage.until("n1 done", |f| stage.runs(f, "n1") == Some(Seq(1))).await;
    let _two = stage.controller("c2");
    first.set_offline(true);
    stage.end_leadership().await;
    let fleet = stage.until("the end", |f| stage.phase(f) == Some(RolloutPhase::Succeeded)).await;
    assert_eq!(fleet.leader.as_ref().map(|l| l.host.as_str()), Some("c2"));
    assert_eq!(stage.log(), ["n1 runs 1", "n2 runs 1", "n3 runs 1"]);
    for node in ["n1", "n2", "n3"] {
        let desired = fleet.node_app(&node.parse().expect("node"), &stage.app).and_then(|s| s.desired.as_ref()).expect("desired");
        assert_eq!(desired.generation.0, 2, "{node} was told to stage and to run, each once");
    }
    first.set_offline(false);
    stage.quiet(Duration::from_secs(60)).await;
    assert_eq!(stage.fleet().await.leader.map(|l| l.host).as_deref(), Some("c2"), "the first one waits for its turn");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_coordinator_hands_over_at_once() {
    let stage = Stage::new();
    let one = stage.controller("c1");
    stage.until("c1", |f| f.leader.as_ref().is_some_and(|l| l.host == "c1")).await;
    let _two = stage.controller("c2");
    let before = Instant::now();
    one.stop().await;
    stage.until("c2", |f| f.leader.as_ref().is_some_and(|l| l.host == "c2")).await;
    assert!(before.elapsed() < Duration::from_secs(5), "it did not wait for the lease: {:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_key_was_deleted_campaigns_again() {
    let stage = Stage::new();
    let _leader = stage.controller("c1");
    let first = stage.until("c1", |f| f.leader.is_some()).await.leader.expect("a leader");
    let key = stage.keys.key(&coord_proto::keys::Key::Leader);
    stage.shared().commit(Transaction::new().delete(key)).await.expect("the store answers");
    stage.until("another leadership", |f| f.leader.as_ref().is_some_and(|l| l.instance != first.instance)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_is_gone_writes_nothing_more() {
    let stage = Stage::new();
    let (store, keys) = (stage.shared(), stage.keys.clone());
    let options = stage.options("c1");
    let stop = CancellationToken::new();
    let mut mirrors = mirror::follow(store.clone(), keys.all(), stop.clone());
    let leadership = candidate(&store, &keys, &options).campaign(&mut mirrors, &stop).await;
    let mut leader = Leader::new(&store, &keys, &options, &leadership, Audit::new("c1".into()));
    let put = |value: &str| Transaction::new().put("/coord/v1/coordinator/stores", value);
    assert!(leader.commit(put("a")).await.expect("the store answers").committed());
    stage.store.end_lease(leadership.guard.lease);
    assert!(!leader.commit(put("b")).await.expect("the store answers").committed(), "I10");
}

#[tokio::test(start_paused = true)]
async fn a_view_without_the_last_own_write_is_not_decided_by() {
    let stage = Stage::new();
    let (store, keys, options) = (stage.shared(), stage.keys.clone(), stage.options("c1"));
    let stop = CancellationToken::new();
    let mut mirrors = mirror::follow(store.clone(), keys.all(), stop.clone());
    let leadership = candidate(&store, &keys, &options).campaign(&mut mirrors, &stop).await;
    let mut leader = Leader::new(&store, &keys, &options, &leadership, Audit::new("c1".into()));
    let view = |revision, fresh| Mirror { revision: Revision(revision), fresh, ready: true, ..Mirror::default() };
    let now = leadership.guard.created.0;
    assert!(leader.usable(&view(now, true)));
    leader.written = Revision(now + 1);
    assert!(!leader.usable(&view(now, true)), "too old");
    assert!(!leader.usable(&view(now + 1, false)), "stale");
    assert!(!leader.usable(&Mirror { restored: true, ..view(now + 1, true) }), "another past");
    assert!(leader.usable(&view(now + 1, true)));
}

#[tokio::test(start_paused = true)]
async fn a_publish_in_between_refuses_what_was_decided_before() {
    let stage = Stage::new();
    let (keys, app) = (stage.keys.clone(), stage.app.clone());
    stage.publish(1).await;
    let mirror = stage.mirror().await;
    let fleet = Fleet::from_mirror(&mirror, &keys);
    let decision = rollout::plan(&PlanInput { name: &app, fleet: &fleet, timers: Timers::default(), elapsed: Duration::ZERO, now: 0 });
    let script = Script::of(&keys, &mirror, &fleet, &app, &decision, &Audit::new("c1".into()));
    stage.publish(2).await;
    let outcome = stage.shared().commit(script.first).await.expect("the store answers");
    assert!(!outcome.committed());
}

#[tokio::test(start_paused = true)]
async fn a_fleet_larger_than_a_transaction_is_told_in_several() {
    let stage = Stage::new();
    let names: Vec<String> = (0..200).map(|n| format!("n{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _agents = stage.agents(&names);
    stage.until("all present", |f| f.nodes.values().filter(|n| n.present && n.info.is_some()).count() == 200).await;
    stage.publish_with(1, |policy| policy.serial = "100%".parse().expect("serial")).await;
    let mirror = stage.mirror().await;
    let fleet = Fleet::from_mirror(&mirror, &stage.keys);
    let input = PlanInput { name: &stage.app, fleet: &fleet, timers: Timers::default(), elapsed: Duration::ZERO, now: 0 };
    let script = Script::of(&stage.keys, &mirror, &fleet, &stage.app, &rollout::plan(&input), &Audit::new("c1".into()));
    for transaction in script.rest.iter().chain([&script.first]) {
        assert!(transaction.when.len() < 120 && transaction.writes.len() < 120, "etcd allows 128");
    }
    let _leader = stage.controller("c1");
    stage.until("the end", |f| stage.phase(f) == Some(RolloutPhase::Succeeded)).await;
    assert_eq!(stage.log().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_made_good() {
    let stage = Stage::new();
    let _agents = stage.agents(&["n1"]);
    let client = stage.store.another_client();
    client.drop_next_reply();
    let _leader = stage.controller_on(client.clone(), "c1");
    stage.until("c1 leads", |f| f.leader.is_some()).await;
    client.drop_next_reply();
    stage.publish(1).await;
    stage.until("the end", |f| stage.phase(f) == Some(RolloutPhase::Succeeded)).await;
    assert_eq!(stage.log(), ["n1 runs 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_looks_like_death_is_refused() {
    let stage = Stage::new();
    let options = ControllerOptions { lease_ttl: Duration::from_secs(1), ..stage.options("c1") };
    let refused = run(stage.shared(), stage.keys.clone(), options, CancellationToken::new()).await;
    assert!(matches!(refused, Err(ControllerError::LeaseTooShort { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_app_whose_transaction_is_refused_for_good_keeps_no_other_app_from_its_own() {
    let stage = Stage::new();
    let (store, keys, options) = (stage.shared(), stage.keys.clone(), stage.options("c1"));
    let stop = CancellationToken::new();
    let mut mirrors = mirror::follow(store.clone(), keys.all(), stop.clone());
    let leadership = candidate(&store, &keys, &options).campaign(&mut mirrors, &stop).await;
    let mut leader = Leader::new(&store, &keys, &options, &leadership, Audit::new("c1".into()));
    let script = |first| Script { first, state_key: String::new(), rest: Vec::new(), duties: Vec::new() };
    let too_many = (0..200).fold(Transaction::new(), |t, n| t.put(format!("/coord/v1/a/{n}"), "a"));
    let plans = vec![
        ("a".parse().expect("app"), Decision::default(), script(too_many)),
        ("b".parse().expect("app"), Decision::default(), script(Transaction::new().put("/coord/v1/b", "b"))),
    ];
    let (_wake, failed) = leader.write_all(plans, None).await;
    assert!(matches!(failed, Some(StoreError::Refused { .. })), "{failed:?}");
    assert!(store.read("/coord/v1/b").await.expect("read").entry.is_some(), "b was written");
    assert!(store.read("/coord/v1/a/0").await.expect("read").entry.is_none(), "a was not");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_store_was_restored_gives_the_leadership_back() {
    let stage = Stage::new();
    let (store, keys, options) = (stage.shared(), stage.keys.clone(), stage.options("c1"));
    let stop = CancellationToken::new();
    let mut mirrors = mirror::follow(store.clone(), keys.all(), stop.clone());
    let leadership = candidate(&store, &keys, &options).campaign(&mut mirrors, &stop).await;
    let mut leader = Leader::new(&store, &keys, &options, &leadership, Audit::new("c1".into()));
    let restored = Mirror { restored: true, fresh: true, ready: true, ..Mirror::default() };
    let (_sender, mut mirrors) = watch::channel(Arc::new(restored));
    let ended = tokio::time::timeout(Duration::from_secs(600), leader.lead(&mut mirrors, &stop)).await;
    assert_eq!(ended.expect("it ends"), End::Restored);
}

#[test]
fn a_record_that_nobody_could_read_again_is_not_written() {
    let script = |bytes| {
        let long = Transaction::new().put("/coord/v1/long", "x".repeat(bytes));
        Script { first: Transaction::new(), state_key: String::new(), rest: vec![long], duties: Vec::new() }
    };
    assert_eq!(script(RECORD_BYTES_MAX).too_large(), None);
    assert_eq!(script(RECORD_BYTES_MAX + 1).too_large(), Some("/coord/v1/long"));
}
