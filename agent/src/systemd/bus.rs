//! Units over D-Bus, as org.freedesktop.systemd1(5) describes it. A connection is made for each request and dropped: an
//! idle agent keeps none.

use async_trait::async_trait;
use coord_proto::manifest::UnitAction;
use futures::StreamExt;
use zbus::Connection;
use zbus::zvariant::OwnedObjectPath;

use super::{UnitError, Units};

/// A unit as ListUnitsByPatterns tells it: name, description, load, active, sub, followed, path, job id, job type, job path.
type UnitRow = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<UnitRow>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_or_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// Units through the system bus, at `DBUS_SYSTEM_BUS_ADDRESS` or the usual place.
pub struct SystemBus;

#[async_trait]
impl Units for SystemBus {
    async fn act(&self, pattern: &str, action: UnitAction) -> Result<(), UnitError> {
        let bus = Connection::system().await.map_err(bus_error)?;
        act_on(&bus, pattern, action).await
    }
}

async fn act_on(bus: &Connection, pattern: &str, action: UnitAction) -> Result<(), UnitError> {
    let manager = ManagerProxy::new(bus).await.map_err(bus_error)?;
    for unit in matching(&manager, pattern).await? {
        run_job(&manager, &unit, action).await?;
        check_state(&manager, &unit).await?;
    }
    Ok(())
}

/// A plain name stands for itself, loaded or not; a pattern only for what is loaded.
async fn matching(manager: &ManagerProxy<'_>, pattern: &str) -> Result<Vec<String>, UnitError> {
    if !pattern.contains(['*', '?', '[']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let rows = manager.list_units_by_patterns(&[], &[pattern]).await.map_err(refused)?;
    let mut names: Vec<String> = rows.into_iter().map(|row| row.0).collect();
    names.sort();
    if names.is_empty() { Err(UnitError::NoneMatches { pattern: pattern.into() }) } else { Ok(names) }
}

/// Waits until systemd says how the job ended. Listening begins before asking: a quick job would be over before.
async fn run_job(manager: &ManagerProxy<'_>, unit: &str, action: UnitAction) -> Result<(), UnitError> {
    let mut removed = manager.receive_job_removed().await.map_err(bus_error)?;
    // Without a subscriber systemd sends no signals.
    manager.subscribe().await.map_err(refused)?;
    let job = enqueue(manager, unit, action).await.map_err(refused)?;
    while let Some(signal) = removed.next().await {
        let told = signal.args().map_err(bus_error)?;
        if told.job != job {
            continue;
        }
        return match told.result.as_str() {
            "done" => Ok(()),
            result => Err(UnitError::Job { unit: unit.into(), result: result.into() }),
        };
    }
    Err(bus_error(zbus::Error::Failure("the connection ended while a job ran".into())))
}

/// "replace", as systemctl(1) does: a conflicting job that waits gives way.
async fn enqueue(manager: &ManagerProxy<'_>, unit: &str, action: UnitAction) -> zbus::Result<OwnedObjectPath> {
    match action {
        UnitAction::Start => manager.start_unit(unit, "replace").await,
        UnitAction::Stop => manager.stop_unit(unit, "replace").await,
        UnitAction::Reload => manager.reload_unit(unit, "replace").await,
        UnitAction::Restart => manager.restart_unit(unit, "replace").await,
        UnitAction::ReloadOrRestart => manager.reload_or_restart_unit(unit, "replace").await,
    }
}

/// A job can be done and the unit dead a moment later. Only `failed` says so: a one-shot unit is inactive when it went
/// well, and a stopped one may not be loaded any more.
async fn check_state(manager: &ManagerProxy<'_>, unit: &str) -> Result<(), UnitError> {
    let rows = manager.list_units_by_patterns(&[], &[unit]).await.map_err(refused)?;
    match rows.into_iter().find(|row| row.0 == unit).map(|row| row.3) {
        Some(state) if state == "failed" => Err(UnitError::NotActive { unit: unit.into(), state }),
        _ => Ok(()),
    }
}

fn bus_error(source: zbus::Error) -> UnitError {
    UnitError::Bus(Box::new(source))
}

fn refused(source: zbus::Error) -> UnitError {
    UnitError::Refused(Box::new(source))
}

#[cfg(test)]
mod tests;
