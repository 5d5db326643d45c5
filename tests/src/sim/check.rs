//! What must hold after every step. The store's side is followed change by change, the servers' side is looked at.

use std::collections::{BTreeMap, BTreeSet};

use coord_agent::goal::effective;
use coord_agent::machine::Action;
use coord_proto::desired::Desired;
use coord_proto::ids::{NodeName, Revision, Seq};
use coord_proto::keys::Key;
use coord_proto::migration::{Phase, TaskId, TaskRecord, TaskState};
use coord_proto::report::HealthState;
use coord_proto::rollout::{ActiveRollout, Outcome, RolloutPhase, RolloutSpec, RolloutState, StableRecord};
use coord_proto::store::{Change, Entry, Transaction, Write};
use coordinator::rollout::Decision;
use coordinator::view::Fleet;

use super::world::{Party, Sender, World, key_of};

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
        let late = old.is_some_and(|o| o.batch >= o.batches) && new.batch >= new.batches;
        // A retry begins with those that did their part.
        if fresh.is_empty() || late || old.is_none() {
            return None;
        }
        if let Some(early) = fresh.iter().find(|t| t.batch != new.batch) {
            return Some(format!("{} of batch {} is told while batch {} opens", early.node, early.batch, new.batch));
        }
        let size = self.spec.as_ref().map_or(1, |s| s.policy.serial.size(new.batch, self.targets_most));
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

    fn task_changed(&mut self, key: &str, new: TaskRecord) {
        let old = self.tasks.get(key);
        let was = old.map_or(TaskState::Pending, |r| r.state);
        let same_claim = old.is_some_and(|r| r.nonce == new.nonce);
        let person = self.decided.remove(key);
        use TaskState::{Claimed, Failed, Pending, Succeeded, Unknown};
        let allowed = match (was, new.state) {
            (Pending, Claimed) => true,
            (Claimed | Unknown, Succeeded | Failed | Unknown) => same_claim || person,
            (Claimed | Unknown, Pending) => true,
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
        if let Some(created) = from.leads {
            let stands = self.entry(&Key::Leader).is_some_and(|e| e.created == created && e.lease.is_some_and(|l| self.lives(l)));
            if !stands || created < self.check.last_leader {
                self.check.fail(|| format!("{:?} writes after its leadership ended (I10)", from.party));
            }
            self.check.last_leader = self.check.last_leader.max(created);
        }
        if let Party::Server(index) = from.party {
            let alive = self.entry(&Key::NodeAlive(self.servers[index].name.clone())).is_some();
            let leased = |w: &Write| match w {
                Write::Put { key, lease, .. } => lease.is_some() || matches!(self.keys.parse(key), Some(Key::Status(..))),
                Write::Delete { .. } => false,
            };
            if !alive && transaction.writes.iter().any(leased) {
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
            Key::Migration(..) => self.check.task_changed(&entry.key, entry.record().expect(KNOWN)),
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

    /// A run-once command starts.
    pub fn check_start(&mut self, index: usize, id: &TaskId) {
        let name = format!("{} {}", id.release, id.task);
        let record: Option<TaskRecord> = self.record(&Key::Migration(self.app.clone(), id.release.clone(), id.task.clone()));
        let repeats = record.map_or(0, |r| r.history.len());
        let starts = self.check.starts.entry(name.clone()).or_default();
        *starts += 1;
        if *starts > 1 + repeats {
            let words = format!("{name} is started {starts} times, repeated by a word {repeats} times (I4)");
            self.check.fail(|| words);
        }
        let running = self.check.running.entry(name.clone()).or_default();
        running.insert(index);
        if running.len() > 1 && !self.weather.breaks_leases && repeats == 0 {
            self.check.fail(|| format!("{name} runs twice at once (I4)"));
        }
        if id.seq < self.check.newest_start {
            let newest = self.check.newest_start;
            self.check.fail(|| format!("{name} starts after one of release number {newest} did (I4)"));
        }
        self.check.newest_start = self.check.newest_start.max(id.seq);
    }

    /// One server, after something happened to it.
    pub fn check_server(&mut self, index: usize) {
        let server = &self.servers[index];
        let (disk, name) = (&server.disk, &server.name);
        let journal = &disk.journal;
        let broken = match &disk.current {
            Some(release) if !disk.complete.contains_key(release) => {
                Some(format!("current of {name} points to {release}, which is not there (I1)"))
            }
            None if self.check.had_current.contains(&index) => Some(format!("current of {name} is gone (I1)")),
            _ => None,
        };
        let floor = self.check.floors.entry(index).or_default();
        let sunk = (journal.floor < *floor).then(|| format!("the floor of {name} sinks from {floor} to {} (I2)", journal.floor));
        *floor = journal.floor;
        let switching = server.process.as_ref().is_some_and(|p| matches!(p.action, Some(Action::Switch(_))));
        let running = journal.running.as_ref().map(|r| &r.release);
        let lies = (!switching && running != disk.current.as_ref())
            .then(|| format!("{name} believes to run {running:?}, and current is {:?} (I9)", disk.current));
        if disk.current.is_some() {
            self.check.had_current.insert(index);
        }
        if let Some(good) = &journal.last_healthy
            && journal.health == HealthState::Healthy
            && journal.running.as_ref() == Some(good)
        {
            self.check.proved.insert((name.clone(), good.seq));
        }
        if let Some(words) = broken.or(sunk).or(lies) {
            self.check.fail(|| words);
        }
    }

    /// In calm weather every server that is there runs what it should, or has said why not; and rests.
    pub fn check_rest(&mut self) {
        let stable: Option<StableRecord> = self.record(&Key::Stable(self.app.clone()));
        let spec: Option<ActiveRollout> = self.record(&Key::RolloutSpec(self.app.clone()));
        let halted = self.state().is_some_and(|s| s.phase == RolloutPhase::Halted);
        for index in (0..self.servers.len()).filter(|i| !self.servers[*i].gone) {
            let server = &self.servers[index];
            let Some(process) = &server.process else {
                return self.check.fail(|| format!("{} did not come back", self.servers[index].name));
            };
            let desired: Option<Desired> = self.record(&Key::Desired(server.name.clone(), self.app.clone()));
            let Some(desired) = desired else { continue };
            let goal = effective(desired, stable.as_ref(), spec.as_ref().map(|s| &s.id));
            // What is stable now may not be meant for this server any more.
            if self.releases.get(&goal.run).is_some_and(|r| !r.manifest.targets.matches(&server.labels)) {
                continue;
            }
            let journal = &server.disk.journal;
            let runs = journal.running.as_ref().is_some_and(|r| r.seq == goal.run) && journal.health == HealthState::Healthy;
            let said = journal.failed.get(&goal.run) == Some(&goal.generation) && journal.failure.is_some();
            let rests = process.action.is_none() && journal.activity.is_none();
            // A rollout that halted leaves its servers as they are, and one without a way back leaves those outside the next rollout:
            // waiting for a task that nobody is told to run any more.
            let past = goal.rollout.as_ref() != spec.as_ref().map(|s| &s.id);
            let left = (halted || past) && matches!(process.action, Some(Action::EnsureTasks { .. }));
            if !((runs || said || goal.run == Seq(0)) && rests || left) {
                let words = format!(
                    "{} should run {} and rest, but runs {:?} ({:?}), does {:?}, failure {:?} (liveness)",
                    server.name, goal.run, journal.running, journal.health, process.action, journal.failure
                );
                return self.check.fail(|| words);
            }
        }
    }

    /// The last release reached everybody that it is for.
    pub fn check_all_run(&mut self, last: Seq) {
        for server in self.servers.iter().filter(|s| !s.gone) {
            let running = server.disk.journal.running.as_ref().map(|r| r.seq);
            if running != Some(last) {
                let words = format!("{} runs {running:?} after a rollout of {last} that succeeded (liveness)", server.name);
                return self.check.fail(|| words);
            }
        }
        if self.check.stable.as_ref().map(|s| s.seq) != Some(last) {
            self.check.fail(|| format!("stable did not move to {last} (liveness)"));
        }
    }
}
