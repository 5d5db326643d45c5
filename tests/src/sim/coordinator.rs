//! A coordinator: its mirror, its candidacy, and while it leads the passes of `coordinator::controller`: view, plan, script, transactions
//! one after the other, each with the leader's guard.
//!
//! What `tokio::select!` decides there is left to chance here: an answer may be acted on before the loss of the lease is noticed.

use std::collections::VecDeque;
use std::time::Duration;

use coord_proto::coordinator::LeaderRecord;
use coord_proto::ids::{NodeName, Nonce, Revision};
use coord_proto::keys::Key;
use coord_proto::lock::Guard;
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{Change, Compare, LeaseId, Outcome, Transaction};
use coordinator::controller::audit::Audit;
use coordinator::controller::script::Script;
use coordinator::rollout::{self, Decision, PlanInput, Timers};
use coordinator::view::{Fleet, Followed};

use super::queue::Time;
use super::world::{Answer, Event, Party, Sender, World};

/// A leader's lease.
pub const LEADER_TTL: u64 = 10_000;
/// After a refusal, and at most after an error, it looks again.
const RETRY_MOST: u64 = 2_000;

/// One coordinator.
pub struct Coordinator {
    pub incarnation: u32,
    pub connected: bool,
    pub frozen_until: Time,
    pub watching: bool,
    pub up: bool,
    pub wall_offset: i64,
    host: NodeName,
    mirror: Mirror,
    view: Followed,
    role: Role,
}

enum Role {
    Waiting,
    Campaigning { ticket: u64, lease: LeaseId },
    Leading(Box<Leading>),
}

struct Leading {
    guard: Guard,
    audit: Audit,
    /// A view older than this does not show the last own write yet.
    written: Revision,
    pace: Option<(Timers, Time)>,
    writing: Option<Writing>,
    alarm: u64,
}

/// One decision on its way into the store.
struct Writing {
    decision: Decision,
    state_key: String,
    rest: VecDeque<(Part, Transaction)>,
    part: Part,
    state: Option<Revision>,
    ticket: u64,
    planned: Time,
    /// Of the view that it was made by.
    seen: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    First,
    Rest,
    Duty,
}

/// What happens to one coordinator.
#[derive(Debug)]
pub enum CoordinatorEvent {
    Restarted,
    Campaigns,
    Wakes(u64),
    /// It notices, if it has ended.
    LeaseMayHaveEnded(LeaseId),
    /// The store has been silent for too long.
    Stale,
    Thawed,
    Reconnected,
}

impl Coordinator {
    pub fn new(index: usize) -> Self {
        let host = format!("c{index}").parse().expect("a host's name");
        Self {
            incarnation: 0,
            connected: true,
            frozen_until: 0,
            watching: false,
            up: false,
            wall_offset: 0,
            host,
            mirror: Mirror::default(),
            view: Followed::default(),
            role: Role::Waiting,
        }
    }

    fn lease(&self) -> Option<LeaseId> {
        match &self.role {
            Role::Waiting => None,
            Role::Campaigning { lease, .. } => Some(*lease),
            Role::Leading(leading) => Some(leading.guard.lease),
        }
    }

    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }
}

impl World {
    pub fn start_coordinator(&mut self, index: usize) {
        let coordinator = &mut self.coordinators[index];
        (coordinator.up, coordinator.watching, coordinator.role) = (true, false, Role::Waiting);
        (coordinator.mirror, coordinator.view) = (Mirror::default(), Followed::default());
        self.watch(Party::Coordinator(index));
    }

    pub fn kill_coordinator(&mut self, index: usize, back_after: u64) {
        self.note(|| format!("coordinator {index} is killed"));
        self.lease_of_coordinator_runs_out(index);
        let coordinator = &mut self.coordinators[index];
        coordinator.incarnation += 1;
        (coordinator.up, coordinator.role, coordinator.connected) = (false, Role::Waiting, true);
        let incarnation = coordinator.incarnation;
        self.queue.put(back_after, Event::Coordinator(index, incarnation, CoordinatorEvent::Restarted));
    }

    /// It stands still, and does not know it afterwards.
    pub fn freeze_coordinator(&mut self, index: usize, time: u64) {
        self.note(|| format!("coordinator {index} freezes for {time} ms"));
        self.lease_of_coordinator_runs_out(index);
        self.coordinators[index].frozen_until = self.queue.now + time;
        self.tell_coordinator(index, time, CoordinatorEvent::Thawed);
    }

