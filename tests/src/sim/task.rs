//! Run-once tasks on one server: `coord_agent::effects::migrate` step by step, so that anything may happen between two of them.
//!
//! Stances, transactions and what a claim owes are the real ones; here is only the order of reading, journaling and sending. The four keys
//! are read one after the other, sometimes seconds apart.

use coord_agent::effects::migrate::claims::{Claim, JournaledEnding, Progress};
use coord_agent::effects::migrate::owed::{self, Next};
use coord_agent::machine::Event;
use coord_proto::ids::{Nonce, Revision, RolloutId, Seq};
use coord_proto::keys::Key;
use coord_proto::labels::matches;
use coord_proto::limits::MIGRATION_ATTEMPTS_MAX;
use coord_proto::manifest::{OnUnknown, OnceTask};
use coord_proto::migration::{self, Claimant, Ending, Phase, Resolution, Stance, TaskId, TaskState, View};
use coord_proto::report::{FailureCode, Step};
use coord_proto::store::{LeaseId, Outcome, Transaction};

use super::effects::failure;
use super::server::ServerEvent;
use super::world::{Answer, World};

const LOOK_AGAIN: u64 = 20_000;
const LOOKS_MAX: u32 = 6;
const STEPS_MAX: u32 = 6;

/// The tasks of one phase, being ensured.
pub struct TaskRun {
    seq: Seq,
    phase: Phase,
    tasks: Vec<OnceTask>,
    told_by: Option<RolloutId>,
    at: usize,
    /// Of the last step that was planned; earlier ones are no longer meant.
    step: u64,
    state: State,
    view: View,
    unread: Vec<Part>,
    read_at: Revision,
    woken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Looking,
    Waiting,
    Committing(u64),
    Running { lease: Option<LeaseId> },
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Record,
    Head,
    Lock,
    Spec,
}

/// Claims that nobody works on, being settled.
pub struct Settling {
    todo: Vec<String>,
    ticket: u64,
    steps: u32,
    left: bool,
}

const NOTHING: View = View { record: None, head: None, lock: None, spec: None };

impl World {
    pub fn start_tasks(&mut self, index: usize, seq: Seq, phase: Phase, may_claim: bool) {
        let tasks = self.releases[&seq].manifest.once_tasks(phase);
        let Some(process) = &mut self.servers[index].process else { return };
        process.task = Some(TaskRun {
            seq,
            phase,
            tasks,
            told_by: process.machine.rollout().filter(|_| may_claim),
            at: 0,
            step: process.effect << 20,
            state: State::Looking,
            view: NOTHING,
            unread: vec![],
            read_at: Revision(0),
            woken: false,
        });
        self.look(index);
    }

    fn task(&mut self, index: usize) -> Option<&mut TaskRun> {
        self.servers[index].process.as_mut()?.task.as_mut()
    }

    fn task_id(&self, index: usize) -> Option<TaskId> {
        let run = self.servers[index].process.as_ref()?.task.as_ref()?;
        let release = self.releases[&run.seq].manifest.release.clone();
        Some(TaskId { app: self.app.clone(), release, seq: run.seq, task: run.tasks.get(run.at)?.name.clone() })
    }

    fn next_step(&mut self, index: usize, after: u64) {
        let Some(run) = self.task(index) else { return };
        run.step += 1;
        let step = run.step;
        self.tell(index, after, ServerEvent::Task(step));
    }

    pub fn task_step(&mut self, index: usize, step: u64) {
        let Some(run) = self.task(index).filter(|run| run.step == step) else { return };
        match run.state {
            State::Looking => self.read_on(index),
            State::Waiting => self.look(index),
            State::Committing(_) | State::Running { .. } => {}
        }
    }

    /// Reads everything anew.
    fn look(&mut self, index: usize) {
        let revision = self.store.revision;
        let mut unread = vec![Part::Record, Part::Head, Part::Lock, Part::Spec];
        for last in (1..unread.len()).rev() {
            unread.swap(last, self.dice.index(last + 1));
        }
        let Some(run) = self.task(index) else { return };
        if run.at >= run.tasks.len() {
            return self.task_ends(index, Event::Finished);
        }
        (run.state, run.view, run.unread, run.read_at, run.woken) = (State::Looking, NOTHING, unread, revision, false);
        self.read_on(index);
    }

