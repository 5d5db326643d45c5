//! One run-once task, brought to a settled record: claimed here, or waited for (I4).
//!
//! The record decides, not the lock: see [`coord_proto::migration`]. This file does the reading, the journaling and the
//! running; what to do is [`migration::stance`]'s word. Between any two lines the agent may die:
//!
//! ```text
//! nonce journaled ▸ claim committed ▸ `started` journaled ▸ command ▸ ending journaled ▸ result committed
//!        claim again, or resume ────────┘            └ unknown ┘          └ settled late, from the journal
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_proto::ids::{NodeName, Nonce, Revision, RolloutId};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::limits::MIGRATION_ATTEMPTS_MAX;
use coord_proto::manifest::{OnUnknown, OnceTask};
use coord_proto::migration::{self, Claimant, Ending, Phase, Resolution, Stance, TaskId, TaskState, View};
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{Outcome, SharedStore, StoreError, Transaction, WatchEvent, read_record};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::durable::DurableError;
use crate::presence::Presence;

pub use claims::Claims;
use claims::{Claim, Held, JournaledEnding, Progress};

pub mod claims;
pub mod owed;

/// A waiter reads again this often even when no change was seen: a lost event costs a delay, never a rollout.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Why nothing is claimed while the store's history is in doubt.
const UNTRUSTED: &str =
    "waiting: it is not sure that the store's history is the one seen before; one restored from a backup needs an operator";

/// What a task needs from its surroundings.
#[derive(Clone)]
pub struct MigrateContext {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub node: NodeName,
    pub claims: Claims,
    pub presence: watch::Receiver<Option<Presence>>,
    /// Knows whether the store's history went backwards.
    pub mirror: watch::Receiver<Arc<Mirror>>,
}

/// Runs the command of a task.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs it to its end, its deadline or the token; never returns while any process of it is left.
    async fn run(&self, start: Start<'_>) -> Ending;
    /// The server's clock in Unix seconds, for people.
    fn now(&self) -> i64;
}

/// One start of a task's command.
#[derive(Debug)]
pub struct Start<'a> {
    pub task: &'a OnceTask,
    pub fence: Revision,
    pub attempt: u32,
    pub cancel: CancellationToken,
}

/// What a task that is being brought to its end says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saying {
    /// It waits for somebody else, in words.
    Waits(String),
    /// Its command runs here.
    Runs,
}

/// Why a task is not settled.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("the task `{task}` failed on {holder}: {detail}")]
    Failed { task: String, holder: NodeName, detail: String, log_tail: String },
    #[error("the task `{task}` can not start any more: a newer release's was opened")]
    Overtaken { task: String },
    #[error("gave way: the task is no longer asked for")]
    Interrupted,
    #[error("cannot journal the claim")]
    Journal(#[from] DurableError),
    #[error("cannot read the claim's journal {}", .path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One task being brought to its end.
pub struct Ensure<'a> {
    pub context: &'a MigrateContext,
    pub id: &'a TaskId,
    pub task: &'a OnceTask,
    /// The rollout that told this server to run it; none where it may only wait: no rollout did, or the task's `on` labels choose others.
    pub told_by: Option<&'a RolloutId>,
    pub runner: &'a dyn Runner,
    /// Ends waiting, and claims nothing more; never a command that runs.
    pub give_way: &'a CancellationToken,
    /// Told whenever it changes.
    pub say: &'a (dyn Fn(Saying) + Send + Sync),
}

/// The task's keys, and what may change after they were read.
struct Look {
    view: View,
    /// The oldest revision that was read: a watch from the next one on loses nothing.
    at: Revision,
    /// Marked before the keys were read, as is the mirror: a change since then wakes a wait.
    presence: watch::Receiver<Option<Presence>>,
    mirror: watch::Receiver<Arc<Mirror>>,
}