    pub fn cut_off_coordinator(&mut self, index: usize, time: u64) {
        self.note(|| format!("coordinator {index} is cut off for {time} ms"));
        self.lease_of_coordinator_runs_out(index);
        self.coordinators[index].connected = false;
        let silent = self.dice.between(2_000, 6_000);
        self.tell_coordinator(index, silent, CoordinatorEvent::Stale);
        self.tell_coordinator(index, time, CoordinatorEvent::Reconnected);
    }

    /// The store ends the lease, whatever its holder believes.
    pub fn revoke_leader(&mut self, index: usize) {
        let Some(lease) = self.coordinators[index].lease() else { return };
        self.note(|| format!("the lease of coordinator {index} is revoked"));
        self.end_lease(lease);
        let noticed = self.dice.between(0, LEADER_TTL / 3);
        self.tell_coordinator(index, noticed, CoordinatorEvent::LeaseMayHaveEnded(lease));
    }

    fn lease_of_coordinator_runs_out(&mut self, index: usize) {
        let Some(lease) = self.coordinators[index].lease() else { return };
        if self.lives(lease) {
            let end = self.stop_renewing(lease, LEADER_TTL);
            self.tell_coordinator(index, end - self.queue.now, CoordinatorEvent::LeaseMayHaveEnded(lease));
        }
    }

    fn tell_coordinator(&mut self, index: usize, after: u64, event: CoordinatorEvent) {
        let incarnation = self.coordinators[index].incarnation;
        self.queue.put(after, Event::Coordinator(index, incarnation, event));
    }

    pub fn coordinator_event(&mut self, index: usize, event: CoordinatorEvent) {
        match event {
            CoordinatorEvent::Restarted => self.start_coordinator(index),
            CoordinatorEvent::Campaigns => self.campaign(index),
            CoordinatorEvent::Wakes(alarm) => {
                if matches!(&self.coordinators[index].role, Role::Leading(l) if l.alarm == alarm) {
                    self.pass(index);
                }
            }
            CoordinatorEvent::LeaseMayHaveEnded(lease) => {
                if self.coordinators[index].lease() == Some(lease) && !self.lives(lease) {
                    self.lose_leadership(index);
                }
            }
            CoordinatorEvent::Stale => {
                let coordinator = &mut self.coordinators[index];
                coordinator.mirror.fresh &= coordinator.connected;
                self.pass(index);
            }
            CoordinatorEvent::Thawed => self.renew_leadership(index),
            CoordinatorEvent::Reconnected => {
                self.coordinators[index].connected = true;
                self.renew_leadership(index);
                self.watch(Party::Coordinator(index));
            }
        }
    }

    pub fn renew_leadership(&mut self, index: usize) {
        if let Some(lease) = self.coordinators[index].lease()
            && self.coordinators[index].connected
        {
            self.renew(lease);
        }
    }

    fn lose_leadership(&mut self, index: usize) {
        self.note(|| format!("coordinator {index} leads no longer"));
        self.coordinators[index].role = Role::Waiting;
        self.candidate_looks(index);
    }

    pub fn coordinator_watched(&mut self, index: usize, upto: Revision) {
        let coordinator = &mut self.coordinators[index];
        coordinator.watching = false;
        if !coordinator.up || !coordinator.connected {
            return;
        }
        let mirror = &mut coordinator.mirror;
        match self.store.since("", Revision(mirror.revision.0 + 1)) {
            Some(changes) => changes.into_iter().take_while(|c| revision_of(c) <= upto).for_each(|change| apply(mirror, change)),
            // Compacted: list again.
            None => *mirror = Mirror { entries: self.store.keys.clone(), revision: self.store.revision, ..Mirror::default() },
        }
        mirror.revision = mirror.revision.max(upto);
        (mirror.ready, mirror.fresh) = (true, true);
        if mirror.revision < self.store.revision {
            self.watch(Party::Coordinator(index));
        }
        self.candidate_looks(index);
        self.pass(index);
    }

    fn candidate_looks(&mut self, index: usize) {
        let leader = self.keys.key(&Key::Leader);
        let coordinator = &self.coordinators[index];
        let mirror = &coordinator.mirror;
        if matches!(coordinator.role, Role::Waiting) && mirror.ready && mirror.fresh && !mirror.entries.contains_key(&leader) {
            let after = self.dice.between(10, 400);
            self.tell_coordinator(index, after, CoordinatorEvent::Campaigns);
        }
    }

