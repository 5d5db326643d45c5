//! The service manager: what it is told (sd_notify(3)), and what it is asked to do with units.

use std::time::Duration;

use async_trait::async_trait;
use coord_proto::manifest::UnitAction;
use tracing::debug;

mod bus;

pub use bus::SystemBus;

/// Acts on units.
#[async_trait]
pub trait Units: Send + Sync {
    /// Acts on every loaded unit that matches the pattern (a name, or with `*`), and waits until systemd has done it.
    async fn act(&self, pattern: &str, action: UnitAction) -> Result<(), UnitError>;
}

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    #[error("systemd cannot be reached over D-Bus")]
    Bus(#[source] Box<zbus::Error>),
    #[error("systemd refused")]
    Refused(#[source] Box<zbus::Error>),
    #[error("no unit matches `{pattern}`")]
    NoneMatches { pattern: String },
    #[error("systemd's job for `{unit}` ended as `{result}`; see systemctl status {unit}")]
    Job { unit: String, result: String },
    #[error("`{unit}` is {state} afterwards; see systemctl status {unit}")]
    NotActive { unit: String, state: String },
    #[error("systemd was not done before the hook's deadline")]
    Deadline,
}

/// Tells systemd; without NOTIFY_SOCKET nothing happens.
pub fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!("systemd was not told: {e}");
    }
}

/// How often the watchdog wants to be fed: half of WATCHDOG_USEC, as sd_watchdog_enabled(3) recommends.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// For STATUS=: a newline would begin another assignment of the protocol.
pub fn one_line(words: &str) -> String {
    words.replace(['\n', '\r', '\0'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_smuggle_an_assignment() {
        assert_eq!(one_line("broken\nREADY=1"), "broken READY=1");
    }
}
