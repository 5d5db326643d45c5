//! `rollback`: an older release, by an operator's word alone. No key signs it: the release's own manifest is signed already, and no server
//! goes below its floor (I2).

use coord_proto::ids::{AppName, NodeName, ReleaseId, Seq};
use coord_proto::keys::KeySpace;
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::rollout::{RolloutKind, RolloutPhase, RolloutSpec, Verdict};

use super::{Judged, OperateError, Options, Sight, because, current, goes_on};
use crate::counts;
use crate::publish::rollout_id;
use crate::rollout::names::short;
use crate::ui::words;
use crate::view::{App, Fleet, ManifestFacts, Node};

/// What a rollback comes to; without a release: to the one before. Pure.
///
/// # Errors
/// A rollout goes on; there is no such release, or none to go back to; a server's floor or a migration forbids it.
pub fn rollback(
    sight: &Sight,
    keys: &KeySpace,
    (name, named): (&AppName, Option<&ReleaseId>),
    options: &Options,
) -> Result<Judged<RolloutSpec>, OperateError> {
    let fleet = &sight.fleet;
    let app = Sight::app(fleet, name)?;
    let (spec, state) = current(app, name)?;
    let rolls_back = spec.purpose() == RolloutKind::Rollback;
    let same = named.is_none_or(|release| *release == spec.release);
    let Some(state) = state.filter(|s| s.phase.ended()) else {
        return if rolls_back && same { Ok(Judged::Already(twice(spec, "goes on"))) } else { Err(goes_on(spec, state)) };
    };
    let is_stable = app.stable.as_ref().is_some_and(|s| s.seq == spec.seq);
    if rolls_back && same && is_stable && state.phase == RolloutPhase::Succeeded {
        return Ok(Judged::Already(twice(spec, "has ended well; name an older release to go further back")));
    }
    let goal = match named {
        Some(release) => the_named(app, name, release, options.force)?,
        // One that did not come to its end is meant again.
        None if rolls_back => facts(app, name, spec.seq)?,
        None => the_one_before(fleet, app, name)?,
    };
    if all_run(fleet, app, name, goal) {
        return Ok(Judged::Already(format!("every server runs release {} already", goal.release)));
    }
    above_all_floors(fleet, name, goal)?;
    if !options.force {
        past_no_barrier(app, name, goal)?;
    }
    Ok(Judged::Do(RolloutSpec {
        id: rollout_id(goal.seq),
        app: name.clone(),
        seq: goal.seq,
        release: goal.release.clone(),
        kind: RolloutKind::Rollback,
        policy: sight.policy(keys, name, goal.seq, options)?,
        limit: None,
        force_run: false,
        retried: None,
        by: options.by.clone(),
    }))
}

fn twice(spec: &RolloutSpec, how: &str) -> String {
    format!("the rollback to release {} was asked for already by {}{}, and {how}", spec.release, spec.by, because(&spec.by))
}

fn list_hint(name: &AppName) -> String {
    format!("`coordctl release list {name}` lists them")
}

fn facts<'a>(app: &'a App, name: &AppName, seq: Seq) -> Result<&'a ManifestFacts, OperateError> {
    let missing = || OperateError::refused(format!("the manifest of release number {seq} is missing or cannot be read"), list_hint(name));
    app.manifests.get(&seq).ok_or_else(missing)
}

fn the_named<'a>(app: &'a App, name: &AppName, release: &ReleaseId, force: bool) -> Result<&'a ManifestFacts, OperateError> {
    let unknown = || OperateError::refused(format!("there is no release {release} of {name}"), list_hint(name));
    let record = app.releases.get(release).ok_or_else(unknown)?;
    if let Some(waits) = &record.waits {
        let words = format!("release {release} waits for {}", counts::signatures(waits.signatures));
        return Err(OperateError::refused(words, format!("`coordctl release sign {name} {release}` adds one")));
    }
    if record.verdict != Verdict::Good && !force {
        let refused = format!("release {release} is {}: no rollout of it came to a good end", words::verdict(record.verdict));
        return Err(OperateError::refused(refused, format!("name a good one ({}), or say --force", list_hint(name))));
    }
    facts(app, name, record.seq)
}

