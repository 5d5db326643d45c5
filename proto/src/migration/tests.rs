use super::*;
use crate::ids::Revision;
use crate::store::memory::MemoryStore;
use crate::store::{Outcome, Store as _, Write};

/// A store, one task, and what agents do with it.
struct World {
    store: MemoryStore,
    keys: KeySpace,
    task: TaskId,
}

fn task(seq: u64, name: &str) -> TaskId {
    let release = format!("2026112410111{seq}").parse().expect("a release");
    TaskId { app: "mootube".parse().expect("an app"), release, seq: Seq(seq), task: name.parse().expect("a task") }
}

impl World {
    async fn new() -> Self {
        let world = Self { store: MemoryStore::new(), keys: KeySpace::default(), task: task(7, "before") };
        world.start_rollout("7", Seq(7)).await;
        world
    }

    async fn start_rollout(&self, id: &str, seq: Seq) {
        let spec = ActiveRollout { id: id.parse().expect("a rollout"), seq };
        self.write(Transaction::new().put_record(self.spec_key(), &spec)).await;
    }

    /// What the agent of a server does that rollout 7 told to run the task.
    async fn told(&self, task: &TaskId, me: Option<&Nonce>) -> Stance {
        stance(task, &self.view_of(task).await, me, Some(&"7".parse().expect("a rollout")))
    }

    fn spec_key(&self) -> String {
        self.keys.key(&Key::RolloutSpec(self.task.app.clone()))
    }

    async fn commit(&self, transaction: Transaction) -> Outcome {
        self.store.commit(transaction).await.expect("answered")
    }

    async fn write(&self, transaction: Transaction) -> Revision {
        match self.commit(transaction).await {
            Outcome::Committed(revision) => revision,
            Outcome::Refused(at) => panic!("refused at {at}"),
        }
    }

    /// A server's presence on a lease of its own.
    async fn claimant(&self, node: &str) -> Claimant {
        let lease = self.store.grant(std::time::Duration::from_secs(60)).await.expect("granted");
        let node: NodeName = node.parse().expect("a node");
        let key = self.keys.key(&Key::NodeAlive(node.clone()));
        let put = Write::Put { key: key.clone(), value: vec![], lease: Some(lease) };
        let created = self.write(Transaction { when: vec![], writes: vec![put] }).await;
        Claimant { nonce: Nonce::fixed(&format!("nonce-{node}")), node, presence: Guard { key, lease, created }, now: 1 }
    }

    async fn view_of(&self, task: &TaskId) -> View {
        let read = async |key: String| self.store.read(&key).await.expect("read").entry;
        let record = read(task.record_key(&self.keys)).await.map(|e| (e.record().expect("a record"), e));
        let head = read(task.head_key(&self.keys)).await.map(|e| (e.record().expect("a head"), e));
        View { record, head, lock: read(task.lock_key(&self.keys)).await, spec: read(self.spec_key()).await }
    }

    async fn view(&self) -> View {
        self.view_of(&self.task).await
    }

    async fn claim(&self, by: &Claimant) -> Revision {
        let view = self.view().await;
        assert_eq!(self.told(&self.task, None).await, Stance::Claim);
        self.write(claim(&self.keys, &self.task, &view, by).1).await
    }

    async fn state(&self) -> (TaskState, u32) {
        let (record, _) = self.view().await.record.expect("a record");
        (record.state, record.attempt)
    }

    async fn settle(&self, by: &Claimant, state: TaskState) -> Option<Outcome> {
        let ending = Ending { state, detail: "ended".into(), log_tail: "log".into(), now: 2 };
        match settle(&self.keys, &self.task, &self.view().await, &by.nonce, &ending) {
            Some(transaction) => Some(self.commit(transaction).await),
            None => None,
        }
    }

    async fn resolve(&self, how: Resolution) -> bool {
        match resolve(&self.keys, &self.task, &self.view().await, how, "by hand", 3) {
            Some(transaction) => self.commit(transaction).await.committed(),
            None => false,
        }
    }

    async fn head_open(&self) -> bool {
        self.view().await.head.expect("a head").0.open
    }
}

