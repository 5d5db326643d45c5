//! A server: its disk, and the agent that runs there, as `coord_agent::run`, `source`, `presence`, `reporter` and `slot` put it together.

use std::collections::{BTreeMap, BTreeSet};

use coord_agent::effects::migrate::claims::Claim;
use coord_agent::goal::effective;
use coord_agent::journal::Journal;
use coord_agent::machine::{self, Action, Goal, Machine};
use coord_proto::desired::Desired;
use coord_proto::ids::{Digest, NodeName, Nonce, ReleaseId, Revision, Seq};
use coord_proto::keys::Key;
use coord_proto::labels::Labels;
use coord_proto::lock::Guard;
use coord_proto::migration::TaskId;
use coord_proto::report::{Alive, HealthState, NodeInfo, Running, Status};
use coord_proto::rollout::{ActiveRollout, StableRecord};
use coord_proto::store::{Change, Compare, Entry, LeaseId, Outcome, Transaction};

use super::mutant::Mutant;
use super::queue::Time;
use super::task::{Settling, TaskRun};
use super::world::{Answer, Event, Party, Sender, World};

/// An agent's lease.
pub const AGENT_TTL: u64 = 15_000;

/// One server.
pub struct Server {
    pub name: NodeName,
    pub labels: Labels,
    pub incarnation: u32,
    pub connected: bool,
    pub frozen_until: Time,
    pub watching: bool,
    pub wall_offset: i64,
    /// It never comes back.
    pub gone: bool,
    pub disk: Disk,
    pub process: Option<Process>,
}

/// What survives a crash.
#[derive(Debug, Default)]
pub struct Disk {
    pub journal: Journal,
    /// By the key of their record.
    pub claims: BTreeMap<String, (TaskId, Claim)>,
    pub manifests: BTreeSet<Seq>,
    /// The complete directories below `releases/`.
    pub complete: BTreeMap<ReleaseId, Digest>,
    pub current: Option<ReleaseId>,
}

/// The agent, while it runs.
pub struct Process {
    pub machine: Machine,
    /// The action in flight, and its number.
    pub action: Option<Action>,
    pub effect: u64,
    pub gives_way: bool,
    desired: Option<Entry>,
    seen: Revision,
    told: Option<Goal>,
    reads_again: bool,
    lease: Option<LeaseId>,
    pub presence: Option<Guard>,
    retrying: bool,
    tries: u32,
    reported: Option<Status>,
    reporting: Option<(u64, Status)>,
    /// Of the status record, as far as it is known.
    status_at: Option<Revision>,
    pub task: Option<TaskRun>,
    pub settling: Option<Settling>,
    /// At its claims, since something made them worth a look.
    pub looks: u32,
}

/// What happens to one server.
#[derive(Debug)]
pub enum ServerEvent {
    Starts,
    Registers,
    /// Its lease may end soon, by its own clock.
    LeaseMayEnd(LeaseId),
    ReadsAgain,
    RetryDue,
    ReportsAgain,
    EffectEnds(u64),
    EffectYields(u64),
    Task(u64),
    CommandEnds(u64),
    /// A presence is new, or a claim was let go of.
    Settles,
    LooksAgain,
    Thawed,
    Reconnected,
}

impl World {
    /// A server that was not there before, with an empty disk or one that another tool used.
    pub fn join(&mut self) -> usize {
        let index = self.servers.len();
        let name = format!("n{index:03}");
        let zone = self.dice.pick(&["a", "b", "c"]);
        let role = if self.dice.chance(850) { "web" } else { "db" };
        let labels = Labels::from([("zone".to_owned(), zone.to_owned()), ("role".to_owned(), role.to_owned())]);
        let mut disk = Disk::default();
        if self.weather.adopted {
            let release: ReleaseId = "legacy".parse().expect("a release's name");
            disk.complete.insert(release.clone(), Digest::of(b"legacy"));
            disk.current = Some(release);
        }
        self.by_name.insert(name.clone(), index);
        self.servers.push(Server {
            name: name.parse().expect("a server's name"),
            labels,
            incarnation: 0,
            connected: true,
            frozen_until: 0,
            watching: false,
            wall_offset: 0,
            gone: false,
            disk,
            process: None,
        });
        let after = self.dice.between(0, 3_000);
        self.tell(index, after, ServerEvent::Starts);
        index
    }

