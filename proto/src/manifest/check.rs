//! What a manifest's types cannot say: every limit, and paths, commands and names that make sense.

use std::time::Duration;

use super::{Hook, HookPhase, Manifest, ManifestError};
use crate::limits::{
    BATCH_DEADLINE_MIN, DURATION_MAX, DURATION_MIN, ENTRIES_MAX, HOOKS_MAX, PIECE_BYTES, PIECES_MAX, ROLLOUT_WAIT_MAX, UNPACKED_BYTES_MAX,
};
use crate::migration::Phase;

impl Manifest {
    /// Checks what the types cannot say; publishing and agents call the same.
    ///
    /// # Errors
    /// The first field that breaks a limit.
    pub fn check(&self) -> Result<(), ManifestError> {
        self.check_artifact()?;
        self.check_layout()?;
        self.check_rollout()?;
        for (phase, hooks) in self.hooks.phases() {
            limit("hook count", hooks.len() as u64, HOOKS_MAX as u64)?;
            hooks.iter().try_for_each(|h| check_hook(phase, h))?;
        }
        for task in [Phase::Before, Phase::After].into_iter().flat_map(|p| self.once_tasks(p)) {
            check_command("run-once command", &task.command)?;
            duration("run-once timeout", Some(task.timeout))?;
        }
        self.check_health()?;
        if self.migrate.as_ref().is_some_and(|m| m.command.is_empty() && m.after.is_none()) {
            return Err(ManifestError::Field { field: "migrate", value: "{}".into(), problem: "has neither a `command` nor an `after`" });
        }
        for name in self.env.keys() {
            check_env_name(name)?;
        }
        Ok(())
    }

    fn check_artifact(&self) -> Result<(), ManifestError> {
        let a = &self.artifact;
        limit("artifact.unpacked_size", a.unpacked_size, UNPACKED_BYTES_MAX)?;
        limit("artifact.entries", a.entries, ENTRIES_MAX)?;
        limit("artifact.pieces", a.pieces.len() as u64, PIECES_MAX as u64)?;
        limit("artifact.piece_size", a.piece_size, PIECE_BYTES * 16)?;
        if a.piece_size == 0 || a.size == 0 || a.size.div_ceil(a.piece_size) != a.pieces.len() as u64 {
            return Err(ManifestError::Field {
                field: "artifact.pieces",
                value: a.pieces.len().to_string(),
                problem: "is not size divided by piece_size, rounded up",
            });
        }
        Ok(())
    }

    fn check_rollout(&self) -> Result<(), ManifestError> {
        let (bake, deadline) = (self.rollout.bake, self.rollout.batch_deadline);
        if deadline < BATCH_DEADLINE_MIN {
            let value = humantime::format_duration(deadline).to_string();
            let problem = "is shorter than 1s: every server would be late before it had begun";
            return Err(ManifestError::Field { field: "rollout.batch_deadline", value, problem });
        }
        limit("rollout.bake in seconds", bake.as_secs(), ROLLOUT_WAIT_MAX.as_secs())?;
        limit("rollout.batch_deadline in seconds", deadline.as_secs(), ROLLOUT_WAIT_MAX.as_secs())
    }

    /// A check that asks nothing would make every release healthy at once.
    fn check_health(&self) -> Result<(), ManifestError> {
        let Some(health) = &self.health else { return Ok(()) };
        duration("health.interval", health.interval)?;
        duration("health.timeout", health.timeout)?;
        let ways = [("http", health.http.is_some()), ("tcp", health.tcp.is_some()), ("command", !health.command.is_empty())];
        let given: Vec<&str> = ways.into_iter().filter(|(_, given)| *given).map(|(way, _)| way).collect();
        if given.len() == 1 {
            return Ok(());
        }
        let value = if given.is_empty() { "{}".to_owned() } else { given.join(", ") };
        Err(ManifestError::Field { field: "health", value, problem: "needs exactly one of `http`, `tcp` and `command`" })
    }

    fn check_layout(&self) -> Result<(), ManifestError> {
        let l = &self.layout;
        limit("layout.keep_releases", l.keep_releases.into(), 1000)?;
        if l.keep_releases == 0 {
            return Err(ManifestError::Field { field: "layout.keep_releases", value: "0".into(), problem: "must be at least 1" });
        }
        let named =
            [("layout.shared_dirs", &l.shared_dirs), ("layout.shared_files", &l.shared_files), ("layout.writable_dirs", &l.writable_dirs)];
        for (field, paths) in named {
            for path in paths {
                check_relative(field, path)?;
            }
        }
        // A link inside a link's tree would land in the shared directory of every release: refuse the overlap.
        let all: Vec<&String> = named.iter().flat_map(|(_, p)| p.iter()).collect();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                if a == b || a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/")) {
                    return Err(ManifestError::Field {
                        field: "layout",
                        value: format!("{a} and {b}"),
                        problem: "overlap; name the outer one only",
                    });
                }
            }
        }
        Ok(())
    }
}

fn limit(field: &'static str, value: u64, limit: u64) -> Result<(), ManifestError> {
    if value <= limit { Ok(()) } else { Err(ManifestError::Limit { field, value, limit }) }
}

/// Neither a wait without a pause, nor one that no clock can count.
fn duration(field: &'static str, value: Option<Duration>) -> Result<(), ManifestError> {
    match value {
        Some(value) if !(DURATION_MIN..=DURATION_MAX).contains(&value) => Err(ManifestError::Duration { field, value }),
        _ => Ok(()),
    }
}

/// A path inside the release: relative, no `.` or `..`, no empty part, no NUL.
fn check_relative(field: &'static str, path: &str) -> Result<(), ManifestError> {
    let good = !path.is_empty() && !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if good {
        return Ok(());
    }
    Err(ManifestError::Field {
        field,
        value: path.to_owned(),
        problem: "must be a relative path inside the release, without `.`, `..` or a trailing slash",
    })
}

fn check_command(field: &'static str, command: &[String]) -> Result<(), ManifestError> {
    let problem = match command.first() {
        None => "is empty; write [\"program\", \"argument\"]",
        Some(program) if program.is_empty() => "names no program",
        Some(_) if command.iter().any(|part| part.contains('\0')) => "has a NUL byte",
        Some(_) => return Ok(()),
    };
    Err(ManifestError::Field { field, value: command.join(" "), problem })
}

fn check_hook(phase: HookPhase, hook: &Hook) -> Result<(), ManifestError> {
    let field = phase.name();
    duration("hook timeout", hook.timeout)?;
    match (hook.command.is_empty(), hook.units.is_empty()) {
        (false, true) => check_command("hook command", &hook.command),
        (true, false) => Ok(()),
        (true, true) => Err(ManifestError::Field { field: "hooks", value: field.into(), problem: "needs `command` or `units`" }),
        (false, false) => {
            Err(ManifestError::Field { field: "hooks", value: field.into(), problem: "has both `command` and `units`; make two hooks" })
        }
    }
}

fn check_env_name(name: &str) -> Result<(), ManifestError> {
    let shape =
        !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match (shape, name.starts_with("COORD_")) {
        (true, false) => Ok(()),
        (true, true) => Err(ManifestError::Field { field: "env", value: name.into(), problem: "starts with COORD_, which is reserved" }),
        (false, _) => Err(ManifestError::Field { field: "env", value: name.into(), problem: "is not an environment variable's name" }),
    }
}
