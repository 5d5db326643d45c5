//! Does what the machine says: one match, no decisions.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use coord_proto::ids::{AppName, NodeName, ReleaseId, RolloutId, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::labels::Labels;
use coord_proto::manifest::{HookPhase, Manifest, OnceTask};
use coord_proto::migration::{Ending, Phase, TaskId, TaskState};
use coord_proto::report::{Failure, FailureCode, Progress, Step};
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{SharedStore, read_record};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::accept::{Here, accept};
use crate::config::{AppPlace, Config};
use crate::effects::command::{self, CommandOutcome, CommandSpec};
use crate::effects::environment::{self, HookContext};
use crate::effects::fetch::Fetcher;
use crate::effects::migrate::{Claims, Ensure, MigrateContext, MigrateError, Runner, Saying, Start};
use crate::effects::stage::{StageRequest, stage};
use crate::effects::{health, hook, prune, switch};
use crate::failure::failure;
use crate::journal::{Journal, ReleaseOutcome};
use crate::layout::{self, AppDir};
use crate::machine::{Action, Event};
use crate::manifests::Manifests;
use crate::presence::Presence;
use crate::run::unix_now;
use crate::systemd::Units;

/// What the effects need of this server.
pub struct Performer {
    pub config: Config,
    pub store: SharedStore,
    pub keys: KeySpace,
    pub manifests: Manifests,
    pub fetcher: Fetcher,
    pub presence: watch::Receiver<Option<Presence>>,
    pub claims: Claims,
    pub mirror: watch::Receiver<Arc<Mirror>>,
    pub units: Arc<dyn Units>,
}

/// One action with what it needs to know.
pub struct Job {
    pub app: AppName,
    pub action: Action,
    /// The manifest that the action speaks of; none where it speaks of none.
    pub manifest: Option<Arc<Manifest>>,
    pub journal: Journal,
    pub rollout: Option<RolloutId>,
    pub give_way: CancellationToken,
    pub events: mpsc::Sender<(AppName, Event)>,
}

impl Performer {
    /// Where an app's journal is kept.
    pub fn state_dir(&self, app: &AppName) -> PathBuf {
        self.manifests.apps.join(app.as_str())
    }

    /// The app's directory on this server.
    pub fn app_dir(&self, app: &AppName) -> AppDir {
        AppDir::new(self.config.place(app).path)
    }

    /// The trust file's floor.
    pub fn baked_floor(&self) -> Seq {
        self.manifests.trust.floor
    }

    fn node(&self) -> &NodeName {
        &self.config.node.name
    }

    fn labels(&self) -> &Labels {
        &self.config.node.labels
    }

    /// Brings one action to its event.
    pub async fn perform(&self, job: Job) -> Event {
        let give_way = job.give_way.clone();
        let ended = match (&job.action, job.manifest.clone()) {
            (Action::Load(seq), _) => return self.load(&job, *seq).await,
            (Action::Switch(release), _) => self.switch(&job, release).await,
            (Action::Prune { keep, protected }, _) => return self.prune(&job, *keep, protected.clone()).await,
            (Action::Stage(_), Some(m)) => tokio::select! {
                () = give_way.cancelled() => return Event::Interrupted,
                ended = self.stage(&job, &m) => ended,
            },
            (Action::Prepare(_), Some(m)) => self.hooks(&job, &m, HookPhase::Prepare).await,
            (Action::RunHooks { phase, .. }, Some(m)) => self.hooks(&job, &m, *phase).await,
            (Action::Probe(_), Some(m)) => self.probe(&job, &m).await,
            (Action::EnsureTasks { phase, may_claim, .. }, Some(m)) => match self.ensure_tasks(&job, &m, *phase, *may_claim).await {
                Err(None) => return Event::Interrupted,
                Err(Some(f)) => Err(f),
                Ok(()) => Ok(()),
            },
            (action, None) => Err(unloaded(action)),
        };
        match ended {
            Ok(()) => Event::Finished,
            Err(failure) => Event::Failed(*failure),
        }
    }

    async fn load(&self, job: &Job, seq: Seq) -> Event {
        let manifest = match self.manifests.load(&job.app, seq).await {
            Ok(manifest) => manifest,
            Err(e) => return Event::Failed(failure(seq, Step::Fetching, e.code(), &e)),
        };
        let runs_already = job.journal.running.as_ref().is_some_and(|r| r.seq == seq) || job.journal.activity.is_some();
        let allowed = self.config.allows(&job.app);
        let here = Here { app: &job.app, seq, labels: self.labels(), allowed, now: (!runs_already).then(unix_now) };
        if let Err(refusal) = accept(&manifest, &here) {
            return Event::Failed(failure(seq, Step::Fetching, refusal.code(), &refusal));
        }
        if let Err(e) = hook::check_allowed(&manifest, self.labels(), &self.config.place(&job.app)) {
            return Event::Failed(failure(seq, Step::Fetching, e.code(), &e));
        }
        Event::ManifestLoaded(Arc::new(manifest))
    }

