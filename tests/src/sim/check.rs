//! What must hold after every step. The store's side is followed change by change, the servers' side is looked at.

use std::collections::{BTreeMap, BTreeSet};

use coord_proto::desired::Desired;
use coord_proto::ids::{NodeName, Nonce, Revision, Seq};
use coord_proto::keys::Key;
use coord_proto::manifest::OnUnknown;
use coord_proto::migration::{Phase, TaskId, TaskRecord, TaskState};
use coord_proto::rollout::{Outcome, RolloutKind, RolloutPhase, RolloutSpec, RolloutState, StableRecord};
use coord_proto::store::{Change, Entry, Transaction, Write};
use coordinator::rollout::Decision;
use coordinator::view::Fleet;

use super::world::{Party, Sender, World, key_of};

mod rest;
mod servers;

const KNOWN: &str = "only records that can be read are written";

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Check {
    /// The first invariant that did not hold.
    pub broken: Option<String>,
    spec: Option<RolloutSpec>,
    state: Option<RolloutState>,
    stable: Option<StableRecord>,
    tasks: BTreeMap<String, TaskRecord>,
    desired: BTreeMap<NodeName, Desired>,
    /// Most targets that the rollout ever had.
    targets_most: usize,
    last_leader: Revision,
    starts: BTreeMap<String, usize>,
    running: BTreeMap<String, BTreeSet<usize>>,
    newest_start: Seq,
    /// Claims whose command was started.
    started: BTreeSet<Nonce>,
    /// Records that a person decided about; what then changes is his word.
    decided: BTreeSet<String>,
    floors: BTreeMap<usize, Seq>,
    /// Servers on which a release passed.
    proved: BTreeSet<(NodeName, Seq)>,
    had_current: BTreeSet<usize>,
}

