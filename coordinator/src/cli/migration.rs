//! `coordctl migration show|resolve APP RELEASE`.

use clap::{Subcommand, ValueEnum};
use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, ReleaseId};
use coord_proto::keys::Key;
use coord_proto::migration::{Head, PastAttempt, Resolution, TaskId, TaskName, TaskRecord, TaskState, View, resolve};
use coord_proto::store::{StoreError, read_record};

use super::{Done, Global, Session, actor_saying};
use crate::commit::{CommitError, TRIES_MAX, audited};
use crate::exit::Exit;
use crate::ui::{Failure, Format, Ui, words};
use crate::view::Fleet;

/// `coordctl migration …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The run-once tasks of a release: who claimed them, how they ended, what they printed
    Show {
        app: AppName,
        release: ReleaseId,
        #[arg(long)]
        json: bool,
    },
    /// Decide a task that failed, or that nobody knows the end of
    Resolve {
        app: AppName,
        release: ReleaseId,
        /// What it came to, after a look at the database
        #[arg(long = "as", value_name = "HOW")]
        how: How,
        /// Which task (before, after, before.NAME); needed when several wait
        #[arg(long)]
        task: Option<TaskName>,
        /// Why, for the record
        #[arg(long, short)]
        message: Option<String>,
    },
}

/// What a person decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// It did its work: go on
    Succeeded,
    /// It did not, and shall not be tried again
    Failed,
    /// Start it once more
    Retry,
}

impl How {
    fn resolution(self) -> Resolution {
        match self {
            Self::Succeeded => Resolution::Succeeded,
            Self::Failed => Resolution::Failed,
            Self::Retry => Resolution::Retry,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Retry => "retry",
        }
    }
}

/// Runs it.
///
/// # Errors
/// etcd does not answer, no such task, nothing to decide.
pub async fn run(command: Command, global: Global, ui: Ui) -> Done {
    let session = global.session(ui)?;
    match command {
        Command::Show { app, release, json } => show(&session, &app, &release, Format::of(json)).await,
        Command::Resolve { app, release, how, task, message } => {
            let fleet = session.fleet().await?;
            let record = choose(&fleet, &app, &release, task.as_ref())?;
            let task = TaskId { app, release, seq: record.seq, task: record.task.clone() };
            decide(&session, &task, how, message).await
        }
    }
}

fn tasks<'a>(fleet: &'a Fleet, app: &AppName, release: &ReleaseId) -> Vec<&'a TaskRecord> {
    let all = fleet.apps.get(app).map(|a| a.tasks.as_slice()).unwrap_or_default();
    all.iter().filter(|record| record.release == *release).collect()
}

async fn show(session: &Session, app: &AppName, release: &ReleaseId, format: Format) -> Done {
    let fleet = session.fleet().await?;
    let tasks = tasks(&fleet, app, release);
    match format {
        Format::Json => session.ui.json(&tasks)?,
        Format::Text if tasks.is_empty() => session.ui.note(format!("no task of release {release} of {app} was ever claimed")),
        Format::Text => session.ui.out(tasks.iter().map(|record| text(record)).collect::<String>())?,
    }
    Ok(Exit::Done)
}

fn text(record: &TaskRecord) -> String {
    let mut text = format!(
        "{}: {} (attempt {} on {}, claimed {})\n",
        record.task,
        state_words(record.state),
        record.attempt,
        record.holder,
        words::time(record.claimed_at)
    );
    if let Some(at) = record.settled_at {
        text += &format!("  settled {}\n", words::time(at));
    }
    if !record.detail.is_empty() {
        text += &format!("  {}\n", crate::ui::table::printable(&record.detail));
    }
    for past in &record.history {
        text += &format!("  earlier: attempt {} on {}: {}\n", past.attempt, past.holder, crate::ui::table::printable(&past_words(past)));
    }
    for line in record.log_tail.lines() {
        text += &format!("  | {}\n", crate::ui::table::printable(line));
    }
    text
}

