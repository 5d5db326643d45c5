//! The planner at ten thousand servers: one step, and a whole rollout in a hundred batches, on one core and without a store.
//!
//! Servers obey at once, so that every step but those that bake has something to say; what is timed is `plan` alone for a step, and
//! everything for the rollout.

use std::time::Duration;

use anyhow::{Result, ensure};
use coord_proto::ids::{AppName, Digest, NodeName, ReleaseId, Seq};
use coord_proto::labels::{Labels, Selector};
use coord_proto::report::{HealthState, NodeInfo, Running, Status, Step};
use coord_proto::rollout::{
    Actor, Amount, ReleaseRecord, RolloutKind, RolloutPhase, RolloutPolicy, RolloutSpec, Serial, StableRecord, Verdict,
};
use coordinator::rollout::{Decision, PlanInput, Timers, plan};
use coordinator::view::{App, Fleet, ManifestFacts, Node};
use nix::time::ClockId;

use crate::{percentile, say, verdict};

const SERVERS: usize = 10_000;
const BATCHES: usize = 100;
const STEP_GOAL_MS: f64 = 5.0;
const ROLLOUT_GOAL: f64 = 10.0;

pub fn run() -> Result<()> {
    let mut bench = Bench::new()?;
    let began = Clocks::now();
    let mut steps = Vec::new();
    while bench.phase() != Some(RolloutPhase::Succeeded) {
        ensure!(steps.len() < BATCHES * 20, "the rollout does not end: {:?}", bench.phase());
        steps.push(bench.step());
        bench.obey();
    }
    let whole = began.elapsed();
    say(format_args!("  {SERVERS} servers in {BATCHES} batches, {} steps of the planner", steps.len()));
    for (clock, of) in CLOCKS {
        let mut ms: Vec<f64> = steps.iter().map(|step| of(step) * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let (p99, whole) = (percentile(&ms, 99), of(&whole));
        say(format_args!(
            "  {clock}: one step p50 {:.2} ms, p99 {p99:.2} ms, most {:.2} ms (goal: p99 ≤ {STEP_GOAL_MS} ms, {}); \
             the whole rollout {whole:.2} s (goal: ≤ {ROLLOUT_GOAL} s, {})",
            percentile(&ms, 50),
            ms[ms.len() - 1],
            verdict(p99 <= STEP_GOAL_MS),
            verdict(whole <= ROLLOUT_GOAL)
        ));
    }
    Ok(())
}

/// How long something took, in seconds: on the wall, and of this thread's time on a processor, which others do not lengthen by being busy.
#[derive(Clone, Copy)]
struct Clocks {
    wall: f64,
    processor: f64,
}

type Clock = fn(&Clocks) -> f64;

const CLOCKS: [(&str, Clock); 2] = [("processor time", |c| c.processor), ("wall time", |c| c.wall)];

impl Clocks {
    fn now() -> Self {
        let read = |clock: ClockId| Duration::from(clock.now().expect("Linux has it, clock_gettime(2)")).as_secs_f64();
        Self { wall: read(ClockId::CLOCK_MONOTONIC), processor: read(ClockId::CLOCK_THREAD_CPUTIME_ID) }
    }

    fn elapsed(self) -> Self {
        let now = Self::now();
        Self { wall: now.wall - self.wall, processor: now.processor - self.processor }
    }
}

/// A fleet in memory.
struct Bench {
    app: AppName,
    fleet: Fleet,
    timers: Timers,
}

fn actor() -> Actor {
    Actor { user: "ann".into(), host: "laptop".into(), at: 0, message: None }
}

fn release(seq: u64) -> Result<ReleaseId> {
    Ok(format!("r{seq}").parse()?)
}

fn facts(seq: u64) -> Result<ManifestFacts> {
    Ok(ManifestFacts {
        seq: Seq(seq),
        release: release(seq)?,
        floor: Seq(0),
        created: 0,
        revision: String::new(),
        digest: Digest::of(b""),
        size: 1,
        targets: Selector::default(),
        tasks: vec![],
        reversible: true,
        probed: true,
    })
}

impl Bench {
    /// All servers run release 1, and release 2 is to be rolled out.
    fn new() -> Result<Self> {
        let name: AppName = "mootube".parse()?;
        let mut app = App { stable: Some(StableRecord { seq: Seq(1), release: release(1)?, back_from: None }), ..App::default() };
        for (seq, verdict) in [(1, Verdict::Good), (2, Verdict::Untried)] {
            app.manifests.insert(Seq(seq), facts(seq)?);
            app.releases
                .insert(release(seq)?, ReleaseRecord { seq: Seq(seq), verdict, by: actor(), notes: Default::default(), waits: None });
        }
        let serial = Serial(vec![Amount::Percent(u8::try_from(100 / BATCHES)?)]);
        app.spec = Some(RolloutSpec {
            id: "2-x".parse()?,
            app: name.clone(),
            seq: Seq(2),
            release: release(2)?,
            kind: RolloutKind::Publish,
            policy: RolloutPolicy { serial, ..RolloutPolicy::default() },
            limit: None,
            force_run: false,
            retried: None,
            by: actor(),
        });
        let mut fleet = Fleet::default();
        for number in 0..SERVERS {
            let node: NodeName = format!("web-{number:05}").parse()?;
            let info = NodeInfo {
                node: node.clone(),
                labels: Labels::from([("role".to_owned(), "web".to_owned())]),
                addresses: vec![],
                agent_version: "0".into(),
                apps: vec!["*".into()],
                since: 0,
            };
            fleet.nodes.insert(node, Node { info: Some(info), present: true, ..Node::default() });
        }
        fleet.apps.insert(name.clone(), app);
        Ok(Self { app: name, fleet, timers: Timers::default() })
    }

    fn phase(&self) -> Option<RolloutPhase> {
        self.fleet.apps[&self.app].state.as_ref().map(|s| s.phase)
    }

    /// One step ten seconds after the one before; how long it took.
    fn step(&mut self) -> Clocks {
        let elapsed = Duration::from_secs(10);
        let began = Clocks::now();
        let decision = plan(&PlanInput { name: &self.app, fleet: &self.fleet, timers: self.timers.clone(), elapsed, now: 0 });
        let took = began.elapsed();
        self.apply(decision);
        took
    }

    fn apply(&mut self, decision: Decision) {
        self.timers = decision.timers;
        if let Some(app) = self.fleet.apps.get_mut(&self.app) {
            app.state = decision.state.or(app.state.take());
            app.stable = decision.stable.or(app.stable.take());
            app.history.extend(decision.history);
        }
        for desired in decision.desired {
            if let Some(node) = self.fleet.nodes.get_mut(&desired.node) {
                node.apps.entry(self.app.clone()).or_default().desired = Some(desired);
            }
        }
    }

    /// Whoever was told something new has done it.
    fn obey(&mut self) {
        let app = self.app.clone();
        for slot in self.fleet.nodes.values_mut().filter_map(|node| node.apps.get_mut(&app)) {
            let Some(desired) = &slot.desired else { continue };
            if slot.status.as_ref().is_some_and(|s| s.generation == desired.generation) {
                continue;
            }
            let running = release(desired.run.0).ok().map(|release| Running { seq: desired.run, release });
            slot.status = Some(Status {
                node: desired.node.clone(),
                app: app.clone(),
                accepted: desired.run,
                floor: Seq(0),
                running,
                staged: desired.stage,
                after_done: None,
                step: Step::Idle,
                words: String::new(),
                health: HealthState::Healthy,
                generation: desired.generation,
                rollout: desired.rollout.clone(),
                failure: None,
                digest: None,
                held: Default::default(),
                free: None,
                progress: None,
                restarted: desired.restart,
                since: 0,
            });
        }
    }
}