/// The release before: what was stable when the newest one that is wanted anywhere was published. What was rolled back from since, or
/// never proved itself, is not in between.
fn the_one_before<'a>(fleet: &Fleet, app: &'a App, name: &AppName) -> Result<&'a ManifestFacts, OperateError> {
    let newest = newest(fleet, app, name);
    let below = app.manifests.get(&newest).map_or(Seq(0), |f| f.floor);
    let good = |f: &&ManifestFacts| f.seq <= below && f.seq < newest && app.verdict_of(f.seq) == Verdict::Good;
    app.manifests.values().filter(good).max_by_key(|f| f.seq).ok_or_else(|| {
        let now = app.release_of(newest).map_or_else(|| "nothing".to_owned(), |r| format!("release {r}"));
        OperateError::refused(format!("there is no good release of {name} before {now}"), list_hint(name))
    })
}

/// The newest release that is stable, runs, or is wanted on some server.
fn newest(fleet: &Fleet, app: &App, name: &AppName) -> Seq {
    let slots = fleet.nodes.values().filter(|n| n.info.is_some() && !n.cordoned).filter_map(|n| n.apps.get(name));
    let seqs = slots.flat_map(|slot| [slot.desired.as_ref().map(|d| d.run), slot.running().map(|r| r.seq)]);
    seqs.flatten().chain(app.stable.as_ref().map(|s| s.seq)).max().unwrap_or_default()
}

fn may_run<'a>(fleet: &'a Fleet, name: &'a AppName, goal: &'a ManifestFacts) -> impl Iterator<Item = (&'a NodeName, &'a Node)> {
    let matches = |n: &Node| n.info.is_some() && n.allows(name) && goal.targets.matches(&n.labels());
    fleet.nodes.iter().filter(move |(_, n)| matches(n))
}

fn all_run(fleet: &Fleet, app: &App, name: &AppName, goal: &ManifestFacts) -> bool {
    let runs =
        |n: &Node| n.apps.get(name).is_some_and(|slot| slot.runs(goal.seq) && slot.desired.as_ref().is_none_or(|d| d.run == goal.seq));
    let mut nodes = may_run(fleet, name, goal).filter(|(_, n)| !n.cordoned);
    app.stable.as_ref().is_some_and(|s| s.seq == goal.seq) && nodes.all(|(_, n)| runs(n))
}

/// Servers refuse to go below their floor, so one that would is found before any of them is asked.
fn above_all_floors(fleet: &Fleet, name: &AppName, goal: &ManifestFacts) -> Result<(), OperateError> {
    let floor = |n: &Node| n.apps.get(name).and_then(|s| s.status.as_ref()).map_or(Seq(0), |s| s.floor);
    let stuck: Vec<&NodeName> = may_run(fleet, name, goal).filter(|(_, n)| floor(n) > goal.seq).map(|(node, _)| node).collect();
    if stuck.is_empty() {
        return Ok(());
    }
    let words = format!(
        "release {} (number {}) is below the floor of {}: a server never goes back that far",
        goal.release,
        goal.seq,
        short(&stuck)
    );
    let hint = format!(
        "publishing it again is needed, with a signature: check out revision {} and type `coordctl release publish`",
        goal.revision
    );
    Err(OperateError::refused(words, hint))
}

/// No release that would be passed changed what an older one cannot live with, or is about to.
fn past_no_barrier(app: &App, name: &AppName, goal: &ManifestFacts) -> Result<(), OperateError> {
    let passed = app.manifests.values().filter(|f| f.seq > goal.seq);
    for facts in passed {
        if app.bars_rollback(facts) {
            let words =
                format!("release {} has no way back: its migration is not reversible, or what comes after it has begun", facts.release);
            let hint = format!("if release {} works with the database as it is now, say --force", goal.release);
            return Err(OperateError::refused(words, hint));
        }
        let undecided = |r: &&TaskRecord| r.release == facts.release && matches!(r.state, TaskState::Claimed | TaskState::Unknown);
        if let Some(open) = app.tasks.iter().find(undecided) {
            let release = &facts.release;
            let words = format!("the run-once task `{}` of release {release} is not decided: it may still be running", open.task);
            return Err(OperateError::refused(words, format!("look with `coordctl migration show {name} {release}`; or say --force")));
        }
    }
    Ok(())
}
