//! Units over D-Bus: org.freedesktop.systemd1(5). A connection is made when one is needed and dropped afterwards.

use std::time::Duration;

use async_trait::async_trait;
use coord_proto::manifest::UnitAction;
use futures::StreamExt;
use zbus::Connection;
use zbus::zvariant::OwnedObjectPath;

use super::{UnitError, Units, verb};

/// One row of `ListUnits`: name, description, load, active and sub state, following, path, job id, type and path.
type UnitRow = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<UnitRow>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_or_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

/// The system's manager, at `DBUS_SYSTEM_BUS_ADDRESS` or the usual place.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemUnits;

#[async_trait]
impl Units for SystemUnits {
    async fn expand(&self, pattern: &str) -> Result<Vec<String>, UnitError> {
        if !is_pattern(pattern) {
            return Ok(vec![pattern.to_owned()]);
        }
        expand_on(&connect().await?, pattern).await
    }

    async fn act(&self, unit: &str, action: UnitAction, deadline: Duration) -> Result<(), UnitError> {
        let work = async { act_on(&connect().await?, unit, action).await };
        let timed_out = || UnitError::TimedOut { verb: verb(action), unit: unit.to_owned(), deadline };
        tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

/// Does it mean more than one unit?
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

async fn connect() -> Result<Connection, UnitError> {
    Connection::system().await.map_err(bus)
}

fn bus(source: zbus::Error) -> UnitError {
    UnitError::Bus(Box::new(source))
}

async fn expand_on(connection: &Connection, pattern: &str) -> Result<Vec<String>, UnitError> {
    let manager = ManagerProxy::new(connection).await.map_err(bus)?;
    let rows = manager.list_units_by_patterns(&[], &[pattern]).await.map_err(bus)?;
    let mut names: Vec<String> = rows.into_iter().map(|row| row.0).collect();
    names.sort();
    Ok(names)
}

async fn act_on(connection: &Connection, unit: &str, action: UnitAction) -> Result<(), UnitError> {
    let manager = ManagerProxy::new(connection).await.map_err(bus)?;
    // Listening before asking: a quick job would be over before anybody looked.
    let mut removed = manager.receive_job_removed().await.map_err(bus)?;
    manager.subscribe().await.map_err(bus)?;
    let refused = |source| UnitError::Refused { verb: verb(action), unit: unit.to_owned(), source: Box::new(source) };
    let job = enqueue(&manager, unit, action).await.map_err(refused)?;
    while let Some(signal) = removed.next().await {
        let args = signal.args().map_err(bus)?;
        if args.job != job {
            continue;
        }
        if args.result != "done" {
            return Err(UnitError::Job { verb: verb(action), unit: unit.to_owned(), result: args.result.clone() });
        }
        return check_state(&manager, connection, unit, action).await;
    }
    Err(bus(zbus::Error::Failure("the bus closed the connection while a job ran".into())))
}

async fn enqueue(manager: &ManagerProxy<'_>, unit: &str, action: UnitAction) -> zbus::Result<OwnedObjectPath> {
    // As systemctl(1): a conflicting job that waits is replaced.
    const MODE: &str = "replace";
    match action {
        UnitAction::Start => manager.start_unit(unit, MODE).await,
        UnitAction::Stop => manager.stop_unit(unit, MODE).await,
        UnitAction::Reload => manager.reload_unit(unit, MODE).await,
        UnitAction::Restart => manager.restart_unit(unit, MODE).await,
        UnitAction::ReloadOrRestart => manager.reload_or_restart_unit(unit, MODE).await,
    }
}

/// A job can be done and the unit dead a moment later: a forking server that fails on its new configuration.
async fn check_state(manager: &ManagerProxy<'_>, connection: &Connection, unit: &str, action: UnitAction) -> Result<(), UnitError> {
    // A stopped unit may be unloaded already; there is nothing left that could have failed.
    let Ok(path) = manager.get_unit(unit).await else { return Ok(()) };
    let proxy = UnitProxy::builder(connection).path(path).map_err(bus)?.build().await.map_err(bus)?;
    match proxy.active_state().await.map_err(bus)? {
        state if state == "failed" => Err(UnitError::State { verb: verb(action), unit: unit.to_owned(), state }),
        _ => Ok(()),
    }
}
