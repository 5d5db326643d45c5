//! A fleet in memory: decisions are applied as the controller's transactions would, and servers obey when told to.

use std::time::Duration;

use coord_proto::coordinator::HistoryRecord;
use coord_proto::desired::Desired;
use coord_proto::ids::{AppName, Digest, Generation, NodeName, Nonce, ReleaseId, Revision, Seq};
use coord_proto::labels::{Labels, Selector};
use coord_proto::manifest::OnUnknown;
use coord_proto::migration::{Head, LockRecord, TaskRecord, TaskState};
use coord_proto::report::{Alive, Failure, FailureCode, HealthState, NodeInfo, Running, Status, Step};
use coord_proto::rollout::{
    Actor, OnFailure, ReleaseRecord, Retried, RolloutKind, RolloutPhase, RolloutPolicy, RolloutSpec, RolloutState, StableRecord, Target,
    Verb, Verdict, Wish,
};

use super::super::{Decision, PlanInput, Timers, plan};
use crate::view::{App, Fleet, ManifestFacts, Node, NodeApp, TaskFacts};

pub struct World {
    pub name: AppName,
    pub fleet: Fleet,
    pub timers: Timers,
    pub now: i64,
}

fn actor() -> Actor {
    Actor { user: "ann".into(), host: "laptop".into(), at: 0, message: None }
}

fn node(name: &str) -> NodeName {
    name.parse().expect("node name")
}

fn release(seq: u64) -> ReleaseId {
    format!("r{seq}").parse().expect("release id")
}

impl World {
    /// Servers that run nothing, and no release.
    pub fn empty(servers: usize) -> Self {
        let name: AppName = "mootube".parse().expect("app");
        let mut world = Self { name: name.clone(), fleet: Fleet::default(), timers: Timers::default(), now: 1000 };
        world.fleet.apps.insert(name, App::default());
        (1..=servers).for_each(|n| world.join(&format!("n{n}")));
        world
    }

    /// Servers that run release 1, which is stable.
    pub fn with_stable(servers: usize) -> Self {
        let mut world = Self::empty(servers);
        world.move_stable(1);
        world.pass(Duration::ZERO);
        world.obey_all();
        world
    }

    pub fn move_stable(&mut self, seq: u64) {
        self.know(seq, Verdict::Good);
        self.app_mut().stable = Some(StableRecord { seq: Seq(seq), release: release(seq), back_from: None });
    }

    fn know(&mut self, seq: u64, verdict: Verdict) {
        let before = TaskFacts { name: "before".parse().expect("task"), on: Labels::new(), on_unknown: OnUnknown::Stop };
        let facts = ManifestFacts {
            seq: Seq(seq),
            release: release(seq),
            floor: Seq(0),
            created: 0,
            revision: String::new(),
            digest: Digest::of(b""),
            size: 1,
            targets: Selector::default(),
            tasks: vec![before],
            reversible: true,
            probed: true,
        };
        let record = ReleaseRecord { seq: Seq(seq), verdict, by: actor(), notes: Default::default(), waits: None };
        self.app_mut().manifests.insert(Seq(seq), facts);
        self.app_mut().releases.insert(release(seq), record);
    }

    /// A new release, as `release publish` writes it.
    pub fn publish(&mut self, seq: u64) {
        self.know(seq, Verdict::Untried);
        self.spec(seq, &format!("roll-{seq}"));
    }

    /// Another rollout of the release that is stable or rolled out already.
    pub fn respec(&mut self, id: &str) {
        let seq = self.app().spec.as_ref().map_or(1, |s| s.seq.0);
        self.spec(seq, id);
    }

    fn spec(&mut self, seq: u64, id: &str) {
        let spec = RolloutSpec {
            id: id.parse().expect("rollout id"),
            app: self.name.clone(),
            seq: Seq(seq),
            release: release(seq),
            kind: RolloutKind::Publish,
            policy: RolloutPolicy::default(),
            limit: None,
            force_run: false,
            retried: None,
            by: actor(),
        };
        self.app_mut().spec = Some(spec);
    }

    /// What `rollback` and `restart` write.
    pub fn ask(&mut self, kind: RolloutKind, seq: u64) {
        self.spec(seq, &format!("{}-{seq}", kind.word()));
        let spec = self.spec_mut();
        (spec.kind, spec.force_run, spec.policy.on_failure) = (kind, kind == RolloutKind::Restart, OnFailure::Halt);
    }

