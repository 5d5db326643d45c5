//! What a rollout would do, reckoned against the live membership before anything is published: the same batches as the planner's, the same
//! room as the servers'. Pure; nothing is written.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_proto::ids::{AppName, Digest, NodeName, ReleaseId, Seq};
use coord_proto::labels::matches;
use coord_proto::manifest::Manifest;
use coord_proto::rollout::{OnFailure, Promote, RolloutPolicy, RolloutSpec, Target};
use coord_proto::room::{Lack, Room};
use serde::Serialize;

use crate::counts;
use crate::rollout::{PlanInput, Timers, choose};
use crate::ui::Failure;
use crate::view::{App, Fleet, ManifestFacts, Node};

mod screen;

/// What is planned for.
#[derive(Debug)]
pub struct Ask<'a> {
    pub fleet: &'a Fleet,
    /// As it would be published.
    pub spec: &'a RolloutSpec,
    pub manifest: &'a Manifest,
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub app: AppName,
    pub release: ReleaseId,
    /// The sequence number that it would have, were it published now.
    pub seq: Seq,
    pub digest: Digest,
    /// Bytes of the archive.
    pub size: u64,
    /// What each server needs to take it in.
    pub needs: Room,
    /// In the order of their turn.
    pub servers: Vec<Planned>,
    pub left_out: Vec<LeftOut>,
    pub rules: Rules,
    /// Why it would be refused, or stop before the first batch; empty: it may be published.
    pub refused: Vec<Refusal>,
}

/// One server's turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    pub server: NodeName,
    /// From 1.
    pub batch: usize,
    pub present: bool,
    /// The release that it runs now.
    pub runs: Option<ReleaseId>,
    /// Bytes that it downloads.
    pub pulls: u64,
    /// Run-once tasks that it may run.
    pub may_run: Vec<String>,
    /// As the server reported it last.
    pub free: Option<Room>,
    pub room: RoomVerdict,
}

/// Does the release fit?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomVerdict {
    /// The server has this release with this artifact.
    Held,
    Enough,
    TooFewBytes,
    TooFewInodes,
    /// The server reports what is free once it runs something.
    NotReported,
}

/// A server that takes no part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftOut {
    pub server: NodeName,
    pub why: &'static str,
}

/// When it goes on, and when not; percentages resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rules {
    pub serial: String,
    /// Servers in each batch.
    pub batches: Vec<usize>,
    pub max_failed: usize,
    pub max_unreachable: usize,
    /// Seconds.
    pub bake: u64,
    pub batch_deadline: u64,
    pub promote: Promote,
    pub on_failure: OnFailure,
    pub reversible: bool,
    /// Where it halts, in words.
    pub halts: String,
}

/// Why it would be refused.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    pub why: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Refusal {
    fn new(why: String, hint: &str) -> Self {
        Self { why, hint: hint.to_owned() }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let why = failure.chain.join(": ");
        Self { why: why.replace("; nothing was changed", ""), hint: failure.hint }
    }
}

impl Plan {
    /// Plans. `refused` is what publishing itself would refuse; what the fleet refuses is added.
    pub fn of(ask: &Ask<'_>, mut refused: Vec<Refusal>) -> Self {
        let (spec, manifest) = (ask.spec, ask.manifest);
        let facts = ManifestFacts::of(manifest);
        let none = App::default();
        let app = ask.fleet.apps.get(&spec.app).unwrap_or(&none);
        // Nothing of it is decided by a clock.
        let input = PlanInput { name: &spec.app, fleet: ask.fleet, timers: Timers::default(), elapsed: Duration::ZERO, now: 0 };
        let needs = Room::needed(&manifest.artifact);
        let targets = choose(&input, app, spec, &facts);
        let servers: Vec<Planned> = targets.iter().filter_map(|target| planned(ask, &facts, needs, target)).collect();
        let rules = Rules::of(&spec.policy, &servers, manifest.reversible());
        refused.extend(refusals(&servers, &rules));
        Self {
            app: spec.app.clone(),
            release: spec.release.clone(),
            seq: spec.seq,
            digest: manifest.artifact.digest.clone(),
            size: manifest.artifact.size,
            needs,
            left_out: left_out(ask, &facts, &servers),
            servers,
            rules,
            refused,
        }
    }
}