    pub fn tell(&mut self, index: usize, after: u64, event: ServerEvent) {
        let incarnation = self.servers[index].incarnation;
        self.queue.put(after, Event::Server(index, incarnation, event));
    }

    /// As the agent opens an app: the journal from disk, what is not there is forgotten, and `current` is the truth.
    fn start_agent(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let disk = &mut server.disk;
        if self.options.mutant == Some(Mutant::Floor) {
            disk.journal.floor = Seq(0);
        }
        let mut journal = disk.journal.clone();
        journal.releases.retain(|release, facts| disk.complete.get(release) == Some(&facts.digest));
        if disk.current.as_ref() != journal.running.as_ref().map(|r| &r.release) {
            journal.health = HealthState::Unproven;
            let seq = |release: &ReleaseId| journal.releases.get(release).map_or(Seq(0), |f| f.seq);
            journal.running = disk.current.clone().map(|release| Running { seq: seq(&release), release });
        }
        server.process = Some(Process {
            machine: Machine::new(server.name.clone(), self.app.clone(), journal),
            action: None,
            effect: 0,
            gives_way: false,
            desired: None,
            seen: Revision(0),
            told: None,
            reads_again: false,
            lease: None,
            presence: None,
            retrying: false,
            tries: 0,
            reported: None,
            reporting: None,
            status_at: None,
            task: None,
            settling: None,
            looks: 0,
        });
        server.watching = false;
        self.trace.note(self.queue.now, || format!("the agent of {} starts", server.name));
        self.watch(Party::Server(index));
        let after = self.dice.between(10, 500);
        self.tell(index, after, ServerEvent::Registers);
        self.handle(index, machine::Event::RetryDue);
    }

    /// The agent dies where it stands: what was in flight has happened, or has not.
    pub fn kill_agent(&mut self, index: usize, back_after: Option<u64>) {
        self.trace.note(self.queue.now, || format!("the agent of {} is killed", self.servers[index].name));
        self.story.crashes += 1;
        self.lease_of_server_runs_out(index);
        let happened = self.dice.chance(500);
        let action = self.servers[index].process.as_ref().and_then(|p| p.action.clone());
        if let Some(action) = action.filter(|a| happened && !matches!(a, Action::EnsureTasks { .. })) {
            let _event = self.perform(index, &action);
            self.check_disk(index);
        }
        self.task_dies(index);
        let server = &mut self.servers[index];
        server.process = None;
        server.incarnation += 1;
        (server.connected, server.gone) = (true, back_after.is_none());
        if let Some(after) = back_after {
            self.tell(index, after, ServerEvent::Starts);
        }
    }

    pub fn freeze_server(&mut self, index: usize, time: u64) {
        self.trace.note(self.queue.now, || format!("{} freezes for {time} ms", self.servers[index].name));
        self.lease_of_server_runs_out(index);
        self.servers[index].frozen_until = self.queue.now + time;
        self.tell(index, time, ServerEvent::Thawed);
    }

    pub fn cut_off_server(&mut self, index: usize, time: u64) {
        self.trace.note(self.queue.now, || format!("{} is cut off for {time} ms", self.servers[index].name));
        self.lease_of_server_runs_out(index);
        self.servers[index].connected = false;
        self.tell(index, time, ServerEvent::Reconnected);
    }

