use std::collections::BTreeMap;

use coord_proto::ids::Generation;
use coord_proto::report::{HealthState, NodeInfo, Running, Status, Step};
use coord_proto::rollout::{Actor, RolloutKind};

use super::*;
use crate::view::NodeApp;

const MIB: u64 = 1024 * 1024;

fn manifest(rollout: &str) -> Manifest {
    let digest = Digest::of(b"artifact");
    let json = format!(
        r#"{{"version":1,"app":"mootube","environment":"e","release":"r8","seq":8,"floor":7,"created":1,"revision":"x","targets":{{"role":"web"}},
        "artifact":{{"digest":"{digest}","compression":"zstd","size":4194304,"unpacked_size":20971520,"entries":100,"piece_size":4194304,"pieces":["{digest}"]}},
        "migrate":{{"command":["migrate"],"on":{{"zone":"a"}}}},"rollout":{rollout}}}"#
    );
    Manifest::decode(json.as_bytes()).expect("a valid manifest")
}

fn spec(manifest: &Manifest) -> RolloutSpec {
    RolloutSpec {
        id: "8-a".parse().expect("rollout"),
        app: manifest.app.clone(),
        seq: manifest.seq,
        release: manifest.release.clone(),
        kind: RolloutKind::Publish,
        policy: manifest.rollout.clone(),
        limit: None,
        force_run: false,
        retried: None,
        by: Actor { user: "ada".into(), host: "laptop".into(), at: 0, message: None },
    }
}

