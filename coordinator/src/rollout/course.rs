//! One rollout during one pass: what was read, and what has been decided so far.

use coord_proto::ids::NodeName;
use coord_proto::rollout::{Outcome, RolloutPhase, RolloutSpec, RolloutState, Target};

use super::progress::{self, Look, Turn};
use super::roster::Roster;
use super::{Decision, PlanInput, Timers, begin, budget, names, release_words, tell};
use crate::view::{App, ManifestFacts, Node};

/// Most characters of a server's own words in a rollout's reason.
const WORDS_MAX: usize = 400;

/// The pass over one rollout.
pub(super) struct Course<'a> {
    pub input: &'a PlanInput<'a>,
    pub app: &'a App,
    pub spec: &'a RolloutSpec,
    pub facts: &'a ManifestFacts,
    pub state: RolloutState,
    /// Of the state's targets.
    pub roster: Roster<'a>,
    pub timers: Timers,
    pub out: Decision,
}

impl<'a> Course<'a> {
    /// The stored state of this spec's rollout, or its first one.
    pub fn open(input: &'a PlanInput<'a>, app: &'a App, spec: &'a RolloutSpec, facts: &'a ManifestFacts) -> Self {
        let mut out = Decision::default();
        let state = match &app.state {
            Some(state) if state.id == spec.id => state.clone(),
            replaced => {
                begin::supersede(input, app, replaced.as_ref(), spec, &mut out);
                begin::first_state(input, app, spec, facts, &mut out)
            }
        };
        let timers = input.timers.resumed(&state, input.elapsed);
        let roster = Roster::of(&input.fleet.nodes, &state.targets);
        Self { input, app, spec, facts, state, roster, timers, out }
    }

    /// The decision at the end of the pass.
    pub fn decide(mut self) -> Decision {
        self.timers.keep_for(&self.state);
        self.state.batch_elapsed = self.timers.stored(self.state.batch_elapsed);
        self.out.desired = tell::all(&self);
        // While it is paused nothing happens by time alone; a way back goes on.
        let held = self.state.paused && self.state.phase != RolloutPhase::RollingBack;
        if !self.state.phase.ended() && !held {
            self.out.wake_after = self.timers.next(&self.spec.policy, self.state.batch_elapsed);
        }
        let told: u64 = self.out.desired.iter().filter(|d| d.rollout.as_ref() == Some(&self.state.id)).map(|_| 1).sum();
        if self.app.state.as_ref() != Some(&self.state) {
            self.state.generation += told;
            self.out.state = Some(self.state);
        }
        self.out.timers = self.timers;
        self.out
    }

    /// After other targets were chosen.
    pub fn call_the_roll(&mut self) {
        self.roster = Roster::of(&self.input.fleet.nodes, &self.state.targets);
    }

    /// Every target with its server.
    pub fn servers(&self) -> impl Iterator<Item = (&Target, Option<&'a Node>)> {
        self.state.targets.iter().zip(self.roster.targets.iter().copied())
    }

    pub fn look(&self, server: (&Target, Option<&Node>)) -> Look {
        progress::look(self.input, &self.state, self.facts, server)
    }

    pub fn enter(&mut self, phase: RolloutPhase, words: &str) {
        self.state.phase = phase;
        self.note(words);
    }

    pub fn note(&mut self, words: &str) {
        let release = release_words(self.app, &self.state);
        self.out.events.push(format!("rollout {} of release {release} {words}", self.state.id));
    }

    /// What the first failed server said. Kept with the rollout, because its status forgets it on the way back.
    fn first_failure(&self) -> Option<String> {
        let failed = self.state.targets.iter().filter(|t| t.outcome == Outcome::Failed);
        let said = |node: &NodeName| self.input.fleet.node_app(node, self.input.name)?.status.as_ref()?.failure.as_ref();
        let mut of_this = failed.filter_map(|t| Some((&t.node, said(&t.node).filter(|f| f.seq == self.state.seq)?)));
        of_this.next().map(|(node, failure)| format!("{node}: {}", failure.chain.join(": ").chars().take(WORDS_MAX).collect::<String>()))
    }