    fn read_on(&mut self, index: usize) {
        let Some(id) = self.task_id(index) else { return };
        while let Some(part) = self.task(index).and_then(|run| run.unread.pop()) {
            if !self.servers[index].connected {
                return self.task_fails(index, FailureCode::Store);
            }
            let read = |key: String| self.store.keys.get(&key).cloned();
            let known = "only records that can be read are written";
            let mut view = NOTHING;
            match part {
                Part::Record => view.record = read(id.record_key(&self.keys)).map(|e| (e.record().expect(known), e)),
                Part::Head => view.head = read(id.head_key(&self.keys)).map(|e| (e.record().expect(known), e)),
                Part::Lock => view.lock = read(id.lock_key(&self.keys)),
                Part::Spec => view.spec = read(self.keys.key(&Key::RolloutSpec(self.app.clone()))),
            }
            let Some(run) = self.task(index) else { return };
            match part {
                Part::Record => run.view.record = view.record,
                Part::Head => run.view.head = view.head,
                Part::Lock => run.view.lock = view.lock,
                Part::Spec => run.view.spec = view.spec,
            }
            if !self.weather.calm && self.dice.chance(self.weather.slow) {
                let after = self.dice.between(1, 4_000);
                return self.next_step(index, after);
            }
        }
        if self.is_settling(index, &id) {
            return self.next_step(index, 50);
        }
        self.decide(index, &id);
    }

    /// `Ensure::run`'s match.
    fn decide(&mut self, index: usize, id: &TaskId) {
        let key = id.record_key(&self.keys);
        let server = &self.servers[index];
        let claim = server.disk.claims.get(&key).map(|(_, claim)| claim.clone());
        let Some(process) = &server.process else { return };
        let Some(run) = &process.task else { return };
        let view = run.view.clone();
        let chosen = matches(&run.tasks[run.at].on, &server.labels);
        let told_by = run.told_by.as_ref().filter(|_| chosen);
        match migration::stance(id, &view, claim.as_ref().map(|c| &c.nonce), told_by) {
            Stance::Settled => {
                if let Some(run) = self.task(index) {
                    run.at += 1;
                }
                self.tell(index, 0, ServerEvent::Settles);
                self.look(index);
            }
            Stance::Overtaken | Stance::Blocked(TaskState::Failed) => self.task_fails(index, FailureCode::MigrationFailed),
            Stance::Blocked(_) if owes_a_result(&view, claim.as_ref()) => self.go_on(index, id, claim),
            Stance::Blocked(_) => self.decide_or_wait(index, id),
            Stance::Claim if process.gives_way => self.task_ends(index, Event::Interrupted),
            Stance::Claim => self.claim(index, id, claim),
            Stance::Own => self.go_on(index, id, claim),
            Stance::MarkUnknown => {
                let unknown = migration::mark_unknown(&self.keys, id, &view);
                self.commit_task(index, unknown);
            }
            Stance::Wait => self.wait(index),
        }
    }

    /// Has this agent seen no later history than it read?
    fn trusted(&self, index: usize) -> bool {
        self.servers[index].connected
    }

    fn save(&mut self, index: usize, id: &TaskId, claim: Claim) {
        let key = id.record_key(&self.keys);
        self.trace.note(self.queue.now, || format!("{}: journals {:?} of {}", self.servers[index].name, claim.progress, id.task));
        self.servers[index].disk.claims.insert(key, (id.clone(), claim));
    }