impl Check {
    pub fn fail(&mut self, words: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(words());
        }
    }

    pub fn person_decided(&mut self, record: &str) {
        self.decided.insert(record.to_owned());
    }

    pub fn command_over(&mut self, index: usize, id: &TaskId) {
        let key = format!("{} {}", id.release, id.task);
        if let Some(running) = self.running.get_mut(&key) {
            running.remove(&index);
        }
    }

    fn state_changed(&mut self, new: RolloutState) {
        if self.spec.as_ref().is_none_or(|s| s.id != new.id) {
            self.fail(|| format!("the state of rollout {} is written, which is not the one asked for (spec)", new.id));
        }
        let old = self.state.take().filter(|old| old.id == new.id);
        self.targets_most = if old.is_some() { self.targets_most.max(new.targets.len()) } else { new.targets.len() };
        if let Some(broken) = broken_step(old.as_ref(), &new).or_else(|| self.broken_batch(old.as_ref(), &new)) {
            self.fail(|| format!("rollout {}: {broken}", new.id));
        }
        self.state = Some(new);
    }

    /// Batch discipline and budgets, where servers are told to run the release.
    fn broken_batch(&self, old: Option<&RolloutState>, new: &RolloutState) -> Option<String> {
        let was_told = |node: &NodeName| old.is_some_and(|o| o.targets.iter().any(|t| t.told && t.node == *node));
        let fresh: Vec<_> = new.targets.iter().filter(|t| t.told && !was_told(&t.node)).collect();
        if let Some(old) = old.filter(|o| !fresh.is_empty() && o.phase.ended()) {
            return Some(format!("{} is told although it ended as {:?}", fresh[0].node, old.phase));
        }
        let late = old.is_some_and(|o| o.batch >= o.batches) && new.batch >= new.batches;
        // A retry begins with those that did their part.
        if fresh.is_empty() || late || old.is_none() {
            return None;
        }
        // After the last batch nothing waits for its turn any more, and so for no end of a pause.
        if let Some(old) = old.filter(|o| o.paused && new.paused) {
            return Some(format!("{} is told in a pause, in {:?}", fresh[0].node, old.phase));
        }
        if let Some(early) = fresh.iter().find(|t| t.batch != new.batch) {
            return Some(format!("{} of batch {} is told while batch {} opens", early.node, early.batch, new.batch));
        }
        let size = self.spec.as_ref().map_or(1, |spec| self.size(spec, new.batch));
        if fresh.len() > size {
            return Some(format!("{} servers are told at once, and a batch has {size}", fresh.len()));
        }
        if let Some(busy) = new.targets.iter().find(|t| t.told && t.batch < new.batch && t.outcome == Outcome::Pending) {
            return Some(format!("batch {} opens while {} of batch {} is not done", new.batch, busy.node, busy.batch));
        }
        // While a task that was started is undecided, servers that are away do not count yet: another one must repeat it.
        let undecided = |r: &TaskRecord| matches!(r.state, TaskState::Pending | TaskState::Claimed | TaskState::Unknown);
        let waits = self.tasks.values().any(|r| r.release == new.release && r.task.phase == Phase::Before && undecided(r));
        let words = if waits { over_failed(new) } else { over_budget(new) };
        words.map(|words| format!("batch {} opens with {words}", new.batch))
    }

    /// The most servers that batch `index` may have. A retry cuts its servers anew behind the batch of those that did their part: what
    /// its second batch has is the policy's first.
    fn size(&self, spec: &RolloutSpec, index: usize) -> usize {
        let of = |index| spec.policy.serial.size(index, self.targets_most);
        if spec.kind == RolloutKind::Retry { of(index).max(of(index.saturating_sub(1))) } else { of(index) }
    }

    fn stable_moved(&mut self, new: StableRecord) {
        let Some(state) = &self.state else { return self.fail(|| "stable moves without a rollout".to_owned()) };
        let done = |t: &&coord_proto::rollout::Target| t.outcome == Outcome::Done;
        let unproved = state.targets.iter().filter(done).find(|t| !self.proved.contains(&(t.node.clone(), state.seq)));
        let broken = if state.seq != new.seq || !matches!(state.phase, RolloutPhase::Succeeded | RolloutPhase::Finishing) {
            Some(format!("stable moves to {} in phase {:?} of {}", new.seq, state.phase, state.seq))
        } else if !state.whole {
            Some("stable moves although not every matching server took part".to_owned())
        } else if let Some(target) = unproved {
            Some(format!("stable moves to {}, which never worked on {}", new.seq, target.node))
        } else {
            over_budget(state)
        };
        if let Some(words) = broken {
            self.fail(|| words);
        }
        self.stable = Some(new);
    }

    /// `policy` of the task, where it is known.
    fn task_changed(&mut self, key: &str, new: TaskRecord, policy: Option<OnUnknown>) {
        let old = self.tasks.get(key);
        let was = old.map_or(TaskState::Pending, |r| r.state);
        let same_claim = old.is_some_and(|r| r.nonce == new.nonce);
        let person = self.decided.remove(key);
        let repeated = old.is_none_or(|r| r.history.len() < new.history.len());
        use TaskState::{Claimed, Failed, Pending, Succeeded, Unknown};
        let allowed = match (was, new.state) {
            (Pending, Claimed) => true,
            // A result is of a command that was started.
            (Claimed | Unknown, Succeeded | Failed) => (same_claim && self.started.contains(&new.nonce)) || person,
            (Claimed | Unknown, Unknown) => same_claim,
            (Claimed | Unknown, Pending) if repeated => person || policy == Some(OnUnknown::Retry),
            // Given back by its holder, who has not started it.
            (Claimed, Pending) => old.is_some_and(|r| !self.started.contains(&r.nonce)),
            (Failed, _) => person,
            _ => false,
        };
        if !allowed {
            self.fail(|| format!("the record {key} goes from {was:?} to {:?} (I4)", new.state));
        }
        if new.state == Claimed && self.spec.as_ref().is_none_or(|s| s.seq != new.seq) {
            self.fail(|| format!("{} claims {key}, of a release that is not rolled out (I4)", new.holder));
        }
        self.tasks.insert(key.to_owned(), new);
    }

    fn desired_changed(&mut self, new: Desired, runs_already: bool) {
        let old = self.desired.get(&new.node);
        let (state, spec) = (self.state.as_ref(), self.spec.as_ref());
        let ours = new.rollout.is_some() && new.rollout.as_ref() == state.map(|s| &s.id);
        let told = state.and_then(|s| s.targets.iter().find(|t| t.node == new.node)).is_some_and(|t| t.told);
        let broken = if new.rollout.is_some() && new.rollout.as_ref() != spec.map(|s| &s.id) {
            Some(format!("{} is told by rollout {:?}, which is not the one asked for (spec)", new.node, new.rollout))
        } else if old.is_some_and(|o| new.generation <= o.generation) {
            Some(format!("{} is told generation {} again", new.node, new.generation))
        } else if new.may_migrate && !(ours && told) {
            Some(format!("{} may migrate and was not told to run", new.node))
        } else {
            let since = state.filter(|_| ours && !told && !runs_already).filter(|s| new.run == s.seq && s.previous_stable != s.seq);
            let moved = old.is_none_or(|o| o.run != new.run) && self.stable.as_ref().is_none_or(|s| s.seq != new.run);
            since.filter(|_| moved).map(|s| format!("{} is told to run {} before its batch opens", new.node, s.seq))
        };
        if let Some(words) = broken {
            self.fail(|| words);
        }
        self.desired.insert(new.node.clone(), new);
    }
}

