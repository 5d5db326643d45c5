use std::path::PathBuf;
use std::sync::Arc;

use coord_proto::ids::{Nonce, Seq};
use coord_proto::keys::KeySpace;
use coord_proto::store::memory::MemoryStore;
use coord_proto::store::{SharedStore, Store as _, Transaction};

use super::*;
use crate::cli_config::Context;
use crate::upload::TlsFiles;

fn task() -> TaskId {
    TaskId {
        app: "mootube".parse().expect("app"),
        release: "r1".parse().expect("release"),
        seq: Seq(1),
        task: "before".parse().expect("task"),
    }
}

async fn session(store: &MemoryStore, state: TaskState) -> Session {
    let keys = KeySpace::default();
    let tls = TlsFiles { ca: PathBuf::new(), cert: PathBuf::new(), key: PathBuf::new() };
    let context = Context {
        name: "test".into(),
        endpoints: vec![],
        tls,
        keys: keys.clone(),
        environment: "test".parse().expect("environment"),
        signing_key: None,
        trust: None,
    };
    let record = TaskRecord {
        seq: Seq(1),
        release: task().release,
        task: task().task,
        state,
        holder: "web-1".parse().expect("node"),
        nonce: Nonce::fixed("n"),
        attempt: 1,
        detail: String::new(),
        log_tail: String::new(),
        claimed_at: 0,
        settled_at: None,
        history: vec![],
    };
    let head = Head { seq: Seq(1), release: task().release, task: task().task, open: true };
    let put = Transaction::new().put_record(task().record_key(&keys), &record).put_record(task().head_key(&keys), &head);
    assert!(store.commit(put).await.expect("commit").committed());
    let store: SharedStore = Arc::new(store.clone());
    Session { ui: Ui::new(), context, keys, store }
}

async fn stored(session: &Session) -> View {
    look(session, &task()).await.expect("look")
}

#[tokio::test]
async fn an_unknown_task_takes_a_persons_word_and_closes_the_head() {
    let store = MemoryStore::new();
    let session = session(&store, TaskState::Unknown).await;
    assert_eq!(decide(&session, &task(), How::Succeeded, Some("rows are there".into())).await, Ok(Exit::Done));
    let view = stored(&session).await;
    let record = view.record.expect("record").0;
    assert_eq!(record.state, TaskState::Succeeded);
    assert!(record.detail.starts_with("resolved as succeeded by ") && record.detail.ends_with(": rows are there"), "{}", record.detail);
    assert!(!view.head.expect("head").0.open);
    let events = store.list(&session.keys.events()).await.expect("events").entries;
    assert!(events.len() == 1 && events[0].lease.is_some(), "in the audit trail, and not for ever");
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_the_record() {
    let store = MemoryStore::new();
    let session = session(&store, TaskState::Unknown).await;
    store.drop_next_reply();
    assert_eq!(decide(&session, &task(), How::Retry, None).await, Ok(Exit::Done));
    assert_eq!(stored(&session).await.record.expect("record").0.state, TaskState::Pending);
}

#[tokio::test]
async fn what_runs_or_has_succeeded_is_not_decided_by_anybody() {
    for state in [TaskState::Succeeded, TaskState::Pending] {
        let store = MemoryStore::new();
        let session = session(&store, state).await;
        let before = store.identity().await.expect("identity").revision;
        assert_eq!(decide(&session, &task(), How::Retry, None).await.expect_err("refused").exit, Exit::Refused, "{state:?}");
        assert_eq!(store.identity().await.expect("identity").revision, before);
    }
    let store = MemoryStore::new();
    let session = session(&store, TaskState::Claimed).await;
    let lock = Transaction::new().put(task().lock_key(&session.keys), "lock");
    assert!(store.commit(lock).await.expect("commit").committed());
    let refused = decide(&session, &task(), How::Retry, None).await.expect_err("running");
    assert!(refused.exit == Exit::Refused && refused.chain[0].contains("is running on web-1 right now"), "{refused:?}");
}

#[tokio::test]
async fn the_task_is_found_by_itself_when_only_one_waits() {
    let store = MemoryStore::new();
    let session = session(&store, TaskState::Failed).await;
    let fleet = session.fleet().await.expect("fleet");
    let TaskId { app, release, task, .. } = task();
    assert_eq!(choose(&fleet, &app, &release, None).expect("the one").task, task);
    assert_eq!(choose(&fleet, &app, &release, Some(&"after".parse().expect("task"))).expect_err("none").exit, Exit::Refused);
    assert_eq!(choose(&fleet, &app, &"r2".parse().expect("release"), None).expect_err("none").exit, Exit::Refused);
}

#[test]
fn a_task_with_its_attempts_and_what_it_printed() {
    let fleet = crate::cli::sample::fleet();
    let tasks = tasks(&fleet, &task().app, &"20261124101112".parse().expect("release"));
    insta::assert_snapshot!(text(tasks[0]), @r"
    after.reindex: failed (attempt 2 on web-1, claimed 2026-11-24T12:00:00Z)
      settled 2026-11-24T12:01:00Z
      exit status 1
      earlier: attempt 1 on web-2: unknown, signal 9
      | no such table
    ");
    assert!(super::tasks(&fleet, &task().app, &task().release).is_empty());
}
