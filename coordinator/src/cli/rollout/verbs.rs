//! `coordctl rollout pause|resume|promote|abort|retry|restart APP` and `coordctl rollback APP [RELEASE]`.

use std::time::Duration;

use coord_proto::ids::{AppName, ReleaseId};
use coord_proto::labels::Selector;
use coord_proto::rollout::{RolloutSpec, Serial, Verb};

use crate::cli::wait::{self, TIMEOUT};
use crate::cli::{Done, Session, actor_saying};
use crate::exit::Exit;
use crate::operate::{self, Judged, OperateError, Options, again, back};
use crate::publish::follow::Follower;
use crate::ui::{Failure, Format};

/// `pause`, `resume`, `promote`.
#[derive(Debug, clap::Args)]
pub struct Wished {
    app: AppName,
    #[command(flatten)]
    why: Why,
}

/// `abort`.
#[derive(Debug, clap::Args)]
pub struct Aborted {
    app: AppName,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    waiting: Waiting,
}

/// `retry`.
#[derive(Debug, clap::Args)]
pub struct Retried {
    app: AppName,
    /// Servers at a time, instead of the rollout's own: 2, 25% or 1,25%
    #[arg(long, value_name = "SIZES")]
    serial: Option<Serial>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    waiting: Waiting,
}

/// `restart`.
#[derive(Debug, clap::Args)]
pub struct Restarted {
    app: AppName,
    /// Only these servers (role=web,zone=a or node=web-1)
    #[arg(long, value_name = "SELECTOR")]
    limit: Option<Selector>,
    /// Servers at a time, instead of the release's own: 2, 25% or 1,25%
    #[arg(long, value_name = "SIZES")]
    serial: Option<Serial>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    waiting: Waiting,
}

/// `rollback`.
#[derive(Debug, clap::Args)]
pub struct RolledBack {
    app: AppName,
    /// The release to go back to [default: the good one before]
    release: Option<ReleaseId>,
    /// Also past a migration without a way back, and to a release that did not prove itself
    #[arg(long)]
    force: bool,
    /// Servers at a time, instead of the release's own: 2, 25% or 1,25%
    #[arg(long, value_name = "SIZES")]
    serial: Option<Serial>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    waiting: Waiting,
}

/// Every verb may say why.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Why {
    /// Why, for the record
    #[arg(long, short, value_name = "WHY")]
    pub message: Option<String>,
}

/// What takes a while is waited for.
#[derive(Debug, clap::Args)]
struct Waiting {
    /// Do not wait: 0 means that it was accepted
    #[arg(long)]
    detach: bool,
    /// Wait at most this long for the end
    #[arg(long, default_value = TIMEOUT, value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Duration,
}

/// `pause`, `resume`, `promote`: obeyed when this returns.
pub async fn wish(session: &Session, args: Wished, verb: Verb) -> Done {
    let by = actor_saying(args.why.message);
    let granted = operate::wish::wish(&session.store, &session.keys, &args.app, verb, &by).await.map_err(|e| failure(session, e))?;
    session.ui.out(granted.words)?;
    Ok(Exit::Done)
}

/// `abort`: the told servers are back when this returns.
pub async fn abort(session: &Session, args: Aborted) -> Done {
    let by = actor_saying(args.why.message);
    let granted = operate::wish::wish(&session.store, &session.keys, &args.app, Verb::Abort, &by).await.map_err(|e| failure(session, e))?;
    session.ui.out(&granted.words)?;
    if granted.already || args.waiting.detach {
        return Ok(Exit::Done);
    }
    let follower = Follower::new(args.app, granted.rollout, granted.release, by.user).of_an_abort();
    wait::to_the_end(session, follower, args.waiting.timeout, Format::Text).await
}

/// `retry`.
pub async fn retry(session: &Session, args: Retried) -> Done {
    let options = Options { serial: args.serial, limit: None, force: false, by: actor_saying(args.why.message) };
    let app = args.app;
    let begun = operate::begin(session.store.as_ref(), &session.keys, &app, |sight| again::retry(sight, &app, &options)).await;
    follow(session, begun, &args.waiting).await
}

/// `restart`.
pub async fn restart(session: &Session, args: Restarted) -> Done {
    let options = Options { serial: args.serial, limit: args.limit, force: false, by: actor_saying(args.why.message) };
    let (app, keys) = (args.app, &session.keys);
    let begun = operate::begin(session.store.as_ref(), keys, &app, |sight| again::restart(sight, keys, &app, &options)).await;
    follow(session, begun, &args.waiting).await
}

/// `rollback`.
pub async fn rollback(session: &Session, args: RolledBack) -> Done {
    let options = Options { serial: args.serial, limit: None, force: args.force, by: actor_saying(args.why.message) };
    let (app, keys, named) = (args.app, &session.keys, args.release.as_ref());
    let begun = operate::begin(session.store.as_ref(), keys, &app, |sight| back::rollback(sight, keys, (&app, named), &options)).await;
    follow(session, begun, &args.waiting).await
}

async fn follow(session: &Session, begun: Result<Judged<RolloutSpec>, OperateError>, waiting: &Waiting) -> Done {
    let spec = match begun.map_err(|e| failure(session, e))? {
        Judged::Do(spec) => spec,
        Judged::Already(words) => {
            session.ui.out(words)?;
            return Ok(Exit::Done);
        }
    };
    let kind = spec.kind.word();
    session.ui.note(format!("{kind} of release {} (number {}, rollout {})", spec.release, spec.seq, spec.id));
    if waiting.detach {
        session.ui.out(format!("accepted the {kind} of release {}", spec.release))?;
        return Ok(Exit::Done);
    }
    wait::to_the_end(session, Follower::new(spec.app, spec.id, spec.release, spec.by.user), waiting.timeout, Format::Text).await
}

/// A failure, with where the store is when that is the trouble.
pub(in crate::cli) fn failure(session: &Session, error: OperateError) -> Failure {
    match error {
        OperateError::Store(error) => session.store_failure(error),
        error => error.failure(),
    }
}