    async fn stage(&self, job: &Job, manifest: &Arc<Manifest>) -> Result<(), Box<Failure>> {
        let dir = self.app_dir(&job.app);
        let place = self.config.place(&job.app);
        let parts = self.state_dir(&job.app).join("parts");
        let (events, app) = (job.events.clone(), job.app.clone());
        // A full channel drops a progress note: the next one says more.
        let progress = move |done, total| _ = events.try_send((app.clone(), Event::Progressed(Progress { done, total })));
        let request = StageRequest {
            dir: &dir,
            manifest,
            fetcher: &self.fetcher,
            bases: self.bases().await,
            ownership: place.ownership(),
            parts_dir: &parts,
            progress: &progress,
        };
        let fail = |code, e: &(dyn std::error::Error + 'static)| Box::new(failure(manifest.seq, Step::Staging, code, e));
        let staged = stage(request).await;
        crate::memory::give_back();
        staged.map(|_| ()).map_err(|e| fail(e.code(), &e))
    }

    /// Mirrors first, then what the coordinators announced. Neither is trusted: the digests are.
    async fn bases(&self) -> Vec<String> {
        let key = self.keys.key(&Key::Stores);
        let announced = read_record::<coord_proto::coordinator::StoresRecord>(self.store.as_ref(), &key).await;
        let announced = announced.ok().flatten().map(|(stores, _)| stores.urls).unwrap_or_default();
        self.config.download.mirrors.iter().cloned().chain(announced).collect()
    }

    async fn hooks(&self, job: &Job, manifest: &Manifest, phase: HookPhase) -> Result<(), Box<Failure>> {
        let place = self.config.place(&job.app);
        let context = self.context(job, manifest, &place, phase.name());
        let logs = self.logs(&job.app);
        let run = hook::HookRun {
            manifest,
            phase,
            labels: self.labels(),
            place: &place,
            context: &context,
            units: self.units.as_ref(),
            logs: &logs,
        };
        hook::run_phase(run).await.map_err(|e| {
            let mut failure = failure(manifest.seq, step_of(phase), e.code(), &e);
            failure.log_tail = e.log_tail().to_owned();
            Box::new(failure)
        })
    }

    async fn probe(&self, job: &Job, manifest: &Manifest) -> Result<(), Box<Failure>> {
        let Some(check) = &manifest.health else { return Ok(()) };
        let place = self.config.place(&job.app);
        let context = self.context(job, manifest, &place, "health");
        let ended = health::probe(check, &context, &place, &self.logs(&job.app)).await;
        ended.map_err(|e| Box::new(failure(manifest.seq, Step::Probing, FailureCode::Unhealthy, &e)))
    }

    async fn switch(&self, job: &Job, release: &ReleaseId) -> Result<(), Box<Failure>> {
        let (dir, wanted) = (self.app_dir(&job.app), release.clone());
        let seq = job.journal.activity.as_ref().map_or(Seq(0), |a| a.seq);
        let ended = tokio::task::spawn_blocking(move || switch::switch(&dir, &wanted)).await.expect("switching does not panic");
        ended.map(|_| ()).map_err(|e| Box::new(failure(seq, Step::Switching, e.code(), &e)))
    }

    async fn prune(&self, job: &Job, keep: u32, protected: BTreeSet<ReleaseId>) -> Event {
        let (dir, journal) = (self.app_dir(&job.app), job.journal.clone());
        let work = move || -> Result<Vec<ReleaseId>, prune::PruneError> {
            for (release, facts) in &journal.releases {
                dir.record_outcome(release, outcome(facts.outcome))?;
            }
            let gone = prune::choose(&prune::survey(&dir)?, keep as usize, &protected);
            gone.iter().try_for_each(|release| prune::remove(&dir, release))?;
            Ok(gone)
        };
        match tokio::task::spawn_blocking(work).await.expect("pruning does not panic") {
            Err(e) => Event::Failed(failure(Seq(0), Step::Idle, FailureCode::Io, &e)),
            Ok(gone) => {
                let kept = job.journal.releases.iter().filter(|(r, _)| !gone.contains(r)).map(|(_, f)| f.seq).collect::<Vec<_>>();
                // A manifest too many on the disk harms nobody.
                let _ = self.manifests.retain(&job.app, &kept);
                Event::Pruned(gone)
            }
        }
    }

    /// Every task of the phase, in order. `Err(None)`: gave way.
    async fn ensure_tasks(&self, job: &Job, manifest: &Manifest, phase: Phase, may_claim: bool) -> Result<(), Option<Box<Failure>>> {
        for task in manifest.once_tasks(phase) {
            self.ensure_task(job, manifest, &task, may_claim).await?;
        }
        Ok(())
    }

    async fn ensure_task(&self, job: &Job, manifest: &Manifest, task: &OnceTask, may_claim: bool) -> Result<(), Option<Box<Failure>>> {
        let context = MigrateContext {
            store: self.store.clone(),
            keys: self.keys.clone(),
            node: self.node().clone(),
            claims: self.claims.clone(),
            presence: self.presence.clone(),
            mirror: self.mirror.clone(),
        };
        let id = TaskId { app: job.app.clone(), release: manifest.release.clone(), seq: manifest.seq, task: task.name.clone() };
        let chosen = task.on.iter().all(|(k, v)| self.labels().get(k) == Some(v));
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
            MigrateError::Interrupted => None,
            e => Some(Box::new(migrate_failure(manifest.seq, step, &e))),
        })
    }

    fn context(&self, job: &Job, manifest: &Manifest, place: &AppPlace, phase: &str) -> HookContext {
        HookContext {
            app: job.app.clone(),
            release: manifest.release.clone(),
            app_dir: place.path.clone(),
            previous: job.journal.running.as_ref().map(|r| r.release.clone()),
            node: self.node().clone(),
            rollout: job.rollout.clone(),
            phase: phase.to_owned(),
            attempt: 1,
            fence: None,
            env: manifest.env.clone(),
            env_file: place.env_file.clone(),
            search_path: place.search_path.clone(),
            user: place.user.clone(),
        }
    }

    fn logs(&self, app: &AppName) -> PathBuf {
        self.state_dir(app).join("logs")
    }
}

