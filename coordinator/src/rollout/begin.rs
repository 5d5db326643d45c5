//! The first state of a rollout, and the last of the one that it replaces.

use std::collections::BTreeSet;

use coord_proto::coordinator::HistoryRecord;
use coord_proto::ids::{RolloutId, Seq};
use coord_proto::limits::HISTORY_MAX;
use coord_proto::rollout::{RolloutKind, RolloutPhase, RolloutSpec, RolloutState};

use super::roster::Roster;
use super::{Decision, PlanInput, again, batches};
use crate::counts;
use crate::view::{App, ManifestFacts};

/// Batches against the live membership, budgets of the targets at the start.
pub fn first_state(input: &PlanInput<'_>, app: &App, spec: &RolloutSpec, facts: &ManifestFacts, out: &mut Decision) -> RolloutState {
    let targets = match spec.kind {
        RolloutKind::Retry => again::targets(input, app, spec, facts),
        _ => batches::choose(input, app, spec, facts),
    };
    let total = targets.len();
    let mut state = RolloutState {
        id: spec.id.clone(),
        seq: spec.seq,
        release: spec.release.clone(),
        phase: RolloutPhase::Staging,
        batch: 0,
        batches: targets.last().map_or(0, |t| t.batch + 1),
        max_failed: spec.policy.max_failed.of(total),
        max_unreachable: spec.policy.max_unreachable.of(total),
        targets,
        batch_elapsed: 0,
        whole: true,
        previous_stable: app.stable.as_ref().map_or(Seq(0), |s| s.seq),
        reason: String::new(),
        generation: 0,
        started_at: input.now,
        ended_at: None,
        // A wish names its rollout: one that was there before this one is not for it.
        wish_revision: 0,
        paused: false,
        // What an operator asks for beside a new release has its word already.
        promoted: matches!(spec.kind, RolloutKind::Rollback | RolloutKind::Retry | RolloutKind::Restart),
        turned_back: false,
        aborted: false,
    };
    state.whole = batches::covers_all(input, facts, &Roster::of(&input.fleet.nodes, &state.targets));
    let kind = if spec.kind == RolloutKind::Publish { String::new() } else { format!(", a {},", spec.kind.word()) };
    let size = format!("{} in {}", counts::servers(total), counts::batches(state.batches));
    out.events.push(format!("rollout {} of release {}{kind} began on {size}", spec.id, spec.release));
    state
}

/// Another rollout takes the place of one that had not ended: it goes into the history as superseded.
pub fn supersede(input: &PlanInput<'_>, app: &App, replaced: Option<&RolloutState>, by: &RolloutSpec, out: &mut Decision) {
    let Some(old) = replaced.filter(|s| !s.phase.ended()) else { return };
    let mut state = old.clone();
    state.phase = RolloutPhase::Superseded;
    state.ended_at = Some(input.now);
    state.reason = format!("rollout {} of release {} took its place", by.id, by.release);
    out.events.push(format!("rollout {} of release {} ended, superseded by rollout {}", old.id, old.release, by.id));
    out.history.push((old.id.clone(), HistoryRecord { spec: None, state }));
    cap_history(app, out, HISTORY_MAX);
}

/// Forgets the oldest finished rollouts over `max`, those that are being added counted in.
pub fn cap_history(app: &App, out: &mut Decision, max: usize) {
    let added: BTreeSet<&RolloutId> = out.history.iter().map(|(id, _)| id).collect();
    let mut kept: Vec<(i64, &RolloutId)> =
        app.history.iter().filter(|(id, _)| !added.contains(id)).map(|(id, h)| (h.state.started_at, id)).collect();
    kept.sort();
    let over = (kept.len() + added.len()).saturating_sub(max);
    out.forgotten = kept.into_iter().take(over).map(|(_, id)| id.clone()).collect();
}
