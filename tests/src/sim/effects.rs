//! What an action does to a server, how long it takes, and how it ends. The order of things is the machine's.

use coord_agent::accept::{Here, accept};
use coord_agent::effects::prune;
use coord_agent::journal::Direction;
use coord_agent::machine::{Action, Event};
use coord_proto::ids::Seq;
use coord_proto::keys::Key;
use coord_proto::manifest::HookPhase;
use coord_proto::report::{Failure, FailureCode, Step};

use super::mutant::Mutant;
use super::release::Flaws;
use super::server::ServerEvent;
use super::world::World;

/// A failure as an effect tells it.
pub fn failure(seq: Seq, step: Step, code: FailureCode) -> Failure {
    let chain = vec![format!("{code:?}")];
    Failure { seq, step, code, chain, hint: String::new(), log_tail: String::new(), fell_back: false, attempt: 1 }
}

impl World {
    /// The action begins.
    pub fn start(&mut self, index: usize, action: Action) {
        let now = self.queue.now;
        let server = &mut self.servers[index];
        let Some(process) = &mut server.process else { return };
        self.trace.note(now, || format!("{}: begins {action:?}", server.name).chars().take(300).collect());
        process.effect += 1;
        (process.action, process.gives_way) = (Some(action.clone()), false);
        let number = process.effect;
        if let Action::EnsureTasks { seq, phase, may_claim } = action {
            return self.start_tasks(index, seq, phase, may_claim);
        }
        let (least, most) = match action {
            Action::Load(_) | Action::LoadServed(_) => (1, 60),
            Action::Stage(_) => (100, 8_000),
            Action::Prepare(_) | Action::Prune { .. } => (1, 500),
            Action::RunHooks { .. } => (1, 2_000),
            Action::Switch(_) => (1, 50),
            Action::Probe(_) | Action::EnsureTasks { .. } => (10, 3_000),
        };
        let time = self.dice.between(least, most);
        self.tell(index, time, ServerEvent::EffectEnds(number));
    }

    /// The goal no longer asks for it: what nobody can see yields.
    pub fn give_way(&mut self, index: usize) {
        let Some(process) = &mut self.servers[index].process else { return };
        if std::mem::replace(&mut process.gives_way, true) {
            return;
        }
        let number = process.effect;
        match process.action {
            Some(Action::Stage(_) | Action::Prepare(_)) => {
                let after = self.dice.between(0, 100);
                self.tell(index, after, ServerEvent::EffectYields(number));
            }
            Some(Action::EnsureTasks { .. }) => self.wake_task(index),
            _ => {}
        }
    }

    pub fn effect_ends(&mut self, index: usize, number: u64) {
        let Some(process) = &self.servers[index].process else { return };
        if process.effect != number {
            return;
        }
        let Some(action) = process.action.clone() else { return };
        let event = self.perform(index, &action);
        self.handle(index, event);
    }

    /// Does it, or half of it.
    pub fn perform(&mut self, index: usize, action: &Action) -> Event {
        let trouble = !self.weather.calm && self.dice.chance(self.weather.trouble);
        let failed = |seq: &Seq, step, code| Event::Failed(failure(*seq, step, code));
        let flaws = action.seq().and_then(|seq| self.releases.get(&seq)).map(|r| r.flaws).unwrap_or_default();
        let hit = |permille, seq: &Seq| Flaws::hits(permille, *seq, index);
        match action {
            Action::Load(seq) => self.load(index, *seq, true),
            Action::LoadServed(seq) => self.load(index, *seq, false),
            Action::Stage(seq) if hit(flaws.stage, seq) => failed(seq, Step::Staging, FailureCode::DigestMismatch),
            Action::Stage(seq) if trouble => failed(seq, Step::Staging, FailureCode::Download),
            Action::Stage(seq) => {
                let manifest = &self.releases[seq].manifest;
                self.servers[index].disk.complete.insert(manifest.release.clone(), manifest.artifact.digest.clone());
                Event::Finished
            }
            Action::Prepare(seq) if trouble => failed(seq, Step::Preparing, FailureCode::HookFailed),
            Action::RunHooks { seq, phase: HookPhase::Restart } if hit(flaws.hook, seq) => {
                failed(seq, Step::Restarting, FailureCode::HookFailed)
            }
            Action::RunHooks { seq, .. } if trouble => failed(seq, Step::Restarting, FailureCode::HookTimedOut),
            Action::Probe(seq) if trouble || hit(flaws.probe, seq) => failed(seq, Step::Probing, FailureCode::Unhealthy),
            Action::Switch(release) => self.switch(index, release, trouble),
            Action::Prune { keep, protected, manifests } => self.prune(index, *keep as usize, protected, manifests),
            Action::Prepare(_) | Action::RunHooks { .. } | Action::Probe(_) | Action::EnsureTasks { .. } => Event::Finished,
        }
    }