#[test]
fn task_names_parse_back() {
    for name in ["before", "after", "before.assets", "after.re-index"] {
        assert_eq!(name.parse::<TaskName>().expect("parsed").to_string(), name);
    }
    for bad in ["", "during", "before.", "after.a/b", ".x"] {
        assert!(bad.parse::<TaskName>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_claim_writes_record_head_and_lock_at_one_revision_the_fence() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    let fence = world.claim(&by).await;
    let view = world.view().await;
    let (record, entry) = view.record.clone().expect("a record");
    assert_eq!((record.state, record.attempt, record.holder.as_str()), (TaskState::Claimed, 1, "web-1"));
    let lock = view.lock.clone().expect("a lock");
    assert_eq!((entry.modified, lock.created, lock.lease), (fence, fence, Some(by.presence.lease)));
    assert!(world.head_open().await);
    assert_eq!(world.told(&world.task, Some(&by.nonce)).await, Stance::Own);
}

#[tokio::test]
async fn of_two_claims_from_the_same_view_one_wins() {
    let world = World::new().await;
    let (a, b) = (world.claimant("web-1").await, world.claimant("web-2").await);
    let view = world.view().await;
    let (first, second) = (claim(&world.keys, &world.task, &view, &a).1, claim(&world.keys, &world.task, &view, &b).1);
    assert!(world.commit(first).await.committed());
    assert!(!world.commit(second.clone()).await.committed());
    assert!(!world.commit(second).await.committed(), "nor when it is sent again");
    assert_eq!(world.told(&world.task, Some(&b.nonce)).await, Stance::Wait);
}

#[tokio::test]
async fn whatever_changed_since_the_view_refuses_the_claim() {
    for changed in ["presence", "record", "head", "spec", "lock"] {
        let world = World::new().await;
        let by = world.claimant("web-1").await;
        let transaction = claim(&world.keys, &world.task, &world.view().await, &by).1;
        match changed {
            "presence" => world.store.end_lease(by.presence.lease),
            key => {
                let key = match key {
                    "record" => world.task.record_key(&world.keys),
                    "head" => world.task.head_key(&world.keys),
                    "lock" => world.task.lock_key(&world.keys),
                    _ => world.spec_key(),
                };
                world.write(Transaction::new().put(key, "changed")).await;
            }
        }
        // Without the guard, etcd would still refuse the dead lease: the condition must come first.
        assert!(!world.commit(transaction).await.committed(), "{changed} changed");
    }
}

#[tokio::test]
async fn a_presence_made_again_is_another_presence() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    let view = world.view().await;
    world.write(Transaction::new().delete(&by.presence.key)).await;
    world.write(Transaction::new().put(&by.presence.key, "of another instance")).await;
    assert!(!world.commit(claim(&world.keys, &world.task, &view, &by).1).await.committed());
}

#[tokio::test]
async fn a_result_settles_the_record_closes_the_head_and_drops_the_lock() {
    for state in [TaskState::Succeeded, TaskState::Failed] {
        let world = World::new().await;
        let by = world.claimant("web-1").await;
        world.claim(&by).await;
        assert!(world.settle(&by, state).await.expect("its own").committed());
        assert_eq!(world.state().await, (state, 1));
        assert!(!world.head_open().await && world.view().await.lock.is_none());
        assert_eq!(world.settle(&by, TaskState::Succeeded).await, None, "settled once");
        let expected = if state == TaskState::Succeeded { Stance::Settled } else { Stance::Blocked(TaskState::Failed) };
        assert_eq!(world.told(&world.task, None).await, expected);
    }
}

#[tokio::test]
async fn nobody_settles_the_claim_of_another() {
    let world = World::new().await;
    let (by, other) = (world.claimant("web-1").await, world.claimant("web-2").await);
    world.claim(&by).await;
    assert_eq!(world.settle(&other, TaskState::Succeeded).await, None);
}

#[tokio::test]
async fn a_lost_reply_to_a_claim_is_settled_by_reading_the_nonce() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    let transaction = claim(&world.keys, &world.task, &world.view().await, &by).1;
    world.store.drop_next_reply();
    assert!(world.store.commit(transaction).await.is_err());
    let view = world.view().await;
    assert_eq!(world.told(&world.task, Some(&by.nonce)).await, Stance::Own);
    assert!(may_start(&view, &by.nonce));
}

