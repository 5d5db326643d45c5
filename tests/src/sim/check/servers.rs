//! The servers' side: what is on their disks, what they believe, and what they start.

use std::cmp::Ordering;

use coord_agent::machine::Action;
use coord_proto::keys::Key;
use coord_proto::migration::{TaskId, TaskRecord};
use coord_proto::report::HealthState;

use super::super::world::World;

impl World {
    /// A run-once command starts.
    pub fn check_start(&mut self, index: usize, id: &TaskId) {
        let name = format!("{} {}", id.release, id.task);
        if let Some((_, claim)) = self.servers[index].disk.claims.get(&id.record_key(&self.keys)) {
            self.check.started.insert(claim.nonce.clone());
        }
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
        self.check_disk(index);
        let server = &self.servers[index];
        let (disk, name) = (&server.disk, &server.name);
        let journal = &disk.journal;
        let switching = server.process.as_ref().is_some_and(|p| matches!(p.action, Some(Action::Switch(_))));
        let running = journal.running.as_ref().map(|r| &r.release);
        if !switching && running != disk.current.as_ref() {
            let words = format!("{name} believes to run {running:?}, and current is {:?} (I9)", disk.current);
            return self.check.fail(|| words);
        }
        if let Some(good) = &journal.last_healthy
            && journal.health == HealthState::Healthy
            && journal.running.as_ref() == Some(good)
        {
            self.check.proved.insert((name.clone(), good.seq));
        }
    }

    /// What is on its disk, also while nobody runs there.
    pub fn check_disk(&mut self, index: usize) {
        let server = &self.servers[index];
        let (disk, name, journal) = (&server.disk, &server.name, &server.disk.journal);
        let broken = match &disk.current {
            Some(release) if !disk.complete.contains_key(release) => {
                Some(format!("current of {name} points to {release}, which is not there (I1)"))
            }
            None if self.check.had_current.contains(&index) => Some(format!("current of {name} is gone (I1)")),
            _ => None,
        };
        let floor = self.check.floors.get(&index).copied().unwrap_or_default();
        let proved = journal.last_healthy.as_ref().filter(|good| journal.running.as_ref() == Some(good));
        let named = proved.and_then(|good| self.releases.get(&good.seq)).map(|r| r.manifest.floor);
        let moved = match journal.floor.cmp(&floor) {
            Ordering::Less => Some(format!("the floor of {name} sinks from {floor} to {} (I2)", journal.floor)),
            Ordering::Greater if named != Some(journal.floor) || journal.health != HealthState::Healthy => {
                Some(format!("the floor of {name} rises to {}, and {proved:?} is what passed and names {named:?} (I2)", journal.floor))
            }
            _ => None,
        };
        self.check.floors.insert(index, journal.floor);
        if disk.current.is_some() {
            self.check.had_current.insert(index);
        }
        if let Some(words) = broken.or(moved) {
            self.check.fail(|| words);
        }
    }
}
