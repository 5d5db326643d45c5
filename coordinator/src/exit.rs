//! Exit codes of `coordctl`: scripts rely on them, so they are listed here and nowhere else.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done; after a publish: every target runs the release (with `--detach`: it was accepted).
    Done = 0,
    /// Something went wrong.
    Error = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// Refused: nothing was changed.
    Refused = 3,
    /// The rollout failed or halted.
    Failed = 4,
    /// The rollout failed and was rolled back.
    RolledBack = 5,
    /// A wait timed out; the rollout goes on.
    TimedOut = 6,
    /// A migration waits for a decision.
    Decision = 7,
    /// Finished within the budgets, but some targets do not run the release.
    Partial = 8,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
