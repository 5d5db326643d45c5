//! What every server is told, derived from the state: only what differs is written.

use coord_proto::desired::Desired;
use coord_proto::ids::{Generation, NodeName, Seq};
use coord_proto::migration::Phase;
use coord_proto::report::Step;
use coord_proto::rollout::{Outcome, RolloutPhase, Serial, StableRecord, Target, Verdict};

use super::course::Course;
use super::roster::Roster;
use super::{PlanInput, batches, progress};
use crate::view::{App, ManifestFacts, Node, NodeApp};

/// The part of a desired record that a rollout decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    run: Seq,
    stage: Option<Seq>,
    after: Option<Seq>,
    may_migrate: bool,
}

/// Desired records that differ from what they should be: the targets', and everybody else's.
pub(super) fn all(course: &Course<'_>) -> Vec<Desired> {
    let mut written = targets(course);
    let outside = Outside { roster: &course.roster, moved: moved(course), serial: Some(&course.spec.policy.serial) };
    written.extend(newcomers(course.input, course.app, &outside));
    written
}

/// How servers that are in no rollout are looked at.
pub(super) struct Outside<'a> {
    pub roster: &'a Roster<'a>,
    /// `stable`, if it moves in this very pass.
    pub moved: Option<&'a StableRecord>,
    /// How many of those that must leave a release above `stable` may be on their way at a time; none: one.
    pub serial: Option<&'a Serial>,
}

fn targets(course: &Course<'_>) -> Vec<Desired> {
    let after = after_is_due(course);
    let tell = |(target, node): (&Target, Option<&Node>)| {
        let slot = node?.apps.get(course.input.name);
        if slot.is_some_and(|s| s.unreadable) {
            return None;
        }
        let existing = slot.and_then(|s| s.desired.as_ref());
        let order = order(course, target, slot, after)?;
        differs(course, existing, &order).then(|| record(course, target, existing, order))
    };
    course.servers().filter_map(tell).collect()
}

fn order(course: &Course<'_>, target: &Target, slot: Option<&NodeApp>, after: bool) -> Option<Order> {
    let (state, seq) = (&course.state, course.state.seq);
    let existing = slot.and_then(|s| s.desired.as_ref());
    let run_it = Order { run: seq, stage: None, after: after.then_some(seq), may_migrate: true };
    let hold = Order { run: hold(course, slot), stage: None, after: None, may_migrate: false };
    match state.phase {
        RolloutPhase::Staging
        | RolloutPhase::Running
        | RolloutPhase::AwaitingPromotion
        | RolloutPhase::AwaitingDecision
        | RolloutPhase::Finishing => Some(if target.told { run_it } else { Order { stage: Some(seq), ..hold } }),
        RolloutPhase::RollingBack | RolloutPhase::RolledBack | RolloutPhase::Aborted | RolloutPhase::Halted if !target.told => Some(hold),
        RolloutPhase::RollingBack | RolloutPhase::RolledBack | RolloutPhase::Aborted => Some(Order { run: back(target, slot), ..hold }),
        // One did not return, or not yet: nobody is sent to the bad release again.
        RolloutPhase::Halted if state.turned_back => Some(Order { run: back(target, slot), ..hold }),
        // Left as it is, whatever it was told.
        RolloutPhase::Halted => Some(as_before(hold.run, existing)),
        // A server that was away takes what is stable now, as every newcomer does.
        RolloutPhase::Succeeded => {
            let run = if target.told { seq } else { stable_of(course.app, moved(course)).map_or(hold.run, |s| s.seq) };
            Some(as_before(run, existing))
        }
        RolloutPhase::Superseded | RolloutPhase::Unknown => None,
    }
}

/// Where the way back takes a server that was told: with nothing to go back to, it stays where it is. One that has not
/// switched yet does not do so any more; what it reports meanwhile changes nothing in that.
fn back(target: &Target, slot: Option<&NodeApp>) -> Seq {
    if target.prior.0 > 0 {
        return target.prior;
    }
    let existing = slot.and_then(|s| s.desired.as_ref());
    existing.map_or(Seq(0), |d| if d.may_migrate { running(slot) } else { d.run })
}

/// What a server runs; 0: nothing, or nobody knows.
fn running(slot: Option<&NodeApp>) -> Seq {
    slot.and_then(NodeApp::running).map_or(Seq(0), |r| r.seq)
}

