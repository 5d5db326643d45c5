//! The people: they publish, wish, decide about tasks, and tidy up when it is calm. What they type is one transaction each.

use coord_proto::ids::{RolloutId, Seq};
use coord_proto::keys::Key;
use coord_proto::migration::{self, Head, Resolution, TaskId, TaskRecord, TaskState, View};
use coord_proto::rollout::{
    Actor, Outcome, ReleaseRecord, Retried, RolloutKind, RolloutPhase, RolloutSpec, RolloutState, SeqRecord, StableRecord, Verb, Verdict,
    Wish,
};
use coord_proto::store::{Compare, Transaction};

use super::queue::Time;
use super::release::Release;
use super::world::{Event, World};

/// A rollout in calm weather ends within this, and servers come to rest.
const PATIENCE: Time = 3 * 3_600_000;
const REST: Time = 10 * 60_000;

/// What the people are at.
#[derive(Debug, Default)]
pub struct Operator {
    stage: Stage,
    since: Time,
    rollouts: u64,
    last: Option<Seq>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Storm,
    /// Until the rollout that was begun has ended.
    Tidy,
    /// Until all servers have come to rest.
    Rest,
    /// One more release, which must reach everybody.
    Last,
    LastRest,
}

impl Operator {
    pub fn tidy(&mut self, now: Time) {
        (self.stage, self.since) = (Stage::Tidy, now);
    }
}

fn actor() -> Actor {
    Actor { user: "ann".into(), host: "laptop".into(), at: 0, message: None }
}

impl World {
    pub fn operate(&mut self) {
        let again = match self.operator.stage {
            Stage::Storm => self.dice.between(2_000, 25_000),
            _ => 15_000,
        };
        self.queue.put(again, Event::Operator);
        match self.operator.stage {
            Stage::Storm => self.operate_in_storm(),
            Stage::Tidy | Stage::Last => self.bring_to_end(),
            Stage::Rest => self.after_rest(),
            Stage::LastRest => self.after_last_rest(),
        }
    }

    pub fn spec(&self) -> Option<RolloutSpec> {
        self.record(&Key::RolloutSpec(self.app.clone()))
    }

    /// The state of the rollout that is asked for; none until a coordinator has seen it.
    pub fn state(&self) -> Option<RolloutState> {
        let spec = self.spec()?;
        self.record::<RolloutState>(&Key::RolloutState(self.app.clone())).filter(|s| s.id == spec.id)
    }

    fn active(&self) -> bool {
        self.spec().is_some() && !self.state().is_some_and(|s| s.phase.ended())
    }

    fn head_is_open(&self) -> bool {
        self.record::<Head>(&Key::MigrationHead(self.app.clone())).is_some_and(|h| h.open)
    }

    fn operate_in_storm(&mut self) {
        if !self.active() {
            return if self.head_is_open() { self.decide_tasks(None) } else { self.begin_something() };
        }
        let paused = self.state().is_some_and(|s| s.paused);
        let phase = self.state().map(|s| s.phase);
        match self.dice.between(0, 99) {
            0..=4 => self.wish(Verb::Pause),
            5..=7 => self.wish(Verb::Abort),
            8..=15 if !self.head_is_open() || self.dice.chance(300) => self.publish(),
            16 | 17 => self.cordon(),
            18 | 19 => self.forget_gone(),
            _ if paused => self.wish(Verb::Resume),
            20..=69 if phase == Some(RolloutPhase::AwaitingPromotion) => self.wish(Verb::Promote),
            20..=69 => self.decide_tasks(None),
            _ => {}
        }
    }

    fn begin_something(&mut self) {
        let phase = self.state().map(|s| s.phase);
        match self.dice.between(0, 9) {
            0 => self.roll_back(),
            1 if phase == Some(RolloutPhase::Succeeded) => self.again(RolloutKind::Restart),
            1 | 2 if phase.is_some_and(|p| p != RolloutPhase::Succeeded) => self.again(RolloutKind::Retry),
            3 => self.forget_gone(),
            4 => self.cordon(),
            _ => self.publish(),
        }
    }

    fn publish(&mut self) {
        let (seq, floor) = self.next_seq();
        let release = Release::draw(&mut self.dice, seq, floor);
        self.publish_release(release);
    }

    fn next_seq(&self) -> (Seq, Seq) {
        let last: Option<SeqRecord> = self.record(&Key::AppSeq(self.app.clone()));
        let stable: Option<StableRecord> = self.record(&Key::Stable(self.app.clone()));
        (last.map_or(Seq(0), |r| r.seq).next(), stable.map_or(Seq(0), |s| s.seq))
    }

