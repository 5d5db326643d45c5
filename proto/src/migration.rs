//! The migration protocol: the record decides, the lock only says "alive" (I4).
//!
//! A lease lock alone cannot protect a database: a paused holder may act after its lease is gone
//! (<https://etcd.io/docs/v3.5/learning/why/#notes-on-the-usage-of-lock-and-lease>). So a run-once task is a record whose
//! every change is one transaction:
//!
//! ```text
//!              claim                      result
//!   (absent) ────────▶ claimed ─────────────────────▶ succeeded | failed
//!                        │  ▲                              ▲
//!            lock gone,  │  └── resolve --as retry ──┐     │ late result, or
//!            signal, ... ▼                           │     │ resolve --as …
//!                      unknown ──────────────────────┴─────┘
//! ```
//!
//! This file holds the decisions and the transactions, no I/O; the records are in `record.rs`. Agents, the coordinator and
//! `coordctl` all use it.

use crate::ids::{AppName, NodeName, Nonce, ReleaseId, RolloutId, Seq};
use crate::keys::{Key, KeySpace};
use crate::lock::Guard;
use crate::rollout::ActiveRollout;
use crate::store::{Compare, Entry, LeaseId, Transaction};

pub use record::{Head, LockRecord, PastAttempt, Phase, TaskName, TaskRecord, TaskState};

mod record;

/// What `coordctl migration resolve --as` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    Succeeded,
    Failed,
    Retry,
}

/// The task's keys as read, in one view.
#[derive(Debug, Clone)]
pub struct View {
    pub record: Option<(TaskRecord, Entry)>,
    pub head: Option<(Head, Entry)>,
    pub lock: Option<Entry>,
    pub spec: Option<Entry>,
}

/// Which task, of which release, of which app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskId {
    pub app: AppName,
    pub release: ReleaseId,
    pub seq: Seq,
    pub task: TaskName,
}

impl TaskId {
    /// The record's key.
    pub fn record_key(&self, keys: &KeySpace) -> String {
        keys.key(&Key::Migration(self.app.clone(), self.release.clone(), self.task.clone()))
    }
    /// The head's key.
    pub fn head_key(&self, keys: &KeySpace) -> String {
        keys.key(&Key::MigrationHead(self.app.clone()))
    }
    /// The lock's key.
    pub fn lock_key(&self, keys: &KeySpace) -> String {
        keys.key(&Key::MigrateLock(self.app.clone()))
    }
}

/// What one agent should do about a task, given what it read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stance {
    /// Nothing: it succeeded.
    Settled,
    /// It failed, or nobody knows and a person must decide.
    Blocked(TaskState),
    /// Claim it.
    Claim,
    /// Another server has it, or an older task is open, or it may not claim: wait for a change.
    Wait,
    /// Its holder is gone: mark it unknown (any waiter may).
    MarkUnknown,
    /// This server's own claim, from before a restart or a lost reply.
    Own,
    /// A newer release's task was opened: this one may never start any more.
    Overtaken,
}

/// What to do about a task. `me` is the nonce that this server journaled for it, if it ever tried to claim. `told_by` is the
/// rollout that told this server to run it; none for a server that may only wait.
pub fn stance(task: &TaskId, view: &View, me: Option<&Nonce>, told_by: Option<&RolloutId>) -> Stance {
    let state = view.record.as_ref().map_or(TaskState::Pending, |(r, _)| r.state);
    match state {
        TaskState::Succeeded => Stance::Settled,
        TaskState::Failed | TaskState::Unknown | TaskState::Foreign => Stance::Blocked(state),
        TaskState::Claimed => claimed_stance(view, me),
        TaskState::Pending => match &view.head {
            Some((head, _)) if head.seq > task.seq => Stance::Overtaken,
            Some((head, _)) if head.open => Stance::Wait,
            _ if !told_by_the_active(task, view, told_by) || view.lock.is_some() => Stance::Wait,
            _ => Stance::Claim,
        },
    }
}

/// Is the rollout that told this server still the active one, and of this very seq? The claim compares the same entry:
/// what a superseded rollout told is not claimed any more, however late its servers hear of that.
fn told_by_the_active(task: &TaskId, view: &View, told_by: Option<&RolloutId>) -> bool {
    let active = view.spec.as_ref().and_then(|entry| entry.record::<ActiveRollout>().ok());
    active.is_some_and(|active| Some(&active.id) == told_by && active.seq == task.seq)
}