/// The end changes nothing in a record that says this release already.
fn as_before(run: Seq, existing: Option<&Desired>) -> Order {
    let same = existing.filter(|d| d.run == run);
    let (after, may_migrate) = same.map_or((None, false), |d| (d.after, d.may_migrate));
    Order { run, stage: None, after, may_migrate }
}

/// What a server keeps until its turn: what it was told by this rollout, else what it runs or is about to run, and never
/// less than `stable`.
fn hold(course: &Course<'_>, slot: Option<&NodeApp>) -> Seq {
    let desired = slot.and_then(|s| s.desired.as_ref());
    if let Some(held) = desired.filter(|d| d.rollout.as_ref() == Some(&course.state.id)) {
        return held.run;
    }
    let running = running(slot);
    // One that is still on its way back reports what it leaves: it must not turn round before its batch opens.
    let told = desired.map(|d| d.run).filter(|run| *run > Seq(0)).unwrap_or(running);
    let run = slot.and_then(half_way).unwrap_or(running.min(told)).max(course.state.previous_stable);
    // What was rolled back from is left at once.
    course.app.stable.as_ref().filter(|s| s.overrules(run)).map_or(run, |s| s.seq)
}

/// What a server switches to this very moment, told by a rollout that was superseded. It brings that to its end whatever it
/// is told, so to call it back would only restart it twice more.
fn half_way(slot: &NodeApp) -> Option<Seq> {
    let (desired, status) = (slot.desired.as_ref()?, slot.status.as_ref()?);
    let switches = matches!(status.step, Step::Draining | Step::Switching | Step::Restarting | Step::Probing | Step::Undraining);
    (switches && status.generation == desired.generation).then_some(desired.run)
}

/// The `after` tasks are due once every target runs the release, and stay so.
fn after_is_due(course: &Course<'_>) -> bool {
    let state = &course.state;
    let asked = |(_, node): (&Target, Option<&Node>)| {
        let slot = node.and_then(|n| n.apps.get(course.input.name));
        slot.and_then(|s| s.desired.as_ref()).is_some_and(|d| d.rollout.as_ref() == Some(&state.id) && d.after == Some(state.seq))
    };
    let late = course.after_last_batch() && matches!(state.phase, RolloutPhase::Finishing | RolloutPhase::AwaitingDecision);
    let all_run = || state.phase == RolloutPhase::Finishing && state.targets.iter().all(|t| t.outcome == Outcome::Done);
    late && course.facts.tasks_of(Phase::After).next().is_some() && (all_run() || course.servers().any(asked))
}

fn differs(course: &Course<'_>, existing: Option<&Desired>, order: &Order) -> bool {
    let Some(d) = existing else { return true };
    let same = d.run == order.run && d.stage == order.stage && d.after == order.after && d.may_migrate == order.may_migrate;
    // An ended rollout does not claim a record that says the right thing already.
    !same || (!course.state.phase.ended() && d.rollout.as_ref() != Some(&course.state.id))
}

fn record(course: &Course<'_>, target: &Target, existing: Option<&Desired>, order: Order) -> Desired {
    let id = &course.state.id;
    let ours = existing.filter(|d| d.rollout.as_ref() == Some(id));
    let restart = existing.map_or(0, |d| d.restart);
    let restarts = course.spec.force_run && target.told && order.run == course.state.seq && ours.is_none_or(|d| !d.may_migrate);
    Desired {
        node: target.node.clone(),
        app: course.input.name.clone(),
        run: order.run,
        stage: order.stage,
        after: order.after,
        generation: next_generation(existing),
        rollout: Some(id.clone()),
        may_migrate: order.may_migrate,
        restart: if restarts { restart + 1 } else { restart },
        // A new rollout is a new wish: what failed before is tried again.
        attempt: existing.map_or(0, |d| d.attempt) + u64::from(ours.is_none()),
    }
}

fn next_generation(existing: Option<&Desired>) -> Generation {
    Generation(existing.map_or(0, |d| d.generation.0) + 1)
}

/// `stable`, if it moves in this very pass.
fn moved<'a>(course: &'a Course<'_>) -> Option<&'a StableRecord> {
    course.out.stable.as_ref()
}