    fn claim(&mut self, index: usize, id: &TaskId, old: Option<Claim>) {
        let trusted = self.trusted(index);
        let server = &self.servers[index];
        let Some(presence) = server.process.as_ref().and_then(|p| p.presence.clone()).filter(|_| trusted) else { return self.wait(index) };
        // A claim whose answer was lost may still arrive: the same nonce makes it ours when it does.
        let fresh = format!("{}-{}-{}", server.name, self.queue.now, self.store.revision);
        let nonce = old.filter(|c| c.progress == Progress::Intended).map_or_else(|| Nonce::fixed(&fresh), |c| c.nonce);
        let by = Claimant { node: server.name.clone(), nonce: nonce.clone(), presence, now: 0 };
        let (release, seq, task) = (id.release.clone(), id.seq, id.task.clone());
        self.save(index, id, Claim { seq, release, task, nonce, progress: Progress::Intended });
        let Some(run) = self.task(index) else { return };
        let view = run.view.clone();
        let (_, transaction) = migration::claim(&self.keys, id, &view, &by);
        self.commit_task(index, Some(transaction));
    }

    fn go_on(&mut self, index: usize, id: &TaskId, claim: Option<Claim>) {
        let trusted = self.trusted(index);
        let name = self.servers[index].name.clone();
        let Some(process) = &self.servers[index].process else { return };
        let (Some(run), Some(claim)) = (&process.task, claim) else { return };
        let view = run.view.clone();
        match &claim.progress {
            Progress::Intended if !trusted => self.wait(index),
            Progress::Intended if migration::may_start(&view, &claim.nonce) => self.start_command(index, id, claim),
            Progress::Intended | Progress::Over => {
                let unknown = migration::mark_unknown(&self.keys, id, &view);
                self.commit_task(index, unknown);
            }
            Progress::Forgone => {
                let back = migration::give_back(&self.keys, id, &view, &claim.nonce);
                let back = back.or_else(|| migration::mark_unknown(&self.keys, id, &view));
                self.commit_task(index, back);
            }
            Progress::Started if process.presence.is_none() => self.wait(index),
            Progress::Started => {
                self.save(index, id, Claim { progress: Progress::Ended(JournaledEnding::lost(&name, 0)), ..claim });
                self.look(index);
            }
            Progress::Ended(ending) if ending.is_unknown() && view.record.as_ref().is_some_and(|(r, _)| r.state == TaskState::Unknown) => {
                self.decide_or_wait(index, id);
            }
            Progress::Ended(ending) => {
                let settled = migration::settle(&self.keys, id, &view, &claim.nonce, &ending.clone().into());
                self.commit_task(index, settled);
            }
        }
    }

    fn start_command(&mut self, index: usize, id: &TaskId, claim: Claim) {
        let Some(process) = &self.servers[index].process else { return };
        let Some(run) = &process.task else { return };
        let lock = run.view.lock.as_ref().and_then(|l| l.lease);
        let policy = run.tasks[run.at].on_unknown;
        let held = process.presence.as_ref().map(|p| p.lease);
        let lease = (policy == OnUnknown::Retry).then_some(held).flatten();
        let may = !process.gives_way && (policy == OnUnknown::Stop || (held.is_some() && lock == held));
        if !may {
            self.save(index, id, Claim { progress: Progress::Forgone, ..claim });
            return self.look(index);
        }
        self.save(index, id, Claim { progress: Progress::Started, ..claim });
        self.story.starts += 1;
        self.check_start(index, id);
        self.handle(index, Event::TaskStarted);
        let time = self.dice.between(100, 30_000);
        if let Some(run) = self.task(index) {
            run.state = State::Running { lease };
            run.step += 1;
            let step = run.step;
            self.tell(index, time, ServerEvent::CommandEnds(step));
        }
    }

    pub fn command_ends(&mut self, index: usize, step: u64) {
        let Some(run) = self.task(index).filter(|run| run.step == step && matches!(run.state, State::Running { .. })) else { return };
        let seq = run.seq;
        let flaws = self.releases[&seq].flaws;
        let signalled = self.dice.chance(flaws.task_lost) || (!self.weather.calm && self.dice.chance(self.weather.trouble));
        let state = match self.dice.chance(flaws.task_fails) {
            true => TaskState::Failed,
            false if signalled => TaskState::Unknown,
            false => TaskState::Succeeded,
        };
        self.command_ended(index, state);
    }

