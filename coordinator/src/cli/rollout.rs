//! `coordctl rollout status|watch|pause|resume|promote|abort|retry|restart|history APP`.

use std::time::Duration;

use clap::Subcommand;
use coord_proto::ids::AppName;
use coord_proto::rollout::{Outcome, RolloutKind, RolloutSpec, RolloutState, Target, Verb};
use serde::Serialize;

use super::wait::{self, TIMEOUT};
use super::{Done, Global};
use crate::exit::Exit;
use crate::publish::follow::{Follower, waits_for};
use crate::ui::{Failure, Format, Table, Ui, words};
use crate::view::Fleet;

mod history;
pub(super) mod verbs;
pub(super) mod watch;

/// `coordctl rollout …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The current or last rollout: batches, servers, budgets
    Status {
        app: AppName,
        #[arg(long)]
        json: bool,
    },
    /// Follow the current rollout to its end; the exit code is that of `release publish`
    Watch {
        app: AppName,
        /// Wait at most this long
        #[arg(long, default_value = TIMEOUT, value_parser = humantime::parse_duration, value_name = "TIME")]
        timeout: Duration,
        /// Each event as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Open no further batch until it is resumed; servers finish what they were told
    Pause(verbs::Wished),
    /// Go on with a paused rollout
    Resume(verbs::Wished),
    /// Go on after the first batch of a rollout with `promote = "manual"`
    Promote(verbs::Wished),
    /// End the rollout: servers finish their step and go back to what they had, as far as migrations allow
    Abort(verbs::Aborted),
    /// Try the servers once more that failed in the last rollout, and only them
    Retry(verbs::Retried),
    /// Restart the stable release batch by batch, its health checked again
    Restart(verbs::Restarted),
    /// Rollouts that have ended, the newest first
    History {
        app: AppName,
        #[arg(long)]
        json: bool,
    },
}

/// A rollout, as JSON has it.
#[derive(Debug, Serialize)]
struct View<'a> {
    spec: &'a RolloutSpec,
    /// None until the coordinator saw the spec.
    state: Option<&'a RolloutState>,
    /// One object per server: in the state they are kept in short.
    servers: &'a [Target],
}

/// Runs it.
///
/// # Errors
/// etcd does not answer, no rollout.
pub async fn run(command: Command, global: Global, ui: Ui) -> Done {
    let session = global.session(ui)?;
    match command {
        Command::Status { app, json } => {
            let fleet = session.fleet().await?;
            let view = View::of(&fleet, &app)?;
            match Format::of(json) {
                Format::Json => ui.json(&view)?,
                Format::Text => ui.out(view.text(&fleet, &app))?,
            }
            Ok(Exit::Done)
        }
        Command::Watch { app, timeout, json } => {
            let spec = View::of(&session.fleet().await?, &app)?.spec.clone();
            let follower = Follower::new(app, spec.id, spec.release, spec.by.user);
            wait::to_the_end(&session, follower, timeout, Format::of(json)).await
        }
        Command::Pause(args) => verbs::wish(&session, args, Verb::Pause).await,
        Command::Resume(args) => verbs::wish(&session, args, Verb::Resume).await,
        Command::Promote(args) => verbs::wish(&session, args, Verb::Promote).await,
        Command::Abort(args) => verbs::abort(&session, args).await,
        Command::Retry(args) => verbs::retry(&session, args).await,
        Command::Restart(args) => verbs::restart(&session, args).await,
        Command::History { app, json } => history::run(&session, &app, Format::of(json)).await,
    }
}

impl<'a> View<'a> {
    fn of(fleet: &'a Fleet, name: &AppName) -> Result<Self, Failure> {
        let none = || Failure::new(Exit::Error, format!("there is no rollout of {name}")).hint("`coordctl release publish` begins one");
        let app = fleet.apps.get(name).ok_or_else(none)?;
        let spec = app.spec.as_ref().ok_or_else(none)?;
        let state = app.state.as_ref().filter(|state| state.id == spec.id);
        Ok(Self { spec, state, servers: state.map_or(&[], |state| &state.targets) })
    }

    fn text(&self, fleet: &Fleet, app: &AppName) -> String {
        let (spec, by) = (self.spec, &self.spec.by);
        let phase = self.state.map_or("waiting for the coordinator", |s| s.phase.words());
        let kind = if spec.kind == RolloutKind::Publish { "rollout" } else { spec.kind.word() };
        let paused = if self.state.is_some_and(|s| s.paused && !s.phase.ended()) { ", paused" } else { "" };
        let mut text = format!("{kind} {} of {app}: release {} (number {}), {phase}{paused}\n", spec.id, spec.release, spec.seq);
        text += &format!("asked for by {by} at {}, serial {}\n", words::time(by.at), spec.policy.serial);
        if let Some(why) = &by.message {
            text += &format!("because: {}\n", crate::ui::table::printable(why));
        }
        let Some(state) = self.state else { return text };
        if !state.reason.is_empty() {
            text += &format!("reason: {}\n", crate::ui::table::printable(&state.reason));
        }
        let scope = if state.whole { "" } else { "; only some of the matching servers: stable does not move" };
        let batch = (state.batch + 1).min(state.batches.max(1));
        text += &format!("batch {batch} of {}{scope}\n", state.batches.max(1));
        text += &format!("tolerates {} failed and {} unreachable\n", state.max_failed, state.max_unreachable);
        text + &targets(fleet, app, state).render()
    }
}

fn targets(fleet: &Fleet, app: &AppName, state: &RolloutState) -> Table {
    let mut table = Table::new(&["BATCH", "SERVER", "OUTCOME", "RUNS", "DOES"]);
    for target in &state.targets {
        let status = fleet.node_app(&target.node, app).and_then(|slot| slot.status.as_ref());
        let running = status.and_then(|s| s.running.as_ref()).map(|r| r.release.to_string());
        let does = status.map(|s| match &s.failure {
            Some(failure) if target.outcome == Outcome::Pending && failure.code.transient() => waits_for(fleet, app, failure),
            Some(failure) => failure.chain.join(": "),
            None => s.words.clone(),
        });
        table.row([
            (target.batch + 1).to_string(),
            target.node.to_string(),
            words::outcome(target.outcome).to_owned(),
            running.unwrap_or_default(),
            does.unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    fn screen(fleet: &Fleet) -> String {
        let app = "mootube".parse().expect("app");
        View::of(fleet, &app).expect("a rollout").text(fleet, &app)
    }

    #[test]
    fn a_rollout_with_its_servers_and_what_it_waits_for() {
        let mut fleet = sample::fleet();
        insta::assert_snapshot!(screen(&fleet), @r"
        rollout r7 of mootube: release 20261124101112 (number 7), awaiting a decision
        asked for by ada@laptop at 2026-11-24T12:00:00Z, serial 1, 25%
        because: weekly release
        reason: web-2 waits
        batch 1 of 1
        tolerates 0 failed and 0 unreachable
        BATCH  SERVER  OUTCOME  RUNS            DOES
        1      web-1   done     20261123101112  the app is not healthy: 503
        ");
        fleet.apps.values_mut().for_each(|app| app.state = None);
        insta::assert_snapshot!(screen(&fleet), @r"
        rollout r7 of mootube: release 20261124101112 (number 7), waiting for the coordinator
        asked for by ada@laptop at 2026-11-24T12:00:00Z, serial 1, 25%
        because: weekly release
        ");
        fleet.apps.clear();
        assert!(View::of(&fleet, &"mootube".parse().expect("app")).is_err());
    }
}
