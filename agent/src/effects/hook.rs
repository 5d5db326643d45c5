//! Runs the hooks of one phase, in their order, on this server; a non-zero exit ends the phase.

use std::ffi::CString;
use std::path::Path;

use coord_proto::labels::{Labels, matches};
use coord_proto::limits::HOOK_LOG_BYTES_MAX;
use coord_proto::manifest::{Hook, HookPhase, Manifest};
use coord_proto::migration::Phase;
use coord_proto::report::FailureCode;
use nix::unistd::{Gid, Group, User, geteuid, getgrouplist};
use tokio_util::sync::CancellationToken;

use super::command::{CommandEnd, CommandError, CommandOutcome, CommandSpec, UserIds, run_leaving_daemons};
use super::environment::{self, EnvironmentError, HookContext, HookEnvironment};
use crate::config::AppPlace;
use crate::layout::AppDir;
use crate::systemd::{UnitError, Units};

/// One phase to run.
pub struct HookRun<'a> {
    pub manifest: &'a Manifest,
    pub phase: HookPhase,
    pub labels: &'a Labels,
    pub place: &'a AppPlace,
    pub context: &'a HookContext,
    pub units: &'a dyn Units,
    /// Directory of the captured output.
    pub logs: &'a Path,
    /// Ends a command that runs: TERM, and KILL after a grace.
    pub cancel: &'a CancellationToken,
}

/// Why a phase did not end well.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("the {phase} hook `{command}` {how}")]
    Ended { phase: &'static str, command: String, how: String, timed_out: bool, log_tail: String },
    #[error("the {phase} hook was told to end")]
    Cancelled { phase: &'static str },
    #[error("the {phase} hook names the unit `{unit}`, which agent.toml does not allow for this app")]
    UnitNotAllowed { phase: &'static str, unit: String },
    #[error("a hook wants to run as `{user}`, which agent.toml does not allow for this app")]
    UserNotAllowed { user: String },
    #[error("there is no user or group `{name}` on this server")]
    NoSuchUser { name: String },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("the {phase} hook could not act on `{unit}`")]
    Unit {
        phase: &'static str,
        unit: String,
        #[source]
        source: UnitError,
    },
}

impl HookError {
    /// For the status record.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Ended { timed_out: true, .. } | Self::Unit { source: UnitError::Deadline, .. } => FailureCode::HookTimedOut,
            Self::UnitNotAllowed { .. } => FailureCode::UnitNotAllowed,
            Self::UserNotAllowed { .. } | Self::NoSuchUser { .. } => FailureCode::NotAllowed,
            _ => FailureCode::HookFailed,
        }
    }

    /// The end of the hook's output.
    pub fn log_tail(&self) -> &str {
        match self {
            Self::Ended { log_tail, .. } => log_tail,
            _ => "",
        }
    }
}

/// May this server's configuration run everything that the manifest means for a server with these labels? Asked before
/// anything is staged.
///
/// # Errors
/// The first unit or user that is not allowed, or does not exist.
pub fn check_allowed(manifest: &Manifest, labels: &Labels, place: &AppPlace) -> Result<(), HookError> {
    let hooks = manifest.hooks.phases().flat_map(|(phase, hooks)| hooks.iter().map(move |h| (phase, h)));
    for (phase, hook) in hooks.filter(|(_, h)| matches(&h.when, labels)) {
        for unit in &hook.units {
            if !place.allows_unit(unit) {
                return Err(HookError::UnitNotAllowed { phase: phase.name(), unit: unit.clone() });
            }
        }
        user_ids(hook.user.as_deref(), place)?;
    }
    let tasks = [Phase::Before, Phase::After].into_iter().flat_map(|phase| manifest.once_tasks(phase));
    let mut tasks = tasks.filter(|t| matches(&t.on, labels));
    tasks.try_for_each(|task| user_ids(task.user.as_deref(), place).map(|_| ()))
}