    fn campaign(&mut self, index: usize) {
        if !matches!(self.coordinators[index].role, Role::Waiting) || !self.coordinators[index].connected {
            return;
        }
        let lease = self.grant(LEADER_TTL);
        let key = self.keys.key(&Key::Leader);
        let host = self.coordinators[index].host.to_string();
        let record = LeaderRecord { host, pid: 1, instance: Nonce::fixed(&format!("{lease:?}")), since: 0 };
        let put = Transaction::new().when(Compare::absent(&key)).put_under(lease, key, &record);
        let ticket = self.send(self.as_coordinator(index, None), put);
        self.coordinators[index].role = Role::Campaigning { ticket, lease };
    }

    fn as_coordinator(&self, index: usize, holds: Option<Revision>) -> Sender {
        Sender { party: Party::Coordinator(index), incarnation: self.coordinators[index].incarnation, holds }
    }

    pub fn coordinator_answered(&mut self, index: usize, ticket: u64, answer: Answer) {
        match &self.coordinators[index].role {
            Role::Campaigning { ticket: own, lease } if *own == ticket => self.campaign_answered(index, *lease, answer),
            Role::Leading(leading) if leading.writing.as_ref().is_some_and(|w| w.ticket == ticket) => self.write_answered(index, answer),
            _ => {}
        }
    }

    fn campaign_answered(&mut self, index: usize, lease: LeaseId, answer: Answer) {
        let created = match answer {
            Answer::Of(Outcome::Committed(revision)) => Some(revision),
            // What stands there decides.
            Answer::Lost if self.coordinators[index].connected => {
                self.entry(&Key::Leader).filter(|e| e.lease == Some(lease)).map(|e| e.created)
            }
            _ => None,
        };
        let Some(created) = created else {
            if self.coordinators[index].connected {
                self.end_lease(lease);
            } else {
                self.stop_renewing(lease, LEADER_TTL);
            }
            self.coordinators[index].role = Role::Waiting;
            return self.candidate_looks(index);
        };
        self.note(|| format!("coordinator {index} leads since revision {created}"));
        let guard = Guard { key: self.keys.key(&Key::Leader), lease, created };
        let audit = Audit::new(self.coordinators[index].host.to_string());
        let leading = Leading { guard, audit, written: created, pace: None, writing: None, alarm: 0 };
        self.coordinators[index].role = Role::Leading(Box::new(leading));
        self.pass(index);
    }

    /// One pass, if the view may be decided by and nothing is being written.
    fn pass(&mut self, index: usize) {
        let coordinator = &mut self.coordinators[index];
        let Role::Leading(leading) = &mut coordinator.role else { return };
        let mirror = &coordinator.mirror;
        let stands = mirror.entries.get(&leading.guard.key).is_some_and(|e| e.created == leading.guard.created);
        if mirror.revision >= leading.guard.created && !stands {
            return self.lose_leadership(index);
        }
        if leading.writing.is_some() {
            return;
        }
        if !(mirror.ready && mirror.fresh) {
            leading.pace = leading.pace.take().map(|(timers, planned)| (timers.doubted(), planned));
            return;
        }
        if mirror.revision >= leading.written {
            self.plan(index);
        }
    }

