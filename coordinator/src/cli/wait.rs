//! Waits for a rollout to end, while its display says how it goes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coord_proto::rollout::RolloutSpec;
use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::rollout::watch::Display;
use super::{Done, Session};
use crate::exit::Exit;
use crate::observe;
use crate::publish::follow::{Ending, Follower};
use crate::ui::{Failure, Format};
use crate::view::Fleet;

/// Longest wait where `--timeout` names none.
pub const TIMEOUT: &str = "1h";

/// The view of the fleet as it changes, until a deadline or Ctrl-C.
struct Watching<'a> {
    session: &'a Session,
    fleets: watch::Receiver<Option<Arc<Fleet>>>,
    deadline: Pin<Box<Sleep>>,
    _stopped: DropGuard,
}

/// What ends a wait before it has what it waited for.
enum GivenUp {
    TimedOut,
    Interrupted,
}

impl<'a> Watching<'a> {
    fn new(session: &'a Session, timeout: Duration) -> Self {
        let stop = CancellationToken::new();
        let fleets = observe::fleets(session.store.clone(), session.keys.clone(), stop.clone());
        Self { session, fleets, deadline: Box::pin(tokio::time::sleep(timeout)), _stopped: stop.drop_guard() }
    }

    /// As it is now; none before the first answer.
    fn fleet(&mut self) -> Option<Arc<Fleet>> {
        self.fleets.borrow_and_update().clone()
    }

    /// Waits for the next change; or says why no longer.
    async fn changed(&mut self) -> Result<Option<GivenUp>, Failure> {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| Some(GivenUp::Interrupted)).map_err(Failure::from),
            () = &mut self.deadline => Ok(Some(GivenUp::TimedOut)),
            changed = self.fleets.changed() => match changed {
                Ok(()) => Ok(None),
                Err(_) => Err(Failure::new(Exit::Error, "the view of the fleet ended").hint(self.session.away_hint())),
            },
        }
    }
}

/// How following a rollout ended.
enum Waited {
    Ended(Ending),
    GivenUp(GivenUp),
    /// Whoever read the events is gone.
    Unread,
}

/// Follows to the end, prints it, and gives its exit code.
///
/// # Errors
/// The wait timed out or was interrupted: the rollout goes on. stdout cannot be written.
pub async fn to_the_end(session: &Session, mut follower: Follower, timeout: Duration, format: Format) -> Done {
    let mut display = Display::of(session.ui, format);
    let waited = follow(Watching::new(session, timeout), &mut follower, &mut display).await;
    let again = format!("the rollout goes on; `coordctl rollout watch {}` follows it", follower.app());
    let words = match waited {
        Ok(Waited::Ended(ending)) => return display.ended(&ending),
        Ok(Waited::Unread) => return Ok(Exit::TimedOut),
        Ok(Waited::GivenUp(GivenUp::TimedOut)) => format!("the rollout did not end within {}", humantime::format_duration(timeout)),
        Ok(Waited::GivenUp(GivenUp::Interrupted)) => "interrupted: the watching has ended, the rollout has not".to_owned(),
        Err(failure) => {
            display.left(&failure)?;
            return Err(failure);
        }
    };
    let failure = Failure::new(Exit::TimedOut, words).hint(again);
    display.left(&failure)?;
    Err(failure)
}

async fn follow(mut watching: Watching<'_>, follower: &mut Follower, display: &mut Display) -> Result<Waited, Failure> {
    loop {
        if let Some(fleet) = watching.fleet() {
            match display.show(follower, &fleet) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Waited::Unread),
                shown => shown?,
            }
            if let Some(ending) = follower.ending(&fleet) {
                return Ok(Waited::Ended(ending));
            }
        }
        if let Some(given_up) = watching.changed().await? {
            return Ok(Waited::GivenUp(given_up));
        }
    }
}

/// Waits until others have signed what `waits` would roll out, and gives the rollout that came of it.
///
/// # Errors
/// Nobody did in time, a newer release came first, or the wait was interrupted: the release waits on.
pub async fn for_signatures(session: &Session, waits: &RolloutSpec, timeout: Duration) -> Result<RolloutSpec, Failure> {
    let mut watching = Watching::new(session, timeout);
    loop {
        match watching.fleet().as_ref().and_then(|fleet| fleet.apps.get(&waits.app)?.spec.as_ref()) {
            Some(spec) if spec.seq == waits.seq => return Ok(spec.clone()),
            Some(spec) if spec.seq > waits.seq => {
                let words = format!("release {} by {} was rolled out meanwhile, and has a higher number", spec.release, spec.by);
                return Err(Failure::refused(words).hint("publish again"));
            }
            _ => {}
        }
        let words = match watching.changed().await? {
            None => continue,
            Some(GivenUp::Interrupted) => "interrupted: the release waits on for its signatures".to_owned(),
            Some(GivenUp::TimedOut) => format!("nobody signed within {}; the release waits on", humantime::format_duration(timeout)),
        };
        return Err(Failure::new(Exit::TimedOut, words).hint(format!("`coordctl release sign {} {}`", waits.app, waits.release)));
    }
}
