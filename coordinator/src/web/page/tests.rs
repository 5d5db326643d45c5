//! A fleet in the middle of a rollout, through records and mirror, as the coordinator sees it.

use coord_proto::coordinator::{HistoryRecord, LeaderRecord, StoresRecord};
use coord_proto::desired::Desired;
use coord_proto::ids::{AppName, Generation, NodeName, Nonce, Revision, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::record::{Record, encode};
use coord_proto::report::{Alive, Failure, FailureCode, HealthState, NodeInfo, Progress, Running, Status, Step};
use coord_proto::rollout::{
    Actor, Outcome, ReleaseRecord, RolloutKind, RolloutPhase, RolloutPolicy, RolloutSpec, RolloutState, StableRecord, Target, Verdict,
};
use coord_proto::store::Entry;
use coord_proto::store::mirror::Mirror;

use super::*;

const NOW: i64 = 1_795_000_000;
const OLD: (u64, &str) = (41, "20261117093012");
const NEW: (u64, &str) = (42, "20261124101112");

fn app() -> AppName {
    "mootube".parse().expect("app")
}

fn node(n: usize) -> NodeName {
    format!("web-{n}").parse().expect("node")
}

fn actor(at: i64) -> Actor {
    Actor { user: "mira".into(), host: "laptop".into(), at, message: Some("faster <thumbnails>".into()) }
}

struct Records {
    keys: KeySpace,
    mirror: Mirror,
}

impl Records {
    fn put<R: Record>(&mut self, key: &Key, record: &R) {
        self.put_raw(self.keys.key(key), encode(record));
    }

    fn put_raw(&mut self, key: String, value: Vec<u8>) {
        let entry = Entry { key: key.clone(), value, created: Revision(7), modified: Revision(7), lease: None };
        self.mirror.entries.insert(key, entry);
    }

    fn server(&mut self, n: usize, present: bool, status: Option<Status>) {
        let labels = [("role".to_owned(), "web".to_owned()), ("zone".to_owned(), ["a", "b", "c"][n % 3].to_owned())];
        let info = NodeInfo {
            node: node(n),
            labels: labels.into(),
            addresses: vec![],
            agent_version: "0.1.0".into(),
            apps: vec!["mootube".into()],
            since: NOW,
        };
        self.put(&Key::NodeInfo(node(n)), &info);
        if present {
            let alive = Alive {
                instance: Nonce::fixed("i"),
                machine_id: String::new(),
                boot_id: String::new(),
                agent_version: "0.1.0".into(),
                since: NOW,
            };
            self.put(&Key::NodeAlive(node(n)), &alive);
        }
        if let Some(status) = status {
            self.put(&Key::Status(node(n), app()), &status);
        }
    }

    fn desired(&mut self, n: usize, run: u64) {
        let desired = Desired {
            node: node(n),
            app: app(),
            run: Seq(run),
            stage: Some(Seq(NEW.0)),
            after: None,
            generation: Generation(3),
            rollout: None,
            may_migrate: true,
            restart: 0,
            attempt: 0,
        };
        self.put(&Key::Desired(node(n), app()), &desired);
    }
}

fn status(n: usize, running: (u64, &str), step: Step, words: &str) -> Status {
    Status {
        node: node(n),
        app: app(),
        accepted: Seq(NEW.0),
        floor: Seq(OLD.0),
        running: Some(Running { seq: Seq(running.0), release: running.1.parse().expect("release") }),
        staged: None,
        after_done: None,
        step,
        words: words.into(),
        health: HealthState::Healthy,
        generation: Generation(3),
        rollout: None,
        failure: None,
        digest: None,
        progress: None,
        restarted: 0,
        held: std::collections::BTreeMap::new(),
        free: None,
        since: NOW - 30,
    }
}

fn failed(n: usize) -> Status {
    let failure = Failure {
        seq: Seq(NEW.0),
        step: Step::Probing,
        code: FailureCode::Unhealthy,
        chain: vec!["the health check failed for 30 s".into(), "GET http://127.0.0.1:8080/healthz answered 502 <Bad Gateway>".into()],
        hint: "coordctl node logs web-5".into(),
        log_tail: String::new(),
        fell_back: true,
        attempt: 1,
    };
    Status { failure: Some(failure), health: HealthState::Unhealthy, ..status(n, OLD, Step::Idle, "fell back to 20261117093012") }
}

fn state(phase: RolloutPhase, release: (u64, &str), ended_at: Option<i64>) -> RolloutState {
    let outcomes = [
        Outcome::Done,
        Outcome::Done,
        Outcome::Done,
        Outcome::Done,
        Outcome::Failed,
        Outcome::Pending,
        Outcome::Pending,
        Outcome::Unreachable,
        Outcome::Pending,
    ];
    let target =
        |(i, outcome): (usize, Outcome)| Target { node: node(i + 1), batch: i.div_ceil(3), prior: Seq(OLD.0), told: i < 7, outcome };
    RolloutState {
        id: release.0.to_string().parse().expect("rollout"),
        seq: Seq(release.0),
        release: release.1.parse().expect("release"),
        phase,
        targets: outcomes.into_iter().enumerate().map(target).collect(),
        batch: 2,
        batches: 4,
        max_failed: 1,
        max_unreachable: 1,
        batch_elapsed: 12,
        whole: true,
        previous_stable: Seq(OLD.0),
        reason: String::new(),
        generation: 9,
        started_at: ended_at.unwrap_or(NOW) - 95,
        ended_at,
        wish_revision: 0,
        paused: false,
        promoted: false,
        turned_back: false,
        aborted: false,
    }
}

fn spec(release: (u64, &str), kind: RolloutKind, at: i64) -> RolloutSpec {
    RolloutSpec {
        id: release.0.to_string().parse().expect("rollout"),
        app: app(),
        seq: Seq(release.0),
        release: release.1.parse().expect("release"),
        kind,
        policy: RolloutPolicy::default(),
        limit: None,
        force_run: false,
        retried: None,
        by: actor(at),
    }
}

fn servers(records: &mut Records) {
    for n in 1..=4 {
        records.server(n, true, Some(status(n, NEW, Step::Idle, "runs 20261124101112")));
        records.desired(n, NEW.0);
    }
    records.server(5, true, Some(failed(5)));
    records.server(6, true, Some(status(6, OLD, Step::Probing, "probing 20261124101112")));
    let progress = Some(Progress { done: 31_000_000, total: 48_000_000 });
    records.server(7, true, Some(Status { progress, ..status(7, OLD, Step::Fetching, "fetching 20261124101112") }));
    records.server(8, false, Some(Status { since: NOW - 4_000, ..status(8, OLD, Step::Idle, "runs 20261117093012") }));
    records.server(9, true, Some(status(9, OLD, Step::Idle, "runs 20261117093012, 20261124101112 is staged")));
    (5..=8).for_each(|n| records.desired(n, NEW.0));
    records.desired(9, OLD.0);
}

fn records() -> Records {
    let mut records =
        Records { keys: KeySpace::default(), mirror: Mirror { revision: Revision(18_234), fresh: true, ready: true, ..Mirror::default() } };
    let leader = LeaderRecord { host: "coord-1".into(), pid: 7, instance: Nonce::fixed("l"), since: NOW - 90_000 };
    records.put(&Key::Leader, &leader);
    records.put(&Key::Stores, &StoresRecord { urls: vec!["https://coord-1:7080".into()] });
    records.put(&Key::Stable(app()), &StableRecord { seq: Seq(OLD.0), release: OLD.1.parse().expect("release"), back_from: None });
    records.put(&Key::RolloutSpec(app()), &spec(NEW, RolloutKind::Publish, NOW - 95));
    records.put(&Key::RolloutState(app()), &state(RolloutPhase::Running, NEW, None));
    servers(&mut records);
    let release = ReleaseRecord { seq: Seq(NEW.0), verdict: Verdict::Untried, by: actor(NOW), notes: [].into(), waits: None };
    records.put(&Key::Release(app(), NEW.1.parse().expect("release")), &release);
    let task = TaskRecord {
        seq: Seq(NEW.0),
        release: NEW.1.parse().expect("release"),
        task: "before".parse().expect("task"),
        state: TaskState::Succeeded,
        holder: node(1),
        nonce: Nonce::fixed("n"),
        attempt: 1,
        detail: String::new(),
        log_tail: String::new(),
        claimed_at: NOW - 80,
        settled_at: Some(NOW - 71),
        history: vec![],
    };
    records.put(&Key::Migration(app(), task.release.clone(), task.task.clone()), &task);
    for (seq, release, phase, kind, ago) in [
        (41, OLD.1, RolloutPhase::Succeeded, RolloutKind::Publish, 604_800),
        (40, "20261116154400", RolloutPhase::RolledBack, RolloutKind::Publish, 691_200),
    ] {
        let history =
            HistoryRecord { spec: Some(spec((seq, release), kind, NOW - ago)), state: state(phase, (seq, release), Some(NOW - ago)) };
        records.put(&Key::History(app(), seq.to_string().parse().expect("rollout")), &history);
    }
    records
}

fn fleet(records: &Records) -> Fleet {
    Fleet::from_mirror(&records.mirror, &records.keys)
}

fn page_of(records: &Records) -> String {
    html::page(Some(&fleet(records)), "/coord/v1", NOW)
}

#[test]
fn the_page_shows_rollout_servers_tasks_and_history() {
    let page = page_of(&records());
    for part in [
        "<span class=\"pill busy\">running</span> <b class=\"id\">20261124101112</b>",
        "published by mira@laptop, since 95s",
        "<b>4</b> of <b>9</b> servers, batch <b>3</b> of <b>4</b>, <b class=\"bad\">1 failed</b> (1 tolerated)",
        "class=\"bad\" title=\"web-5: failed\"",
        "probing 20261124101112",
        "<td class=\"wants\">\u{2192} <span class=\"id\">20261124101112</span>",
        "<progress max=\"48000000\" value=\"31000000\">",
        "66m ago</span>",
        "rolled back</span> <span class=\"id\">20261116154400</span>",
        "<span class=\"pill good\">succeeded</span> <b>before</b>",
        "<b>8 / 9</b><span class=\"\">servers present</span>",
        "<b>7 / 9</b><span class=\"\">instances healthy</span>",
        "<b>4</b><span class=\"\">off their release</span>",
    ] {
        assert!(page.replace(" class=\"\"", "").contains(&part.replace(" class=\"\"", "")), "{part} is missing in {page}");
    }
    assert_eq!(page.matches("<tr").count(), 10, "nine servers and the head");
}

#[test]
fn markup_in_records_is_text() {
    let page = page_of(&records());
    assert!(page.contains("faster &lt;thumbnails&gt;"));
    assert!(page.contains("502 &lt;Bad Gateway&gt;"));
    let mut hostile = records();
    let mut leader = LeaderRecord { host: String::new(), pid: 7, instance: Nonce::fixed("l"), since: NOW };
    leader.host = "\"><script>alert('x')</script>&".into();
    hostile.put(&Key::Leader, &leader);
    let page = page_of(&hostile);
    assert!(!page.contains("<script"));
    assert!(page.contains("&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;"));
}

#[test]
fn a_stale_view_no_leader_and_unreadable_records_are_said() {
    let mut records = records();
    records.mirror.fresh = false;
    records.mirror.restored = true;
    let leader = records.keys.key(&Key::Leader);
    records.mirror.entries.remove(&leader);
    records.put_raw(records.keys.key(&Key::Status(node(1), app())), b"<broken>".to_vec());
    let page = page_of(&records);
    for part in [
        "last good view",
        "restored from a backup",
        "No coordinator leads",
        "/coord/v1/status/web-1/mootube",
        "unreadable record",
        "unknown",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(html::page(None, "/coord/v1", NOW).contains("etcd has not answered yet"));
    assert!(html::page(Some(&Fleet::default()), "/coord/v1", NOW).contains("Nothing is published yet"));
}

#[test]
fn a_published_rollout_that_nobody_took_up_is_said() {
    let mut records = records();
    records.put(&Key::RolloutSpec(app()), &spec((43, "20261124120000"), RolloutKind::Publish, NOW - 5));
    assert!(page_of(&records).contains("awaiting a coordinator</span> <b class=\"id\">20261124120000"));
}

#[test]
fn a_large_fleet_is_cut_with_what_needs_a_look_first() {
    let mut records = records();
    for n in 10..=700 {
        records.server(n, true, Some(status(n, NEW, Step::Idle, "runs 20261124101112")));
        records.desired(n, NEW.0);
    }
    records.server(999, true, Some(failed(999)));
    let page = page_of(&records);
    assert_eq!(page.matches("<tr").count(), 501);
    assert!(page.contains("<th scope=\"row\">web-999 "));
    assert!(page.contains("and 201 more"));
}

#[test]
fn metrics_count_the_fleet() {
    let text = metrics::text(Some(&fleet(&records())), Some(64));
    for line in [
        "coord_store_fresh 1",
        "coord_store_revision 18234",
        "coord_leader{host=\"coord-1\"} 1",
        "coord_artifact_downloads_free 64",
        "coord_node_present{node=\"web-8\"} 0",
        "coord_agents{version=\"0.1.0\"} 9",
        "coord_instances{app=\"mootube\",health=\"healthy\"} 8",
        "coord_instances_drifting{app=\"mootube\"} 4",
        "coord_rollout_phase{app=\"mootube\",phase=\"running\"} 1",
        "coord_rollout_targets{app=\"mootube\",outcome=\"failed\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        assert_eq!(text.matches(&format!("# TYPE {name} gauge\n")).count(), 1, "{name}");
    }
}

#[tokio::test]
async fn health_follows_the_store() {
    use tower::ServiceExt as _;

    let (sender, receiver) = watch::channel(None);
    let router = StatusPage::new(receiver, KeySpace::default(), None).router();
    let status = async |path: &str| {
        let request = http::Request::get(path).body(axum::body::Body::empty()).expect("request");
        router.clone().oneshot(request).await.expect("answer")
    };
    assert_eq!(status("/healthz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    sender.send_replace(Some(Arc::new(Fleet { fresh: true, ..Fleet::default() })));
    assert_eq!(status("/healthz").await.status(), StatusCode::OK);
    sender.send_replace(Some(Arc::new(Fleet { fresh: true, restored: true, ..Fleet::default() })));
    assert_eq!(status("/healthz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    sender.send_replace(Some(Arc::new(Fleet::default())));
    assert_eq!(status("/healthz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let page = status("/").await;
    let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII").to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert_eq!(status("/other").await.status(), StatusCode::NOT_FOUND);
}