    /// What `retry` writes.
    pub fn retry(&mut self) {
        let old = self.app().spec.clone().expect("a spec");
        let retried = Some(Retried { rollout: old.id.clone(), kind: old.purpose() });
        let id = format!("retry-{}", old.id).parse().expect("rollout id");
        *self.spec_mut() = RolloutSpec { id, kind: RolloutKind::Retry, force_run: false, retried, ..old };
    }

    pub fn spec_mut(&mut self) -> &mut RolloutSpec {
        self.app_mut().spec.as_mut().expect("a spec")
    }
    pub fn policy(&mut self) -> &mut RolloutPolicy {
        &mut self.spec_mut().policy
    }
    pub fn facts_mut(&mut self, seq: u64) -> &mut ManifestFacts {
        self.app_mut().manifests.get_mut(&Seq(seq)).expect("a manifest")
    }
    pub fn app(&self) -> &App {
        &self.fleet.apps[&self.name]
    }
    pub fn app_mut(&mut self) -> &mut App {
        self.fleet.apps.get_mut(&self.name).expect("the app")
    }
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.fleet.nodes.get_mut(&node(name)).expect("a node")
    }
    pub fn slot_mut(&mut self, name: &str) -> &mut NodeApp {
        let app = self.name.clone();
        self.node_mut(name).apps.entry(app).or_default()
    }
    pub fn status_mut(&mut self, name: &str) -> &mut Status {
        self.slot_mut(name).status.as_mut().expect("a status")
    }
    pub fn state(&self) -> &RolloutState {
        self.app().state.as_ref().expect("a state")
    }
    pub fn phase(&self) -> RolloutPhase {
        self.state().phase
    }
    pub fn target(&self, name: &str) -> &Target {
        self.state().targets.iter().find(|t| t.node.as_str() == name).expect("a target")
    }
    pub fn desired(&self, name: &str) -> &Desired {
        self.fleet.node_app(&node(name), &self.name).and_then(|s| s.desired.as_ref()).expect("a desired record")
    }
    pub fn stable(&self) -> Option<Seq> {
        self.app().stable.as_ref().map(|s| s.seq)
    }
    pub fn verdict(&self, seq: u64) -> Verdict {
        self.app().releases[&release(seq)].verdict
    }

    /// Who is told to run this release.
    pub fn running_orders(&self, seq: u64) -> Vec<&str> {
        let told = |n: &Node| n.apps.get(&self.name).and_then(|s| s.desired.as_ref()).is_some_and(|d| d.run == Seq(seq));
        self.fleet.nodes.iter().filter(|(_, n)| told(n)).map(|(name, _)| name.as_str()).collect()
    }

    pub fn join(&mut self, name: &str) {
        let info = NodeInfo {
            node: node(name),
            labels: Labels::new(),
            addresses: vec![],
            agent_version: "0".into(),
            apps: vec!["*".into()],
            since: 0,
        };
        self.fleet.nodes.insert(node(name), Node { info: Some(info), ..Node::default() });
        self.come_back(name);
    }
    pub fn label(&mut self, name: &str, label: &str, value: &str) {
        self.node_mut(name).info.as_mut().expect("info").labels.insert(label.into(), value.into());
    }
    pub fn vanish(&mut self, name: &str) {
        self.node_mut(name).present = false;
    }
    pub fn come_back(&mut self, name: &str) {
        let alive =
            Alive { instance: Nonce::fixed(name), machine_id: String::new(), boot_id: String::new(), agent_version: "0".into(), since: 0 };
        let node = self.node_mut(name);
        (node.present, node.alive) = (true, Some(alive));
    }

    /// The server does all that it was told.
    pub fn obey(&mut self, name: &str) {
        let app = self.name.clone();
        let slot = self.slot_mut(name);
        let Some(desired) = slot.desired.clone() else { return };
        let running = (desired.run.0 > 0).then(|| Running { seq: desired.run, release: release(desired.run.0) });
        slot.status = Some(Status {
            node: node(name),
            app,
            accepted: desired.run,
            floor: Seq(0),
            running,
            staged: desired.stage,
            after_done: desired.after,
            step: Step::Idle,
            words: String::new(),
            health: HealthState::Healthy,
            generation: desired.generation,
            rollout: desired.rollout,
            failure: None,
            digest: None,
            progress: None,
            restarted: desired.restart,
            held: std::collections::BTreeMap::new(),
            free: None,
            since: 0,
        });
    }
    pub fn obey_all(&mut self) {
        let present = self.fleet.nodes.iter().filter(|(_, n)| n.present);
        let names: Vec<String> = present.map(|(name, _)| name.to_string()).collect();
        names.iter().for_each(|name| self.obey(name));
    }

    /// The server says that it cannot do what it was told last.
    pub fn fail(&mut self, name: &str, code: FailureCode) {
        let desired = self.desired(name).clone();
        if self.slot_mut(name).status.is_none() {
            self.obey(name);
            self.status_mut(name).running = None;
        }
        let seq = desired.stage.unwrap_or(desired.run);
        let status = self.status_mut(name);
        status.generation = desired.generation;
        status.failure = Some(Failure {
            seq,
            step: Step::Probing,
            code,
            chain: vec!["it broke".to_owned()],
            hint: String::new(),
            log_tail: String::new(),
            fell_back: false,
            attempt: desired.attempt,
        });
    }

    pub fn wish(&mut self, verb: Verb) {
        let rollout = self.state().id.clone();
        let app = self.app_mut();
        app.wish = Some(Wish { rollout, verb, by: actor() });
        app.wish_revision = Revision(app.wish_revision.0 + 1);
    }

    pub fn add_task(&mut self, seq: u64, name: &str) {
        let task = TaskFacts { name: name.parse().expect("task"), on: Labels::new(), on_unknown: OnUnknown::Stop };
        self.facts_mut(seq).tasks.push(task);
    }

    /// A task's record, with head and lock as the protocol leaves them.
    pub fn task(&mut self, seq: u64, name: &str, state: TaskState, holder: &str) {
        let nonce = Nonce::fixed("claim");
        let record = TaskRecord {
            seq: Seq(seq),
            release: release(seq),
            task: name.parse().expect("task"),
            state,
            holder: node(holder),
            nonce: nonce.clone(),
            attempt: 1,
            detail: String::new(),
            log_tail: String::new(),
            claimed_at: 0,
            settled_at: None,
            history: vec![],
        };
        let open = matches!(state, TaskState::Claimed | TaskState::Unknown);
        let head = Head { seq: Seq(seq), release: release(seq), task: record.task.clone(), open };
        let app = self.app_mut();
        app.tasks.retain(|t| t.task != record.task);
        app.tasks.push(record);
        app.head = Some(head);
        app.lock = (state == TaskState::Claimed).then(|| LockRecord { holder: node(holder), nonce });
    }

    pub fn new_leader(&mut self) {
        self.timers = Timers::default();
    }

    /// One pass, its decision applied.
    pub fn pass(&mut self, elapsed: Duration) -> Decision {
        let decision = self.plan(elapsed);
        self.apply(&decision);
        decision
    }

    pub fn plan(&self, elapsed: Duration) -> Decision {
        plan(&PlanInput { name: &self.name, fleet: &self.fleet, timers: self.timers.clone(), elapsed, now: self.now })
    }

    /// Passes until nothing is written any more; the writes of all of them in one.
    pub fn settle(&mut self) -> Decision {
        let mut all = Decision::default();
        for _ in 0..10 {
            let decision = self.pass(Duration::ZERO);
            let rests = !decision.writes() || (decision.state.is_none() && decision.desired.is_empty());
            all.desired.extend(decision.desired);
            all.wake_after = decision.wake_after;
            if rests {
                return all;
            }
        }
        panic!("the planner does not come to rest: {:?}", self.state());
    }

    pub fn apply(&mut self, decision: &Decision) {
        self.timers = decision.timers.clone();
        let app = self.app_mut();
        if let Some(state) = &decision.state {
            app.state = Some(state.clone());
        }
        if let Some(stable) = &decision.stable {
            app.stable = Some(stable.clone());
        }
        if let Some((release, verdict)) = &decision.verdict {
            app.releases.get_mut(release).expect("a release").verdict = *verdict;
        }
        decision.forgotten.iter().for_each(|id| drop(app.history.remove(id)));
        app.history.extend(decision.history.iter().map(|(id, h): &(_, HistoryRecord)| (id.clone(), h.clone())));
        for desired in &decision.desired {
            let slot = self.slot_mut(desired.node.as_str());
            let last = slot.desired.as_ref().map_or(Generation(0), |d| d.generation);
            assert_eq!(desired.generation, Generation(last.0 + 1), "generations count one by one");
            slot.desired = Some(desired.clone());
        }
    }
}
