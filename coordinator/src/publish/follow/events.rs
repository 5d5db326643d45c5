//! A followed rollout for programs: what changed, one event each. The first ones say how it stands.

use std::collections::BTreeMap;

use coord_proto::ids::{AppName, NodeName, ReleaseId, RolloutId, Seq};
use coord_proto::report::{Progress, Step};
use coord_proto::rollout::{Outcome, RolloutPhase, RolloutState, Target};
use serde::Serialize;

use super::{Ending, Follower};
use crate::view::Fleet;

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Published, and not followed.
    Accepted { app: AppName, rollout: RolloutId, release: ReleaseId, seq: Seq },
    /// What is followed.
    Watching { app: AppName, rollout: RolloutId, release: ReleaseId, by: String },
    /// Whether what follows is news: does etcd answer, does a coordinator lead?
    Connection { etcd: bool, leader: bool },
    Phase {
        phase: RolloutPhase,
        paused: bool,
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Numbers from 1.
    BatchOpened { batch: usize, of: usize, servers: Vec<NodeName> },
    /// What a server does, in the agent's words.
    Server {
        server: NodeName,
        batch: usize,
        step: Step,
        words: String,
        /// Bytes, while it downloads.
        #[serde(skip_serializing_if = "Option::is_none")]
        progress: Option<Progress>,
        /// Why it does not go on; it may try again.
        #[serde(skip_serializing_if = "String::is_empty")]
        failure: String,
    },
    /// How the coordinator counts a server.
    Outcome {
        server: NodeName,
        batch: usize,
        outcome: Outcome,
        #[serde(skip_serializing_if = "String::is_empty")]
        failure: String,
        /// The end of a failed hook's output.
        #[serde(skip_serializing_if = "String::is_empty")]
        output: String,
    },
    /// The last one; `exit` is the command's exit code.
    End { exit: u8, words: String, recap: String, hint: String },
}

impl Event {
    /// The end of a rollout.
    pub fn end(ending: &Ending) -> Self {
        let Ending { exit, recap, words, hint, .. } = ending.clone();
        Self::End { exit: exit.code(), words, recap, hint }
    }
}

/// Tells each thing once.
#[derive(Debug, Default)]
pub struct Teller {
    /// By what it is about: the last that was told.
    told: BTreeMap<String, Event>,
}

impl Teller {
    /// What changed since the last call.
    pub fn news(&mut self, follower: &Follower, fleet: &Fleet) -> Vec<Event> {
        let mut events = Vec::new();
        let watching = Event::Watching {
            app: follower.app.clone(),
            rollout: follower.rollout.clone(),
            release: follower.release.clone(),
            by: follower.by.clone(),
        };
        self.tell(&mut events, "watching", watching);
        self.tell(&mut events, "connection", Event::Connection { etcd: fleet.fresh, leader: fleet.leader.is_some() });
        let Some(state) = follower.state(fleet).filter(|_| fleet.fresh) else { return events };
        self.tell(&mut events, "phase", Event::Phase { phase: state.phase, paused: state.paused, reason: state.reason.clone() });
        for target in &state.targets {
            self.tell_outcome(&mut events, outcome(follower, fleet, state, target), target);
        }
        if let Some(opened) = opened(state) {
            self.tell_batch(&mut events, opened);
        }
        for (target, event) in state.targets.iter().filter_map(|target| Some((target, server(follower, fleet, target)?))) {
            self.tell(&mut events, &format!("server {}", target.node), event);
        }
        events
    }

    fn tell(&mut self, events: &mut Vec<Event>, about: &str, event: Event) {
        if self.told.get(about) != Some(&event) {
            self.told.insert(about.to_owned(), event.clone());
            events.push(event);
        }
    }

    /// A batch opens once, whoever joins it later.
    fn tell_batch(&mut self, events: &mut Vec<Event>, opened: Event) {
        let number = |event: &Event| if let Event::BatchOpened { batch, .. } = event { *batch } else { 0 };
        if self.told.get("batch").map(number) != Some(number(&opened)) {
            self.tell(events, "batch", opened);
        }
    }

    /// That a server waits for its turn is no event; that it counts again is one.
    fn tell_outcome(&mut self, events: &mut Vec<Event>, event: Event, target: &Target) {
        let about = format!("outcome {}", target.node);
        match self.told.get(&about) {
            None if target.outcome == Outcome::Pending => {}
            // The reason is forgotten when the server went back: that is no other outcome.
            Some(Event::Outcome { outcome, .. }) if *outcome == target.outcome => {}
            _ => self.tell(events, &about, event),
        }
    }
}

fn opened(state: &RolloutState) -> Option<Event> {
    let open = matches!(state.phase, RolloutPhase::Running | RolloutPhase::AwaitingPromotion | RolloutPhase::AwaitingDecision);
    let servers: Vec<NodeName> = state.batch_targets(state.batch).map(|target| target.node.clone()).collect();
    let event = Event::BatchOpened { batch: state.batch + 1, of: state.batches.max(1), servers };
    (open && state.batch < state.batches).then_some(event)
}

fn server(follower: &Follower, fleet: &Fleet, target: &Target) -> Option<Event> {
    let status = fleet.node_app(&target.node, &follower.app)?.status.as_ref()?;
    (status.rollout.as_ref() == Some(&follower.rollout)).then(|| Event::Server {
        server: target.node.clone(),
        batch: target.batch + 1,
        step: status.step,
        words: status.words.clone(),
        progress: status.progress,
        failure: status.failure.as_ref().map(|failure| failure.chain.join(": ")).unwrap_or_default(),
    })
}

fn outcome(follower: &Follower, fleet: &Fleet, state: &RolloutState, target: &Target) -> Event {
    let status = fleet.node_app(&target.node, &follower.app).and_then(|slot| slot.status.as_ref());
    let failure = status.and_then(|status| status.failure.as_ref()).filter(|failure| failure.seq == state.seq);
    let failure = failure.filter(|_| target.outcome != Outcome::Done);
    Event::Outcome {
        server: target.node.clone(),
        batch: target.batch + 1,
        outcome: target.outcome,
        failure: failure.map(|failure| failure.chain.join(": ")).unwrap_or_default(),
        output: failure.map(|failure| failure.log_tail.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
