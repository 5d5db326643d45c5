//! What the records and the databases of a fleet say of its run-once tasks, and what an intruder writes.

use anyhow::{Result, ensure};
use coord_proto::keys::Key;
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::store::{Outcome, Store as _, Transaction};

use super::{Fleet, app};
use crate::sqlite;
use crate::wait::until_some;

impl Fleet {
    /// The record of a run-once task of a release, e.g. `after.reindex`.
    ///
    /// # Errors
    /// As [`Fleet::record`].
    pub fn task(&self, release: &str, task: &str) -> Result<Option<TaskRecord>> {
        self.record(&Key::Migration(app(), release.parse()?, task.parse()?))
    }

    /// Waits until the record of a release's migration is in this state.
    ///
    /// # Errors
    /// It is not, in time.
    pub fn wait_migration(&self, release: &str, state: TaskState) -> Result<TaskRecord> {
        until_some(format_args!("the migration of {release} is {state:?}"), || Ok(self.migration(release)?.filter(|r| r.state == state)))
    }

    /// Rows of the database of [`super::sqlite_in`].
    ///
    /// # Errors
    /// The statement's.
    pub fn database_rows(&self, sql: &str) -> Result<Vec<String>> {
        sqlite::rows(&self.dir().join("mootube.db"), sql)
    }

    /// Writes straight into etcd, past `coordctl`: what an intruder there could do.
    ///
    /// # Errors
    /// It was refused.
    pub fn write_into_etcd(&self, transaction: Transaction) -> Result<()> {
        let outcome = self.runtime.block_on(self.store.commit(transaction))?;
        ensure!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        Ok(())
    }
}