fn claimed_stance(view: &View, me: Option<&Nonce>) -> Stance {
    let Some((record, _)) = &view.record else { return Stance::Wait };
    if Some(&record.nonce) == me {
        Stance::Own
    } else if view.lock.is_none() {
        Stance::MarkUnknown
    } else {
        Stance::Wait
    }
}

/// Who claims, for the transaction.
#[derive(Debug, Clone)]
pub struct Claimant {
    pub node: NodeName,
    pub nonce: Nonce,
    /// The presence of this agent: the claim is refused when its lease is gone (I5).
    pub presence: Guard,
    /// Unix seconds.
    pub now: i64,
}

/// Step 1: the claim. Its revision is the fence. Call only on [`Stance::Claim`] with the same `view`.
pub fn claim(keys: &KeySpace, task: &TaskId, view: &View, by: &Claimant) -> (TaskRecord, Transaction) {
    let before = view.record.as_ref().map(|(r, _)| r);
    let record = TaskRecord {
        seq: task.seq,
        release: task.release.clone(),
        task: task.task.clone(),
        state: TaskState::Claimed,
        holder: by.node.clone(),
        nonce: by.nonce.clone(),
        attempt: before.map_or(1, |r| r.attempt + 1),
        detail: String::new(),
        log_tail: String::new(),
        claimed_at: by.now,
        settled_at: None,
        history: before.map(|r| r.history.clone()).unwrap_or_default(),
    };
    let head = Head { seq: task.seq, release: task.release.clone(), task: task.task.clone(), open: true };
    let lock = LockRecord { holder: by.node.clone(), nonce: by.nonce.clone() };
    let record_key = task.record_key(keys);
    let spec_key = keys.key(&Key::RolloutSpec(task.app.clone()));
    let transaction = Transaction::new()
        .when(by.presence.compare())
        .when(Compare::unchanged(&record_key, view.record.as_ref().map(|(_, e)| e)))
        .when(Compare::unchanged(task.head_key(keys), view.head.as_ref().map(|(_, e)| e)))
        .when(Compare::unchanged(spec_key, view.spec.as_ref()))
        .when(Compare::absent(task.lock_key(keys)))
        .put_record(record_key, &record)
        .put_record(task.head_key(keys), &head)
        .put_under(by.presence.lease, task.lock_key(keys), &lock);
    (record, transaction)
}

/// May an own claim that was not journaled as started still start? Only while its lock is the claim's own.
pub fn may_start(view: &View, me: &Nonce) -> bool {
    match (&view.record, &view.lock) {
        (Some((record, entry)), Some(lock)) => record.state == TaskState::Claimed && &record.nonce == me && lock.created == entry.modified,
        _ => false,
    }
}

/// An own claim that never started, and that its holder has journaled never to start: as if it had not been made, but for
/// the head, below which nothing starts any more. Only where it still might start: once its lock is gone, nobody else can
/// tell it from one that did. `None` otherwise.
pub fn give_back(keys: &KeySpace, task: &TaskId, view: &View, me: &Nonce) -> Option<Transaction> {
    let (record, entry) = view.record.as_ref().filter(|_| may_start(view, me))?;
    let mut unclaimed = record.clone();
    unclaimed.state = TaskState::Pending;
    unclaimed.attempt = record.attempt.saturating_sub(1);
    unclaimed.nonce = Nonce::fixed("");
    Some(write_settled(keys, task, view, &unclaimed, entry))
}

/// How a run-once command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// `Succeeded`, `Failed` or `Unknown`: a command ended by a signal or its deadline is never `Failed`.
    pub state: TaskState,
    pub detail: String,
    pub log_tail: String,
    /// Unix seconds.
    pub now: i64,
}

/// Step 4: the result. Also settles late: a record that others marked `unknown` meanwhile takes the holder's own result,
/// as long as the nonce and the attempt are still the holder's. `None`: somebody else decided; leave it.
pub fn settle(keys: &KeySpace, task: &TaskId, view: &View, me: &Nonce, ending: &Ending) -> Option<Transaction> {
    let (record, entry) = view.record.as_ref()?;
    let open = matches!(record.state, TaskState::Claimed | TaskState::Unknown) && record.settled_at.is_none();
    if &record.nonce != me || !open {
        return None;
    }
    let mut settled = record.clone();
    settled.state = ending.state;
    settled.detail.clone_from(&ending.detail);
    settled.log_tail.clone_from(&ending.log_tail);
    if ending.state == TaskState::Unknown {
        return Some(write_unknown(keys, task, view, &settled, entry));
    }
    settled.settled_at = Some(ending.now);
    Some(write_settled(keys, task, view, &settled, entry))
}