#[tokio::test]
async fn an_own_claim_may_start_only_under_its_own_lock() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    assert!(may_start(&world.view().await, &by.nonce));
    assert!(!may_start(&world.view().await, &Nonce::fixed("another")));
    world.store.end_lease(by.presence.lease);
    assert!(!may_start(&world.view().await, &by.nonce), "the lock is gone");
    world.write(Transaction::new().put(world.task.lock_key(&world.keys), "again")).await;
    assert!(!may_start(&world.view().await, &by.nonce), "another lock");
}

#[tokio::test]
async fn a_claim_that_never_started_is_given_back_while_its_lock_proves_it() {
    let world = World::new().await;
    let (by, other) = (world.claimant("web-1").await, world.claimant("web-2").await);
    world.claim(&by).await;
    assert!(give_back(&world.keys, &world.task, &world.view().await, &other.nonce).is_none(), "not its own");
    let back = give_back(&world.keys, &world.task, &world.view().await, &by.nonce).expect("its own");
    assert!(world.commit(back.clone()).await.committed());
    assert!(!world.head_open().await && world.view().await.lock.is_none());
    assert_eq!(world.state().await, (TaskState::Pending, 0));
    world.claim(&other).await;
    assert_eq!(world.state().await, (TaskState::Claimed, 1), "nothing was started, so this is the first attempt");
    assert!(!world.commit(back).await.committed(), "made before, sent after another's claim");
    world.store.end_lease(other.presence.lease);
    assert!(give_back(&world.keys, &world.task, &world.view().await, &other.nonce).is_none(), "now it is for a person to say");
}

#[tokio::test]
async fn a_gone_lock_makes_the_claim_unknown_and_leaves_the_head_open() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    assert!(mark_unknown(&world.keys, &world.task, &world.view().await).is_none(), "its holder is alive");
    world.store.end_lease(by.presence.lease);
    let view = world.view().await;
    assert_eq!(world.told(&world.task, None).await, Stance::MarkUnknown);
    let mark = mark_unknown(&world.keys, &world.task, &view).expect("marked");
    assert!(world.commit(mark.clone()).await.committed());
    assert!(!world.commit(mark).await.committed(), "once");
    assert_eq!(world.state().await.0, TaskState::Unknown);
    assert_eq!(world.told(&world.task, None).await, Stance::Blocked(TaskState::Unknown));
    assert!(world.head_open().await);
    assert_eq!(world.told(&task(8, "before"), None).await, Stance::Wait, "nothing newer starts");
}

#[tokio::test]
async fn a_lock_taken_again_refuses_the_mark() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    let blind = View { lock: None, ..world.view().await };
    let mark = mark_unknown(&world.keys, &world.task, &blind).expect("made");
    assert!(!world.commit(mark).await.committed());
}

#[tokio::test]
async fn a_late_result_settles_what_was_marked_unknown() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    world.store.end_lease(by.presence.lease);
    let mark = mark_unknown(&world.keys, &world.task, &world.view().await).expect("marked");
    world.write(mark).await;
    assert!(world.settle(&by, TaskState::Succeeded).await.expect("its own").committed());
    assert_eq!(world.state().await.0, TaskState::Succeeded);
    assert!(!world.head_open().await);
}

#[tokio::test]
async fn an_unknown_ending_keeps_the_head_open() {
    let world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    assert!(world.settle(&by, TaskState::Unknown).await.expect("its own").committed());
    assert!(world.head_open().await && world.view().await.lock.is_none());
    assert!(world.resolve(Resolution::Failed).await);
    assert!(!world.head_open().await);
}

/// A later manifest named the same release: who decides asks by its seq, and the head is that of the first claim.
#[tokio::test]
async fn a_task_asked_for_under_another_seq_closes_the_head_of_its_record() {
    let mut world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    world.settle(&by, TaskState::Unknown).await;
    world.task.seq = Seq(9);
    assert!(world.resolve(Resolution::Retry).await);
    assert_eq!(world.state().await.0, TaskState::Pending);
    assert!(!world.head_open().await, "everybody would wait for ever");
}

