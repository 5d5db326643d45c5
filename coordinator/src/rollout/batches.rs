//! Which servers, in which order, in which batches.

use std::collections::BTreeSet;

use coord_proto::ids::{NodeName, Seq};
use coord_proto::labels;
use coord_proto::migration::Phase;
use coord_proto::rollout::{Outcome, RolloutKind, RolloutPhase, RolloutSpec, Serial, Spread, Target, Verdict};

use super::course::Course;
use super::roster::Roster;
use super::{PlanInput, names};
use crate::view::{App, ManifestFacts, Node, NodeApp};

/// The targets at the start, in their order. A known server without presence is one too: unreachable.
pub fn choose(input: &PlanInput<'_>, app: &App, spec: &RolloutSpec, facts: &ManifestFacts) -> Vec<Target> {
    let mut nodes: Vec<(&NodeName, &Node)> = input.fleet.nodes.iter().filter(|(_, n)| wanted(input, spec, facts, n)).collect();
    nodes.sort_by_cached_key(|(name, node)| order(spec, facts, name, node));
    let (mut cut, good) = (Cut::new(&spec.policy.serial, nodes.len()), good_seqs(app));
    nodes.into_iter().map(|(name, node)| target(input, app, &good, name, cut.next(spread_zone(spec, node)))).collect()
}

/// Cuts servers, in their order, into batches: at the policy's size, and where a zone ends.
pub(super) struct Cut<'a> {
    serial: &'a Serial,
    total: usize,
    batch: usize,
    room: usize,
    zone: Option<&'a str>,
}

impl<'a> Cut<'a> {
    pub fn new(serial: &'a Serial, total: usize) -> Self {
        Self { serial, total, batch: 0, room: serial.size(0, total), zone: None }
    }

    /// The batch of the next server, which is in this zone.
    pub fn next(&mut self, zone: &'a str) -> usize {
        if self.room == 0 || self.zone.is_some_and(|last| last != zone) {
            self.batch += 1;
            self.room = self.serial.size(self.batch, self.total);
        }
        self.zone = Some(zone);
        self.room -= 1;
        self.batch
    }
}

fn order<'a>(spec: &RolloutSpec, facts: &ManifestFacts, name: &'a NodeName, node: &'a Node) -> ((usize, &'a str), &'a NodeName) {
    (rank(spec, facts, node), name)
}

/// Servers that may run a `before` task come first: the others would wait for them, and the batch never end. Then zone by zone.
fn rank<'a>(spec: &RolloutSpec, facts: &ManifestFacts, node: &'a Node) -> (usize, &'a str) {
    let barred = facts.tasks_of(Phase::Before).filter(|t| !labels::matches_by(&t.on, |name| node.label(name))).count();
    (barred, spread_zone(spec, node))
}

/// [`rank`] of a server by its name: how those that come later are sorted.
pub(super) fn rank_of<'a>(input: &PlanInput<'a>, spec: &RolloutSpec, facts: &ManifestFacts, name: &NodeName) -> (usize, &'a str) {
    input.fleet.nodes.get(name).map(|node| rank(spec, facts, node)).unwrap_or_default()
}

fn spread_zone<'a>(spec: &RolloutSpec, node: &'a Node) -> &'a str {
    match spec.policy.spread {
        Spread::None => "",
        Spread::Zone => node.label("zone").unwrap_or_default(),
    }
}

/// The zone that keeps a server apart from others; empty where the policy does not ask, or the server has none.
pub(super) fn zone_of<'a>(input: &PlanInput<'a>, spec: &RolloutSpec, name: &NodeName) -> &'a str {
    input.fleet.nodes.get(name).map(|node| spread_zone(spec, node)).unwrap_or_default()
}

fn target(input: &PlanInput<'_>, app: &App, good: &BTreeSet<Seq>, name: &NodeName, batch: usize) -> Target {
    Target { node: name.clone(), batch, prior: prior(input, app, good, name), told: false, outcome: Outcome::Pending }
}

/// Where a rollback takes a server: to the good release that it runs, else to `stable`; 0 when there is neither.
///
/// A release that a superseded rollout left there unproven is no place to go back to, nor is one that was rolled back from.
fn prior(input: &PlanInput<'_>, app: &App, good: &BTreeSet<Seq>, name: &NodeName) -> Seq {
    let stable = app.stable.as_ref().map_or(Seq(0), |s| s.seq);
    let running = input.fleet.node_app(name, input.name).and_then(NodeApp::running);
    let left = |seq: Seq| app.stable.as_ref().is_some_and(|s| s.overrules(seq));
    running.map(|r| r.seq).filter(|seq| !left(*seq) && good.contains(seq)).unwrap_or(stable)
}

fn good_seqs(app: &App) -> BTreeSet<Seq> {
    app.releases.values().filter(|r| r.verdict == Verdict::Good).map(|r| r.seq).collect()
}