fn stable_of<'a>(app: &'a App, moved: Option<&'a StableRecord>) -> Option<&'a StableRecord> {
    moved.or(app.stable.as_ref())
}

/// Servers outside the rollout: they take `stable`, and wait for migrations without claiming them.
///
/// Who must leave a release above it, because that halted or was superseded, serves meanwhile: only so many at a time, or a
/// `--limit` rollout would restart all others at once.
pub(super) fn newcomers(input: &PlanInput<'_>, app: &App, outside: &Outside<'_>) -> Vec<Desired> {
    let Some(stable) = stable_of(app, outside.moved) else { return Vec::new() };
    let Some(facts) = app.manifests.get(&stable.seq) else { return Vec::new() };
    let mut room = None;
    let tell = |&(name, node): &(&NodeName, &Node)| {
        let told = take_stable(input, app, (name, node), stable)?;
        if must_leave(node.apps.get(input.name), stable) {
            // One that is away is told when it is back: many that come back together would leave it together.
            let left: &mut usize = room.get_or_insert_with(|| room_to_leave(input, facts, outside, stable));
            *left = left.checked_sub(1).filter(|_| node.present)?;
        }
        Some(told)
    };
    outside.roster.others.iter().filter(|(_, n)| batches::matches(input, facts, n)).filter_map(tell).collect()
}

/// How many more may leave now: as many as the last batch has, less those that are on their way.
fn room_to_leave(input: &PlanInput<'_>, facts: &ManifestFacts, outside: &Outside<'_>, stable: &StableRecord) -> usize {
    let total = input.fleet.nodes.values().filter(|n| batches::matches(input, facts, n)).count();
    let on_its_way = |n: &Node| n.present && n.apps.get(input.name).is_some_and(|slot| leaves(slot, stable));
    let leaving = outside.roster.others.iter().filter(|(_, n)| batches::matches(input, facts, n) && on_its_way(n)).count();
    outside.serial.map_or(1, |s| s.size(usize::MAX, total)).saturating_sub(leaving)
}

/// Does it serve with a release above `stable` that nobody moved that back from? (Else it goes by itself, told or not.)
fn must_leave(slot: Option<&NodeApp>, stable: &StableRecord) -> bool {
    let told = slot.and_then(|s| s.desired.as_ref()).map_or(Seq(0), |d| d.run);
    running(slot) > stable.seq && told > stable.seq && !stable.overrules(told)
}

/// Was it told to take `stable` while it served with another one, and is not there yet? One that answered that it cannot holds up
/// nobody: it serves with what it had.
fn leaves(slot: &NodeApp, stable: &StableRecord) -> bool {
    let (Some(desired), Some(status)) = (&slot.desired, &slot.status) else { return false };
    let there = slot.runs(stable.seq) && progress::settled(status.step);
    let answered = status.generation >= desired.generation && (there || status.failure.as_ref().is_some_and(|f| f.seq == stable.seq));
    desired.run == stable.seq && slot.running().is_some() && !answered
}

/// May a server outside the rollout keep a release above `stable`?
///
/// A `--limit` canary that worked was put there on purpose, and stays. What failed, was aborted, or was superseded before
/// it had proved itself does not: nothing would ever take it away. A migration without a way back keeps its servers.
fn stays_above(app: &App, run: Seq) -> bool {
    app.verdict_of(run) == Verdict::Good || app.manifests.get(&run).is_some_and(|facts| app.bars_rollback(facts))
}

fn take_stable(input: &PlanInput<'_>, app: &App, (name, node): (&NodeName, &Node), stable: &StableRecord) -> Option<Desired> {
    let slot = node.apps.get(input.name);
    if slot.is_some_and(|s| s.unreadable) {
        return None;
    }
    let existing = slot.and_then(|s| s.desired.as_ref());
    let above = existing.map(|d| d.run).filter(|run| *run > stable.seq && !stable.overrules(*run) && stays_above(app, *run));
    let run = above.unwrap_or(stable.seq);
    if existing.is_some_and(|d| d.run == run && d.stage.is_none()) {
        return None;
    }
    Some(Desired {
        node: name.clone(),
        app: input.name.clone(),
        run,
        stage: None,
        after: None,
        generation: next_generation(existing),
        rollout: None,
        may_migrate: false,
        restart: existing.map_or(0, |d| d.restart),
        attempt: existing.map_or(0, |d| d.attempt),
    })
}
