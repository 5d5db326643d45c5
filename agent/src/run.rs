//! The agent's one loop: source → Event → machine → Action → effect → Event.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
pub use coord_proto::clock::unix_now;
use coord_proto::ids::{AppName, NodeName, Seq};
use coord_proto::report::{HealthState, Running, Status, Step};
use coord_proto::retry::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::journal::{self, Journal, JournalError};
use crate::layout::{AppDir, LayoutError};
use crate::machine::{Action, Event, Goal, Machine};
use crate::perform::{Job, Performer};
use crate::reporter::Statuses;

/// A stopping agent waits this long for the action in flight; what is cut off then is taken up again at the next start.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Which apps take traffic: what `/ready/<app>` answers.
pub type ReadyTable = BTreeMap<AppName, bool>;

/// Where the loop's results go.
pub struct Outputs {
    pub statuses: watch::Sender<Statuses>,
    pub ready: watch::Sender<ReadyTable>,
    /// One line for systemd's STATUS=.
    pub words: watch::Sender<String>,
}

/// Where its events come from, beside the effects.
pub struct Inputs {
    pub goals: mpsc::Receiver<(AppName, Goal)>,
    pub stop: CancellationToken,
}

/// Why the loop ended other than by a stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot open the app {app}")]
    Layout {
        app: AppName,
        #[source]
        source: LayoutError,
    },
    #[error("the state of the app {app} cannot be kept; nothing more is changed")]
    Journal {
        app: AppName,
        #[source]
        source: JournalError,
    },
}

/// One app on this server.
struct Slot {
    machine: Machine,
    /// What is on disk.
    saved: Journal,
    dir: PathBuf,
    give_way: CancellationToken,
    retry_at: Option<Instant>,
    backoff: Backoff,
    words: String,
}

/// The loop's state.
pub struct Agent {
    node: NodeName,
    performer: Arc<Performer>,
    slots: BTreeMap<AppName, Slot>,
    effects: JoinSet<(AppName, Event)>,
    /// What effects tell while they run.
    tell: mpsc::Sender<(AppName, Event)>,
    told: mpsc::Receiver<(AppName, Event)>,
    outputs: Outputs,
}

impl Agent {
    /// An agent that does nothing yet.
    pub fn new(node: NodeName, performer: Arc<Performer>, outputs: Outputs) -> Self {
        let (tell, told) = mpsc::channel(64);
        Self { node, performer, slots: BTreeMap::new(), effects: JoinSet::new(), tell, told, outputs }
    }

    /// Runs until stopped. `apps` are those that were here before: their activities are brought to an end also with the
    /// store away (I7).
    ///
    /// # Errors
    /// The state directory can not be relied on.
    pub async fn run(mut self, apps: Vec<AppName>, mut inputs: Inputs) -> Result<(), RunError> {
        for app in apps {
            self.handle(app, Event::RetryDue).await?;
        }
        loop {
            let retry = self.slots.values().filter_map(|s| s.retry_at).min();
            let (app, event) = tokio::select! {
                biased;
                () = inputs.stop.cancelled() => break,
                Some(ended) = self.effects.join_next() => ended.expect("effects do not panic, and nothing aborts them"),
                Some((app, event)) = self.told.recv() => (app, event),
                Some((app, goal)) = inputs.goals.recv() => (app, Event::GoalSeen(goal)),
                () = sleep_until(retry) => match self.due() {
                    Some(app) => (app, Event::RetryDue),
                    None => continue,
                },
            };
            self.handle(app, event).await?;
        }
        self.wind_down().await;
        Ok(())
    }

    fn due(&mut self) -> Option<AppName> {
        let now = Instant::now();
        let (app, slot) = self.slots.iter_mut().find(|(_, s)| s.retry_at.is_some_and(|at| at <= now))?;
        slot.retry_at = None;
        Some(app.clone())
    }

    /// Journal, then act, then report (I9).
    async fn handle(&mut self, app: AppName, event: Event) -> Result<(), RunError> {
        if !self.slots.contains_key(&app) {
            let slot = self.open(&app)?;
            self.slots.insert(app.clone(), slot);
        }
        let slot = self.slots.get_mut(&app).expect("inserted above");
        if matches!(event, Event::Finished | Event::ManifestLoaded(_)) {
            slot.backoff.reset();
        }
        let action = slot.machine.handle(event);
        if slot.machine.must_yield() {
            slot.give_way.cancel();
        }
        slot.save().await.map_err(|source| RunError::Journal { app: app.clone(), source })?;
        if slot.machine.wants_retry() && slot.retry_at.is_none() {
            slot.retry_at = Some(Instant::now() + slot.backoff.next());
        }
        if let Some(action) = action {
            self.start(&app, action);
        }
        self.report(&app);
        Ok(())
    }

