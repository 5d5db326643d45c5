//! What an app's keys say before something is published, and whether that allows it.

use coord_proto::coordinator::{LeaderRecord, StoresRecord};
use coord_proto::ids::{AppName, RolloutId};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::migration::{Head, TaskRecord, TaskState};
use coord_proto::record::Record;
use coord_proto::rollout::{RolloutPhase, RolloutSpec, RolloutState, SeqRecord, StableRecord};
use coord_proto::store::{Compare, Entry, Store, StoreError, Transaction, read_record};

use super::{Other, PublishError, phase_words};

/// A record with the entry that held it.
type Held<R> = Option<(R, Entry)>;

/// Where an app stands. The keys are read one after the other: [`Standing::unchanged`] makes a change in between harmless.
#[derive(Debug)]
pub struct Standing {
    pub app: AppName,
    pub leader: Held<LeaderRecord>,
    /// Base URLs of the artifact stores.
    pub stores: Vec<String>,
    pub seq: Held<SeqRecord>,
    pub stable: Held<StableRecord>,
    pub spec: Held<RolloutSpec>,
    pub state: Held<RolloutState>,
    /// The last release's run-once task, open or not.
    pub head: Held<Head>,
    /// Its record.
    pub task: Held<TaskRecord>,
}

impl Standing {
    /// Reads it.
    ///
    /// # Errors
    /// The store's; a record that cannot be read is one too, never an absent one (I6).
    pub async fn look(store: &dyn Store, keys: &KeySpace, app: &AppName) -> Result<Self, StoreError> {
        let of = |key: fn(AppName) -> Key| keys.key(&key(app.clone()));
        let stores: Held<StoresRecord> = read(store, keys.key(&Key::Stores)).await?;
        let head: Held<Head> = read(store, of(Key::MigrationHead)).await?;
        let task = match head.as_ref().filter(|(head, _)| head.open) {
            Some((head, _)) => read(store, keys.key(&Key::Migration(app.clone(), head.release.clone(), head.task.clone()))).await?,
            None => None,
        };
        Ok(Self {
            app: app.clone(),
            leader: read(store, keys.key(&Key::Leader)).await?,
            stores: stores.map(|(record, _)| record.urls).unwrap_or_default(),
            // The spec before its state: a state that is read later is never older than it.
            seq: read(store, of(Key::AppSeq)).await?,
            spec: read(store, of(Key::RolloutSpec)).await?,
            state: read(store, of(Key::RolloutState)).await?,
            stable: read(store, of(Key::Stable)).await?,
            head,
            task,
        })
    }

    /// May a release be published now that still misses so many signatures? One that waits for them blocks nobody, and nobody blocks it:
    /// whether it may be rolled out is asked when it is complete.
    ///
    /// # Errors
    /// As [`Standing::admit_rollout`]; of one that waits, only that no coordinator leads.
    pub fn admit(&self, missing: usize, supersede: bool) -> Result<(), PublishError> {
        if missing > 0 { self.led() } else { self.admit_rollout(supersede) }
    }

    /// May a release be rolled out now? With `supersede` it may take the place of a rollout that goes on: its servers finish what they
    /// are at, and the task that one of them runs.
    ///
    /// # Errors
    /// No coordinator leads, a rollout is going on, or a run-once task of an older release is not decided: all servers would wait for it.
    pub fn admit_rollout(&self, supersede: bool) -> Result<(), PublishError> {
        self.led()?;
        if let Some((spec, _)) = self.spec.as_ref().filter(|_| !supersede) {
            let phase = self.state.as_ref().filter(|(state, _)| state.id == spec.id).map(|(state, _)| state.phase);
            if !phase.is_some_and(RolloutPhase::ended) {
                return Err(PublishError::Active { app: self.app.clone(), other: Other::of(spec), phase: phase_words(phase) });
            }
        }
        let runs = self.task.as_ref().is_some_and(|(task, _)| task.state == TaskState::Claimed);
        match &self.head {
            Some((head, _)) if head.open && !(supersede && runs) => {
                Err(PublishError::TaskOpen { app: self.app.clone(), head: Box::new(head.clone()) })
            }
            _ => Ok(()),
        }
    }

    /// Does a coordinator lead?
    fn led(&self) -> Result<(), PublishError> {
        if self.leader.is_some() { Ok(()) } else { Err(PublishError::NoCoordinator) }
    }

    /// Was another rollout asked for since the one `seen`?
    ///
    /// # Errors
    /// [`PublishError::Lost`] names who asked for it.
    pub fn lost_to_another(&self, seen: Option<&RolloutId>) -> Result<(), PublishError> {
        match &self.spec {
            Some((spec, _)) if Some(&spec.id) != seen => Err(PublishError::Lost { app: self.app.clone(), other: Other::of(spec) }),
            _ => Ok(()),
        }
    }

    /// A transaction that happens only while all of this is as it was read.
    pub fn unchanged(&self, keys: &KeySpace, app: &AppName) -> Transaction {
        let same = |key: Key, entry: Option<&Entry>| Compare::unchanged(keys.key(&key), entry);
        Transaction::new()
            .when(same(Key::AppSeq(app.clone()), entry(&self.seq)))
            .when(same(Key::RolloutSpec(app.clone()), entry(&self.spec)))
            .when(same(Key::RolloutState(app.clone()), entry(&self.state)))
            .when(same(Key::Stable(app.clone()), entry(&self.stable)))
            .when(same(Key::MigrationHead(app.clone()), entry(&self.head)))
    }
}

fn entry<R>(held: &Held<R>) -> Option<&Entry> {
    held.as_ref().map(|(_, entry)| entry)
}

async fn read<R: Record>(store: &dyn Store, key: String) -> Result<Held<R>, StoreError> {
    read_record(store, &key).await
}