fn node(name: &str, labels: &[(&str, &str)], free: Option<Room>) -> (NodeName, Node) {
    let name: NodeName = name.parse().expect("node");
    let app: AppName = "mootube".parse().expect("app");
    let info = NodeInfo {
        node: name.clone(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        addresses: vec![],
        agent_version: "0.1.0".into(),
        apps: vec!["mootube".into()],
        since: 0,
    };
    let status = Status {
        node: name.clone(),
        app: app.clone(),
        accepted: Seq(7),
        floor: Seq(7),
        running: Some(Running { seq: Seq(7), release: "r7".parse().expect("release") }),
        staged: None,
        after_done: None,
        step: Step::Idle,
        words: "running r7".into(),
        health: HealthState::Healthy,
        generation: Generation(1),
        rollout: None,
        failure: None,
        digest: None,
        progress: None,
        restarted: 0,
        held: BTreeMap::new(),
        free,
        since: 0,
    };
    let slot = NodeApp { status: Some(status), ..NodeApp::default() };
    (name, Node { info: Some(info), present: true, apps: [(app, slot)].into(), ..Node::default() })
}

const PLENTY: Option<Room> = Some(Room { bytes: 3 * 1024 * MIB, inodes: 500_000 });

fn web(name: &str, zone: &str) -> (NodeName, Node) {
    node(name, &[("role", "web"), ("zone", zone)], PLENTY)
}

fn fleet(nodes: impl IntoIterator<Item = (NodeName, Node)>) -> Fleet {
    Fleet { fresh: true, nodes: nodes.into_iter().collect(), ..Fleet::default() }
}

fn plan(fleet: &Fleet, rollout: &str) -> Plan {
    let manifest = manifest(rollout);
    Plan::of(&Ask { fleet, spec: &spec(&manifest), manifest: &manifest }, vec![])
}

fn servers(plan: &Plan) -> Vec<(&str, usize)> {
    plan.servers.iter().map(|s| (s.server.as_str(), s.batch)).collect()
}

/// A fleet with one of everything.
fn mixed() -> Fleet {
    let mut fleet = fleet([
        web("web-1", "b"),
        web("web-2", "a"),
        web("web-3", "a"),
        web("web-4", "b"),
        web("web-5", "b"),
        node("web-6", &[("role", "web")], None),
        node("db-1", &[("role", "db")], PLENTY),
        web("web-7", "a"),
        web("web-8", "a"),
        ("web-9".parse().expect("node"), Node { present: true, ..Node::default() }),
    ]);
    let held = [("r8".parse().expect("release"), Digest::of(b"artifact"))];
    let at = |fleet: &mut Fleet, name: &str, change: &dyn Fn(&mut Node)| {
        change(fleet.nodes.get_mut(&name.parse::<NodeName>().expect("node")).expect("there"));
    };
    at(&mut fleet, "web-3", &|node| {
        let status = node.apps.values_mut().next().and_then(|slot| slot.status.as_mut()).expect("status");
        status.held = held.clone().into();
    });
    at(&mut fleet, "web-5", &|node| node.present = false);
    at(&mut fleet, "web-6", &|node| node.apps.clear());
    at(&mut fleet, "web-7", &|node| node.cordoned = true);
    at(&mut fleet, "web-8", &|node| node.info.as_mut().expect("info").apps = vec!["other".into()]);
    fleet
}

#[test]
fn the_screen_names_every_server_its_turn_its_bytes_and_where_it_halts() {
    let plan = plan(&mixed(), r#"{"serial":[1,"40%"],"max_failed":"34%","max_unreachable":1,"promote":"manual","bake":"5s"}"#);
    assert_eq!(plan.refused, []);
    insta::assert_snapshot!(plan.text(), @r"
    plan for mootube: release r8 (number 8), an archive of 4.00 MiB; a server needs 56.39 MiB and 228 inodes

    BATCH  SERVER  STATE    RUNS  PULLS     MAY RUN  ROOM
    1      web-2   present  r7    4.00 MiB  before   enough, 3.00 GiB free
    2      web-3   present  r7    0 B       before   has it already
    2      web-1   present  r7    4.00 MiB  -        enough, 3.00 GiB free
    3      web-4   present  r7    4.00 MiB  -        enough, 3.00 GiB free
    3      web-5   absent   r7    4.00 MiB  -        enough, 3.00 GiB free
    4      web-6   present  -     4.00 MiB  -        not reported yet

    6 servers in 4 batches of 1, 2 × 2, 1 (serial 1, 40%), 1 of them absent; 20.00 MiB in all

    LEFT OUT  WHY
    db-1      its labels do not match [targets]
    web-7     cordoned
    web-8     its configuration does not allow the app
    web-9     it has not registered

    halts at the 3rd failed server, at the 2nd unreachable one; then every server goes back to the release that it had
    a batch has 10m and must stay healthy for 5s, then the next one opens; the second waits for `coordctl rollout promote`
    ");
}

#[test]
fn a_program_reads_the_same() {
    let plan = plan(&fleet([web("web-1", "a")]), "{}");
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).expect("JSON"), @r#"
    {
      "app": "mootube",
      "release": "r8",
      "seq": 8,
      "digest": "c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c",
      "size": 4194304,
      "needs": {
        "bytes": 59129856,
        "inodes": 228
      },
      "servers": [
        {
          "server": "web-1",
          "batch": 1,
          "present": true,
          "runs": "r7",
          "pulls": 4194304,
          "may_run": [
            "before"
          ],
          "free": {
            "bytes": 3221225472,
            "inodes": 500000
          },
          "room": "enough"
        }
      ],
      "left_out": [],
      "rules": {
        "serial": "1",
        "batches": [
          1
        ],
        "max_failed": 0,
        "max_unreachable": 0,
        "bake": 10,
        "batch_deadline": 600,
        "promote": "auto",
        "on_failure": "rollback",
        "reversible": true,
        "halts": "halts at the 1st failed server, at the 1st unreachable one"
      },
      "refused": []
    }
    "#);
}

#[test]
fn all_that_stands_in_its_way_is_told() {
    let little = |name| node(name, &[("role", "web"), ("zone", "a")], Some(Room { bytes: 50 * MIB, inodes: 500_000 }));
    let few = node("web-2", &[("role", "web"), ("zone", "a")], Some(Room { bytes: 500 * MIB, inodes: 227 }));
    let away = ["web-3", "web-4"].map(|name| (web(name, "a").0, Node { present: false, ..web(name, "a").1 }));
    let fleet = fleet([little("web-1"), few].into_iter().chain(away));
    let plan = plan(&fleet, r#"{"max_unreachable":1}"#);
    let why: Vec<&str> = plan.refused.iter().map(|refusal| refusal.why.as_str()).collect();
    assert_eq!(
        why,
        [
            "it would stop before the first batch: web-3, web-4 cannot be reached, and 1 is tolerated",
            "not enough disk space on web-1",
            "not enough inodes on web-2",
        ]
    );
    assert!(plan.text().contains("TOO LITTLE, 50.00 MiB free"), "{}", plan.text());
    assert!(plan.text().contains("TOO FEW INODES, 227 free"), "{}", plan.text());
}

#[test]
fn a_plan_for_nobody_is_refused() {
    let plan = plan(&fleet([node("db-1", &[("role", "db")], PLENTY)]), "{}");
    assert_eq!(plan.refused.iter().map(|r| r.why.as_str()).collect::<Vec<_>>(), ["no server matches"]);
    assert_eq!(plan.left_out, [LeftOut { server: "db-1".parse().expect("node"), why: "its labels do not match [targets]" }]);
}

#[test]
fn the_limit_and_the_zones_are_the_planners() {
    let fleet = fleet([web("web-1", "b"), web("web-2", "a"), web("web-3", "b"), web("web-4", "a")]);
    let manifest = manifest(r#"{"serial":4,"spread":"zone"}"#);
    let mut spec = spec(&manifest);
    let plan = Plan::of(&Ask { fleet: &fleet, spec: &spec, manifest: &manifest }, vec![]);
    assert_eq!(servers(&plan), [("web-2", 1), ("web-4", 1), ("web-1", 2), ("web-3", 2)]);
    assert_eq!(plan.rules.batches, [2, 2]);
    spec.limit = Some("zone=b".parse().expect("selector"));
    let plan = Plan::of(&Ask { fleet: &fleet, spec: &spec, manifest: &manifest }, vec![]);
    assert_eq!(servers(&plan), [("web-1", 1), ("web-3", 1)]);
    assert!(plan.left_out.iter().all(|left| left.why == "--limit leaves it out") && plan.left_out.len() == 2, "{:?}", plan.left_out);
}

#[test]
fn what_publishing_refuses_comes_first_and_says_once_that_nothing_was_changed() {
    let failure = Failure::refused("no coordinator runs; nothing was changed").hint("start it");
    let manifest = manifest("{}");
    let plan = Plan::of(&Ask { fleet: &fleet([]), spec: &spec(&manifest), manifest: &manifest }, vec![failure.into()]);
    let why: Vec<(&str, &str)> = plan.refused.iter().map(|r| (r.why.as_str(), r.hint.as_str())).collect();
    assert_eq!(why[0], ("no coordinator runs", "start it"));
    assert_eq!(why[1].0, "no server matches");
}
