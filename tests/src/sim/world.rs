//! Everything there is in one run, and the loop: an event, what follows from it, and the checks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use coord_proto::ids::{AppName, Revision, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::record::Record;
use coord_proto::store::memory::state::State;
use coord_proto::store::{Change, Entry, LeaseId, Outcome, StoreError, Transaction};

use super::check::Check;
use super::coordinator::{Coordinator, CoordinatorEvent};
use super::dice::Dice;
use super::faults::Weather;
use super::operator::Operator;
use super::queue::{Queue, Time};
use super::release::Release;
use super::server::{Server, ServerEvent};
use super::trace::Trace;
use super::{Options, Story, Violation};

/// A caller gives up on an answer after this long; what it sent may still arrive.
const ANSWER_TIMEOUT: u64 = 5_000;
/// More events than any run needs: it would go on for ever.
const EVENTS_MAX: u64 = 3_000_000;

/// Who follows and writes the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Coordinator(usize),
    Server(usize),
}

/// Who sent a transaction, and what it believes of itself.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub party: Party,
    pub incarnation: u32,
    /// What it is sent under, by the creation of its key: a leadership, or a server's presence.
    pub holds: Option<Revision>,
}

/// What came of a transaction, as its sender sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Of(Outcome),
    LeaseEnded,
    /// It may have happened.
    Lost,
}

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    Arrives {
        from: Sender,
        ticket: u64,
        transaction: Transaction,
        answer_after: Option<u64>,
    },
    Answered {
        to: Sender,
        ticket: u64,
        answer: Answer,
    },
    /// A watch delivers what happened up to a revision.
    Watched(Party, Revision),
    /// Unless it was renewed meanwhile.
    LeaseEnds(LeaseId, Time),
    Coordinator(usize, u32, CoordinatorEvent),
    Server(usize, u32, ServerEvent),
    Operator,
    Fault,
    Calm,
}

/// One run.
pub struct World {
    pub options: Options,
    pub queue: Queue<Event>,
    pub dice: Dice,
    pub weather: Weather,
    pub store: State<Duration>,
    /// Up to here all watches know that there is news.
    announced: Revision,
    /// When each lease ends that nobody renews any more.
    leases: HashMap<LeaseId, Option<Time>>,
    pub keys: KeySpace,
    pub app: AppName,
    pub releases: BTreeMap<Seq, Release>,
    pub servers: Vec<Server>,
    pub by_name: BTreeMap<String, usize>,
    pub coordinators: Vec<Coordinator>,
    pub operator: Operator,
    pub check: Check,
    pub trace: Trace,
    pub story: Story,
    pub done: bool,
    tickets: u64,
}

