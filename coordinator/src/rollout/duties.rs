//! What the leader does about run-once tasks: nobody else is sure to be there to do it.

use coord_proto::ids::AppName;
use coord_proto::limits::MIGRATION_ATTEMPTS_MAX;
use coord_proto::manifest::OnUnknown;
use coord_proto::migration::{TaskId, TaskRecord, TaskState};

use super::Duty;
use crate::view::{App, TaskFacts};

/// The duties of one app.
pub fn of(name: &AppName, app: &App) -> Vec<Duty> {
    app.tasks.iter().filter_map(|record| duty(name, app, record)).collect()
}

fn duty(name: &AppName, app: &App, record: &TaskRecord) -> Option<Duty> {
    let id = TaskId { app: name.clone(), release: record.release.clone(), seq: record.seq, task: record.task.clone() };
    match record.state {
        TaskState::Claimed if lost_its_lock(app, record) => Some(Duty::MarkUnknown(id)),
        TaskState::Unknown => {
            let task = app.manifests.get(&record.seq)?.tasks.iter().find(|t| t.name == record.task)?;
            may_repeat(task, record).then_some(Duty::Retry(id))
        }
        _ => None,
    }
}

/// Is it claimed by a holder whose lease is gone?
pub fn lost_its_lock(app: &App, record: &TaskRecord) -> bool {
    record.state == TaskState::Claimed && app.lock.as_ref().is_none_or(|l| l.nonce != record.nonce)
}

fn may_repeat(task: &TaskFacts, record: &TaskRecord) -> bool {
    task.on_unknown == OnUnknown::Retry && record.attempt < MIGRATION_ATTEMPTS_MAX
}

/// Does this record wait for `coordctl migration resolve`?
pub fn needs_a_person(task: &TaskFacts, record: &TaskRecord) -> bool {
    match record.state {
        TaskState::Unknown => !may_repeat(task, record),
        TaskState::Foreign => true,
        _ => false,
    }
}