    /// Brings every target's outcome up to date.
    pub fn judge(&mut self) {
        if self.state.phase == RolloutPhase::RollingBack {
            return;
        }
        let looks: Vec<Look> = self.servers().map(|server| self.look(server)).collect();
        let open = self.state.batch;
        let turn = match self.state.phase {
            RolloutPhase::Staging => Turn::Elsewhere,
            RolloutPhase::Running => Turn::Open,
            _ => Turn::Held,
        };
        for (target, look) in self.state.targets.iter_mut().zip(&looks) {
            target.outcome = progress::outcome(target, look, if target.batch == open { turn } else { Turn::Elsewhere });
        }
    }

    /// Targets that staging still waits for.
    pub fn pending_staging(&self) -> usize {
        let ready = |server| matches!(self.look(server), Look::Staged | Look::Done);
        self.servers().filter(|&(target, node)| target.outcome == Outcome::Pending && !ready((target, node))).count()
    }

    pub fn pending_in(&self, batch: usize) -> usize {
        self.state.batch_targets(batch).filter(|t| t.outcome == Outcome::Pending).count()
    }

    /// The first batch from `index` on in which somebody waits for his turn.
    pub fn next_pending(&self, index: usize) -> Option<usize> {
        let pending = |t: &&Target| t.outcome == Outcome::Pending && t.batch >= index;
        self.state.targets.iter().filter(pending).map(|t| t.batch).min()
    }

    pub fn done_in(&self, batch: usize) -> usize {
        self.state.batch_targets(batch).filter(|t| t.outcome == Outcome::Done).count()
    }

    /// Is a server of the batch in, or waiting for, a run-once task that somebody has open?
    pub fn migrating(&self, batch: usize) -> bool {
        let open = self.app.head.as_ref().is_some_and(|h| h.open);
        open && self.state.batch_targets(batch).any(|t| progress::in_migration(self.input, &t.node))
    }

    /// Deadline: what is pending counts as failed from now on.
    pub fn fail_the_late(&mut self, late: impl Fn(&Target, bool) -> bool, words: &str) {
        let staged: Vec<bool> = self.servers().map(|server| matches!(self.look(server), Look::Staged | Look::Done)).collect();
        let mut named: Vec<String> = Vec::new();
        for (target, staged) in self.state.targets.iter_mut().zip(staged) {
            if target.outcome == Outcome::Pending && late(target, staged) {
                target.outcome = Outcome::Failed;
                named.push(target.node.to_string());
            }
        }
        // One line for all of them: a transaction has no room for one per server.
        match named.as_slice() {
            [] => {}
            [name] => self.note(&format!("counts {name} as failed: it {words}")),
            many => self.note(&format!("counts {} as failed: each {words}", names::short(many))),
        }
    }

    /// Halts or turns back when a budget is spent; true if so.
    pub fn stopped_by_budget(&mut self) -> bool {
        let away = || if self.away_waits() { None } else { budget::away(&self.state) };
        let Some(mut reason) = budget::failed(&self.state).or_else(away) else { return false };
        if let Some(why) = self.first_failure() {
            reason = format!("{reason}; {why}");
        }
        self.fail(reason);
        true
    }

    pub fn not_done(&self) -> Vec<String> {
        self.state.targets.iter().filter(|t| t.outcome != Outcome::Done).map(|t| t.node.to_string()).collect()
    }

    pub fn after_last_batch(&self) -> bool {
        self.state.batch >= self.state.batches
    }

    /// Opens the first batch from `index` on that has a server to tell; after the last one the rollout completes.
    pub fn open_batch_from(&mut self, index: usize) {
        let next = self.next_pending(index);
        // The servers whose turn it is now count too, and those whose batch was skipped because they are all away.
        self.state.batch = next.unwrap_or(self.state.batches);
        if self.stopped_by_budget() {
            return;
        }
        let Some(batch) = next else { return self.complete() };
        self.timers.restart();
        self.timers.count(true);
        self.state.batch_elapsed = 0;
        self.state.reason.clear();
        let mut told = Vec::new();
        for target in self.state.targets.iter_mut().filter(|t| t.batch == batch && t.outcome == Outcome::Pending) {
            target.told = true;
            told.push(target.node.to_string());
        }
        let words = format!("opened batch {} of {}: {}", batch + 1, self.state.batches, names::short(&told));
        self.enter(RolloutPhase::Running, &words);
    }
}
