use coord_proto::coordinator::{HistoryRecord, LeaderRecord};
use coord_proto::desired::Desired;
use coord_proto::ids::{Generation, Nonce};
use coord_proto::labels::Selector;
use coord_proto::report::{HealthState, Running, Status, Step};
use coord_proto::rollout::{RolloutPhase, StableRecord, Target};
use coord_proto::store::memory::MemoryStore;

use super::*;
use crate::view::{ManifestFacts, Problem};

fn name() -> AppName {
    "mootube".parse().expect("app")
}

fn release(seq: u64) -> ReleaseId {
    format!("r{seq}").parse().expect("release")
}

fn digest(seq: u64) -> Digest {
    Digest::of(&seq.to_be_bytes())
}

/// Releases 1 to `last`, all of them settled long ago: nothing names them but their manifests.
fn fleet(last: u64) -> Fleet {
    let mut app = App::default();
    for seq in 1..=last {
        let facts = ManifestFacts {
            seq: Seq(seq),
            release: release(seq),
            floor: Seq(0),
            created: 0,
            revision: String::new(),
            digest: digest(seq),
            size: 1,
            targets: Selector::default(),
            tasks: vec![],
            reversible: true,
            probed: true,
        };
        app.manifests.insert(Seq(seq), facts);
    }
    let mut fleet = Fleet { fresh: true, ..Fleet::default() };
    fleet.apps.insert(name(), app);
    report(&mut fleet, "n1", last, last);
    fleet
}

fn report(fleet: &mut Fleet, node: &str, floor: u64, running: u64) {
    let node: coord_proto::ids::NodeName = node.parse().expect("node");
    let status = Status {
        node: node.clone(),
        app: name(),
        accepted: Seq(running),
        floor: Seq(floor),
        running: Some(Running { seq: Seq(running), release: release(running) }),
        staged: None,
        after_done: None,
        step: Step::Idle,
        words: String::new(),
        health: HealthState::Healthy,
        generation: Generation(1),
        rollout: None,
        failure: None,
        digest: None,
        progress: None,
        restarted: 0,
        held: std::collections::BTreeMap::new(),
        free: None,
        since: 0,
    };
    fleet.nodes.entry(node).or_default().apps.entry(name()).or_default().status = Some(status);
}

fn app(fleet: &mut Fleet) -> &mut App {
    fleet.apps.get_mut(&name()).expect("app")
}

fn desire(fleet: &mut Fleet, run: u64, stage: Option<u64>, after: Option<u64>) {
    let node: coord_proto::ids::NodeName = "n1".parse().expect("node");
    let desired = Desired {
        node: node.clone(),
        app: name(),
        run: Seq(run),
        stage: stage.map(Seq),
        after: after.map(Seq),
        generation: Generation(1),
        rollout: None,
        may_migrate: false,
        restart: 0,
        attempt: 0,
    };
    fleet.nodes.get_mut(&node).expect("node").apps.get_mut(&name()).expect("slot").desired = Some(desired);
}

fn state(seq: u64, previous_stable: u64, prior: u64) -> RolloutState {
    let node = "n1".parse().expect("node");
    RolloutState {
        id: format!("roll-{seq}").parse().expect("rollout"),
        seq: Seq(seq),
        release: release(seq),
        phase: RolloutPhase::Succeeded,
        targets: vec![Target { node, batch: 0, prior: Seq(prior), outcome: coord_proto::rollout::Outcome::Done, told: true }],
        batch: 0,
        batches: 1,
        max_failed: 0,
        max_unreachable: 0,
        batch_elapsed: 0,
        whole: true,
        previous_stable: Seq(previous_stable),
        reason: String::new(),
        generation: 1,
        started_at: i64::try_from(seq).expect("small"),
        ended_at: None,
        wish_revision: 0,
        paused: false,
        promoted: false,
        turned_back: false,
        aborted: false,
    }
}

type Change = fn(&mut Fleet);