impl Look {
    /// Is it the history that this agent has seen so far? A store that was restored from a backup knows nothing of what was
    /// started since, so nothing is claimed or started by its word before a person has looked.
    fn trusted(&self) -> bool {
        let seen = self.mirror.borrow();
        seen.fresh && !seen.restored && self.at >= seen.revision
    }

    /// This server's presence, unless its lease may have ended.
    fn present(&self) -> Option<Presence> {
        self.presence.borrow().clone().filter(|p| !p.lost.is_cancelled())
    }
}

impl Ensure<'_> {
    /// Returns when the record says succeeded.
    ///
    /// # Errors
    /// The task failed, was overtaken, or [`Ensure::give_way`] was cancelled while it waited.
    pub async fn run(&self) -> Result<(), MigrateError> {
        let held = self.context.claims.hold(self.id).await;
        loop {
            let look = self.look().await?;
            let claim = held.load()?;
            let nonce = claim.as_ref().map(|c| &c.nonce);
            match migration::stance(self.id, &look.view, nonce, self.told_by) {
                Stance::Settled => return Ok(()),
                Stance::Overtaken => return Err(MigrateError::Overtaken { task: self.id.task.to_string() }),
                Stance::Blocked(TaskState::Failed) => return Err(self.failed(&look.view)),
                Stance::Blocked(_) if self.owes_a_result(&look.view, claim.as_ref()) => self.go_on(&look, &held, claim).await?,
                Stance::Blocked(_) => self.decide_or_wait(&look).await?,
                // Neither a stop nor a goal that went elsewhere changes what the claim compares: the next task of a phase would start.
                Stance::Claim if self.give_way.is_cancelled() => return Err(MigrateError::Interrupted),
                Stance::Claim => self.claim(&look, &held, claim).await?,
                Stance::Own => self.go_on(&look, &held, claim).await?,
                Stance::MarkUnknown => self.commit(&look, migration::mark_unknown(&self.context.keys, self.id, &look.view)).await?,
                Stance::Wait => self.wait(&look, self.waiting_words(&look.view)).await?,
            }
        }
    }

    /// Others may have marked our claim unknown while its command ran on: its journaled ending settles it late.
    fn owes_a_result(&self, view: &View, claim: Option<&Claim>) -> bool {
        let ours = |c: &Claim| view.record.as_ref().is_some_and(|(r, _)| r.nonce == c.nonce && r.settled_at.is_none());
        claim.is_some_and(|c| matches!(c.progress, Progress::Ended(_)) && ours(c))
    }

    async fn look(&self) -> Result<Look, MigrateError> {
        let mut presence = self.context.presence.clone();
        presence.mark_unchanged();
        let mut mirror = self.context.mirror.clone();
        mirror.mark_unchanged();
        let store = self.context.store.as_ref();
        let keys = &self.context.keys;
        let first = store.read(&self.id.head_key(keys)).await?.revision;
        // Four reads, four revisions: every transaction made from them compares each key it relied on.
        let spec_key = keys.key(&Key::RolloutSpec(self.id.app.clone()));
        let (record_key, head_key, lock_key) = (self.id.record_key(keys), self.id.head_key(keys), self.id.lock_key(keys));
        let (record, head, lock, spec) = futures::try_join!(
            read_record(store, &record_key),
            read_record(store, &head_key),
            store.read(&lock_key),
            store.read(&spec_key)
        )?;
        let at = Revision(lock.revision.0.min(spec.revision.0).min(first.0));
        Ok(Look { view: View { record, head, lock: lock.entry, spec: spec.entry }, at, presence, mirror })
    }

    async fn claim(&self, look: &Look, held: &Held, old: Option<Claim>) -> Result<(), MigrateError> {
        if !look.trusted() {
            return self.wait(look, UNTRUSTED.into()).await;
        }
        let Some(presence) = look.present() else { return self.wait(look, "waiting for this server's presence in the store".into()).await };
        // A claim whose answer was lost may still arrive: the same nonce makes it ours when it does.
        let nonce = old.filter(|c| c.progress == Progress::Intended).map_or_else(Nonce::random, |c| c.nonce);
        let TaskId { release, seq, task, .. } = self.id.clone();
        held.save(&Claim { seq, release, task, nonce: nonce.clone(), progress: Progress::Intended })?;
        let by = Claimant { node: self.context.node.clone(), nonce, presence: presence.guard, now: self.runner.now() };
        let (_, transaction) = migration::claim(&self.context.keys, self.id, &look.view, &by);
        self.commit(look, Some(transaction)).await
    }

    /// Our own claim: run it, give it back, or settle what the journal knows of it.
    async fn go_on(&self, look: &Look, held: &Held, claim: Option<Claim>) -> Result<(), MigrateError> {
        let (keys, view) = (&self.context.keys, &look.view);
        let Some(claim) = claim else { return Ok(()) };
        match &claim.progress {
            Progress::Intended if !look.trusted() => self.wait(look, UNTRUSTED.into()).await,
            Progress::Intended if migration::may_start(view, &claim.nonce) => self.start(look, held, claim).await,
            Progress::Intended | Progress::Over => self.commit(look, migration::mark_unknown(keys, self.id, view)).await,
            Progress::Forgone => {
                let back = migration::give_back(keys, self.id, view, &claim.nonce);
                self.commit(look, back.or_else(|| migration::mark_unknown(keys, self.id, view))).await
            }
            // A cloned machine has the claims of its original, which may be running this one.
            Progress::Started if look.present().is_none() => {
                self.wait(look, "waiting for this server's presence in the store".into()).await
            }
            Progress::Started => {
                let lost = JournaledEnding::lost(&self.context.node, self.runner.now());
                held.save(&Claim { progress: Progress::Ended(lost), ..claim })
            }
            Progress::Ended(ending) => self.settle(look, &claim.nonce, ending.clone().into()).await,
        }
    }

    async fn start(&self, look: &Look, held: &Held, claim: Claim) -> Result<(), MigrateError> {
        let Some((record, entry)) = &look.view.record else { return Ok(()) };
        let cancel = match self.ends_with(look) {
            Some(cancel) if !self.give_way.is_cancelled() => cancel,
            // Journaled before it is given back: whatever dies in between, it is not started.
            _ => return held.save(&Claim { progress: Progress::Forgone, ..claim }),
        };
        let started = Claim { progress: Progress::Started, ..claim };
        held.save(&started)?;
        (self.say)(Saying::Runs);
        let ending = self.runner.run(Start { task: self.task, fence: entry.modified, attempt: record.attempt, cancel }).await;
        held.save(&Claim { progress: Progress::Ended(ending.into()), ..started })
    }

    /// What ends the command early; none: it may not start. Under `stop` a lost lease does not, for nobody else may start it:
    /// it settles late. Under `retry` the lease that the claim was made under does, so it must be the one that is held now:
    /// of a lease from before a restart, nobody here notices the end.
    fn ends_with(&self, look: &Look) -> Option<CancellationToken> {
        let lock = look.view.lock.as_ref()?;
        match self.task.on_unknown {
            OnUnknown::Stop => Some(CancellationToken::new()),
            OnUnknown::Retry => look.present().filter(|p| lock.lease == Some(p.guard.lease)).map(|p| p.lost),
        }
    }

    async fn settle(&self, look: &Look, nonce: &Nonce, ending: Ending) -> Result<(), MigrateError> {
        // An ending nobody knows leaves the record open for a person: unknown, and unsettled.
        if ending.state == TaskState::Unknown && look.view.record.as_ref().is_some_and(|(r, _)| r.state == TaskState::Unknown) {
            return self.decide_or_wait(look).await;
        }
        self.commit(look, migration::settle(&self.context.keys, self.id, &look.view, nonce, &ending)).await
    }

    /// Nobody knows how it ended: the policy's `retry`, or a person's decision.
    async fn decide_or_wait(&self, look: &Look) -> Result<(), MigrateError> {
        let attempts = look.view.record.as_ref().map_or(0, |(r, _)| r.attempt);
        if self.task.on_unknown == OnUnknown::Retry && self.told_by.is_some() && attempts < MIGRATION_ATTEMPTS_MAX {
            let words = format!("tried again by the policy on_unknown = \"retry\" after attempt {attempts}");
            return self
                .commit(look, migration::resolve(&self.context.keys, self.id, &look.view, Resolution::Retry, &words, self.runner.now()))
                .await;
        }
        let words = format!(
            "waiting: nobody knows whether the task {} of {} finished; `coordctl migration resolve {} {} --as succeeded|failed|retry` decides",
            self.id.task, self.id.release, self.id.app, self.id.release
        );
        self.wait(look, words).await
    }

    /// A refused transaction or a lost answer only means "look again", once something has changed since the last look: what
    /// refuses may stay (a deleted presence key), and must not be asked in a circle.
    async fn commit(&self, look: &Look, transaction: Option<Transaction>) -> Result<(), MigrateError> {
        let Some(transaction) = transaction else { return self.wait(look, "waiting for the task's record to change".into()).await };
        match self.context.store.commit(transaction).await {
            Ok(Outcome::Committed(_)) => Ok(()),
            Ok(Outcome::Refused(_)) => self.wait(look, "waiting: the store holds something else than was read".into()).await,
            Err(e) if e.passing() || matches!(e, StoreError::LeaseEnded(_)) => {
                self.wait(look, "waiting for the store to answer".into()).await
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn wait(&self, look: &Look, words: String) -> Result<(), MigrateError> {
        (self.say)(Saying::Waits(words));
        let store = &self.context.store;
        let from = Revision(look.at.0 + 1);
        let records = self.context.keys.migrations(&self.id.app);
        let mut changes = store.watch(&records, from).await?;
        let mut locks = store.watch(&self.id.lock_key(&self.context.keys), from).await?;
        let (mut presence, mut mirror) = (look.presence.clone(), look.mirror.clone());
        tokio::select! {
            biased;
            () = self.give_way.cancelled() => return Err(MigrateError::Interrupted),
            () = next_change(&mut changes) => {}
            () = next_change(&mut locks) => {}
            changed = presence.changed() => if changed.is_err() { return Err(MigrateError::Interrupted) },
            changed = mirror.changed() => if changed.is_err() { return Err(MigrateError::Interrupted) },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        Ok(())
    }

    fn waiting_words(&self, view: &View) -> String {
        let (task, release) = (&self.id.task, &self.id.release);
        match (&view.record, &view.head) {
            (Some((record, _)), _) if record.state == TaskState::Claimed => {
                let migration = task.phase == Phase::Before && task.once.is_none();
                let work = if migration { "migration".to_owned() } else { format!("task {task}") };
                format!("waiting for {}'s {work} of {release}", record.holder)
            }
            (_, Some((head, _))) if head.open => format!("waiting for the task {} of {}, which is open", head.task, head.release),
            _ => format!("waiting for a server of the rollout to run the task {task} of {release}"),
        }
    }

    fn failed(&self, view: &View) -> MigrateError {
        let record = view.record.as_ref().map(|(r, _)| r);
        MigrateError::Failed {
            task: self.id.task.to_string(),
            holder: record.map_or_else(|| self.context.node.clone(), |r| r.holder.clone()),
            detail: record.map(|r| r.detail.clone()).unwrap_or_default(),
            log_tail: record.map(|r| r.log_tail.clone()).unwrap_or_default(),
        }
    }
}

/// Ends at a change, or when the watch must be made anew.
async fn next_change(watch: &mut coord_proto::store::Watch) {
    loop {
        match watch.recv().await {
            Some(WatchEvent::Changes { changes, .. }) if changes.is_empty() => {}
            Some(WatchEvent::Lost) => {}
            Some(WatchEvent::Changes { .. } | WatchEvent::Compacted) | None => return,
        }
    }
}

#[cfg(test)]
mod tests;