    /// From the disk, else from the store.
    fn load(&mut self, index: usize, seq: Seq, checked: bool) -> Event {
        let refused = |code| Event::Failed(failure(seq, Step::Fetching, code));
        let stored = self.entry(&Key::Manifest(self.app.clone(), seq)).is_some();
        let server = &mut self.servers[index];
        if !server.disk.manifests.contains(&seq) {
            if !server.connected {
                return refused(FailureCode::Store);
            }
            if !stored {
                return refused(FailureCode::ManifestMissing);
            }
            server.disk.manifests.insert(seq);
        }
        let manifest = self.releases[&seq].manifest.clone();
        let here = Here { app: &self.app, seq, labels: &server.labels, allowed: true, now: None };
        match accept(&manifest, &here) {
            Err(refusal) if checked => refused(refusal.code()),
            _ => Event::ManifestLoaded(manifest),
        }
    }

    fn switch(&mut self, index: usize, release: &coord_proto::ids::ReleaseId, trouble: bool) -> Event {
        let server = &mut self.servers[index];
        let journal = &server.disk.journal;
        let Some(activity) = &journal.activity else {
            self.check.fail(|| format!("{} switches without having journaled it (I9)", server.name));
            return Event::Finished;
        };
        let seq = match activity.direction {
            Direction::Forward => activity.seq,
            Direction::Back => activity.previous.as_ref().map_or(Seq(0), |p| p.seq),
        };
        if seq < journal.floor {
            self.check.fail(|| format!("{} goes to {release}, number {seq}, below its floor {} (I2)", server.name, journal.floor));
        }
        if trouble && self.dice.chance(500) {
            return Event::NotSwitched(failure(activity.seq, Step::Switching, FailureCode::Io));
        }
        let ended = if trouble { Event::Failed(failure(activity.seq, Step::Switching, FailureCode::Io)) } else { Event::Finished };
        server.disk.current = Some(release.clone());
        ended
    }

    fn prune(
        &mut self,
        index: usize,
        keep: usize,
        protected: &std::collections::BTreeSet<coord_proto::ids::ReleaseId>,
        manifests: &std::collections::BTreeSet<Seq>,
    ) -> Event {
        use coord_agent::journal::ReleaseOutcome;
        let disk = &mut self.servers[index].disk;
        let look = |release: &coord_proto::ids::ReleaseId| {
            let (created, outcome) = disk.journal.releases.get(release).map_or((0, ReleaseOutcome::Good), |f| (f.created, f.outcome));
            prune::Kept { release: release.clone(), created, outcome }
        };
        let releases: Vec<prune::Kept> = disk.complete.keys().map(look).collect();
        let nothing = std::collections::BTreeSet::new();
        let protected = if self.options.mutant == Some(Mutant::Protected) { &nothing } else { protected };
        let mut gone = prune::choose(&releases, keep, protected);
        // The effect itself refuses what `current` points to; here it would be seen.
        gone.iter().for_each(|release| _ = disk.complete.remove(release));
        let kept = disk.journal.releases.iter().filter(|(r, _)| !gone.contains(r)).map(|(_, f)| f.seq);
        let kept: std::collections::BTreeSet<Seq> = kept.chain(manifests.iter().copied()).collect();
        disk.manifests.retain(|seq| kept.contains(seq));
        gone.sort();
        Event::Pruned(gone)
    }
}
