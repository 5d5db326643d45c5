use coord_proto::desired::Desired;
use coord_proto::ids::{Generation, Nonce, Seq};
use coord_proto::report::{Alive, Running, Status};

use super::*;

fn fleet() -> Fleet {
    let (app, node): (AppName, NodeName) = ("mootube".parse().expect("app"), "web-1".parse().expect("node"));
    let status = Status {
        node: node.clone(),
        app: app.clone(),
        accepted: Seq(1),
        floor: Seq(1),
        running: Some(Running { seq: Seq(1), release: "r1".parse().expect("release") }),
        staged: None,
        after_done: None,
        step: Step::Fetching,
        words: "fetching release r2".into(),
        health: HealthState::Healthy,
        generation: Generation(1),
        rollout: None,
        failure: None,
        digest: None,
        progress: None,
        restarted: 0,
        held: std::collections::BTreeMap::new(),
        free: None,
        since: 1_000,
    };
    let desired = Desired {
        node: node.clone(),
        app: app.clone(),
        run: Seq(2),
        stage: None,
        after: None,
        generation: Generation(2),
        rollout: None,
        may_migrate: false,
        restart: 0,
        attempt: 0,
    };
    let alive =
        Alive { instance: Nonce::fixed("i"), machine_id: String::new(), boot_id: String::new(), agent_version: "1".into(), since: 0 };
    let mut fleet = Fleet { fresh: true, ..Fleet::default() };
    let server = fleet.nodes.entry(node).or_default();
    server.present = true;
    server.alive = Some(alive);
    server.apps.insert(app.clone(), NodeApp { desired: Some(desired), status: Some(status), unreadable: false });
    fleet.apps.insert(app, App::default());
    fleet
}

#[test]
fn a_server_that_runs_something_else_drifts() {
    let overview = Overview::of(&fleet(), None);
    assert_eq!(
        table(&overview, 1_060).render(),
        "SERVER  APP      RELEASE  STEP      HEALTH   SEEN  DRIFT\nweb-1   mootube  r1       fetching  healthy  now   wants number 2\n"
    );
}

#[test]
fn a_server_that_is_gone_says_when_it_last_reported() {
    let mut fleet = fleet();
    for node in fleet.nodes.values_mut() {
        node.present = false;
        node.alive = None;
    }
    let overview = Overview::of(&fleet, None);
    assert_eq!(overview.servers[0].seen(1_060), "gone, reported 60s ago");
    assert!(Overview::of(&fleet, Some(&"other".parse().expect("app"))).servers.is_empty());
}

#[test]
fn a_failure_is_in_the_table() {
    let fleet = crate::cli::sample::fleet();
    let overview = Overview::of(&fleet, None);
    insta::assert_snapshot!(table(&overview, 1_795_521_660).render(), @r"
    SERVER  APP      RELEASE         STEP                                HEALTH   SEEN  DRIFT
    web-1   mootube  20261123101112  waiting for the migration (failed)  healthy  now   none
    ");
    assert!(text(&overview, 1_795_521_660).ends_with("\n\nweb-1: mootube: the app is not healthy: 503\n"), "below it, in full");
}
