//! Whom a retry is for.

use std::collections::BTreeSet;

use coord_proto::ids::NodeName;
use coord_proto::rollout::{Outcome, RolloutPhase, RolloutSpec, RolloutState, Target};

use super::PlanInput;
use super::batches::{self, Cut};
use crate::view::{App, ManifestFacts};

/// Did this server not make it, so that a retry is for it?
pub fn failed(target: &Target) -> bool {
    matches!(target.outcome, Outcome::Failed | Outcome::Unreachable)
}

/// The rollout that a retry goes on with, as it ended.
fn ended<'a>(app: &'a App, spec: &RolloutSpec) -> Option<&'a RolloutState> {
    app.state_of(&spec.retried.as_ref()?.rollout)
}

/// The servers that failed, in batches behind those that did their part: these stay in it, so that they still count, and
/// go back with the others if it comes to that.
pub fn targets(input: &PlanInput<'_>, app: &App, spec: &RolloutSpec, facts: &ManifestFacts) -> Vec<Target> {
    let Some(old) = ended(app, spec) else { return Vec::new() };
    let nodes = input.fleet.nodes.iter().filter(|(_, n)| batches::wanted(input, spec, facts, n));
    let wanted: BTreeSet<&NodeName> = nodes.map(|(name, _)| name).collect();
    let of_old = |which: &dyn Fn(&Target) -> bool| -> Vec<Target> {
        old.targets.iter().filter(|t| which(t) && wanted.contains(&t.node)).map(|t| fresh(app, old, t)).collect()
    };
    // Whoever went back runs it no longer; who was still at it when it ended was left at it.
    let keeps = |t: &Target| t.told && matches!(t.outcome, Outcome::Done | Outcome::Pending) && !went_back(old);
    let mut targets = of_old(&keeps);
    let zone = |t: &Target| batches::zone_of(input, spec, &t.node);
    let mut failed = of_old(&failed);
    failed.sort_by_cached_key(|t| batches::rank_of(input, spec, facts, &t.node));
    let (first, mut cut) = (usize::from(!targets.is_empty()), Cut::new(&spec.policy.serial, failed.len()));
    targets.extend(failed.into_iter().map(|target| Target { batch: first + cut.next(zone(&target)), ..target }));
    targets
}

fn went_back(old: &RolloutState) -> bool {
    old.turned_back || matches!(old.phase, RolloutPhase::RolledBack | RolloutPhase::Aborted)
}

/// In the first batch; not yet told, if it failed. Nothing goes back behind what is stable by now.
fn fresh(app: &App, old: &RolloutState, target: &Target) -> Target {
    let stable = app.stable.as_ref().is_some_and(|s| s.seq == old.seq);
    let prior = if stable { old.seq } else { target.prior };
    let (told, outcome) = if failed(target) { (false, Outcome::Pending) } else { (target.told, target.outcome) };
    Target { node: target.node.clone(), batch: 0, prior, told, outcome }
}