fn planned(ask: &Ask<'_>, facts: &ManifestFacts, needs: Room, target: &Target) -> Option<Planned> {
    let node = ask.fleet.nodes.get(&target.node)?;
    let slot = node.apps.get(&ask.spec.app);
    let status = slot.and_then(|slot| slot.status.as_ref());
    let held = status.is_some_and(|status| status.held.get(&ask.spec.release) == Some(&facts.digest));
    let free = status.and_then(|status| status.free);
    let room = match free {
        _ if held => RoomVerdict::Held,
        None => RoomVerdict::NotReported,
        Some(free) => match needs.lacks(free) {
            None => RoomVerdict::Enough,
            Some(Lack::Bytes) => RoomVerdict::TooFewBytes,
            Some(Lack::Inodes) => RoomVerdict::TooFewInodes,
        },
    };
    let labels = node.labels();
    Some(Planned {
        server: target.node.clone(),
        batch: target.batch + 1,
        // A status that cannot be read counts as one that is not there.
        present: node.present && !slot.is_some_and(|slot| slot.unreadable),
        runs: status.and_then(|status| status.running.as_ref()).map(|running| running.release.clone()),
        pulls: if held { 0 } else { facts.size },
        may_run: facts.tasks.iter().filter(|task| matches(&task.on, &labels)).map(|task| task.name.to_string()).collect(),
        free,
        room,
    })
}

fn left_out(ask: &Ask<'_>, facts: &ManifestFacts, servers: &[Planned]) -> Vec<LeftOut> {
    let taken: BTreeSet<&NodeName> = servers.iter().map(|planned| &planned.server).collect();
    let others = ask.fleet.nodes.iter().filter(|(name, _)| !taken.contains(name));
    others.map(|(name, node)| LeftOut { server: name.clone(), why: why_not(ask, facts, node) }).collect()
}

/// The first reason in the order in which a person would put it right.
fn why_not(ask: &Ask<'_>, facts: &ManifestFacts, node: &Node) -> &'static str {
    match () {
        () if node.unreadable => "its record cannot be read",
        () if node.info.is_none() => "it has not registered",
        () if node.cordoned => "cordoned",
        () if !node.allows(&ask.spec.app) => "its configuration does not allow the app",
        () if !facts.targets.matches(&node.labels()) => "its labels do not match [targets]",
        () => "--limit leaves it out",
    }
}

/// What is wrong with the fleet itself.
fn refusals(servers: &[Planned], rules: &Rules) -> Vec<Refusal> {
    let mut refused = Vec::new();
    if servers.is_empty() {
        let hint = "`coordctl node list` shows the servers with their labels";
        refused.push(Refusal::new("no server matches".to_owned(), hint));
    }
    let absent: Vec<&Planned> = servers.iter().filter(|server| !server.present).collect();
    if absent.len() > rules.max_unreachable {
        let why = format!(
            "it would stop before the first batch: {} cannot be reached, and {} {} tolerated",
            screen::names(&absent),
            rules.max_unreachable,
            counts::plural(rules.max_unreachable, "is", "are")
        );
        refused.push(Refusal::new(why, "bring them up, `cordon` them, or raise `max_unreachable`"));
    }
    for (verdict, what) in [(RoomVerdict::TooFewBytes, "disk space"), (RoomVerdict::TooFewInodes, "inodes")] {
        let lacking: Vec<&Planned> = servers.iter().filter(|server| server.present && server.room == verdict).collect();
        if !lacking.is_empty() {
            let why = format!("not enough {what} on {}", screen::names(&lacking));
            refused.push(Refusal::new(why, "make room there; what is needed and free is in the table"));
        }
    }
    refused
}

impl Rules {
    fn of(policy: &RolloutPolicy, servers: &[Planned], reversible: bool) -> Self {
        let total = servers.len();
        let count = |batch: usize| servers.iter().filter(|server| server.batch == batch).count();
        let (max_failed, max_unreachable) = (policy.max_failed.of(total), policy.max_unreachable.of(total));
        Self {
            serial: policy.serial.to_string(),
            batches: (1..=servers.last().map_or(0, |last| last.batch)).map(count).collect(),
            max_failed,
            max_unreachable,
            bake: policy.bake.as_secs(),
            batch_deadline: policy.batch_deadline.as_secs(),
            promote: policy.promote,
            on_failure: policy.on_failure,
            reversible,
            halts: screen::halts(max_failed, max_unreachable, total),
        }
    }
}

#[cfg(test)]
mod tests;
