//! The agent's one loop: source → Event → machine → Action → effect → Event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coord_proto::chain::inline;
pub use coord_proto::clock::unix_now;
use coord_proto::ids::{AppName, NodeName};
use coord_proto::report::{HealthState, Status, Step};
use coord_proto::retry::after;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::journal::JournalError;
use crate::machine::{Action, Event, Goal, Standing};
use crate::perform::{Job, Performer};
use crate::reporter::Statuses;
use crate::slot::{Place, Slot};
use crate::systemd::notify;

/// A stopping agent waits this long for the action in flight; what is cut off then is taken up again at the next start.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// What was told to end has this long: TERM, its grace, KILL.
const END_GRACE: Duration = Duration::from_secs(10);
/// How often systemd is asked to wait for a run-once command, and for how long each time (EXTEND_TIMEOUT_USEC, sd_notify(3)).
const EXTEND_EVERY: Duration = Duration::from_secs(15);
const EXTEND_BY_USEC: u32 = 60_000_000;

/// Which apps take traffic: what `/ready/<app>` answers.
pub type ReadyTable = BTreeMap<AppName, bool>;

/// Whether what should run is in place: what `/standing/<app>` answers.
pub type Standings = BTreeMap<AppName, Standing>;

/// Where the loop's results go.
pub struct Outputs {
    pub statuses: watch::Sender<Statuses>,
    pub ready: watch::Sender<ReadyTable>,
    pub standings: watch::Sender<Standings>,
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
#[error("the state of the app {app} cannot be kept; nothing more is changed")]
pub struct RunError {
    pub app: AppName,
    #[source]
    pub source: JournalError,
}

/// The loop's state.
pub struct Agent {
    node: NodeName,
    performer: Arc<Performer>,
    slots: BTreeMap<AppName, Slot>,
    /// Apps whose journal a newer agent wrote: left alone, beside those that work.
    refused: BTreeSet<AppName>,
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
        Self { node, performer, slots: BTreeMap::new(), refused: BTreeSet::new(), effects: JoinSet::new(), tell, told, outputs }
    }

    /// Runs until stopped. `apps` are those that were here before: their activities are brought to an end also with the
    /// store away (I7).
    ///
    /// # Errors
    /// The state directory can not be relied on.
    pub async fn run(mut self, apps: Vec<AppName>, inputs: Inputs) -> Result<(), RunError> {
        let ended = self.run_until_stopped(apps, inputs).await;
        // Also when one app's journal cannot be written: what runs for another app is brought to its end.
        self.wind_down().await;
        ended
    }

    async fn run_until_stopped(&mut self, apps: Vec<AppName>, mut inputs: Inputs) -> Result<(), RunError> {
        for app in apps {
            self.handle(app, Event::RetryDue).await?;
        }
        loop {
            let retry = self.slots.values().filter_map(|s| s.retry_at).min();
            let (app, event) = tokio::select! {
                biased;
                () = inputs.stop.cancelled() => return Ok(()),
                Some(ended) = self.effects.join_next() => ended.expect("effects do not panic, and nothing aborts them"),
                Some((app, event)) = self.told.recv() => (app, event),
                Some((app, goal)) = inputs.goals.recv() => (app, Event::GoalSeen(goal)),
                () = after(retry.map(|at| at.saturating_duration_since(Instant::now()))) => match self.due() {
                    Some(app) => (app, Event::RetryDue),
                    None => continue,
                },
            };
            self.handle(app, event).await?;
        }
    }

    fn due(&mut self) -> Option<AppName> {
        let now = Instant::now();
        let (app, slot) = self.slots.iter_mut().find(|(_, s)| s.retry_at.is_some_and(|at| at <= now))?;
        slot.retry_at = None;
        Some(app.clone())
    }

    /// Journal, then act, then report (I9).
    async fn handle(&mut self, app: AppName, event: Event) -> Result<(), RunError> {
        if !self.slots.contains_key(&app) && !self.open(&app).await? {
            return Ok(());
        }
        let slot = self.slots.get_mut(&app).expect("opened above");
        if matches!(event, Event::Finished | Event::ManifestLoaded(_)) {
            slot.backoff.reset();
        }
        let action = slot.machine.handle(event);
        if slot.machine.must_yield() {
            slot.give_way.cancel();
        }
        slot.save().await.map_err(|source| RunError { app: app.clone(), source })?;
        if slot.machine.wants_retry() && slot.retry_at.is_none() {
            slot.retry_at = Some(Instant::now() + slot.backoff.next());
        }
        if let Some(action) = action {
            self.start(&app, action);
        }
        self.report(&app);
        Ok(())
    }