/// What no step of a rollout may do.
fn broken_step(old: Option<&RolloutState>, new: &RolloutState) -> Option<String> {
    if matches!(new.phase, RolloutPhase::Succeeded | RolloutPhase::Finishing)
        && let Some(words) = over_budget(new)
        && old.is_some_and(|o| !matches!(o.phase, RolloutPhase::Finishing | RolloutPhase::AwaitingDecision))
    {
        return Some(format!("it succeeds with {words}"));
    }
    let old = old?;
    if old.phase.ended() && old.phase != new.phase {
        return Some(format!("it ended as {:?} and goes on as {:?}", old.phase, new.phase));
    }
    if new.batch < old.batch {
        return Some(format!("it goes back from batch {} to {}", old.batch, new.batch));
    }
    let told: BTreeSet<&NodeName> = new.targets.iter().filter(|t| !t.told).map(|t| &t.node).collect();
    let untold = old.targets.iter().find(|t| t.told && told.contains(&t.node))?;
    Some(format!("{} was told, and is not any more", untold.node))
}

fn over_failed(state: &RolloutState) -> Option<String> {
    let failed = state.targets.iter().filter(|t| t.outcome == Outcome::Failed).count();
    (failed > state.max_failed).then(|| format!("{failed} failed of {} tolerated", state.max_failed))
}

fn over_budget(state: &RolloutState) -> Option<String> {
    let turn = |t: &&coord_proto::rollout::Target| t.outcome == Outcome::Unreachable && (t.told || t.batch <= state.batch);
    let away = state.targets.iter().filter(turn).count();
    over_failed(state).or_else(|| (away > state.max_unreachable).then(|| format!("{away} away of {} tolerated", state.max_unreachable)))
}

impl World {
    /// A transaction was committed: did its sender still have the right to?
    pub fn check_committed(&mut self, from: Sender, transaction: &Transaction) {
        if let (Party::Coordinator(_), Some(created)) = (from.party, from.holds) {
            let stands = self.entry(&Key::Leader).is_some_and(|e| e.created == created && e.lease.is_some_and(|l| self.lives(l)));
            if !stands || created < self.check.last_leader {
                self.check.fail(|| format!("{:?} writes after its leadership ended (I10)", from.party));
            }
            self.check.last_leader = self.check.last_leader.max(created);
        }
        if let Party::Server(index) = from.party {
            let alive = self.entry(&Key::NodeAlive(self.servers[index].name.clone())).map(|e| e.created);
            let leased = |w: &Write| match w {
                Write::Put { key, lease, .. } => lease.is_some() || matches!(self.keys.parse(key), Some(Key::Status(..))),
                Write::Delete { .. } => false,
            };
            if (alive.is_none() || alive != from.holds) && transaction.writes.iter().any(leased) {
                self.check.fail(|| format!("{:?} writes after its lease ended (I5)", from.party));
            }
        }
    }

    pub fn check_change(&mut self, change: &Change) {
        let key = self.keys.parse(key_of(change));
        match (change, key) {
            (Change::Put(entry), Some(key)) => self.check_put(key, entry),
            (Change::Deleted { .. }, Some(Key::Desired(node, _))) => drop(self.check.desired.remove(&node)),
            _ => {}
        }
    }

    fn check_put(&mut self, key: Key, entry: &Entry) {
        match key {
            Key::RolloutSpec(_) => self.check.spec = Some(entry.record().expect(KNOWN)),
            Key::RolloutState(_) => self.check.state_changed(entry.record().expect(KNOWN)),
            Key::Stable(_) => self.check.stable_moved(entry.record().expect(KNOWN)),
            Key::Migration(..) => {
                let record: TaskRecord = entry.record().expect(KNOWN);
                let tasks = self.releases.get(&record.seq).map(|r| r.manifest.once_tasks(record.task.phase)).unwrap_or_default();
                let policy = tasks.iter().find(|t| t.name == record.task).map(|t| t.on_unknown);
                self.check.task_changed(&entry.key, record, policy);
            }
            Key::Desired(node, _) => {
                let desired: Desired = entry.record().expect(KNOWN);
                let index = self.by_name.get(node.as_str()).copied();
                let running = index.and_then(|i| self.servers[i].disk.journal.running.as_ref()).map(|r| r.seq);
                let runs = running == Some(desired.run);
                self.check.desired_changed(desired, runs);
            }
            _ => {}
        }
    }

    /// By the view that the planner had: `stable` moves only when every server that matches took part.
    pub fn check_plan(&mut self, fleet: &Fleet, decision: &Decision) {
        let (Some(stable), Some(state)) = (&decision.stable, &decision.state) else { return };
        let Some(facts) = fleet.apps.get(&self.app).and_then(|a| a.manifests.get(&stable.seq)) else { return };
        let targets: BTreeSet<&NodeName> = state.targets.iter().map(|t| &t.node).collect();
        let belongs = |n: &coordinator::view::Node| n.info.is_some() && !n.cordoned && facts.targets.matches(&n.labels());
        let left_out = fleet.nodes.iter().find(|(name, n)| belongs(n) && !targets.contains(name)).map(|(name, _)| name.clone());
        if let Some(name) = left_out {
            self.check.fail(|| format!("stable moves to {} without {name}, which matches", stable.seq));
        }
    }
}