    fn plan(&mut self, index: usize) {
        let (now, wall) = (self.queue.now, self.wall(self.coordinators[index].wall_offset));
        let coordinator = &mut self.coordinators[index];
        let Role::Leading(leading) = &mut coordinator.role else { return };
        let mut view = std::mem::take(&mut coordinator.view);
        let fleet = view.fleet(&coordinator.mirror, &self.keys);
        // Decoding everything anew costs most of a run, so it is compared now and then.
        if self.story.passes.is_multiple_of(64) && *fleet != Fleet::from_mirror(&coordinator.mirror, &self.keys) {
            return self.check.fail(|| format!("the view that coordinator {index} keeps up is not the one of the store"));
        }
        if let Some(problem) = fleet.problems.first() {
            return self.check.fail(|| format!("a record cannot be read: {problem:?}"));
        }
        self.story.passes += 1;
        let (timers, planned) = leading.pace.clone().unwrap_or((Timers::default(), now));
        let elapsed = Duration::from_millis(now - planned);
        let decision = rollout::plan(&PlanInput { name: &self.app, fleet, timers, elapsed, now: wall });
        if let Some(why) = &decision.blocked {
            let why = why.clone();
            return self.check.fail(|| format!("the planner is blocked: {why}"));
        }
        for event in &decision.events {
            self.trace.note(now, || format!("coordinator {index}: {event}"));
        }
        let Script { first, state_key, rest, duties } =
            Script::of(&self.keys, &coordinator.mirror, fleet, &self.app, &decision, &leading.audit);
        let first = (!first.writes.is_empty()).then_some((Part::First, first));
        let rest = rest.into_iter().map(|t| (Part::Rest, t));
        let duties = duties.into_iter().map(|t| (Part::Duty, t));
        let rest = first.into_iter().chain(rest).chain(duties).collect();
        let seen = fleet.revision;
        self.check_plan(fleet, &decision);
        self.coordinators[index].view = view;
        let Role::Leading(leading) = &mut self.coordinators[index].role else { return };
        let part = Part::First;
        leading.writing = Some(Writing { decision, state_key, rest, part, state: None, ticket: 0, planned: now, seen });
        self.write_next(index);
    }

    fn write_next(&mut self, index: usize) {
        let Role::Leading(leading) = &mut self.coordinators[index].role else { return };
        let Some(writing) = &mut leading.writing else { return };
        let Some((part, mut transaction)) = writing.rest.pop_front() else { return self.written(index) };
        writing.part = part;
        if part == Part::Rest
            && let Some(revision) = writing.state
        {
            transaction = transaction.when(Compare::ModRevision { key: writing.state_key.clone(), revision });
        }
        let (guard, created) = (leading.guard.compare(), leading.guard.created);
        let ticket = self.send(self.as_coordinator(index, Some(created)), transaction.when(guard));
        if let Role::Leading(leading) = &mut self.coordinators[index].role
            && let Some(writing) = &mut leading.writing
        {
            writing.ticket = ticket;
        }
    }

    fn write_answered(&mut self, index: usize, answer: Answer) {
        let Role::Leading(leading) = &mut self.coordinators[index].role else { return };
        let Some(writing) = &mut leading.writing else { return };
        match answer {
            Answer::Of(Outcome::Committed(revision)) => {
                leading.written = leading.written.max(revision);
                if writing.part == Part::First && writing.decision.state.is_some() {
                    writing.state = Some(revision);
                }
                self.write_next(index);
            }
            // The task moved on by itself, which is just as well.
            Answer::Of(Outcome::Refused(_)) if writing.part == Part::Duty => self.write_next(index),
            Answer::Of(Outcome::Refused(_)) | Answer::LeaseEnded => self.give_up_writing(index, RETRY_MOST),
            Answer::Lost => {
                let wait = self.dice.between(5, RETRY_MOST);
                self.give_up_writing(index, wait);
            }
        }
    }

    fn give_up_writing(&mut self, index: usize, again: u64) {
        let Role::Leading(leading) = &mut self.coordinators[index].role else { return };
        let Some(writing) = leading.writing.take() else { return };
        self.wake(index, writing.seen, Some(again));
    }

    /// Timers count from what was written.
    fn written(&mut self, index: usize) {
        let Role::Leading(leading) = &mut self.coordinators[index].role else { return };
        let Some(writing) = leading.writing.take() else { return };
        let wake = writing.decision.wake_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        leading.pace = Some((writing.decision.timers, writing.planned));
        self.wake(index, writing.seen, wake);
    }

    /// Looks again: at once if the view has changed since, else when something happens by time alone.
    fn wake(&mut self, index: usize, seen: Revision, after: Option<u64>) {
        let coordinator = &mut self.coordinators[index];
        let Role::Leading(leading) = &mut coordinator.role else { return };
        leading.alarm += 1;
        let alarm = leading.alarm;
        let after = if coordinator.mirror.revision > seen { Some(0) } else { after };
        if let Some(after) = after {
            self.tell_coordinator(index, after.max(1), CoordinatorEvent::Wakes(alarm));
        }
    }
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.modified,
        Change::Deleted { revision, .. } => *revision,
    }
}

fn apply(mirror: &mut Mirror, change: Change) {
    match change {
        Change::Put(entry) => mirror.entries.insert(entry.key.clone(), entry),
        Change::Deleted { key, .. } => mirror.entries.remove(&key),
    };
}