/// Does the server belong into this rollout?
pub fn wanted(input: &PlanInput<'_>, spec: &RolloutSpec, facts: &ManifestFacts, node: &Node) -> bool {
    // Only what runs the release is restarted: a canary above it stays where it was put.
    let runs = || node.apps.get(input.name).is_some_and(|slot| slot.runs(spec.seq));
    let limited = spec.limit.as_ref().is_none_or(|l| l.matches_by(|name| node.label(name)));
    limited && matches(input, facts, node) && (spec.purpose() != RolloutKind::Restart || runs())
}

/// May the server run this release at all?
pub fn matches(input: &PlanInput<'_>, facts: &ManifestFacts, node: &Node) -> bool {
    node.info.is_some() && !node.cordoned && node.allows(input.name) && facts.targets.matches_by(|name| node.label(name))
}

/// Are all matching servers that are not cordoned in it? A server that cannot be read may be one that is not.
pub fn covers_all(input: &PlanInput<'_>, facts: &ManifestFacts, roster: &Roster<'_>) -> bool {
    let readable = roster.targets.iter().flatten().all(|n| !n.unreadable);
    readable && roster.others.iter().all(|(_, n)| !n.unreadable && !matches(input, facts, n))
}

impl Course<'_> {
    /// Forgotten and cordoned servers leave, newcomers and returners are appended: nothing is reshuffled.
    pub fn follow_membership(&mut self) {
        if self.state.phase == RolloutPhase::RollingBack {
            return;
        }
        self.drop_leavers();
        let newcomers = self.newcomers();
        let mut joining = self.take_out_returners();
        joining.extend(newcomers);
        joining.sort_by_cached_key(|name| rank_of(self.input, self.spec, self.facts, name));
        self.append(&joining);
    }

    fn drop_leavers(&mut self) {
        let known = |n: &Node| n.info.is_some() || n.unreadable;
        let left = self.take_out(|t, node| !node.is_some_and(|n| known(n) && (t.told || !n.cordoned)));
        if !left.is_empty() {
            self.note(&format!("goes on without {}, cordoned or forgotten", names::short(&left)));
        }
    }

    /// Servers whose turn has passed while they were away get a new one at the end.
    fn take_out_returners(&mut self) -> Vec<NodeName> {
        let (running, open) = (self.state.phase != RolloutPhase::Staging, self.state.batch);
        let missed = |t: &Target| running && !t.told && t.batch <= open && t.outcome != Outcome::Failed;
        self.take_out(|t, node| missed(t) && node.is_some_and(|n| n.present))
    }

    fn take_out(&mut self, goes: impl Fn(&Target, Option<&Node>) -> bool) -> Vec<NodeName> {
        let mut nodes = self.roster.targets.iter();
        let out = self.state.targets.extract_if(.., |t| goes(t, nodes.next().copied().flatten()));
        let out: Vec<NodeName> = out.map(|t| t.node).collect();
        if !out.is_empty() {
            self.call_the_roll();
        }
        out
    }

    /// A retry and a restart are for the servers that were there when they were asked for: the others take `stable`.
    pub fn takes_newcomers(&self) -> bool {
        !matches!(self.spec.kind, RolloutKind::Retry | RolloutKind::Restart)
    }

    fn newcomers(&self) -> Vec<NodeName> {
        if !self.takes_newcomers() {
            return Vec::new();
        }
        let new = |(_, n): &&(&NodeName, &Node)| n.present && wanted(self.input, self.spec, self.facts, n);
        self.roster.others.iter().filter(new).map(|(name, _)| (*name).clone()).collect()
    }

    /// Into the last batch if it has not opened and has room, else into new ones.
    fn append(&mut self, nodes: &[NodeName]) {
        if nodes.is_empty() {
            return;
        }
        let good = good_seqs(self.app);
        let mut taken = self.state.batches.checked_sub(1).map_or(0, |last| self.state.batch_targets(last).count());
        for node in nodes {
            let late = self.state.batch >= self.state.batches && self.state.batches > 0;
            if !self.has_room(taken, node) {
                self.state.batches += 1;
                taken = 0;
            }
            taken += 1;
            let mut added = target(self.input, self.app, &good, node, self.state.batches - 1);
            // After the last batch nothing waits for its turn any more.
            if late {
                added.told = true;
                self.state.batch = self.state.batches;
            }
            self.state.targets.push(added);
        }
        self.call_the_roll();
        self.note(&format!("takes in {}", names::short(nodes)));
    }

    /// Does the last batch, with so many servers in it, take this one too?
    fn has_room(&self, taken: usize, node: &NodeName) -> bool {
        let Some(last) = self.state.batches.checked_sub(1) else { return false };
        let opened = self.state.phase != RolloutPhase::Staging && last <= self.state.batch;
        let zone = |name: &NodeName| zone_of(self.input, self.spec, name);
        // All of a batch are in one zone: its last one speaks for them.
        let same_zone = || self.state.targets.last().is_none_or(|t| zone(&t.node) == zone(node));
        !opened && taken < self.spec.policy.serial.size(last, self.state.targets.len()) && same_zone()
    }
}