    fn publish_release(&mut self, release: Release) {
        let manifest = release.manifest.clone();
        let mut spec = self.new_spec(manifest.seq, RolloutKind::Publish);
        spec.policy = manifest.rollout.clone();
        spec.limit = if self.weather.calm { None } else { Release::limit(&mut self.dice) };
        spec.release = manifest.release.clone();
        let record = ReleaseRecord { seq: manifest.seq, verdict: Verdict::Untried, by: actor(), notes: Default::default(), waits: None };
        let key = |key: Key| self.keys.key(&key);
        let put = Transaction::new()
            .put_record(key(Key::AppSeq(self.app.clone())), &SeqRecord { seq: manifest.seq, created: manifest.created })
            .put(key(Key::Manifest(self.app.clone(), manifest.seq)), release.stored.clone())
            .put_record(key(Key::Release(self.app.clone(), manifest.release.clone())), &record)
            .put_record(key(Key::RolloutSpec(self.app.clone())), &spec);
        self.releases.insert(manifest.seq, release);
        self.commit(&put);
    }

    fn new_spec(&mut self, seq: Seq, kind: RolloutKind) -> RolloutSpec {
        self.operator.rollouts += 1;
        self.story.rollouts += 1;
        let id: RolloutId = format!("{seq}-{}", self.operator.rollouts).parse().expect("a rollout's id");
        let manifest = self.releases.get(&seq).map(|r| r.manifest.clone());
        RolloutSpec {
            id,
            app: self.app.clone(),
            seq,
            release: format!("r{seq}").parse().expect("a release's id"),
            kind,
            policy: manifest.map(|m| m.rollout.clone()).unwrap_or_default(),
            limit: None,
            force_run: kind == RolloutKind::Restart,
            retried: None,
            by: actor(),
        }
    }

    fn put_spec(&mut self, spec: &RolloutSpec) {
        let key = self.keys.key(&Key::RolloutSpec(self.app.clone()));
        self.commit(&Transaction::new().put_record(key, spec));
    }

    /// The servers that failed once more; what is stable once more.
    fn again(&mut self, kind: RolloutKind) {
        let (Some(old), Some(state)) = (self.spec(), self.state()) else { return };
        let stable: Option<StableRecord> = self.record(&Key::Stable(self.app.clone()));
        let seq = if kind == RolloutKind::Restart { stable.map(|s| s.seq) } else { Some(old.seq) };
        let failed = state.targets.iter().any(|t| matches!(t.outcome, Outcome::Failed | Outcome::Unreachable));
        let Some(seq) = seq.filter(|_| kind == RolloutKind::Restart || failed) else { return };
        let mut spec = self.new_spec(seq, kind);
        if kind == RolloutKind::Retry {
            spec.limit.clone_from(&old.limit);
            spec.retried = Some(Retried { rollout: old.id.clone(), kind: old.purpose() });
        }
        self.put_spec(&spec);
    }

    /// To the newest good release below what is rolled out, at or above every server's floor.
    fn roll_back(&mut self) {
        let Some(old) = self.spec() else { return };
        let floor = self.servers.iter().map(|s| s.disk.journal.floor).max().unwrap_or_default();
        let verdict = |seq: &Seq| {
            let record: Option<ReleaseRecord> = self.record(&Key::Release(self.app.clone(), self.releases[seq].manifest.release.clone()));
            record.is_some_and(|r| r.verdict == Verdict::Good)
        };
        let Some(seq) = self.releases.keys().rev().copied().find(|seq| *seq < old.seq && *seq >= floor && verdict(seq)) else { return };
        let spec = self.new_spec(seq, RolloutKind::Rollback);
        self.put_spec(&spec);
    }

    fn wish(&mut self, verb: Verb) {
        let Some(spec) = self.spec() else { return };
        let key = self.keys.key(&Key::RolloutWish(self.app.clone()));
        self.commit(&Transaction::new().put_record(key, &Wish { rollout: spec.id, verb, by: actor() }));
    }

    fn cordon(&mut self) {
        let index = self.dice.index(self.servers.len());
        let key = self.keys.key(&Key::NodeCordon(self.servers[index].name.clone()));
        let transaction = if self.store.keys.contains_key(&key) {
            Transaction::new().delete(key)
        } else {
            Transaction::new().put_record(key, &coord_proto::coordinator::CordonRecord { by: actor() })
        };
        self.commit(&transaction);
    }

