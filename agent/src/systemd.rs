//! systemd, both ways: what the agent tells its own manager, and the units that hooks may touch.

use std::time::Duration;

use async_trait::async_trait;
use coord_proto::manifest::UnitAction;

pub mod notify;
pub mod units;

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    #[error("cannot reach systemd on the system bus; does systemd run here?")]
    Bus(#[source] Box<zbus::Error>),
    #[error("systemd refused to {verb} {unit}")]
    Refused {
        verb: &'static str,
        unit: String,
        #[source]
        source: Box<zbus::Error>,
    },
    #[error("the {verb} of {unit} ended as `{result}`; `journalctl -u {unit}` says why")]
    Job { verb: &'static str, unit: String, result: String },
    #[error("{unit} is `{state}` after its {verb}; `journalctl -u {unit}` says why")]
    State { verb: &'static str, unit: String, state: String },
    #[error("the {verb} of {unit} did not end within {}", humantime::format_duration(*deadline))]
    TimedOut { verb: &'static str, unit: String, deadline: Duration },
}

/// The units of this server's service manager.
#[async_trait]
pub trait Units: Send + Sync {
    /// The loaded units that a name or shell pattern matches; a plain name is itself, loaded or not.
    async fn expand(&self, pattern: &str) -> Result<Vec<String>, UnitError>;

    /// Does it, and waits until the job ended well and the unit has not failed.
    async fn act(&self, unit: &str, action: UnitAction, deadline: Duration) -> Result<(), UnitError>;
}

/// As systemctl(1) calls it.
pub fn verb(action: UnitAction) -> &'static str {
    match action {
        UnitAction::Restart => "restart",
        UnitAction::Reload => "reload",
        UnitAction::ReloadOrRestart => "reload-or-restart",
        UnitAction::Start => "start",
        UnitAction::Stop => "stop",
    }
}
