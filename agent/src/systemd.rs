//! The service manager: what it is told (sd_notify(3)), and what it is asked to do with units (D-Bus).
//!
//! The calls are those of org.freedesktop.systemd1(5). A connection is made for each request and dropped: an idle agent
//! keeps none.

use std::time::Duration;

use async_trait::async_trait;
use coord_proto::manifest::UnitAction;
use tracing::debug;
use zbus::zvariant::OwnedObjectPath;

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How often a job is looked at until it is gone.
const JOB_POLL: Duration = Duration::from_millis(50);

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
    #[error("`{unit}` is {state} afterwards; see systemctl status {unit}")]
    NotActive { unit: String, state: String },
    #[error("systemd was not done before the hook's deadline")]
    Deadline,
}

/// Units through the system bus.
pub struct SystemBus;

/// A unit as ListUnitsByPatterns tells it: name, description, load, active, sub, followed, path, job id, job type, job path.
type UnitRow = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[async_trait]
impl Units for SystemBus {
    async fn act(&self, pattern: &str, action: UnitAction) -> Result<(), UnitError> {
        let bus = zbus::Connection::system().await.map_err(|e| UnitError::Bus(Box::new(e)))?;
        let manager = zbus::Proxy::new(&bus, SERVICE, MANAGER_PATH, MANAGER).await.map_err(|e| UnitError::Bus(Box::new(e)))?;
        for unit in matching(&manager, pattern).await? {
            let _job: OwnedObjectPath =
                manager.call(method(action), &(unit.as_str(), "replace")).await.map_err(|e| UnitError::Refused(Box::new(e)))?;
            settle(&manager, &unit, action).await?;
        }
        Ok(())
    }
}

fn method(action: UnitAction) -> &'static str {
    match action {
        UnitAction::Restart => "RestartUnit",
        UnitAction::Reload => "ReloadUnit",
        UnitAction::ReloadOrRestart => "ReloadOrRestartUnit",
        UnitAction::Start => "StartUnit",
        UnitAction::Stop => "StopUnit",
    }
}

/// A plain name stands for itself, loaded or not; a pattern only for what is loaded.
async fn matching(manager: &zbus::Proxy<'_>, pattern: &str) -> Result<Vec<String>, UnitError> {
    if !pattern.contains(['*', '?', '[']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let rows = list(manager, pattern).await?;
    let names: Vec<String> = rows.into_iter().map(|row| row.0).collect();
    if names.is_empty() { Err(UnitError::NoneMatches { pattern: pattern.into() }) } else { Ok(names) }
}

async fn list(manager: &zbus::Proxy<'_>, pattern: &str) -> Result<Vec<UnitRow>, UnitError> {
    let states: [&str; 0] = [];
    manager.call("ListUnitsByPatterns", &(states.as_slice(), [pattern].as_slice())).await.map_err(|e| UnitError::Refused(Box::new(e)))
}

/// Waits until the unit has no job any more; then it must be as asked.
async fn settle(manager: &zbus::Proxy<'_>, unit: &str, action: UnitAction) -> Result<(), UnitError> {
    loop {
        let row = list(manager, unit).await?.into_iter().next();
        let (state, job) = row.map_or(("inactive".to_owned(), 0), |row| (row.3, row.7));
        if job != 0 || state.ends_with("ing") {
            tokio::time::sleep(JOB_POLL).await;
            continue;
        }
        let wanted = if action == UnitAction::Stop { "inactive" } else { "active" };
        return if state == wanted { Ok(()) } else { Err(UnitError::NotActive { unit: unit.into(), state }) };
    }
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