/// An ending that nobody knows: the head stays open, so that nothing newer starts beside a command that may still run;
/// the lock goes, for it says no more than "alive".
fn write_unknown(keys: &KeySpace, task: &TaskId, view: &View, record: &TaskRecord, entry: &Entry) -> Transaction {
    let headless = View { head: None, ..view.clone() };
    write_settled(keys, task, &headless, record, entry)
}

/// Step 5: the lock is gone while the record says `claimed`.
pub fn mark_unknown(keys: &KeySpace, task: &TaskId, view: &View) -> Option<Transaction> {
    let (record, entry) = view.record.as_ref()?;
    if record.state != TaskState::Claimed || view.lock.is_some() {
        return None;
    }
    let mut unknown = record.clone();
    unknown.state = TaskState::Unknown;
    unknown.detail = format!("the lease of {} ended while the command may have been running", record.holder);
    // The head stays open: only a result or a person closes it, so that nothing newer starts beside it.
    let transaction = Transaction::new()
        .when(Compare::unchanged(task.record_key(keys), Some(entry)))
        .when(Compare::absent(task.lock_key(keys)))
        .put_record(task.record_key(keys), &unknown);
    Some(transaction)
}

/// An operator's word, or the policy's `retry`: wins over a late result, because it changes the nonce or settles.
pub fn resolve(keys: &KeySpace, task: &TaskId, view: &View, how: Resolution, words: &str, now: i64) -> Option<Transaction> {
    let (record, entry) = view.record.as_ref()?;
    let decidable =
        matches!(record.state, TaskState::Failed | TaskState::Unknown) || (record.state == TaskState::Claimed && view.lock.is_none());
    if !decidable {
        return None;
    }
    let mut resolved = record.clone();
    resolved.settled_at = Some(now);
    words.clone_into(&mut resolved.detail);
    match how {
        Resolution::Succeeded => resolved.state = TaskState::Succeeded,
        Resolution::Failed => resolved.state = TaskState::Failed,
        Resolution::Retry => {
            let past =
                PastAttempt { holder: record.holder.clone(), attempt: record.attempt, state: record.state, detail: record.detail.clone() };
            resolved.history.push(past);
            resolved.state = TaskState::Pending;
            resolved.settled_at = None;
            // A late result compares the nonce: a fresh one shuts it out.
            resolved.nonce = Nonce::fixed("");
        }
    }
    Some(write_settled(keys, task, view, &resolved, entry))
}

/// Writes a settled record, closes the head if it is this record's, and drops a lock that is this record's.
///
/// The record's own seq decides: a later manifest may have named the same release again under a seq of its own.
fn write_settled(keys: &KeySpace, task: &TaskId, view: &View, record: &TaskRecord, entry: &Entry) -> Transaction {
    let mut transaction =
        Transaction::new().when(Compare::unchanged(task.record_key(keys), Some(entry))).put_record(task.record_key(keys), record);
    if let Some((head, head_entry)) = &view.head
        && head.open
        && head.seq == record.seq
        && head.task == record.task
    {
        let closed = Head { open: false, ..head.clone() };
        transaction = transaction.when(Compare::unchanged(task.head_key(keys), Some(head_entry))).put_record(task.head_key(keys), &closed);
    }
    // The lock was put by the claim, so it is this record's while it has the claim's revision.
    if let Some(lock) = &view.lock
        && lock.created == entry.modified
    {
        let guard = Guard { key: task.lock_key(keys), lease: lock.lease.unwrap_or(LeaseId(0)), created: lock.created };
        transaction = transaction.when(guard.compare()).delete(guard.key);
    }
    transaction
}

/// Is a rollback past this release forbidden without `--force`, given its tasks' records?
pub fn bars_rollback<'a>(reversible: bool, records: impl IntoIterator<Item = &'a TaskRecord>) -> bool {
    records.into_iter().any(|r| match r.task.phase {
        Phase::After => r.state != TaskState::Pending,
        Phase::Before => !reversible && r.state != TaskState::Pending,
    })
}

#[cfg(test)]
mod tests;
