//! Waits for a rollout to end, and says how it goes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Done, Session};
use crate::exit::Exit;
use crate::observe;
use crate::publish::follow::{Ending, Follower};
use crate::ui::Failure;

/// Longest wait where `--timeout` names none.
pub const TIMEOUT: &str = "1h";

/// How a wait ended.
enum Waited {
    Ended(Ending),
    TimedOut,
    Interrupted,
}

/// Follows to the end, prints it, and gives its exit code.
///
/// # Errors
/// stdout cannot be written.
pub async fn to_the_end(session: &Session, mut follower: Follower, timeout: Duration) -> Done {
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let waited = follow(session, &mut follower, timeout, stop).await?;
    let again = format!("the rollout goes on; `coordctl rollout watch {}` follows it", follower.app());
    match waited {
        Waited::Ended(ending) => print(session, &ending),
        Waited::TimedOut => {
            let words = format!("the rollout did not end within {}", humantime::format_duration(timeout));
            Err(Failure::new(Exit::TimedOut, words).hint(again))
        }
        Waited::Interrupted => Err(Failure::new(Exit::TimedOut, "interrupted").hint(again)),
    }
}

async fn follow(session: &Session, follower: &mut Follower, timeout: Duration, stop: CancellationToken) -> Result<Waited, Failure> {
    let mut fleets = observe::fleets(session.store.clone(), session.keys.clone(), stop);
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    loop {
        let fleet = fleets.borrow_and_update().clone();
        if let Some(fleet) = fleet {
            for line in follower.news(&fleet) {
                session.ui.note(line);
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

fn print(session: &Session, ending: &Ending) -> Done {
    let ui = session.ui;
    for part in [&ending.servers, &ending.recap, &ending.words] {
        if !part.is_empty() {
            ui.out(part)?;
        }
    }
    if !ending.hint.is_empty() {
        ui.note(format!("hint: {}", ending.hint));
    }
    Ok(ending.exit)
}
