//! Run-once tasks: each is ensured in its order, and its command runs as the app's user.

use async_trait::async_trait;
use coord_proto::chain::inline;
use coord_proto::ids::Seq;
use coord_proto::labels::matches;
use coord_proto::manifest::{Manifest, OnceTask};
use coord_proto::migration::{Ending, Phase, TaskId, TaskState};
use coord_proto::report::{Failure, FailureCode, Step};

use super::{Job, NotDone, Performer};
use crate::config::AppPlace;
use crate::effects::command::{self, CommandError, CommandOutcome, CommandSpec};
use crate::effects::environment::HookContext;
use crate::effects::hook;
use crate::effects::migrate::{Ensure, MigrateContext, MigrateError, Runner, Saying, Start};
use crate::failure::failure;
use crate::machine::Event;
use crate::run::unix_now;

impl Performer {
    /// Every task of the phase, in order.
    pub(super) async fn ensure_tasks(&self, job: &Job, manifest: &Manifest, phase: Phase, may_claim: bool) -> Result<(), NotDone> {
        for task in manifest.once_tasks(phase) {
            self.ensure_task(job, manifest, &task, may_claim).await?;
        }
        Ok(())
    }

    async fn ensure_task(&self, job: &Job, manifest: &Manifest, task: &OnceTask, may_claim: bool) -> Result<(), NotDone> {
        let context = MigrateContext {
            store: self.store.clone(),
            keys: self.keys.clone(),
            node: self.node().clone(),
            claims: self.claims.clone(),
            presence: self.presence.clone(),
            mirror: self.mirror.clone(),
        };
        let id = TaskId { app: job.app.clone(), release: manifest.release.clone(), seq: manifest.seq, task: task.name.clone() };
        let chosen = matches(&task.on, self.known_by());
        let runner = TaskRunner { performer: self, job, manifest };
        let say = |saying| {
            let event = match saying {
                Saying::Waits(words) => Event::Waiting(words),
                Saying::Runs => Event::TaskStarted,
            };
            _ = job.events.try_send((job.app.clone(), event));
        };
        let ensure = Ensure {
            context: &context,
            id: &id,
            task,
            told_by: job.rollout.as_ref().filter(|_| may_claim && chosen),
            runner: &runner,
            give_way: &job.give_way,
            say: &say,
        };
        let step = if task.name.phase == Phase::After { Step::AfterTasks } else { Step::Migrating };
        ensure.run().await.map_err(|e| match e {
            MigrateError::Interrupted => NotDone::Interrupted,
            e => NotDone::failed(migrate_failure(manifest.seq, step, &e)),
        })
    }
}

/// Runs the command of a run-once task as the app's user.
pub(super) struct TaskRunner<'a> {
    pub performer: &'a Performer,
    pub job: &'a Job,
    pub manifest: &'a Manifest,
}

#[async_trait]
impl Runner for TaskRunner<'_> {
    async fn run(&self, start: Start<'_>) -> Ending {
        let place = self.performer.config.place(&self.job.app);
        let mut context = self.performer.context(self.job, self.manifest, &place, &start.task.name.to_string());
        context.attempt = start.attempt;
        context.fence = Some(start.fence);
        let ended = self.run_command(&start, &place, &context).await;
        let (state, detail, log_tail) = match ended {
            Ok((CommandOutcome::Exited(0), tail)) => (TaskState::Succeeded, "exit status 0".to_owned(), tail),
            Ok((CommandOutcome::Exited(code), tail)) => (TaskState::Failed, format!("exit status {code}"), tail),
            // The database may still be executing what the command sent: nobody knows.
            Ok((CommandOutcome::Signaled(signal), tail)) => (TaskState::Unknown, format!("ended by signal {signal}"), tail),
            Ok((CommandOutcome::TimedOut, tail)) => {
                (TaskState::Unknown, format!("ended at its deadline of {:?}", start.task.timeout), tail)
            }
            Ok((CommandOutcome::Cancelled, tail)) => (TaskState::Unknown, "ended because this server's lease was lost".to_owned(), tail),
            Err(NoOutcome::NotStarted(detail)) => (TaskState::Failed, detail, String::new()),
            Err(NoOutcome::Lost(detail)) => (TaskState::Unknown, detail, String::new()),
        };
        Ending { state, detail, log_tail, now: unix_now() }
    }

    fn now(&self) -> i64 {
        unix_now()
    }
}

/// Why a run-once command has no word of its own.
enum NoOutcome {
    /// A failure that everybody can know.
    NotStarted(String),
    /// It was started, and nobody saw how it ended.
    Lost(String),
}

impl TaskRunner<'_> {
    async fn run_command(&self, start: &Start<'_>, place: &AppPlace, context: &HookContext) -> Result<(CommandOutcome, String), NoOutcome> {
        let surroundings = hook::surroundings(context.clone(), start.task.user.clone(), place.clone()).await;
        let (environment, user) = surroundings.map_err(|e| NoOutcome::NotStarted(inline(&e)))?;
        let spec = CommandSpec {
            argv: start.task.command.clone(),
            cwd: self.performer.app_dir(&self.job.app).release(&self.manifest.release),
            env: environment.vars,
            redact: environment.secrets,
            user,
            deadline: start.task.timeout,
            log_file: self.performer.logs(&self.job.app).join(format!("{}.{}.log", self.manifest.release, start.task.name)),
            cancel: start.cancel.clone(),
        };
        match command::run_while_held(spec).await {
            Ok(end) => Ok((end.outcome, end.log_tail)),
            Err(e @ CommandError::Wait { .. }) => Err(NoOutcome::Lost(inline(&e))),
            Err(e) => Err(NoOutcome::NotStarted(inline(&e))),
        }
    }
}

fn migrate_failure(seq: Seq, step: Step, error: &MigrateError) -> Failure {
    let code = match error {
        MigrateError::Failed { .. } | MigrateError::Overtaken { .. } => FailureCode::MigrationFailed,
        MigrateError::Store(e) if e.passing() => FailureCode::Store,
        MigrateError::Journal(e) => e.code(),
        MigrateError::Store(_) | MigrateError::Interrupted | MigrateError::Damaged { .. } => FailureCode::Io,
    };
    let mut failure = failure(seq, step, code, error);
    if let MigrateError::Failed { log_tail, .. } = error {
        failure.log_tail.clone_from(log_tail);
    }
    failure
}
