//! `rollout retry`: the failed servers once more. `rollout restart`: the same release, its health checked again.

use coord_proto::ids::AppName;
use coord_proto::keys::KeySpace;
use coord_proto::migration::TaskState;
use coord_proto::rollout::{Retried, RolloutKind, RolloutPhase, RolloutSpec, RolloutState};

use super::{Judged, OperateError, Options, Sight, because, current, described, goes_on};
use crate::publish::rollout_id;
use crate::rollout::again::failed;
use crate::view::{App, Fleet};

/// What a retry comes to. Pure.
///
/// # Errors
/// A rollout goes on, or no server failed.
pub fn retry(sight: &Sight, name: &AppName, options: &Options) -> Result<Judged<RolloutSpec>, OperateError> {
    let app = Sight::app(&sight.fleet, name)?;
    let (old, state) = current(app, name)?;
    let Some(state) = state.filter(|s| s.phase.ended()) else { return running(old, state, RolloutKind::Retry) };
    if !state.targets.iter().any(|t| failed(t) && takes_part(&sight.fleet, &t.node)) {
        if old.kind == RolloutKind::Retry && state.phase == RolloutPhase::Succeeded {
            return Ok(Judged::Already(format!("the retry by {} succeeded already: no server is left that failed", old.by)));
        }
        let words = format!("no server failed in {}, so there is none to try again", described(old, Some(state)));
        return Err(OperateError::refused(words, format!("`coordctl rollout status {name}` shows how each one fared")));
    }
    undecided(app, name, old)?;
    Ok(Judged::Do(RolloutSpec {
        id: rollout_id(old.seq),
        kind: RolloutKind::Retry,
        policy: old.policy.clone().with_serial(options.serial.as_ref()),
        force_run: false,
        retried: Some(Retried { rollout: old.id.clone(), kind: old.purpose() }),
        by: options.by.clone(),
        ..old.clone()
    }))
}

fn takes_part(fleet: &Fleet, node: &coord_proto::ids::NodeName) -> bool {
    fleet.nodes.get(node).is_some_and(|n| n.info.is_some() && !n.cordoned)
}

/// A task that failed, or that nobody knows the end of, would only fail or stop the retry again.
fn undecided(app: &App, name: &AppName, old: &RolloutSpec) -> Result<(), OperateError> {
    let waits = |s: TaskState| matches!(s, TaskState::Failed | TaskState::Unknown);
    let Some(task) = app.tasks.iter().find(|t| t.release == old.release && waits(t.state)) else { return Ok(()) };
    let release = &old.release;
    let words = format!("the run-once task `{}` of release {release} did not succeed, and every server would wait for it", task.task);
    let hint = format!("decide it first: coordctl migration resolve {name} {release} --as succeeded|retry");
    Err(OperateError::refused(words, hint))
}

/// The same verb twice is one; beside another rollout it is refused.
fn running(spec: &RolloutSpec, state: Option<&RolloutState>, kind: RolloutKind) -> Result<Judged<RolloutSpec>, OperateError> {
    if spec.kind != kind {
        return Err(goes_on(spec, state));
    }
    let words =
        format!("a {} of release {} was asked for already by {}{}, and goes on", kind.word(), spec.release, spec.by, because(&spec.by));
    Ok(Judged::Already(words))
}

/// What a restart comes to. Pure.
///
/// # Errors
/// A rollout goes on, nothing is stable, or no server runs it.
pub fn restart(sight: &Sight, keys: &KeySpace, name: &AppName, options: &Options) -> Result<Judged<RolloutSpec>, OperateError> {
    let app = Sight::app(&sight.fleet, name)?;
    let (spec, state) = current(app, name)?;
    if !state.is_some_and(|s| s.phase.ended()) {
        return running(spec, state, RolloutKind::Restart);
    }
    let Some(stable) = &app.stable else {
        let words = format!("no release of {name} is stable yet, so there is none to restart");
        return Err(OperateError::refused(words, "a rollout to all servers makes it so"));
    };
    let chosen = |n: &&crate::view::Node| options.limit.as_ref().is_none_or(|l| l.matches(&n.labels()));
    if !sight.fleet.nodes.values().filter(chosen).any(|n| !n.cordoned && n.apps.get(name).is_some_and(|slot| slot.runs(stable.seq))) {
        let words = format!("no server runs release {}, so there is none to restart", stable.release);
        return Err(OperateError::refused(words, "`coordctl status` shows what runs where"));
    }
    Ok(Judged::Do(RolloutSpec {
        id: rollout_id(stable.seq),
        app: name.clone(),
        seq: stable.seq,
        release: stable.release.clone(),
        kind: RolloutKind::Restart,
        policy: sight.policy(keys, name, stable.seq, options)?,
        limit: options.limit.clone(),
        force_run: true,
        retried: None,
        by: options.by.clone(),
    }))
}