#[test]
fn what_is_named_stays() {
    let table: &[(&str, Change, &[u64])] = &[
        ("the newest two", |_| {}, &[8, 9]),
        ("stable", |f| app(f).stable = Some(StableRecord { seq: Seq(3), release: release(3), back_from: None }), &[3, 8, 9]),
        ("the lowest floor and above", |f| report(f, "n2", 6, 9), &[6, 7, 8, 9]),
        ("what a server runs below its floor", |f| report(f, "n2", 9, 2), &[2, 8, 9]),
        ("a tree that was adopted has number 0", |f| report(f, "n2", 9, 0), &[8, 9]),
        ("what a server is told", |f| desire(f, 2, Some(4), Some(5)), &[2, 4, 5, 8, 9]),
        ("the active rollout, previous and prior", |f| app(f).state = Some(state(5, 3, 1)), &[1, 3, 5, 8, 9]),
        ("no server reports", |f| f.nodes.clear(), &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (
            "a release that was published again counts once",
            |f| app(f).manifests.get_mut(&Seq(9)).expect("manifest").release = release(8),
            &[7, 8, 9],
        ),
        (
            "the last two rollouts of the history",
            |f| {
                for seq in 4..=6 {
                    let state = state(seq, seq - 3, 0);
                    app(f).history.insert(state.id.clone(), HistoryRecord { spec: None, state });
                }
            },
            &[2, 3, 5, 6, 8, 9],
        ),
    ];
    for (what, change, expected) in table {
        let mut fleet = fleet(9);
        change(&mut fleet);
        let expected: BTreeSet<Digest> = expected.iter().map(|seq| digest(*seq)).collect();
        assert_eq!(named(&fleet, 2), Ok(expected), "{what}");
    }
}

#[test]
fn what_cannot_be_read_is_no_reason_to_remove() {
    let mut unreadable = fleet(9);
    unreadable.problems.push(Problem { key: "/coord/v1/status/n1/mootube".into(), error: "newer".into() });
    assert_eq!(named(&unreadable, 2), Err("/coord/v1/status/n1/mootube".into()));
    let mut missing = fleet(9);
    app(&mut missing).stable = Some(StableRecord { seq: Seq(12), release: release(12), back_from: None });
    assert_eq!(named(&missing, 2), Err("manifest 12 of mootube".into()));
}

#[tokio::test]
async fn only_the_leader_sweeps_and_not_by_a_view_of_another_past() {
    let dir = tempfile::tempdir().expect("directory");
    let artifacts: crate::artifacts::SharedArtifacts = Arc::new(crate::artifacts::local::LocalArtifacts::open(dir.path()).expect("store"));
    let uploads = crate::artifacts::upload::Uploads::open(&dir.path().join("uploads"), artifacts.clone(), 1).expect("spool");
    let sweeper = Sweeper {
        store: Arc::new(MemoryStore::new()),
        keys: KeySpace::default(),
        artifacts: ArtifactServer::new(artifacts, uploads, 1, 1),
        keep: 2,
        fleets: watch::channel(None).1,
        host: "c1".into(),
        pid: 7,
    };
    let leader = |host: &str, pid| Some(LeaderRecord { host: host.into(), pid, instance: Nonce::fixed("x"), since: 0 });
    let seen = Fleet { fresh: true, leader: leader("c1", 7), ..Fleet::default() };
    assert!(sweeper.may_sweep(&seen));
    assert!(!sweeper.may_sweep(&Fleet { leader: leader("c1", 8), ..seen.clone() }));
    assert!(!sweeper.may_sweep(&Fleet { leader: leader("c2", 7), ..seen.clone() }));
    assert!(!sweeper.may_sweep(&Fleet { leader: None, ..seen.clone() }));
    assert!(!sweeper.may_sweep(&Fleet { fresh: false, ..seen.clone() }));
    assert!(!sweeper.may_sweep(&Fleet { restored: true, ..seen }));
}
