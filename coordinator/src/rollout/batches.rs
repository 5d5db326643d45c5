//! Which servers, in which order, in which batches.

use std::collections::BTreeSet;

use coord_proto::ids::{NodeName, Seq};
use coord_proto::migration::Phase;
use coord_proto::rollout::{Outcome, RolloutPhase, RolloutSpec, RolloutState, Spread, Target, Verdict};

use super::PlanInput;
use super::course::Course;
use crate::view::{App, ManifestFacts, Node};

/// The targets at the start, in their order. A known server without presence is one too: unreachable.
pub fn choose(input: &PlanInput<'_>, app: &App, spec: &RolloutSpec, facts: &ManifestFacts) -> Vec<Target> {
    let mut nodes: Vec<(&NodeName, &Node)> = input.fleet.nodes.iter().filter(|(_, n)| wanted(input, spec, facts, n)).collect();
    nodes.sort_by_cached_key(|(name, node)| order(spec, facts, name, node));
    let (total, mut targets) = (nodes.len(), Vec::new());
    let mut zone = None;
    let (mut batch, mut room) = (0, spec.policy.serial.size(0, total));
    for (name, node) in nodes {
        let next_zone = spread_zone(spec, node);
        let border = room == 0 || (zone.is_some() && zone != Some(next_zone.clone()));
        if border {
            batch += 1;
            room = spec.policy.serial.size(batch, total);
        }
        zone = Some(next_zone);
        room -= 1;
        targets.push(target(input, app, name, batch));
    }
    targets
}

/// Servers that may run a `before` task come first: the others would wait for them, and the batch never end.
fn order(spec: &RolloutSpec, facts: &ManifestFacts, name: &NodeName, node: &Node) -> (usize, String, String) {
    let labels = node.labels();
    let barred = facts.tasks_of(Phase::Before).filter(|t| !t.on.iter().all(|(k, v)| labels.get(k) == Some(v))).count();
    (barred, spread_zone(spec, node), name.to_string())
}

fn spread_zone(spec: &RolloutSpec, node: &Node) -> String {
    match spec.policy.spread {
        Spread::None => String::new(),
        Spread::Zone => node.labels().remove("zone").unwrap_or_default(),
    }
}

fn target(input: &PlanInput<'_>, app: &App, name: &NodeName, batch: usize) -> Target {
    Target { node: name.clone(), batch, prior: prior(input, app, name), told: false, outcome: Outcome::Pending }
}

/// Where a rollback takes a server: to the good release that it runs, else to `stable`; 0 when there is neither.
///
/// A release that a superseded rollout left there unproven is no place to go back to.
fn prior(input: &PlanInput<'_>, app: &App, name: &NodeName) -> Seq {
    let stable = app.stable.as_ref().map_or(Seq(0), |s| s.seq);
    let running = input.fleet.node_app(name, input.name).and_then(|s| s.status.as_ref()?.running.as_ref());
    let good = |seq: Seq| app.releases.values().any(|r| r.seq == seq && r.verdict == Verdict::Good);
    running.map(|r| r.seq).filter(|&seq| seq >= stable && good(seq)).unwrap_or(stable)
}

/// Does the server belong into this rollout?
pub fn wanted(input: &PlanInput<'_>, spec: &RolloutSpec, facts: &ManifestFacts, node: &Node) -> bool {
    matches(input, facts, node) && spec.limit.as_ref().is_none_or(|l| l.matches(&node.labels()))
}

/// May the server run this release at all?
pub fn matches(input: &PlanInput<'_>, facts: &ManifestFacts, node: &Node) -> bool {
    node.info.is_some() && !node.cordoned && node.allows(input.name) && facts.targets.matches(&node.labels())
}

/// Are all matching servers that are not cordoned in it? A server that cannot be read may be one that is not.
pub fn covers_all(input: &PlanInput<'_>, facts: &ManifestFacts, state: &RolloutState) -> bool {
    let covered: BTreeSet<&NodeName> = state.targets.iter().map(|t| &t.node).collect();
    input.fleet.nodes.iter().all(|(name, n)| !n.unreadable && (covered.contains(name) || !matches(input, facts, n)))
}

impl Course<'_> {
    /// Forgotten and cordoned servers leave, newcomers and returners are appended: nothing is reshuffled.
    pub fn follow_membership(&mut self) {
        if self.state.phase == RolloutPhase::RollingBack {
            return;
        }
        self.drop_leavers();
        self.readmit_returners();
        self.append_newcomers();
    }

    fn drop_leavers(&mut self) {
        let fleet = self.input.fleet;
        let stays = |t: &Target| fleet.nodes.get(&t.node).is_some_and(|n| (n.info.is_some() || n.unreadable) && (t.told || !n.cordoned));
        let left: Vec<String> = self.state.targets.iter().filter(|t| !stays(t)).map(|t| t.node.to_string()).collect();
        if !left.is_empty() {
            self.state.targets.retain(stays);
            self.note(&format!("goes on without {}, cordoned or forgotten", left.join(", ")));
        }
    }

    /// Servers whose turn has passed while they were away get a new one at the end.
    fn readmit_returners(&mut self) {
        let running = self.state.phase != RolloutPhase::Staging;
        let missed = |t: &Target| running && !t.told && t.batch <= self.state.batch && t.outcome != Outcome::Failed;
        let present = |t: &Target| self.input.fleet.nodes.get(&t.node).is_some_and(|n| n.present);
        let back: Vec<usize> =
            (0..self.state.targets.len()).filter(|&i| missed(&self.state.targets[i]) && present(&self.state.targets[i])).collect();
        for index in back.into_iter().rev() {
            let node = self.state.targets.remove(index).node;
            self.append(&node);
        }
    }

    fn append_newcomers(&mut self) {
        let known: BTreeSet<NodeName> = self.state.targets.iter().map(|t| t.node.clone()).collect();
        let fleet = self.input.fleet;
        let new = |(name, n): &(&NodeName, &Node)| n.present && !known.contains(*name) && wanted(self.input, self.spec, self.facts, n);
        let new: Vec<NodeName> = fleet.nodes.iter().filter(new).map(|(name, _)| name.clone()).collect();
        for node in new {
            self.append(&node);
        }
    }

    /// Into the last batch if it has not opened and has room, else into a new one.
    fn append(&mut self, node: &NodeName) {
        let late = self.state.batch >= self.state.batches && self.state.batches > 0;
        let mut added = target(self.input, self.app, node, self.batch_for_one_more());
        self.state.batches = self.state.batches.max(added.batch + 1);
        // After the last batch nothing waits for its turn any more.
        if late {
            added.told = true;
            self.state.batch = self.state.batches;
        }
        self.state.targets.push(added);
        self.note(&format!("takes in {node}"));
    }

    fn batch_for_one_more(&self) -> usize {
        let Some(last) = self.state.batches.checked_sub(1) else { return 0 };
        let opened = self.state.phase != RolloutPhase::Staging && last <= self.state.batch;
        let size = self.spec.policy.serial.size(last, self.state.targets.len());
        let full = self.state.batch_targets(last).count() >= size;
        if opened || full { last + 1 } else { last }
    }
}