    /// The store ends its lease early, as an operator's `node forget` or a store without a leader may.
    pub fn revoke_server(&mut self, index: usize) {
        let Some(lease) = self.servers[index].process.as_ref().and_then(|p| p.lease) else { return };
        self.end_lease(lease);
        let noticed = self.dice.between(0, AGENT_TTL / 3);
        self.tell(index, noticed, ServerEvent::LeaseMayEnd(lease));
    }

    fn lease_of_server_runs_out(&mut self, index: usize) {
        let Some(lease) = self.servers[index].process.as_ref().and_then(|p| p.lease) else { return };
        if self.lives(lease) {
            let end = self.stop_renewing(lease, AGENT_TTL);
            let untrusted = end.saturating_sub(AGENT_TTL / 5 + self.queue.now);
            self.tell(index, untrusted, ServerEvent::LeaseMayEnd(lease));
        }
    }

    pub fn server_event(&mut self, index: usize, event: ServerEvent) {
        match event {
            ServerEvent::Starts => self.start_agent(index),
            ServerEvent::Registers => self.register(index),
            ServerEvent::LeaseMayEnd(lease) => self.lease_may_end(index, lease),
            ServerEvent::ReadsAgain => {
                if let Some(process) = &mut self.servers[index].process {
                    process.reads_again = false;
                }
                self.read_goal(index);
            }
            ServerEvent::RetryDue => {
                if let Some(process) = &mut self.servers[index].process {
                    process.retrying = false;
                }
                self.handle(index, machine::Event::RetryDue);
            }
            ServerEvent::ReportsAgain => self.report(index),
            ServerEvent::EffectEnds(number) => self.effect_ends(index, number),
            ServerEvent::EffectYields(number) => {
                if self.in_flight(index, number) {
                    self.handle(index, machine::Event::Interrupted);
                }
            }
            ServerEvent::Task(step) => self.task_step(index, step),
            ServerEvent::CommandEnds(number) => self.command_ends(index, number),
            ServerEvent::Settles => {
                if let Some(process) = &mut self.servers[index].process {
                    process.looks = 0;
                }
                self.settle(index);
            }
            ServerEvent::LooksAgain => self.settle(index),
            ServerEvent::Thawed => self.back(index),
            ServerEvent::Reconnected => {
                self.servers[index].connected = true;
                self.watch(Party::Server(index));
                self.back(index);
            }
        }
    }

    /// It may renew its lease again, if that is still there.
    pub fn back(&mut self, index: usize) {
        let server = &self.servers[index];
        let Some(process) = &server.process else { return };
        if server.connected
            && server.frozen_until <= self.queue.now
            && process.presence.is_some()
            && let Some(lease) = process.lease
        {
            self.renew(lease);
        }
        self.report(index);
    }

    fn in_flight(&self, index: usize, number: u64) -> bool {
        self.servers[index].process.as_ref().is_some_and(|p| p.effect == number && p.action.is_some())
    }

    fn register(&mut self, index: usize) {
        let server = &self.servers[index];
        let Some(process) = &server.process else { return };
        if process.presence.is_some() {
            return;
        }
        if !server.connected {
            let after = self.dice.between(200, 5_000);
            return self.tell(index, after, ServerEvent::Registers);
        }
        let lease = match process.lease.filter(|lease| self.lives(*lease)) {
            Some(lease) => lease,
            None => self.grant(AGENT_TTL),
        };
        let server = &self.servers[index];
        let (alive_key, info_key) = (Key::NodeAlive(server.name.clone()), Key::NodeInfo(server.name.clone()));
        let found = self.entry(&alive_key).cloned();
        let since = self.wall(server.wall_offset);
        let instance = Nonce::fixed(server.name.as_str());
        let alive = Alive { instance, machine_id: String::new(), boot_id: String::new(), agent_version: "0".into(), since };
        let info = NodeInfo {
            node: server.name.clone(),
            labels: server.labels.clone(),
            addresses: vec![],
            agent_version: "0".into(),
            apps: vec!["*".into()],
            since,
        };
        let (alive_key, info_key) = (self.keys.key(&alive_key), self.keys.key(&info_key));
        let put = Transaction::new()
            .when(Compare::unchanged(&alive_key, found.as_ref()))
            .put_under(lease, &alive_key, &alive)
            .put_record(info_key, &info);
        let Some(revision) = self.commit(&put) else { return self.tell(index, 500, ServerEvent::Registers) };
        let created = found.map_or(revision, |entry| entry.created);
        if let Some(process) = &mut self.servers[index].process {
            (process.lease, process.reported, process.status_at) = (Some(lease), None, None);
            process.presence = Some(Guard { key: alive_key, lease, created });
        }
        self.tell(index, 0, ServerEvent::Settles);
        self.wake_task(index);
        self.report(index);
    }

