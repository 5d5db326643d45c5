//! What goes wrong, and how often: drawn once per seed, so that some runs see one kind of trouble and others all of it.

use coord_proto::keys::Key;
use coord_proto::store::Transaction;

use super::dice::Dice;
use super::world::{Event, Party, World};

/// A seed's weather. Times in milliseconds, chances in so many of a thousand.
#[derive(Debug, Clone)]
pub struct Weather {
    pub calm: bool,
    pub storm: u64,
    /// Of most messages: least and most.
    pub delay: (u64, u64),
    /// Messages that take seconds, and reads that others overtake.
    pub slow: u64,
    lost: u64,
    /// Effects that fail by themselves.
    pub trouble: u64,
    every: u64,
    /// Machines stand still, leases end early: what may be repeated may then overlap for a moment.
    pub breaks_leases: bool,
    /// Servers come with a tree of another tool.
    pub adopted: bool,
}

impl Weather {
    pub fn draw(dice: &mut Dice) -> Self {
        Self {
            calm: false,
            storm: dice.between(120_000, 600_000),
            delay: (5, dice.pick(&[50, 400, 1_000])),
            slow: dice.pick(&[0, 5, 30, 100]),
            lost: dice.pick(&[0, 10, 50]),
            trouble: dice.pick(&[0, 0, 3, 15]),
            every: dice.pick(&[2_000, 8_000, 30_000]),
            breaks_leases: dice.chance(600),
            adopted: dice.chance(150),
        }
    }

    pub fn lost_answers(&self) -> u64 {
        if self.calm { 0 } else { self.lost }
    }
}

impl World {
    /// One fault, and when the next one comes.
    pub fn fault(&mut self) {
        if self.weather.calm {
            return;
        }
        let next = self.dice.between(self.weather.every / 4, self.weather.every * 2);
        self.queue.put(next, Event::Fault);
        let time = if self.dice.chance(700) { self.dice.between(50, 9_000) } else { self.dice.between(9_000, 90_000) };
        match self.dice.between(0, 19) {
            0..=4 => self.on_a_server(|world, index| world.kill_agent(index, Some(time))),
            5 | 6 => self.on_a_server(|world, index| world.cut_off_server(index, time)),
            7 if self.weather.breaks_leases => self.on_a_server(|world, index| world.freeze_server(index, time)),
            8 if self.weather.breaks_leases => self.on_a_server(World::revoke_server),
            9 => self.kill_the_migrating(time),
            10 => self.on_a_coordinator(|world, index| world.kill_coordinator(index, time)),
            11 | 12 => self.on_a_coordinator(|world, index| world.freeze_coordinator(index, time)),
            13 => self.on_a_coordinator(|world, index| world.cut_off_coordinator(index, time)),
            14 => self.on_a_coordinator(World::revoke_leader),
            15 => self.step_clocks(),
            16 => drop(self.join()),
            17 => self.on_a_server(|world, index| {
                if world.dice.chance(300) {
                    world.kill_agent(index, None);
                }
            }),
            18 => self.lose_a_desired_record(),
            19 => self.many_at_once(time),
            _ => self.compact(),
        }
    }

    /// The store forgets its history: whoever has fallen behind lists again.
    fn compact(&mut self) {
        self.note(|| "the store is compacted".to_owned());
        self.store.compact(self.store.revision);
    }

    /// Everybody is back, and nothing more goes wrong by itself.
    pub fn calm_down(&mut self) {
        self.note(|| "it is calm".to_owned());
        self.weather.calm = true;
        self.weather.delay = (5, 300);
        self.operator.tidy(self.queue.now);
        for index in 0..self.servers.len() {
            let server = &mut self.servers[index];
            (server.frozen_until, server.connected) = (self.queue.now, true);
            self.watch(Party::Server(index));
            self.back(index);
        }
        for index in 0..self.coordinators.len() {
            let coordinator = &mut self.coordinators[index];
            (coordinator.frozen_until, coordinator.connected) = (self.queue.now, true);
            self.watch(Party::Coordinator(index));
            self.renew_leadership(index);
        }
    }

    fn on_a_server(&mut self, fault: impl FnOnce(&mut Self, usize)) {
        let index = self.dice.index(self.servers.len());
        let server = &self.servers[index];
        if server.process.is_some() && server.connected && server.frozen_until <= self.queue.now {
            fault(self, index);
        }
    }

    /// Mostly the one that leads.
    fn on_a_coordinator(&mut self, fault: impl FnOnce(&mut Self, usize)) {
        let leader = self.coordinators.iter().position(super::coordinator::Coordinator::leads);
        let other = self.dice.index(self.coordinators.len());
        let index = leader.filter(|_| self.dice.chance(800)).unwrap_or(other);
        let coordinator = &self.coordinators[index];
        if coordinator.up && coordinator.connected && coordinator.frozen_until <= self.queue.now {
            fault(self, index);
        }
    }

    fn kill_the_migrating(&mut self, time: u64) {
        let at_tasks = |s: &super::server::Server| s.process.as_ref().is_some_and(|p| p.task.is_some());
        let all: Vec<usize> = (0..self.servers.len()).filter(|i| at_tasks(&self.servers[*i])).collect();
        if !all.is_empty() {
            let index = all[self.dice.index(all.len())];
            self.kill_agent(index, Some(time));
        }
    }

    fn step_clocks(&mut self) {
        let step = self.dice.between(0, 7_200) as i64 - 3_600;
        let index = self.dice.index(self.servers.len());
        self.servers[index].wall_offset += step;
        let index = self.dice.index(self.coordinators.len());
        self.coordinators[index].wall_offset += step;
    }

    /// Somebody deletes what a server was told: nothing may be stopped or removed by it.
    fn lose_a_desired_record(&mut self) {
        let index = self.dice.index(self.servers.len());
        let key = self.keys.key(&Key::Desired(self.servers[index].name.clone(), self.app.clone()));
        self.commit(&Transaction::new().delete(key));
    }

    fn many_at_once(&mut self, time: u64) {
        let share = self.dice.pick(&[100, 300, 1000]);
        let cut = self.dice.chance(500);
        for index in 0..self.servers.len() {
            let server = &self.servers[index];
            if server.process.is_some() && server.connected && server.frozen_until <= self.queue.now && self.dice.chance(share) {
                if cut { self.cut_off_server(index, time) } else { self.kill_agent(index, Some(time)) }
            }
        }
        if cut && share == 1000 {
            for index in 0..self.coordinators.len() {
                if self.coordinators[index].up && self.coordinators[index].connected {
                    self.cut_off_coordinator(index, time);
                }
            }
        }
    }
}