#[tokio::test]
async fn an_operators_word_wins_over_a_late_result() {
    for how in [Resolution::Succeeded, Resolution::Failed, Resolution::Retry] {
        let world = World::new().await;
        let by = world.claimant("web-1").await;
        world.claim(&by).await;
        assert!(!world.resolve(how).await, "the holder is alive: nothing to decide");
        let late = settle(&world.keys, &world.task, &world.view().await, &by.nonce, &ending()).expect("its own");
        world.store.end_lease(by.presence.lease);
        assert!(world.resolve(how).await);
        assert!(!world.commit(late).await.committed(), "{how:?}: made before the word, sent after it");
        assert_eq!(world.settle(&by, TaskState::Failed).await, None, "{how:?}: made after it");
    }
}

fn ending() -> Ending {
    Ending { state: TaskState::Succeeded, detail: String::new(), log_tail: String::new(), now: 2 }
}

#[tokio::test]
async fn a_retry_is_another_attempt_and_remembers_the_first() {
    let world = World::new().await;
    let (first, second) = (world.claimant("web-1").await, world.claimant("web-2").await);
    world.claim(&first).await;
    world.settle(&first, TaskState::Failed).await;
    assert!(world.resolve(Resolution::Retry).await);
    assert_eq!(world.state().await, (TaskState::Pending, 1));
    assert_ne!(world.view().await.record.expect("a record").0.nonce, first.nonce, "the first holder's word counts no more");
    world.claim(&second).await;
    let (record, _) = world.view().await.record.expect("a record");
    assert_eq!((record.attempt, record.holder.as_str()), (2, "web-2"));
    assert_eq!(record.history.iter().map(|p| (p.holder.as_str(), p.attempt)).collect::<Vec<_>>(), [("web-1", 1)]);
}

#[tokio::test]
async fn only_who_the_active_rollout_told_claims() {
    let world = World::new().await;
    assert_eq!(stance(&world.task, &world.view().await, None, None), Stance::Wait, "takes `stable`, or another label");
    assert_eq!(world.told(&world.task, None).await, Stance::Claim);
    world.start_rollout("8", Seq(7)).await;
    assert_eq!(world.told(&world.task, None).await, Stance::Wait, "another rollout took its place");
    world.start_rollout("7", Seq(6)).await;
    assert_eq!(world.told(&world.task, None).await, Stance::Wait, "it is of another release");
    world.write(Transaction::new().put(world.spec_key(), "not a record")).await;
    assert_eq!(world.told(&world.task, None).await, Stance::Wait, "nobody can tell");
}

#[tokio::test]
async fn an_older_task_never_starts_after_a_newer_one() {
    let mut world = World::new().await;
    let by = world.claimant("web-1").await;
    world.claim(&by).await;
    assert_eq!(world.told(&task(6, "before"), None).await, Stance::Overtaken);
    world.settle(&by, TaskState::Succeeded).await;
    assert_eq!(world.told(&task(6, "before"), None).await, Stance::Overtaken, "closed as well");
    world.task = task(7, "after");
    world.claim(&by).await;
}

#[test]
fn what_bars_a_rollback() {
    let record = |task: &str, state| TaskRecord {
        seq: Seq(7),
        release: "20261124101112".parse().expect("a release"),
        task: task.parse().expect("a task"),
        state,
        holder: "web-1".parse().expect("a node"),
        nonce: Nonce::fixed("n"),
        attempt: 1,
        detail: String::new(),
        log_tail: String::new(),
        claimed_at: 0,
        settled_at: None,
        history: vec![],
    };
    assert!(!bars_rollback(true, &[record("before", TaskState::Succeeded), record("after", TaskState::Pending)]));
    assert!(bars_rollback(true, &[record("after", TaskState::Claimed)]));
    assert!(bars_rollback(false, &[record("before", TaskState::Claimed)]));
    assert!(!bars_rollback(false, &[record("before", TaskState::Pending)]));
}
