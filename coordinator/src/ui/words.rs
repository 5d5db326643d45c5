//! Records in words, the same on every screen.

pub use coord_proto::clock::unix_now as now;
use coord_proto::report::{HealthState, Step};
use coord_proto::rollout::{Outcome, Verdict};
use jiff::Timestamp;

/// How one server fared.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pending => "pending",
        Outcome::Done => "done",
        Outcome::Failed => "failed",
        Outcome::Unreachable => "unreachable",
        Outcome::RolledBack => "rolled back",
        Outcome::Unknown => "unknown",
    }
}

/// Does what runs there work?
pub fn health(health: HealthState) -> &'static str {
    match health {
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
        HealthState::Unproven => "unproven",
        HealthState::Unknown => "unknown",
    }
}

/// What an agent is doing.
pub fn step(step: Step) -> &'static str {
    match step {
        Step::Idle => "idle",
        Step::Fetching => "fetching",
        Step::Staging => "staging",
        Step::Preparing => "preparing",
        Step::Migrating => "migrating",
        Step::WaitingForMigration => "waiting for the migration",
        Step::Draining => "draining",
        Step::Switching => "switching",
        Step::Restarting => "restarting",
        Step::Probing => "probing",
        Step::Undraining => "undraining",
        Step::FallingBack => "falling back",
        Step::AfterTasks => "after tasks",
        Step::Waiting => "waiting",
        Step::Unknown => "unknown",
    }
}

/// How a release fared.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Untried => "untried",
        Verdict::Good => "good",
        Verdict::Bad => "bad",
        Verdict::Unknown => "unknown",
    }
}

/// A time, UTC.
pub fn time(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds).map_or_else(|_| "-".to_owned(), |at| at.to_string())
}

/// The time between two, in its largest unit: `3m`. The clocks of two machines are involved: it is a hint for people.
pub fn span(from: i64, to: i64) -> String {
    match to.saturating_sub(from).max(0) {
        s @ 0..=119 => format!("{s}s"),
        s @ 120..=7199 => format!("{}m", s / 60),
        s @ 7200..=172_799 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

/// How long ago: `3m ago`.
pub fn ago(unix_seconds: i64, now: i64) -> String {
    format!("{} ago", span(unix_seconds, now))
}