    fn open(&self, app: &AppName) -> Result<Slot, RunError> {
        let layout = |source| RunError::Layout { app: app.clone(), source };
        let dir = self.performer.state_dir(app);
        let loaded = journal::load(&dir, self.performer.baked_floor()).map_err(|source| RunError::Journal { app: app.clone(), source })?;
        if let Some(alarm) = &loaded.alarm {
            error!("{alarm}");
        }
        let saved = loaded.journal.clone();
        let mut journal = loaded.journal;
        let place = self.performer.app_dir(app);
        place.sweep().map_err(layout)?;
        adopt(&mut journal, &place, app);
        Ok(Slot {
            machine: Machine::new(self.node.clone(), app.clone(), journal),
            saved,
            dir,
            give_way: CancellationToken::new(),
            retry_at: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            words: String::new(),
        })
    }

    fn start(&mut self, app: &AppName, action: Action) {
        let slot = self.slots.get_mut(app).expect("started from its slot");
        slot.give_way = CancellationToken::new();
        let job = Job {
            app: app.clone(),
            journal: slot.machine.journal().clone(),
            manifest: action_seq(&action).and_then(|seq| slot.machine.manifest(seq)).cloned(),
            action,
            rollout: slot.machine.rollout(),
            give_way: slot.give_way.clone(),
            events: self.tell.clone(),
        };
        let performer = self.performer.clone();
        self.effects.spawn(async move {
            let app = job.app.clone();
            (app, performer.perform(job).await)
        });
    }

    fn report(&mut self, app: &AppName) {
        let Some(slot) = self.slots.get_mut(app) else { return };
        let mut status = slot.machine.status(unix_now());
        if status.words != slot.words {
            slot.words.clone_from(&status.words);
            match &status.failure {
                Some(f) if status.step == Step::Idle => error!("{app}: {}", f.chain.join(": ")),
                Some(f) if status.step == Step::Waiting => warn!("{app}: {}; trying again", f.chain.join(": ")),
                _ => info!("{app}: {}", status.words),
            }
            self.outputs.words.send_replace(format!("{app}: {}", status.words));
        }
        let ready = is_ready(&status);
        self.outputs.ready.send_if_modified(|table| table.insert(app.clone(), ready) != Some(ready));
        self.outputs.statuses.send_if_modified(|statuses| {
            // `since` is when it became so, not when it was looked at.
            if let Some(old) = statuses.get(app) {
                let looked = status.since;
                status.since = old.since;
                if *old == status {
                    return false;
                }
                status.since = looked;
            }
            statuses.insert(app.clone(), status);
            true
        });
    }

    /// Lets the actions in flight end; whatever waits gives way.
    async fn wind_down(&mut self) {
        self.slots.values().for_each(|s| s.give_way.cancel());
        let ended = tokio::time::timeout(STOP_GRACE, async {
            while let Some(ended) = self.effects.join_next().await {
                let Ok((app, event)) = ended else { continue };
                if let Some(slot) = self.slots.get_mut(&app) {
                    // The next action is not started: the journal says where to go on.
                    slot.machine.handle(event);
                    if let Err(e) = slot.save().await {
                        error!("{app}: {}", inline(&e));
                    }
                }
            }
        });
        if ended.await.is_err() {
            warn!("stopped while an action was still running; it is taken up again at the next start");
        }
    }
}

impl Slot {
    async fn save(&mut self) -> Result<(), JournalError> {
        let journal = self.machine.journal();
        if *journal == self.saved {
            return Ok(());
        }
        let (new, old, dir) = (journal.clone(), self.saved.clone(), self.dir.clone());
        let written = tokio::task::spawn_blocking(move || new.save(&dir, &old).map(|()| new)).await;
        self.saved = written.expect("saving does not panic")?;
        Ok(())
    }
}

/// `current` is the truth: a crash between the switch and the journal, or an older tool, may have moved it.
fn adopt(journal: &mut Journal, place: &AppDir, app: &AppName) {
    match place.current() {
        Ok(Some(release)) if journal.running.as_ref().is_none_or(|r| r.release != release) => {
            let seq = journal.releases.get(&release).map_or(Seq(0), |f| f.seq);
            info!("{app}: {release} is current here; it is adopted");
            journal.running = Some(Running { seq, release });
        }
        Ok(None) => journal.running = None,
        Ok(Some(_)) => {}
        // Told again, with a failure, when something is to be switched; until then nothing is touched.
        Err(e) => warn!("{app}: {}", inline(&e)),
    }
}

fn is_ready(status: &Status) -> bool {
    let serving =
        !matches!(status.step, Step::Draining | Step::Switching | Step::Restarting | Step::Probing | Step::Undraining | Step::FallingBack);
    serving && status.running.is_some() && status.health == HealthState::Healthy
}

fn action_seq(action: &Action) -> Option<Seq> {
    match action {
        Action::Load(_) | Action::Switch(_) | Action::Prune { .. } => None,
        Action::Stage(seq) | Action::Prepare(seq) | Action::Probe(seq) => Some(*seq),
        Action::EnsureTasks { seq, .. } | Action::RunHooks { seq, .. } => Some(*seq),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
