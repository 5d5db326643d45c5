//! `rollout pause|resume|promote|abort`: a wish that is stored, and that the leading coordinator obeys.
//!
//! There is one wish at a time, and none is lost: it is written over the one before only once that was obeyed, and whoever writes it waits
//! until it is obeyed too.

use std::time::Duration;

use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, ReleaseId, Revision, RolloutId};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::rollout::{Actor, RolloutPhase, RolloutSpec, RolloutState, Verb, Wish};
use coord_proto::store::{Compare, SharedStore, Transaction};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Judged, OperateError, Sight, because, current, described};
use crate::commit::audited;
use crate::observe;
use crate::rollout::wishes::may_pause;
use crate::view::{App, Fleet};

/// Longest wait for a coordinator to obey: it takes milliseconds, and another one's taking over a lease's time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A wish to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub rollout: RolloutId,
    /// It replaces the wish of this revision (0: there is none).
    pub over: Revision,
}

/// What is to be done about a verb now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Store(Asked),
    /// A wish before it is not obeyed yet.
    Wait,
}

/// What came of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// For people, past tense.
    pub words: String,
    /// It was so before.
    pub already: bool,
    pub rollout: RolloutId,
    pub release: ReleaseId,
}

/// What a verb comes to. Pure.
///
/// # Errors
/// The rollout is where the verb has no meaning.
pub fn judge(fleet: &Fleet, name: &AppName, verb: Verb) -> Result<Judged<Next>, OperateError> {
    let app = Sight::app(fleet, name)?;
    let (spec, state) = current(app, name)?;
    if let Some(words) = already(app, spec, state, verb) {
        return Ok(Judged::Already(words));
    }
    if !fits(verb, state) {
        return Err(misplaced(spec, state, verb));
    }
    let pending = app.wish.as_ref().is_some_and(|w| w.rollout == spec.id) && app.wish_revision.0 > state.map_or(0, |s| s.wish_revision);
    let asked = Asked { rollout: spec.id.clone(), over: app.wish_revision };
    Ok(Judged::Do(if pending { Next::Wait } else { Next::Store(asked) }))
}

/// Has the verb a meaning now?
fn fits(verb: Verb, state: Option<&RolloutState>) -> bool {
    // Until a coordinator wrote its state it is about to be staged.
    let phase = state.map_or(RolloutPhase::Staging, |s| s.phase);
    match verb {
        Verb::Pause => may_pause(phase),
        Verb::Resume => !phase.ended(),
        Verb::Promote => phase == RolloutPhase::AwaitingPromotion,
        Verb::Abort => !phase.ended() && phase != RolloutPhase::Unknown,
        Verb::Unknown => false,
    }
}

/// What is so already, with who did it.
fn already(app: &App, spec: &RolloutSpec, state: Option<&RolloutState>, verb: Verb) -> Option<String> {
    let state = state?;
    let last = app.wish.as_ref().filter(|w| w.rollout == spec.id && w.verb == verb && app.wish_revision.0 <= state.wish_revision);
    let by = last.map_or_else(String::new, |w| format!(" by {}{}", w.by, because(&w.by)));
    let what = format!("rollout {} of release {}", spec.id, spec.release);
    match verb {
        Verb::Pause if state.paused && !state.phase.ended() => Some(format!("{what} was paused already{by}")),
        Verb::Resume if !state.paused && last.is_some() => Some(format!("{what} was resumed already{by}")),
        Verb::Resume if !state.paused && !state.phase.ended() => Some(format!("{what} is not paused")),
        Verb::Promote if state.promoted && last.is_some() => Some(format!("{what} was promoted already{by}")),
        Verb::Abort if state.aborted || last.is_some() => Some(format!("{what} was aborted already{by}: {}", state.phase.words())),
        Verb::Abort if state.phase == RolloutPhase::RollingBack => {
            Some(format!("{what} is rolling back already, by itself: {}", state.reason))
        }
        _ => None,
    }
}