    fn lease_may_end(&mut self, index: usize, lease: LeaseId) {
        let renewed = self.is_renewed(lease);
        let Some(process) = &mut self.servers[index].process else { return };
        if process.lease != Some(lease) || renewed {
            return;
        }
        (process.presence, process.lease) = (None, None);
        if self.servers[index].connected {
            self.end_lease(lease);
        }
        self.task_lost_lease(index, lease);
        self.wake_task(index);
        let after = self.dice.between(20, 2_000);
        self.tell(index, after, ServerEvent::Registers);
    }

    /// The store refused what this presence writes.
    fn presence_refused(&mut self, index: usize) {
        if let Some(process) = &mut self.servers[index].process {
            process.presence = None;
        }
        self.tell(index, 10, ServerEvent::Registers);
    }

    pub fn server_watched(&mut self, index: usize, upto: Revision) {
        let server = &mut self.servers[index];
        server.watching = false;
        let Some(process) = server.process.as_mut().filter(|_| server.connected) else { return };
        let key = self.keys.key(&Key::Desired(server.name.clone(), self.app.clone()));
        match self.store.since(&key, Revision(process.seen.0 + 1)) {
            Some(changes) => {
                for change in changes {
                    match change {
                        Change::Put(entry) if entry.modified <= upto => process.desired = Some(entry),
                        Change::Deleted { revision, .. } if revision <= upto => process.desired = None,
                        _ => {}
                    }
                }
            }
            // Compacted: read again.
            None => {
                process.desired = self.store.keys.get(&key).cloned();
                process.seen = self.store.revision;
            }
        }
        process.seen = process.seen.max(upto);
        self.wake_task(index);
        let later = self.store.keys.get(&key).is_some_and(|e| e.modified > upto);
        if later {
            self.watch(Party::Server(index));
        }
        self.read_goal(index);
    }

    /// An absent record never stops or removes anything.
    fn read_goal(&mut self, index: usize) {
        let server = &self.servers[index];
        let Some(process) = &server.process else { return };
        let Some(entry) = &process.desired else { return };
        if !server.connected {
            let after = self.dice.between(100, 5_000);
            return self.tell(index, after, ServerEvent::ReadsAgain);
        }
        let desired: Desired = entry.record().expect("only records that can be read are written");
        let asked = desired.run;
        let stable: Option<StableRecord> = self.record(&Key::Stable(self.app.clone()));
        let spec: Option<ActiveRollout> = self.record(&Key::RolloutSpec(self.app.clone()));
        let goal = effective(desired, stable.as_ref(), spec.as_ref().map(|s| &s.id));
        let cordoned = self.entry(&Key::NodeCordon(self.servers[index].name.clone())).is_some();
        let Some(process) = &mut self.servers[index].process else { return };
        // What `stable` decided is looked at again.
        let again = goal.run != asked && !std::mem::replace(&mut process.reads_again, true);
        if again {
            self.tell(index, 30_000, ServerEvent::ReadsAgain);
        }
        let Some(process) = &mut self.servers[index].process else { return };
        // A cordoned server keeps what it has: `stable` went on without it.
        if goal.run != asked && cordoned {
            return;
        }
        if process.told.as_ref() != Some(&goal) {
            process.told = Some(goal.clone());
            self.handle(index, machine::Event::GoalSeen(goal));
        }
    }