/// Runs the command of a run-once task as the app's user.
struct TaskRunner<'a> {
    performer: &'a Performer,
    job: &'a Job,
    manifest: &'a Manifest,
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
            Err(detail) => (TaskState::Failed, detail, String::new()),
        };
        Ending { state, detail, log_tail, now: unix_now() }
    }

    fn now(&self) -> i64 {
        unix_now()
    }
}

impl TaskRunner<'_> {
    /// `Err`: it could not be started at all, which is a failure that everybody can know.
    async fn run_command(&self, start: &Start<'_>, place: &AppPlace, context: &HookContext) -> Result<(CommandOutcome, String), String> {
        let text = |e: &(dyn std::error::Error + 'static)| coord_proto::chain::inline(e);
        let environment = environment::build(context).map_err(|e| text(&e))?;
        let user = hook::user_ids(start.task.user.as_deref(), place).map_err(|e| text(&e))?;
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
        let end = command::run_while_held(spec).await.map_err(|e| text(&e))?;
        Ok((end.outcome, end.log_tail))
    }
}

fn unloaded(action: &Action) -> Box<Failure> {
    Box::new(Failure {
        seq: Seq(0),
        step: Step::Idle,
        code: FailureCode::Io,
        chain: vec![format!("the manifest for {action:?} was not loaded")],
        hint: "this is a mistake in the agent; please report it".into(),
        log_tail: String::new(),
        fell_back: false,
        attempt: 1,
    })
}

fn migrate_failure(seq: Seq, step: Step, error: &MigrateError) -> Failure {
    let code = match error {
        MigrateError::Failed { .. } | MigrateError::Overtaken { .. } => FailureCode::MigrationFailed,
        MigrateError::Store(_) => FailureCode::Download,
        MigrateError::Interrupted | MigrateError::Journal(_) | MigrateError::Damaged { .. } => FailureCode::Io,
    };
    let mut failure = failure(seq, step, code, error);
    if let MigrateError::Failed { log_tail, .. } = error {
        failure.log_tail.clone_from(log_tail);
    }
    failure
}

fn outcome(fared: ReleaseOutcome) -> layout::facts::Outcome {
    match fared {
        ReleaseOutcome::Staged => layout::facts::Outcome::Untried,
        ReleaseOutcome::Good => layout::facts::Outcome::Good,
        ReleaseOutcome::Failed => layout::facts::Outcome::Failed,
    }
}

fn step_of(phase: HookPhase) -> Step {
    match phase {
        HookPhase::Prepare => Step::Preparing,
        HookPhase::Drain => Step::Draining,
        HookPhase::Undrain => Step::Undraining,
        HookPhase::Restart | HookPhase::Cleanup => Step::Restarting,
    }
}