    /// What never comes back is forgotten, once its presence is gone.
    fn forget_gone(&mut self) {
        for index in 0..self.servers.len() {
            let server = &self.servers[index];
            let alive = self.keys.key(&Key::NodeAlive(server.name.clone()));
            if server.gone && !self.store.keys.contains_key(&alive) {
                let (name, app) = (server.name.clone(), self.app.clone());
                let keys = [
                    Key::NodeInfo(name.clone()),
                    Key::NodeCordon(name.clone()),
                    Key::Desired(name.clone(), app.clone()),
                    Key::Status(name, app),
                ];
                let transaction = keys.iter().fold(Transaction::new().when(Compare::absent(alive)), |t, key| t.delete(self.keys.key(key)));
                self.commit(&transaction);
            }
        }
    }

    /// Says how a task ended of which nobody knows.
    fn decide_tasks(&mut self, how: Option<Resolution>) {
        for entry in self.store.below(&self.keys.migrations(&self.app)) {
            let Some(Key::Migration(app, release, task)) = self.keys.parse(&entry.key) else { continue };
            let record: TaskRecord = entry.record().expect("only records that can be read are written");
            let id = TaskId { app, release, seq: record.seq, task };
            let head = self.entry(&Key::MigrationHead(self.app.clone())).cloned();
            let head = head.map(|e| (e.record().expect("only records that can be read are written"), e));
            let lock = self.store.keys.get(&id.lock_key(&self.keys)).cloned();
            let open = record.state == TaskState::Unknown || (record.state == TaskState::Claimed && lock.is_none());
            if !open {
                continue;
            }
            let drawn = self.dice.pick(&[Resolution::Succeeded, Resolution::Failed, Resolution::Retry]);
            let view = View { record: Some((record, entry)), head, lock, spec: None };
            if let Some(resolved) = migration::resolve(&self.keys, &id, &view, how.unwrap_or(drawn), "looked at it", 1) {
                self.check.person_decided(&id.record_key(&self.keys));
                self.commit(&resolved);
            }
        }
    }

    /// In calm weather everything that was begun ends, when people answer what they are asked.
    fn bring_to_end(&mut self) {
        self.forget_gone();
        for index in 0..self.servers.len() {
            let key = self.keys.key(&Key::NodeCordon(self.servers[index].name.clone()));
            if self.store.keys.contains_key(&key) {
                self.commit(&Transaction::new().delete(key));
            }
        }
        self.decide_tasks(Some(Resolution::Succeeded));
        let state = self.state();
        if state.as_ref().is_some_and(|s| s.paused) {
            self.wish(Verb::Resume);
        } else if state.as_ref().is_some_and(|s| s.phase == RolloutPhase::AwaitingPromotion) {
            self.wish(Verb::Promote);
        }
        // The `after` tasks wait for a server that failed within the budget, and a rollout without servers for the first, by design:
        // somebody ends it.
        let for_ever = |s: &RolloutState| s.targets.is_empty() || (s.phase == RolloutPhase::Finishing && !s.reason.is_empty());
        let waits = state.as_ref().is_some_and(for_ever);
        if waits && self.operator.stage == Stage::Tidy && self.queue.now - self.operator.since > PATIENCE / 2 {
            self.wish(Verb::Abort);
        }
        if self.queue.now - self.operator.since > PATIENCE {
            let words = format!(
                "the rollout does not end (liveness): {:?} {:?}",
                self.record::<Head>(&Key::MigrationHead(self.app.clone())),
                state
            );
            return self.check.fail(|| words);
        }
        if self.active() || self.head_is_open() {
            return;
        }
        let next = if self.operator.stage == Stage::Last { Stage::LastRest } else { Stage::Rest };
        (self.operator.stage, self.operator.since) = (next, self.queue.now);
    }

    fn after_rest(&mut self) {
        self.forget_gone();
        if self.queue.now - self.operator.since < REST {
            return;
        }
        self.check_rest();
        let (seq, floor) = self.next_seq();
        self.operator.last = Some(seq);
        self.publish_release(Release::flawless(seq, floor));
        (self.operator.stage, self.operator.since) = (Stage::Last, self.queue.now);
    }

    fn after_last_rest(&mut self) {
        if self.queue.now - self.operator.since < REST / 5 {
            return;
        }
        let phase = self.state().map(|s| (s.phase, s.reason));
        if phase.as_ref().map(|(p, _)| *p) != Some(RolloutPhase::Succeeded) {
            return self.check.fail(|| format!("a release without a flaw did not succeed in calm weather (liveness): {phase:?}"));
        }
        let last = self.operator.last.unwrap_or_default();
        self.check_rest();
        self.check_all_run(last);
        self.done = true;
    }
}