    /// Journal, then act, then report (I9).
    pub fn handle(&mut self, index: usize, event: machine::Event) {
        let ended = !matches!(
            event,
            machine::Event::GoalSeen(_) | machine::Event::Waiting(_) | machine::Event::TaskStarted | machine::Event::RetryDue
        );
        let now = self.queue.now;
        let server = &mut self.servers[index];
        let Some(process) = &mut server.process else { return };
        if !matches!(event, machine::Event::Waiting(_)) {
            self.trace.note(now, || format!("{}: {event:?}", server.name).chars().take(400).collect());
        }
        if matches!(event, machine::Event::Finished | machine::Event::ManifestLoaded(_)) {
            process.tries = 0;
        }
        if ended {
            (process.action, process.task) = (None, None);
        }
        let action = process.machine.handle(event);
        let forgotten = self.options.mutant == Some(Mutant::Journal) && matches!(action, Some(Action::Switch(_)));
        if !forgotten && process.machine.journal() != &server.disk.journal {
            server.disk.journal.clone_from(process.machine.journal());
        }
        let yields = process.machine.must_yield() && action.is_none();
        if process.machine.wants_retry() && !std::mem::replace(&mut process.retrying, true) {
            let most = (1_000 << process.tries.min(6)).min(60_000);
            process.tries += 1;
            let after = self.dice.between(most / 10, most);
            self.tell(index, after, ServerEvent::RetryDue);
        }
        if let Some(action) = action {
            self.start(index, action);
        }
        if yields {
            self.give_way(index);
        }
        self.check_server(index);
        self.report(index);
    }

    pub fn as_server(&self, index: usize) -> Sender {
        let server = &self.servers[index];
        let holds = server.process.as_ref().and_then(|p| p.presence.as_ref()).map(|guard| guard.created);
        Sender { party: Party::Server(index), incarnation: server.incarnation, holds }
    }

    fn report(&mut self, index: usize) {
        let server = &self.servers[index];
        let now = self.wall(server.wall_offset);
        let Some(process) = &server.process else { return };
        let (Some(guard), None, true) = (&process.presence, &process.reporting, server.connected) else { return };
        let status = process.machine.status(now);
        if process.reported.as_ref().is_some_and(|old| Status { since: old.since, ..status.clone() } == *old) {
            return;
        }
        let key = self.keys.key(&Key::Status(status.node.clone(), status.app.clone()));
        let read = || self.store.keys.get(&key).map_or(Revision(0), |entry| entry.modified);
        let revision = process.status_at.unwrap_or_else(read);
        let unchanged = Compare::ModRevision { key: key.clone(), revision };
        let put = Transaction::new().when(guard.compare()).when(unchanged).put_record(key, &status);
        let ticket = self.send(self.as_server(index), put);
        if let Some(process) = &mut self.servers[index].process {
            (process.reporting, process.status_at) = (Some((ticket, status)), None);
        }
    }

    pub fn server_answered(&mut self, index: usize, ticket: u64, answer: Answer) {
        let Some(process) = &mut self.servers[index].process else { return };
        match process.reporting.take_if(|(own, _)| *own == ticket) {
            None => self.task_answered(index, ticket, answer),
            Some((_, status)) => match answer {
                Answer::Of(Outcome::Committed(revision)) => {
                    (process.reported, process.status_at) = (Some(status), Some(revision));
                    self.report(index);
                }
                Answer::Of(Outcome::Refused(_)) => self.presence_refused(index),
                Answer::LeaseEnded | Answer::Lost => {
                    let after = self.dice.between(100, 4_000);
                    self.tell(index, after, ServerEvent::ReportsAgain);
                }
            },
        }
    }
}
