//! Waits for a rollout to end, while its display says how it goes.

use std::io;
use std::time::Duration;

use coord_proto::rollout::RolloutSpec;
use tokio_util::sync::CancellationToken;

use super::rollout::watch::Display;
use super::{Done, Session};
use crate::exit::Exit;
use crate::observe;
use crate::publish::follow::{Ending, Follower};
use crate::ui::{Failure, Format};

/// Longest wait where `--timeout` names none.
pub const TIMEOUT: &str = "1h";

/// How a wait ended.
enum Waited {
    Ended(Ending),
    TimedOut,
    Interrupted,
    /// Whoever read the events is gone.
    Unread,
}

/// Follows to the end, prints it, and gives its exit code.
///
/// # Errors
/// The wait timed out or was interrupted: the rollout goes on. stdout cannot be written.
pub async fn to_the_end(session: &Session, mut follower: Follower, timeout: Duration, format: Format) -> Done {
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let mut display = Display::of(session.ui, format);
    let waited = follow(session, &mut follower, &mut display, (timeout, stop)).await;
    let again = format!("the rollout goes on; `coordctl rollout watch {}` follows it", follower.app());
    let words = match waited {
        Ok(Waited::Ended(ending)) => return display.ended(&ending),
        Ok(Waited::Unread) => return Ok(Exit::TimedOut),
        Ok(Waited::TimedOut) => format!("the rollout did not end within {}", humantime::format_duration(timeout)),
        Ok(Waited::Interrupted) => "interrupted: the watching has ended, the rollout has not".to_owned(),
        Err(failure) => {
            display.left(&failure)?;
            return Err(failure);
        }
    };
    let failure = Failure::new(Exit::TimedOut, words).hint(again);
    display.left(&failure)?;
    Err(failure)
}

async fn follow(
    session: &Session,
    follower: &mut Follower,
    display: &mut Display,
    (timeout, stop): (Duration, CancellationToken),
) -> Result<Waited, Failure> {
    let mut fleets = observe::fleets(session.store.clone(), session.keys.clone(), stop);
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    loop {
        let fleet = fleets.borrow_and_update().clone();
        if let Some(fleet) = fleet {
            match display.show(follower, &fleet) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Waited::Unread),
                shown => shown?,
            }
            if let Some(ending) = follower.ending(&fleet) {
                return Ok(Waited::Ended(ending));
            }
        }
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => return interrupted.map(|()| Waited::Interrupted).map_err(Failure::from),
            () = &mut deadline => return Ok(Waited::TimedOut),
            changed = fleets.changed() => changed.map_err(|_| Failure::new(Exit::Error, "the view of the fleet ended").hint(session.away_hint()))?,
        }
    }
}

/// Waits until others have signed what `waits` would roll out, and gives the rollout that came of it.
///
/// # Errors
/// Nobody did in time, a newer release came first, or the wait was interrupted: the release waits on.
pub async fn for_signatures(session: &Session, waits: &RolloutSpec, timeout: Duration) -> Result<RolloutSpec, Failure> {
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let mut fleets = observe::fleets(session.store.clone(), session.keys.clone(), stop);
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let on = |words: String| Failure::new(Exit::TimedOut, words).hint(format!("`coordctl release sign {} {}`", waits.app, waits.release));
    loop {
        let fleet = fleets.borrow_and_update().clone();
        match fleet.as_ref().and_then(|fleet| fleet.apps.get(&waits.app)?.spec.as_ref()) {
            Some(spec) if spec.seq == waits.seq => return Ok(spec.clone()),
            Some(spec) if spec.seq > waits.seq => {
                let words = format!("release {} by {} was rolled out meanwhile, and has a higher number", spec.release, spec.by);
                return Err(Failure::refused(words).hint("publish again"));
            }
            _ => {}
        }
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Err(on("interrupted: the release waits on for its signatures".to_owned()));
            }
            () = &mut deadline => return Err(on(format!("nobody signed within {}; the release waits on", humantime::format_duration(timeout)))),
            changed = fleets.changed() => changed.map_err(|_| Failure::new(Exit::Error, "the view of the fleet ended").hint(session.away_hint()))?,
        }
    }
}
