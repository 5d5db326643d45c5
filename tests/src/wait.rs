//! Waiting for a level, with a bound: never for a fixed time.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take before a test gives up: far beyond what it takes, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often a level is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Returns once `reached` says so.
///
/// # Errors
/// It did not within [`PATIENCE`], or looking failed.
pub fn until(what: impl Display, mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    until_some(what, || Ok(reached()?.then_some(())))
}

/// Returns what `look` finds, once it finds something.
///
/// # Errors
/// As [`until`].
pub fn until_some<T>(what: impl Display, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        thread::sleep(LOOK_EVERY);
    }
}