/// What came of an attempt that another one followed: there is nothing to decide about it any more.
fn past_words(past: &PastAttempt) -> String {
    let state = if past.state == TaskState::Unknown { "unknown" } else { state_words(past.state) };
    if past.detail.is_empty() { state.to_owned() } else { format!("{state}, {}", past.detail) }
}

fn state_words(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending => "may be claimed",
        TaskState::Claimed => "claimed",
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::Unknown => "unknown: look at the database, then `migration resolve`",
        TaskState::Foreign => "in a state that a newer version wrote",
    }
}

fn choose<'a>(fleet: &'a Fleet, app: &AppName, release: &ReleaseId, named: Option<&TaskName>) -> Result<&'a TaskRecord, Failure> {
    let all = tasks(fleet, app, release);
    let none = |words: String| Failure::refused(words).hint(format!("`coordctl migration show {app} {release}` shows the tasks"));
    if let Some(name) = named {
        return all
            .into_iter()
            .find(|r| r.task == *name)
            .ok_or_else(|| none(format!("release {release} has no task {name} that was claimed")));
    }
    let open: Vec<&TaskRecord> = all.into_iter().filter(|r| !matches!(r.state, TaskState::Succeeded | TaskState::Pending)).collect();
    match open.as_slice() {
        [one] => Ok(one),
        [] => Err(none(format!("no task of release {release} waits for a decision; nothing was changed"))),
        several => {
            let names: Vec<String> = several.iter().map(|r| r.task.to_string()).collect();
            Err(none(format!("several tasks wait ({}); say which with --task", names.join(", "))))
        }
    }
}

async fn decide(session: &Session, task: &TaskId, how: How, message: Option<String>) -> Done {
    let by = actor_saying(message);
    let why = by.message.as_deref().map_or_else(String::new, |m| format!(": {m}"));
    let detail = format!("resolved as {} by {}@{}{why}", how.name(), by.user, by.host);
    for _ in 0..TRIES_MAX {
        let view = look(session, task).await.map_err(|e| session.store_failure(e))?;
        let Some(transaction) = resolve(&session.keys, task, &view, how.resolution(), &detail, by.at) else {
            return Err(undecidable(task, &view));
        };
        let audit =
            AuditEvent { app: Some(task.app.clone()), what: format!("{} of release {} {detail}", task.task, task.release), by: by.clone() };
        let committed = audited(session.store.as_ref(), &session.keys, transaction, &audit).await.map_err(|e| unsettled(session, e))?;
        if committed.is_some() {
            session.ui.out(format!("{} of release {} is {detail}", task.task, task.release))?;
            return Ok(Exit::Done);
        }
    }
    Err(Failure::refused("the task's record kept changing; nothing was changed").hint("look again: it may have settled by itself"))
}

fn unsettled(session: &Session, error: CommitError) -> Failure {
    match error {
        CommitError::Store(error) => session.store_failure(error),
        lost => Failure::from(lost).hint("look with `coordctl migration show` before saying it again"),
    }
}

/// Read one after the other; the transaction compares what it replaces.
async fn look(session: &Session, task: &TaskId) -> Result<View, StoreError> {
    let (store, keys) = (session.store.as_ref(), &session.keys);
    Ok(View {
        record: read_record::<TaskRecord>(store, &task.record_key(keys)).await?,
        head: read_record::<Head>(store, &task.head_key(keys)).await?,
        lock: store.read(&task.lock_key(keys)).await?.entry,
        spec: store.read(&keys.key(&Key::RolloutSpec(task.app.clone()))).await?.entry,
    })
}

fn undecidable(task: &TaskId, view: &View) -> Failure {
    match view.record.as_ref().map(|(record, _)| record) {
        None => Failure::refused(format!("{} of release {} was never claimed; nothing was changed", task.task, task.release)),
        Some(record) if record.state == TaskState::Claimed => {
            let words = format!("{} of release {} is running on {} right now; nothing was changed", task.task, task.release, record.holder);
            Failure::refused(words).hint("wait for it to end; when its server dies, it becomes unknown by itself and can be resolved")
        }
        Some(record) => {
            Failure::refused(format!("{} of release {} is {}; nothing was changed", task.task, task.release, state_words(record.state)))
        }
    }
}

#[cfg(test)]
mod tests;