impl World {
    pub fn new(options: Options, trace: Trace) -> Self {
        let mut dice = Dice::new(options.seed);
        let weather = Weather::draw(&mut dice);
        let mut world = Self {
            options,
            queue: Queue::default(),
            weather,
            store: State::default(),
            announced: Revision(1),
            leases: HashMap::new(),
            keys: KeySpace::default(),
            app: "mootube".parse().expect("an app's name"),
            releases: BTreeMap::new(),
            servers: Vec::new(),
            by_name: BTreeMap::new(),
            coordinators: Vec::new(),
            operator: Operator::default(),
            check: Check::default(),
            trace,
            story: Story::default(),
            done: false,
            tickets: 0,
            dice,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        for index in 0..self.dice.between(1, 3) as usize {
            self.coordinators.push(Coordinator::new(index));
            self.start_coordinator(index);
        }
        for _ in 0..self.options.servers {
            self.join();
        }
        self.queue.put(self.weather.storm, Event::Calm);
        self.queue.put(1_000, Event::Operator);
        self.queue.put(2_000, Event::Fault);
    }

    /// Plays to the end.
    pub fn play(mut self) -> Result<Story, Box<Violation>> {
        while !self.done && self.check.broken.is_none() {
            let Some(event) = self.queue.pop() else {
                self.check.fail(|| "nothing happens any more".to_owned());
                break;
            };
            self.story.events += 1;
            if self.story.events > EVENTS_MAX {
                self.check.fail(|| "it does not come to its end".to_owned());
            }
            self.happen(event);
            self.announce();
            let mark = self.queue.now ^ (self.store.revision.0 as u64).rotate_left(32);
            self.story.digest = (self.story.digest ^ mark).wrapping_mul(0x0100_0000_01b3);
        }
        match self.check.broken.take() {
            None => Ok(self.story),
            Some(what) => Err(Box::new(Violation { seed: self.options.seed, at: self.queue.now, what, last: self.trace.take() })),
        }
    }

    fn happen(&mut self, event: Event) {
        let Some(event) = self.unless_frozen(event) else { return };
        match event {
            Event::Arrives { from, ticket, transaction, answer_after } => self.arrive(from, ticket, transaction, answer_after),
            Event::Answered { to, ticket, answer } => match to.party {
                Party::Coordinator(index) if self.coordinators[index].incarnation == to.incarnation => {
                    self.coordinator_answered(index, ticket, answer);
                }
                Party::Server(index) if self.servers[index].incarnation == to.incarnation => self.server_answered(index, ticket, answer),
                _ => {}
            },
            Event::Watched(Party::Coordinator(index), upto) => self.coordinator_watched(index, upto),
            Event::Watched(Party::Server(index), upto) => self.server_watched(index, upto),
            Event::LeaseEnds(lease, at) => {
                if self.leases.get(&lease) == Some(&Some(at)) {
                    self.end_lease(lease);
                }
            }
            Event::Coordinator(index, incarnation, event) => {
                if self.coordinators[index].incarnation == incarnation {
                    self.coordinator_event(index, event);
                }
            }
            Event::Server(index, incarnation, event) => {
                if self.servers[index].incarnation == incarnation {
                    self.server_event(index, event);
                }
            }
            Event::Operator => self.operate(),
            Event::Fault => self.fault(),
            Event::Calm => self.calm_down(),
        }
    }

    /// What happens to somebody who is frozen happens to him when he wakes.
    fn unless_frozen(&mut self, event: Event) -> Option<Event> {
        let party = match &event {
            Event::Answered { to, .. } => to.party,
            Event::Watched(party, _) => *party,
            Event::Coordinator(index, ..) => Party::Coordinator(*index),
            Event::Server(index, ..) => Party::Server(*index),
            _ => return Some(event),
        };
        let until = match party {
            Party::Coordinator(index) => self.coordinators[index].frozen_until,
            Party::Server(index) => self.servers[index].frozen_until,
        };
        if until <= self.queue.now {
            return Some(event);
        }
        let late = self.dice.between(0, 20);
        self.queue.put(until - self.queue.now + late, event);
        None
    }

    pub fn note(&mut self, words: impl FnOnce() -> String) {
        self.trace.note(self.queue.now, words);
    }

    /// Seconds for people, by a clock that somebody keeps setting.
    pub fn wall(&self, offset: i64) -> i64 {
        1_800_000_000 + (self.queue.now / 1000) as i64 + offset
    }

    /// How long a message takes.
    pub fn delay(&mut self) -> u64 {
        if self.weather.calm || !self.dice.chance(self.weather.slow) {
            let (least, most) = self.weather.delay;
            return self.dice.between(least, most);
        }
        self.dice.between(500, 40_000)
    }

    /// Sends a transaction: the ticket of its answer, which may come before the transaction does.
    pub fn send(&mut self, from: Sender, transaction: Transaction) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        if !self.reaches(from.party) {
            let wait = self.dice.between(1_000, ANSWER_TIMEOUT);
            self.queue.put(wait, Event::Answered { to: from, ticket, answer: Answer::Lost });
            return ticket;
        }
        let (there, back) = (self.delay(), self.delay());
        let in_time = there + back < ANSWER_TIMEOUT && !self.dice.chance(self.weather.lost_answers());
        if !in_time {
            self.queue.put(ANSWER_TIMEOUT, Event::Answered { to: from, ticket, answer: Answer::Lost });
        }
        self.queue.put(there, Event::Arrives { from, ticket, transaction, answer_after: in_time.then_some(back) });
        ticket
    }

    pub fn reaches(&self, party: Party) -> bool {
        match party {
            Party::Coordinator(index) => self.coordinators[index].connected,
            Party::Server(index) => self.servers[index].connected,
        }
    }

    fn arrive(&mut self, from: Sender, ticket: u64, mut transaction: Transaction, answer_after: Option<u64>) {
        if let Some(mutant) = self.options.mutant {
            mutant.weaken(&self.keys, &self.app, &mut transaction);
        }
        self.trace.note(self.queue.now, || format!("{:?} sends {}", from.party, words(&transaction)));
        let answer = match self.store.commit(&transaction) {
            Ok(outcome) => Answer::Of(outcome),
            Err(StoreError::LeaseEnded(_)) => Answer::LeaseEnded,
            Err(e) => {
                self.check.fail(|| format!("{:?} sends what no store takes: {e:?}", from.party));
                return;
            }
        };
        self.trace.note(self.queue.now, || format!("  {answer:?}"));
        if matches!(answer, Answer::Of(Outcome::Committed(_))) {
            self.story.commits += 1;
            self.check_committed(from, &transaction);
        }
        if let Some(after) = answer_after {
            self.queue.put(after, Event::Answered { to: from, ticket, answer });
        }
    }