    fn command_ended(&mut self, index: usize, state: TaskState) {
        let Some(id) = self.task_id(index) else { return };
        self.check.command_over(index, &id);
        let ending = Ending { state, detail: String::new(), log_tail: String::new(), now: 0 };
        let key = id.record_key(&self.keys);
        if let Some((_, claim)) = self.servers[index].disk.claims.get(&key).cloned() {
            self.save(index, &id, Claim { progress: Progress::Ended(ending.into()), ..claim });
        }
        self.look(index);
    }

    /// What may be repeated elsewhere ends with its lease.
    pub fn task_lost_lease(&mut self, index: usize, lost: LeaseId) {
        if self.task(index).is_some_and(|run| run.state == State::Running { lease: Some(lost) }) {
            self.command_ended(index, TaskState::Unknown);
        }
    }

    /// The agent dies, and its command with it.
    pub fn task_dies(&mut self, index: usize) {
        if self.task(index).is_some_and(|run| matches!(run.state, State::Running { .. }))
            && let Some(id) = self.task_id(index)
        {
            self.check.command_over(index, &id);
        }
    }

    fn decide_or_wait(&mut self, index: usize, id: &TaskId) {
        let Some(run) = self.task(index) else { return };
        let attempts = run.view.record.as_ref().map_or(0, |(r, _)| r.attempt);
        if run.tasks[run.at].on_unknown == OnUnknown::Retry && run.told_by.is_some() && attempts < MIGRATION_ATTEMPTS_MAX {
            let view = run.view.clone();
            let again = migration::resolve(&self.keys, id, &view, Resolution::Retry, "tried again", 0);
            return self.commit_task(index, again);
        }
        self.wait(index);
    }

    fn commit_task(&mut self, index: usize, transaction: Option<Transaction>) {
        let Some(transaction) = transaction else { return self.wait(index) };
        let ticket = self.send(self.as_server(index), transaction);
        if let Some(run) = self.task(index) {
            run.state = State::Committing(ticket);
        }
    }

    pub fn task_answered(&mut self, index: usize, ticket: u64, answer: Answer) {
        if self.task(index).is_some_and(|run| run.state == State::Committing(ticket)) {
            match answer {
                Answer::Of(Outcome::Committed(_)) => self.look(index),
                _ => self.wait(index),
            }
        } else if self.servers[index].process.as_ref().and_then(|p| p.settling.as_ref()).is_some_and(|s| s.ticket == ticket) {
            self.settle_next(index);
        }
    }

    /// Claims to be looked at, unless they are being looked at.
    pub fn settle(&mut self, index: usize) {
        if self.servers[index].process.as_ref().is_some_and(|p| p.settling.is_none()) {
            self.settle_next(index);
        }
    }

    /// Until something changes.
    fn wait(&mut self, index: usize) {
        let connected = self.servers[index].connected;
        let Some(process) = &mut self.servers[index].process else { return };
        let Some(run) = &mut process.task else { return };
        if process.gives_way {
            return self.task_ends(index, Event::Interrupted);
        }
        if !connected {
            return self.task_fails(index, FailureCode::Store);
        }
        (run.state, run.woken) = (State::Waiting, false);
        let from = Revision(run.read_at.0 + 1);
        self.next_step(index, LOOK_AGAIN);
        self.handle(index, Event::Waiting("waits".to_owned()));
        let news = |prefix: &str| self.store.since(prefix, from).is_none_or(|changes| !changes.is_empty());
        if news(&self.keys.migrations(&self.app)) || news(&self.keys.key(&Key::MigrateLock(self.app.clone()))) {
            self.wake_task(index);
        }
    }

    /// Something changed that it may wait for.
    pub fn wake_task(&mut self, index: usize) {
        let Some(run) = self.task(index) else { return };
        if run.state != State::Waiting || std::mem::replace(&mut run.woken, true) {
            return;
        }
        let after = self.delay().min(2_000);
        self.next_step(index, after);
    }

    pub fn wake_waiting_tasks(&mut self) {
        (0..self.servers.len()).for_each(|index| self.wake_task(index));
    }

    fn task_fails(&mut self, index: usize, code: FailureCode) {
        let Some(run) = self.task(index) else { return };
        let step = if run.phase == Phase::After { Step::AfterTasks } else { Step::Migrating };
        let failed = Event::Failed(failure(run.seq, step, code));
        self.task_ends(index, failed);
    }