/// The verb has no meaning where the rollout is: what it is at, and what would have one.
fn misplaced(spec: &RolloutSpec, state: Option<&RolloutState>, verb: Verb) -> OperateError {
    let (app, what) = (&spec.app, described(spec, state));
    let ended = state.is_some_and(|s| s.phase.ended());
    match verb {
        Verb::Promote if !ended => {
            let batch =
                state.map_or_else(String::new, |s| format!(", batch {} of {}", (s.batch + 1).min(s.batches.max(1)), s.batches.max(1)));
            OperateError::refused(
                format!("nothing of {app} waits for a promotion: {what}{batch}"),
                format!("`coordctl rollout status {app}` says what it waits for"),
            )
        }
        Verb::Pause if !ended => OperateError::refused(
            format!("there is nothing ahead of {what} that a pause would hold"),
            format!("`coordctl rollout watch {app}` follows it"),
        ),
        Verb::Abort if ended => OperateError::refused(
            format!("nothing of {app} is being rolled out: {what} has ended"),
            format!("`coordctl rollback {app}` goes back to the release before"),
        ),
        _ => OperateError::refused(
            format!("nothing of {app} is being rolled out: {what} has ended"),
            format!("`coordctl rollout history {app}` shows what was"),
        ),
    }
}

/// Stores the wish and waits until a coordinator obeyed it.
///
/// # Errors
/// It has no meaning now, nobody obeyed in time, and the store's.
pub async fn wish(store: &SharedStore, keys: &KeySpace, name: &AppName, verb: Verb, by: &Actor) -> Result<Granted, OperateError> {
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let mut fleets = observe::fleets(store.clone(), keys.clone(), stop);
    let deadline = Instant::now() + PATIENCE;
    let mut stored: Option<(RolloutId, Revision)> = None;
    // Who cannot even look must hear why: the mirror behind the fleets tries for ever.
    Sight::look(store.as_ref(), keys).await?;
    loop {
        let fleet = fleets.borrow_and_update().clone();
        if let Some(fleet) = fleet.filter(|f| f.fresh) {
            match &stored {
                Some((rollout, at)) => {
                    if let Some(granted) = outcome(&fleet, name, verb, (rollout, *at))? {
                        return Ok(granted);
                    }
                }
                None => match judge(&fleet, name, verb)? {
                    Judged::Already(words) => return so_already(&fleet, name, words),
                    Judged::Do(Next::Wait) => {}
                    Judged::Do(Next::Store(asked)) => stored = store_wish(store, keys, name, (verb, asked), by).await?,
                },
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => return Err(OperateError::NotObeyed { waited: PATIENCE }),
            changed = fleets.changed() => changed.map_err(|_| OperateError::ViewEnded)?,
        }
    }
}

fn so_already(fleet: &Fleet, name: &AppName, words: String) -> Result<Granted, OperateError> {
    let (spec, _) = current(Sight::app(fleet, name)?, name)?;
    Ok(Granted { words, already: true, rollout: spec.id.clone(), release: spec.release.clone() })
}

async fn store_wish(
    store: &SharedStore,
    keys: &KeySpace,
    name: &AppName,
    (verb, asked): (Verb, Asked),
    by: &Actor,
) -> Result<Option<(RolloutId, Revision)>, OperateError> {
    let key = keys.key(&Key::RolloutWish(name.clone()));
    let wish = Wish { rollout: asked.rollout.clone(), verb, by: by.clone() };
    let event = AuditEvent { app: Some(name.clone()), what: format!("asked to {} rollout {}", verb.word(), asked.rollout), by: by.clone() };
    let transaction = Transaction::new().when(Compare::ModRevision { key: key.clone(), revision: asked.over }).put_record(key, &wish);
    let committed = audited(store.as_ref(), keys, transaction, &event).await?;
    Ok(committed.map(|at| (asked.rollout, at)))
}

/// What came of a stored wish, once it was obeyed or never will be.
fn outcome(fleet: &Fleet, name: &AppName, verb: Verb, (id, at): (&RolloutId, Revision)) -> Result<Option<Granted>, OperateError> {
    let Some(app) = fleet.apps.get(name) else { return Ok(None) };
    let Some(state) = app.state_of(id) else { return Ok(None) };
    let obeyed = state.wish_revision >= at.0;
    if !obeyed && !state.phase.ended() {
        return Ok(None);
    }
    let granted = obeyed
        && match verb {
            Verb::Pause => state.paused,
            Verb::Resume => !state.paused,
            Verb::Promote => state.promoted,
            Verb::Abort => state.aborted || state.phase.ended(),
            Verb::Unknown => false,
        };
    let what = format!("rollout {id} of release {}", state.release);
    if granted {
        let still = if verb == Verb::Promote && state.paused { "; it is paused, and goes on when it is resumed" } else { "" };
        return Ok(Some(Granted {
            words: format!("{} {what}{still}", verb.past()),
            already: false,
            rollout: id.clone(),
            release: state.release.clone(),
        }));
    }
    let words = format!("{what} is {} by now, so the wish to {} it came too late", state.phase.words(), verb.word());
    Err(OperateError::refused(words, format!("`coordctl rollout status {name}` shows it")))
}