    /// Was it opened? One app that cannot be is told, and does not stop the others.
    async fn open(&mut self, app: &AppName) -> Result<bool, RunError> {
        if self.refused.contains(app) {
            return Ok(false);
        }
        let place = Place {
            node: self.node.clone(),
            app: app.clone(),
            state: self.performer.state_dir(app),
            dir: self.performer.app_dir(app),
            baked: self.performer.baked_floor(),
        };
        match Slot::open(place).await {
            Ok(slot) => _ = self.slots.insert(app.clone(), slot),
            Err(e @ JournalError::Newer { .. }) => {
                error!("{app}: {}", inline(&e));
                self.outputs.words.send_replace(format!("{app}: {}", inline(&e)));
                self.stands(app, Standing::Failed { words: inline(&e) });
                self.refused.insert(app.clone());
                return Ok(false);
            }
            Err(source) => return Err(RunError { app: app.clone(), source }),
        }
        Ok(true)
    }

    fn start(&mut self, app: &AppName, action: Action) {
        let slot = self.slots.get_mut(app).expect("started from its slot");
        slot.give_way = CancellationToken::new();
        slot.end = CancellationToken::new();
        let job = Job {
            app: app.clone(),
            journal: slot.machine.journal().clone(),
            manifest: action.seq().and_then(|seq| slot.machine.manifest(seq)).cloned(),
            action,
            rollout: slot.machine.rollout(),
            give_way: slot.give_way.clone(),
            end: slot.end.clone(),
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
        let failure = status.failure.as_ref().map(|f| f.chain.join(": "));
        if failure != slot.failure {
            match &failure {
                Some(why) if status.step == Step::Waiting => warn!("{app}: {why}; trying again"),
                Some(why) => error!("{app}: {why}"),
                None => {}
            }
            slot.failure = failure;
        }
        if status.words != slot.words {
            slot.words.clone_from(&status.words);
            info!("{app}: {}", status.words);
            self.outputs.words.send_replace(format!("{app}: {}", status.words));
        }
        let (ready, standing) = (is_ready(&status), slot.machine.standing());
        self.outputs.ready.send_if_modified(|table| table.insert(app.clone(), ready) != Some(ready));
        self.stands(app, standing);
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

    fn stands(&self, app: &AppName, standing: Standing) {
        self.outputs.standings.send_if_modified(|table| table.insert(app.clone(), standing.clone()).as_ref() != Some(&standing));
    }

    /// Lets the actions in flight end; whatever waits gives way, and a hook that takes too long is told to end. A command
    /// that runs once in the fleet keeps the time that its release gave it: cut off, nobody would know how it ended.
    async fn wind_down(&mut self) {
        self.slots.values().for_each(|s| s.give_way.cancel());
        let mut held: BTreeSet<AppName> = self.slots.iter().filter(|(_, s)| s.machine.is_at_tasks()).map(|(app, _)| app.clone()).collect();
        let (end_at, mut told) = (Instant::now() + STOP_GRACE, false);
        let leave_at = end_at + END_GRACE;
        let mut extend = tokio::time::interval(EXTEND_EVERY);
        loop {
            tokio::select! {
                biased;
                ended = self.effects.join_next() => match ended {
                    None => return,
                    Some(ended) => {
                        let (app, event) = ended.expect("effects do not panic, and nothing aborts them");
                        held.remove(&app);
                        self.note_last(&app, event).await;
                    }
                },
                _ = extend.tick() => self.hold_stop(&held),
                () = tokio::time::sleep_until(end_at), if !told => {
                    told = true;
                    self.slots.values().for_each(|s| s.end.cancel());
                }
                () = tokio::time::sleep_until(leave_at), if held.is_empty() => {
                    return warn!("stopped while an action was still running; it is taken up again at the next start");
                }
            }
        }
    }

    /// systemd waits on while a run-once command runs.
    fn hold_stop(&self, held: &BTreeSet<AppName>) {
        if let Some(app) = held.first() {
            let words = format!("{app}: stopping; waiting for the run-once command to end");
            info!("{words}");
            self.outputs.words.send_replace(words);
            notify(&[NotifyState::ExtendTimeoutUsec(EXTEND_BY_USEC)]);
        }
    }

    /// The next action is not started: the journal says where to go on.
    async fn note_last(&mut self, app: &AppName, event: Event) {
        let Some(slot) = self.slots.get_mut(app) else { return };
        slot.machine.handle(event);
        if let Err(e) = slot.save().await {
            error!("{app}: {}", inline(&e));
        }
    }
}

/// Does the app take traffic here?
pub fn is_ready(status: &Status) -> bool {
    let serving =
        !matches!(status.step, Step::Draining | Step::Switching | Step::Restarting | Step::Probing | Step::Undraining | Step::FallingBack);
    serving && status.running.is_some() && status.health == HealthState::Healthy
}

#[cfg(test)]
mod tests;