    fn task_ends(&mut self, index: usize, event: Event) {
        self.tell(index, 0, ServerEvent::Settles);
        self.handle(index, event);
    }

    fn is_settling(&self, index: usize, id: &TaskId) -> bool {
        let settling = self.servers[index].process.as_ref().and_then(|p| p.settling.as_ref());
        settling.is_some_and(|s| s.ticket != 0 && s.todo.last() == Some(&id.record_key(&self.keys)))
    }

    /// `Settler::settle_all`: every claim that nobody works on.
    fn settle_next(&mut self, index: usize) {
        let working = self.task_id(index).map(|id| id.record_key(&self.keys));
        let server = &mut self.servers[index];
        let Some(process) = &mut server.process else { return };
        let Some(presence) = process.presence.clone() else { return };
        let idle = |(key, (_, claim)): (&String, &(TaskId, Claim))| {
            (claim.progress != Progress::Over && Some(key) != working.as_ref()).then(|| key.clone())
        };
        let begin = || Settling { todo: server.disk.claims.iter().filter_map(idle).collect(), ticket: 0, steps: 0, left: false };
        let settling = process.settling.get_or_insert_with(begin);
        settling.ticket = 0;
        while let Some(key) = self.servers[index].process.as_ref().and_then(|p| p.settling.as_ref()?.todo.last().cloned()) {
            let (task, claim) = self.servers[index].disk.claims[&key].clone();
            if let Some(transaction) = self.settle_step(index, &key, &task, claim) {
                let ticket = self.send(self.as_server(index), transaction.when(presence.compare()));
                if let Some(settling) = self.servers[index].process.as_mut().and_then(|p| p.settling.as_mut()) {
                    settling.ticket = ticket;
                }
                return;
            }
        }
        let Some(process) = &mut self.servers[index].process else { return };
        let left = process.settling.take().is_some_and(|s| s.left);
        process.looks += 1;
        if left && process.looks < LOOKS_MAX {
            self.tell(index, LOOK_AGAIN, ServerEvent::LooksAgain);
        }
    }

    /// One step of one claim: what to send, or none when the next one's turn has come, or this one's next step.
    fn settle_step(&mut self, index: usize, key: &str, task: &TaskId, claim: Claim) -> Option<Transaction> {
        let read = |key: String| self.store.keys.get(&key).cloned();
        let record = read(task.record_key(&self.keys)).and_then(|e| Some((e.record().ok()?, e)));
        let head = read(task.head_key(&self.keys)).and_then(|e| Some((e.record().ok()?, e)));
        let view = View { record, head, lock: read(task.lock_key(&self.keys)), spec: None };
        let name = self.servers[index].name.clone();
        let connected = self.servers[index].connected;
        let working = self.task_id(index).is_some_and(|id| id == *task);
        let settling = self.servers[index].process.as_mut()?.settling.as_mut()?;
        settling.steps += 1;
        if settling.steps > STEPS_MAX || !connected || working {
            (settling.left, settling.steps) = (true, 0);
            settling.todo.pop();
            return None;
        }
        match owed::next(&self.keys, &name, task, &view, &claim) {
            Next::Commit(transaction) => return Some(transaction),
            Next::Journal(progress) => self.save(index, task, Claim { progress, ..claim }),
            Next::Wait => {
                (settling.left, settling.steps) = (true, 0);
                settling.todo.pop();
            }
            Next::Over => {
                settling.steps = 0;
                settling.todo.pop();
                if matches!(claim.progress, Progress::Intended | Progress::Forgone) {
                    self.servers[index].disk.claims.remove(key);
                } else {
                    self.save(index, task, Claim { progress: Progress::Over, ..claim });
                }
            }
        }
        None
    }
}

/// Others may have marked our claim unknown while its command ran on.
fn owes_a_result(view: &View, claim: Option<&Claim>) -> bool {
    let ours = |c: &Claim| view.record.as_ref().is_some_and(|(r, _)| r.nonce == c.nonce && r.settled_at.is_none());
    claim.is_some_and(|c| matches!(c.progress, Progress::Ended(_)) && ours(c))
}