/// Whom a command runs as: what the manifest names, if the configuration allows it, else the app's user.
///
/// # Errors
/// Not allowed, or not on this server.
pub fn user_ids(wanted: Option<&str>, place: &AppPlace) -> Result<Option<UserIds>, HookError> {
    let allowed = |user: &str| place.user.as_deref() == Some(user) || place.hook_users.iter().any(|u| u == user);
    let name = match wanted {
        Some(user) if !allowed(user) => return Err(HookError::UserNotAllowed { user: user.into() }),
        Some(user) => user,
        None => match &place.user {
            Some(user) => user,
            None => return Ok(None),
        },
    };
    let missing = |name: &str| HookError::NoSuchUser { name: name.into() };
    let user = User::from_name(name).ok().flatten().ok_or_else(|| missing(name))?;
    // The app's own group goes with the app's own user; another user runs with its primary group.
    let group = place.group.as_deref().filter(|_| place.user.as_deref() == Some(name));
    let gid = match group {
        Some(group) => Group::from_name(group).ok().flatten().ok_or_else(|| missing(group))?.gid,
        None => user.gid,
    };
    // Without root only the agent's own user is possible, and then nothing needs to change.
    if user.uid == geteuid() && !geteuid().is_root() {
        return Ok(None);
    }
    let c_name = CString::new(name).map_err(|_| missing(name))?;
    let groups = getgrouplist(&c_name, gid).map_err(|_| missing(name))?;
    Ok(Some(UserIds { uid: user.uid.as_raw(), gid: gid.as_raw(), groups: groups.into_iter().map(Gid::as_raw).collect() }))
}

/// The environment of a command, and whom it runs as. Users are looked up where they may be far away (nsswitch.conf(5)):
/// not on the thread of the loop.
///
/// # Errors
/// The env file cannot be used, or the user is not allowed or not there.
pub async fn surroundings(
    context: HookContext,
    wanted: Option<String>,
    place: AppPlace,
) -> Result<(HookEnvironment, Option<UserIds>), HookError> {
    // HOME is the home of whoever runs it.
    let context = HookContext { user: wanted.clone().or(context.user), ..context };
    let look = move || Ok((environment::build(&context)?, user_ids(wanted.as_deref(), &place)?));
    tokio::task::spawn_blocking(look).await.expect("looking up does not panic")
}

/// Runs what is meant for this server.
///
/// # Errors
/// The first hook that did not end with 0.
pub async fn run_phase(run: HookRun<'_>) -> Result<(), HookError> {
    for (index, hook) in run.manifest.hooks.of(run.phase).iter().enumerate() {
        if !matches(&hook.when, run.labels) {
            continue;
        }
        if hook.units.is_empty() { run_command(&run, index, hook).await? } else { act_on_units(&run, hook).await? }
    }
    Ok(())
}

async fn run_command(run: &HookRun<'_>, index: usize, hook: &Hook) -> Result<(), HookError> {
    let (environment, user) = surroundings(run.context.clone(), hook.user.clone(), run.place.clone()).await?;
    let spec = CommandSpec {
        argv: hook.command.clone(),
        cwd: AppDir::new(run.context.app_dir.clone()).release(&run.manifest.release),
        env: environment.vars,
        redact: environment.secrets,
        user,
        deadline: hook.deadline(),
        log_file: run.logs.join(format!("{}.{}.{index}.log", run.manifest.release, run.phase.name())),
        cancel: run.cancel.clone(),
    };
    let CommandEnd { outcome, log_tail, printed } = run_leaving_daemons(spec).await?;
    let how = match outcome {
        CommandOutcome::Exited(0) => return Ok(()),
        CommandOutcome::Exited(code) => format!("ended with status {code}"),
        CommandOutcome::Signaled(signal) => format!("was ended by signal {signal}"),
        CommandOutcome::TimedOut => format!("did not end within {} and was killed", humantime::format_duration(hook.deadline())),
        CommandOutcome::Cancelled => return Err(HookError::Cancelled { phase: run.phase.name() }),
    };
    let how = if printed > HOOK_LOG_BYTES_MAX as u64 { format!("{how} after printing {printed} bytes") } else { how };
    let timed_out = outcome == CommandOutcome::TimedOut;
    Err(HookError::Ended { phase: run.phase.name(), command: hook.command.join(" "), how, timed_out, log_tail })
}

async fn act_on_units(run: &HookRun<'_>, hook: &Hook) -> Result<(), HookError> {
    let phase = run.phase.name();
    for unit in &hook.units {
        // Checked when the manifest was taken, and again here: the configuration may have changed since.
        if !run.place.allows_unit(unit) {
            return Err(HookError::UnitNotAllowed { phase, unit: unit.clone() });
        }
        let done = tokio::time::timeout(hook.deadline(), run.units.act(unit, hook.action.unwrap_or_default())).await;
        done.unwrap_or(Err(UnitError::Deadline)).map_err(|source| HookError::Unit { phase, unit: unit.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