    /// A write that needs no network: an operator's, or a registration's.
    pub fn commit(&mut self, transaction: &Transaction) -> Option<Revision> {
        self.trace.note(self.queue.now, || format!("at once: {}", words(transaction)));
        match self.store.commit(transaction) {
            Ok(Outcome::Committed(revision)) => Some(revision),
            _ => None,
        }
    }

    /// Tells every watch that is concerned that there is news, and the check what it is.
    fn announce(&mut self) {
        if self.store.revision <= self.announced {
            return;
        }
        let news = self.store.since("", Revision(self.announced.0 + 1)).unwrap_or_default();
        self.announced = self.store.revision;
        for change in &news {
            self.check_change(change);
            let key = key_of(change);
            match self.keys.parse(key) {
                Some(Key::Desired(node, _)) => {
                    if let Some(index) = self.by_name.get(node.as_str()) {
                        self.watch(Party::Server(*index));
                    }
                }
                Some(Key::Migration(..) | Key::MigrationHead(_) | Key::MigrateLock(_)) => self.wake_waiting_tasks(),
                _ => {}
            }
        }
        (0..self.coordinators.len()).for_each(|index| self.watch(Party::Coordinator(index)));
    }

    /// One delivery at a time is on its way to each.
    pub fn watch(&mut self, party: Party) {
        let upto = self.store.revision;
        let on_its_way = match party {
            Party::Coordinator(index) => &mut self.coordinators[index].watching,
            Party::Server(index) => &mut self.servers[index].watching,
        };
        if std::mem::replace(on_its_way, true) {
            return;
        }
        let after = self.delay();
        self.queue.put(after, Event::Watched(party, upto));
    }

    /// The entry under a key, as a linearizable read gives it.
    pub fn entry(&self, key: &Key) -> Option<&Entry> {
        self.store.keys.get(&self.keys.key(key))
    }

    pub fn record<R: Record>(&self, key: &Key) -> Option<R> {
        self.entry(key).map(|entry| entry.record().expect("only records that can be read are written"))
    }

    pub fn grant(&mut self, ttl: u64) -> LeaseId {
        let lease = self.store.grant(Duration::from_millis(ttl), Duration::from_millis(self.queue.now));
        self.leases.insert(lease, None);
        lease
    }

    /// Nobody renews it any more since some part of a third of its time; when it will have ended.
    pub fn stop_renewing(&mut self, lease: LeaseId, ttl: u64) -> Time {
        let since = self.dice.between(0, ttl / 3);
        let end = self.queue.now + ttl - since;
        if let Some(ends) = self.leases.get_mut(&lease) {
            *ends = Some(end);
            self.queue.put(end - self.queue.now, Event::LeaseEnds(lease, end));
        }
        end
    }

    /// Does it still live? Then it is renewed again.
    pub fn renew(&mut self, lease: LeaseId) -> bool {
        let Some(ends) = self.leases.get_mut(&lease) else { return false };
        *ends = None;
        true
    }

    pub fn is_renewed(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease) == Some(&None)
    }

    pub fn lives(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    pub fn end_lease(&mut self, lease: LeaseId) {
        if self.leases.remove(&lease).is_some() {
            self.note(|| format!("{lease:?} ends"));
            self.store.end_lease(lease);
        }
    }
}

pub fn key_of(change: &Change) -> &str {
    match change {
        Change::Put(entry) => &entry.key,
        Change::Deleted { key, .. } => key,
    }
}

/// A transaction in one line.
fn words(transaction: &Transaction) -> String {
    use coord_proto::store::Write;
    let write = |w: &Write| match w {
        Write::Put { key, value, .. } if key.contains("/manifests/") => format!("{key} ({} bytes)", value.len()),
        Write::Put { key, value, .. } => format!("{key} = {}", String::from_utf8_lossy(value).chars().take(700).collect::<String>()),
        Write::Delete { key } => format!("no {key}"),
    };
    transaction.writes.iter().map(write).collect::<Vec<_>>().join(" ; ")
}
