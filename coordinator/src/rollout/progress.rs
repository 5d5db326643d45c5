//! What one server's report means for a rollout.

use coord_proto::ids::NodeName;
use coord_proto::report::{Failure, FailureCode, HealthState, Status, Step};
use coord_proto::rollout::{Outcome, RolloutState, Target};

use super::PlanInput;
use crate::view::{ManifestFacts, Node, NodeApp};

/// One server, as its records show it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At it, or not yet answering.
    Busy,
    /// The release is ready there; it was not told to run it.
    Staged,
    /// Runs the release, and it works.
    Done,
    /// Runs the release, and it does not work (any more).
    Unhealthy,
    /// Said that it cannot.
    Failed,
    /// Its presence is gone (its lease was the grace), or its records cannot be read.
    Gone,
}

/// Looks at one target.
pub fn look(input: &PlanInput<'_>, state: &RolloutState, facts: &ManifestFacts, (target, node): (&Target, Option<&Node>)) -> Look {
    let Some(node) = node else { return Look::Gone };
    let absent = if node.present { Look::Busy } else { Look::Gone };
    let Some(slot) = node.apps.get(input.name) else { return absent };
    if slot.unreadable {
        return Look::Gone;
    }
    let Some(status) = answer(slot, state) else { return absent };
    if status.failure.as_ref().is_some_and(|f| f.seq == state.seq && counts(f)) {
        return Look::Failed;
    }
    let runs = status.running.as_ref().is_some_and(|r| r.seq == state.seq);
    if target.told && runs && settled(status.step) {
        let restart = slot.desired.as_ref().map_or(0, |d| d.restart);
        match works(status, facts) {
            Some(true) if status.failure.is_none() && status.restarted >= restart => {
                return if node.present { Look::Done } else { Look::Gone };
            }
            Some(false) => return Look::Unhealthy,
            _ => {}
        }
    }
    let ready = !target.told && (runs || status.staged == Some(state.seq));
    if ready && node.present { Look::Staged } else { absent }
}

/// The status, if it answers what this rollout told the server last.
fn answer<'a>(slot: &'a NodeApp, state: &RolloutState) -> Option<&'a Status> {
    let desired = slot.desired.as_ref().filter(|d| d.rollout.as_ref() == Some(&state.id))?;
    slot.status.as_ref().filter(|s| s.generation >= desired.generation)
}

/// Is it a failure of the server, rather than something that passes, or that a person decides for the whole fleet?
fn counts(failure: &Failure) -> bool {
    failure.fell_back || (!failure.code.transient() && failure.code != FailureCode::MigrationUnknown)
}

/// Not in the middle of a switch: before its probe, `health` may still speak of the release before, and until it is undrained it serves nobody.
pub fn settled(step: Step) -> bool {
    !matches!(
        step,
        Step::Migrating
            | Step::WaitingForMigration
            | Step::Draining
            | Step::Switching
            | Step::Restarting
            | Step::Probing
            | Step::Undraining
            | Step::FallingBack
    )
}

fn works(status: &Status, facts: &ManifestFacts) -> Option<bool> {
    match status.health {
        HealthState::Healthy => Some(true),
        HealthState::Unhealthy => Some(false),
        // Nothing to probe: a release that says nothing of its health works when its hooks did.
        HealthState::Unproven if !facts.probed => Some(true),
        HealthState::Unproven | HealthState::Unknown => None,
    }
}

/// Is the server in a run-once task, or waiting for one?
pub fn in_migration(input: &PlanInput<'_>, node: &NodeName) -> bool {
    let status = input.fleet.node_app(node, input.name).and_then(|slot| slot.status.as_ref());
    status.is_some_and(|s| matches!(s.step, Step::Migrating | Step::WaitingForMigration))
}

/// Where the batch of a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is the open one, and works or bakes.
    Open,
    /// It is the open one, and a person decides how it goes on.
    Held,
    /// It has not opened, or another one has since.
    Elsewhere,
}

/// The outcome that follows.
pub fn outcome(target: &Target, look: &Look, turn: Turn) -> Outcome {
    let open = turn != Turn::Elsewhere;
    match (look, target.outcome) {
        (Look::Done, _) => Outcome::Done,
        (Look::Failed, _) => Outcome::Failed,
        // Its batch must stay healthy while it bakes, and nobody knows that of it.
        (Look::Gone, Outcome::Done) if turn == Turn::Open => Outcome::Unreachable,
        // A server that did its part and went away since is no reason to stop.
        (Look::Gone, was @ (Outcome::Done | Outcome::Failed)) => was,
        (Look::Gone, _) => Outcome::Unreachable,
        // Not yet told: it is back, or ready after all, and gets its turn.
        (Look::Staged, _) => Outcome::Pending,
        (Look::Unhealthy, Outcome::Done) if !open => Outcome::Failed,
        (Look::Unhealthy | Look::Busy, Outcome::Done) if open => Outcome::Pending,
        (Look::Unhealthy | Look::Busy, Outcome::Unreachable) if open || !target.told => Outcome::Pending,
        // Late once is late: only its own success makes up for a deadline.
        (Look::Unhealthy | Look::Busy, was) => was,
    }
}

/// Did a told server return to what it had?
pub fn returned(input: &PlanInput<'_>, state: &RolloutState, target: &Target, node: Option<&Node>) -> Look {
    let Some(node) = node else { return Look::Gone };
    let absent = if node.present { Look::Busy } else { Look::Gone };
    let Some(slot) = node.apps.get(input.name).filter(|s| !s.unreadable) else { return absent };
    let wanted = slot.desired.as_ref().is_some_and(|d| d.run == target.prior);
    match answer(slot, state).filter(|_| wanted) {
        None => absent,
        // It may still tell what it failed at before it was called back.
        Some(s) if s.running.as_ref().is_some_and(|r| r.seq == target.prior) && settled(s.step) && s.health != HealthState::Unhealthy => {
            Look::Done
        }
        Some(s) if settled(s.step) && s.failure.as_ref().is_some_and(counts) => Look::Failed,
        Some(_) => absent,
    }
}

/// Where a told server with nothing to go back to has come to rest: `Done` or `Unhealthy` on the release, which it had
/// switched to or finished switching to; `Staged` without it.
pub fn stayed(input: &PlanInput<'_>, state: &RolloutState, node: Option<&Node>) -> Look {
    let Some(node) = node else { return Look::Gone };
    let absent = if node.present { Look::Busy } else { Look::Gone };
    let Some(slot) = node.apps.get(input.name).filter(|s| !s.unreadable) else { return absent };
    // The record that called it back takes the right to migrate.
    let called = slot.desired.as_ref().is_some_and(|d| !d.may_migrate);
    match answer(slot, state).filter(|s| called && s.step == Step::Idle) {
        None => absent,
        Some(_) if !slot.runs(state.seq) => Look::Staged,
        Some(s) if s.health == HealthState::Unhealthy => Look::Unhealthy,
        Some(_) => Look::Done,
    }
}
