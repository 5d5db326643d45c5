//! Does what the machine says: one match, no decisions.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, NodeName, ReleaseId, RolloutId, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::labels::Labels;
use coord_proto::manifest::{HookPhase, Manifest};
use coord_proto::report::{Failure, FailureCode, Progress, Step};
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{SharedStore, read_record};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::accept::{Here, accept, is_filed_right};
use crate::config::{AppPlace, Config};
use crate::effects::environment::HookContext;
use crate::effects::fetch::{Fetched, Fetcher};
use crate::effects::hook::HookError;
use crate::effects::migrate::Claims;
use crate::effects::stage::{StageRequest, Staged, stage};
use crate::effects::{health, hook, prune, switch};
use crate::failure::{NotLoaded, failure};
use crate::journal::Journal;
use crate::layout::AppDir;
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
    /// The goal no longer asks for it, or the agent stops: what nobody can see yields.
    pub give_way: CancellationToken,
    /// The agent cannot wait any longer: what runs is told to end, and is taken up again at the next start.
    pub end: CancellationToken,
    pub events: mpsc::Sender<(AppName, Event)>,
}

/// Why an action did not end well.
enum NotDone {
    Interrupted,
    NotSwitched(Box<Failure>),
    Failed(Box<Failure>),
}

impl NotDone {
    fn failed(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
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

    /// What selectors are compared with.
    fn known_by(&self) -> &Labels {
        &self.config.node.known_by
    }

    /// Brings one action to its event.
    pub async fn perform(&self, job: Job) -> Event {
        let ended = match (&job.action, job.manifest.clone()) {
            (Action::Load(seq), _) => return self.load(&job, *seq).await,
            (Action::LoadServed(seq), _) => return self.load_served(&job.app, *seq).await,
            (Action::Prune { keep, protected, manifests }, _) => return self.prune(&job, *keep, protected, manifests).await,
            (Action::Switch(release), _) => self.switch(&job, release).await,
            (Action::Stage(_), Some(m)) => tokio::select! {
                () = job.give_way.cancelled() => Err(NotDone::Interrupted),
                ended = self.stage(&job, &m) => ended,
            },
            (Action::Prepare(_), Some(m)) => self.hooks(&job, &m, HookPhase::Prepare, &job.give_way).await,
            (Action::RunHooks { phase, .. }, Some(m)) => self.hooks(&job, &m, *phase, &job.end).await,
            (Action::Probe(_), Some(m)) => tokio::select! {
                () = job.end.cancelled() => Err(NotDone::Interrupted),
                ended = self.probe(&job, &m) => ended,
            },
            (Action::EnsureTasks { phase, may_claim, .. }, Some(m)) => self.ensure_tasks(&job, &m, *phase, *may_claim).await,
            (action, None) => Err(unloaded(action)),
        };
        match ended {
            Ok(()) => Event::Finished,
            Err(NotDone::Interrupted) => Event::Interrupted,
            Err(NotDone::NotSwitched(failure)) => Event::NotSwitched(*failure),
            Err(NotDone::Failed(failure)) => Event::Failed(*failure),
        }
    }

    async fn load(&self, job: &Job, seq: Seq) -> Event {
        let refused = |code, e: &(dyn std::error::Error + 'static)| Event::Failed(failure(seq, Step::Fetching, code, e));
        let manifest = match self.manifests.load(&job.app, seq).await {
            Ok(manifest) => Arc::new(manifest),
            Err(e) => return refused(e.code(), &e),
        };
        let runs_already = job.journal.running.as_ref().is_some_and(|r| r.seq == seq) || job.journal.activity.is_some();
        let allowed = self.config.allows(&job.app);
        let here = Here { app: &job.app, seq, labels: self.known_by(), allowed, now: (!runs_already).then(unix_now) };
        if let Err(refusal) = accept(&manifest, &here) {
            return refused(refusal.code(), &refusal);
        }
        let (asked, labels, place) = (manifest.clone(), self.known_by().clone(), self.config.place(&job.app));
        // Users may be looked up far away.
        let look = move || hook::check_allowed(&asked, &labels, &place);
        match tokio::task::spawn_blocking(look).await.expect("looking up does not panic") {
            Ok(()) => Event::ManifestLoaded(manifest),
            Err(e) => refused(e.code(), &e),
        }
    }

    /// What served here keeps serving, and may be gone back to, whatever the configuration says today: the signature
    /// counts. Its hooks ask for their units and users again when they run.
    async fn load_served(&self, app: &AppName, seq: Seq) -> Event {
        let failure = match self.manifests.load(app, seq).await {
            Err(e) => failure(seq, Step::Fetching, e.code(), &e),
            Ok(manifest) => match is_filed_right(&manifest, app, seq) {
                Ok(()) => return Event::ManifestLoaded(Arc::new(manifest)),
                Err(refusal) => failure(seq, Step::Fetching, refusal.code(), &refusal),
            },
        };
        warn!("{app}: release number {seq} served here and is no longer a way back: {}", failure.chain.join(": "));
        Event::Failed(failure)
    }

    async fn stage(&self, job: &Job, manifest: &Arc<Manifest>) -> Result<(), NotDone> {
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
        let staged = stage(request).await;
        crate::memory::give_back();
        let staged = staged.map_err(|e| NotDone::failed(failure(manifest.seq, Step::Staging, e.code(), &e)))?;
        match staged {
            Staged::Unpacked(Fetched { downloaded, resumed }) => {
                debug!("{}: {} is staged: {downloaded} bytes downloaded, {resumed} from an earlier try", job.app, manifest.release);
            }
            Staged::AlreadyThere => debug!("{}: {} was here already", job.app, manifest.release),
        }
        Ok(())
    }

    /// Mirrors first, then what the coordinators announced. Neither is trusted: the digests are.
    async fn bases(&self) -> Vec<String> {
        let key = self.keys.key(&Key::Stores);
        let announced = read_record::<coord_proto::coordinator::StoresRecord>(self.store.as_ref(), &key).await;
        let announced = announced.ok().flatten().map(|(stores, _)| stores.urls).unwrap_or_default();
        self.config.download.mirrors.iter().cloned().chain(announced).collect()
    }

    async fn hooks(&self, job: &Job, manifest: &Manifest, phase: HookPhase, cancel: &CancellationToken) -> Result<(), NotDone> {
        let place = self.config.place(&job.app);
        let context = self.context(job, manifest, &place, phase.name());
        let logs = self.logs(&job.app);
        let run = hook::HookRun {
            manifest,
            phase,
            labels: self.known_by(),
            place: &place,
            context: &context,
            units: self.units.as_ref(),
            logs: &logs,
            cancel,
        };
        match hook::run_phase(run).await {
            Ok(()) => Ok(()),
            Err(HookError::Cancelled { .. }) => Err(NotDone::Interrupted),
            Err(e) => {
                if phase == HookPhase::Cleanup {
                    warn!("{}: {} serves, but {}", job.app, manifest.release, inline(&e));
                }
                let mut failure = failure(manifest.seq, step_of(phase), e.code(), &e);
                failure.log_tail = e.log_tail().to_owned();
                Err(NotDone::failed(failure))
            }
        }
    }

    async fn probe(&self, job: &Job, manifest: &Manifest) -> Result<(), NotDone> {
        let Some(check) = &manifest.health else { return Ok(()) };
        let place = self.config.place(&job.app);
        let context = self.context(job, manifest, &place, "health");
        let ended = health::probe(check, &context, &place, &self.logs(&job.app)).await;
        ended.map_err(|e| NotDone::failed(failure(manifest.seq, Step::Probing, FailureCode::Unhealthy, &e)))
    }

    async fn switch(&self, job: &Job, release: &ReleaseId) -> Result<(), NotDone> {
        let (dir, wanted) = (self.app_dir(&job.app), release.clone());
        let seq = job.journal.activity.as_ref().map_or(Seq(0), |a| a.seq);
        // A failed sync comes after the rename: where `current` leads is looked at, not concluded.
        let work = move || switch::switch(&dir, &wanted).map_err(|e| (e, dir.current().ok().flatten() == Some(wanted)));
        match tokio::task::spawn_blocking(work).await.expect("switching does not panic") {
            Ok(()) => Ok(()),
            Err((e, there)) => {
                let failure = Box::new(failure(seq, Step::Switching, e.code(), &e));
                Err(if there { NotDone::Failed(failure) } else { NotDone::NotSwitched(failure) })
            }
        }
    }

    async fn prune(&self, job: &Job, keep: u32, protected: &BTreeSet<ReleaseId>, manifests: &BTreeSet<Seq>) -> Event {
        let (dir, known, protected) = (self.app_dir(&job.app), job.journal.releases.clone(), protected.clone());
        let work = move || prune::prune(&dir, &known, keep as usize, &protected);
        let (gone, problems) = tokio::task::spawn_blocking(work).await.expect("pruning does not panic");
        for e in &problems {
            warn!("{}: an old release stays for now: {}", job.app, inline(e));
        }
        let kept = job.journal.releases.iter().filter(|(r, _)| !gone.contains(r)).map(|(_, f)| f.seq);
        let kept: Vec<Seq> = kept.chain(manifests.iter().copied()).collect();
        if let Err(e) = self.manifests.retain(&job.app, &kept) {
            // One too many on the disk harms nobody.
            debug!("{}: old manifests stay: {e}", job.app);
        }
        Event::Pruned(gone)
    }

    fn context(&self, job: &Job, manifest: &Manifest, place: &AppPlace, phase: &str) -> HookContext {
        HookContext {
            app: job.app.clone(),
            release: manifest.release.clone(),
            app_dir: place.path.clone(),
            previous: job.journal.before(&manifest.release).cloned(),
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

fn unloaded(action: &Action) -> NotDone {
    let error = NotLoaded { action: format!("{action:?}") };
    NotDone::failed(failure(action.seq().unwrap_or_default(), Step::Idle, FailureCode::Io, &error))
}

fn step_of(phase: HookPhase) -> Step {
    match phase {
        HookPhase::Prepare => Step::Preparing,
        HookPhase::Drain => Step::Draining,
        HookPhase::Undrain => Step::Undraining,
        HookPhase::Restart | HookPhase::Cleanup => Step::Restarting,
    }
}

mod task;

#[cfg(test)]
pub(crate) mod tests;
