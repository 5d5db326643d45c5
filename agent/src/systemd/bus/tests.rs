//! Against a service manager of the tests' own, over a socket pair: no bus is needed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::net::UnixStream;
use zbus::connection::Builder;
use zbus::object_server::SignalEmitter;

use super::*;

/// What the fake manager was asked, and the units that it has: how a job for one ends, and its state afterwards.
#[derive(Clone, Default)]
struct Fake {
    asked: Arc<Mutex<Vec<String>>>,
    units: Arc<BTreeMap<&'static str, (&'static str, &'static str)>>,
}

fn path(text: &str) -> OwnedObjectPath {
    text.to_owned().try_into().expect("an object path")
}

impl Fake {
    async fn job(&self, verb: &str, unit: &str, emitter: &SignalEmitter<'_>) -> zbus::fdo::Result<OwnedObjectPath> {
        self.asked.lock().expect("no panic holds it").push(format!("{verb} {unit}"));
        let Some((result, _)) = self.units.get(unit) else { return Err(zbus::fdo::Error::Failed("no such unit".into())) };
        let job = path("/org/freedesktop/systemd1/job/7");
        // Somebody else's job first, and ours before the call has answered: both happen.
        let _ = Self::job_removed(emitter, 6, path("/org/freedesktop/systemd1/job/6"), unit.into(), "failed".into()).await;
        let _ = Self::job_removed(emitter, 7, job.clone(), unit.into(), (*result).into()).await;
        Ok(job)
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Fake {
    fn subscribe(&self) {}

    fn list_units_by_patterns(&self, _states: Vec<String>, patterns: Vec<String>) -> Vec<UnitRow> {
        let prefix = patterns[0].split('*').next().unwrap_or_default();
        let matching = self.units.iter().filter(|(name, _)| name.starts_with(prefix));
        let row = |(name, (_, state)): (&&str, &(&str, &str))| {
            let none = String::new;
            (name.to_string(), none(), none(), state.to_string(), none(), none(), path("/u"), 0, none(), path("/"))
        };
        matching.map(row).collect()
    }

    async fn restart_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] e: SignalEmitter<'_>,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        self.job("restart", name, &e).await
    }

    async fn stop_unit(&self, name: &str, _mode: &str, #[zbus(signal_emitter)] e: SignalEmitter<'_>) -> zbus::fdo::Result<OwnedObjectPath> {
        self.job("stop", name, &e).await
    }

    #[zbus(signal)]
    async fn job_removed(e: &SignalEmitter<'_>, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// A connection to a manager with these units, the manager's end, and what it is asked.
async fn manager(units: &[(&'static str, (&'static str, &'static str))]) -> (Connection, Connection, Arc<Mutex<Vec<String>>>) {
    let fake = Fake { units: Arc::new(units.iter().copied().collect()), ..Fake::default() };
    let asked = fake.asked.clone();
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).expect("guid").p2p();
    let server = server.serve_at("/org/freedesktop/systemd1", fake).expect("served").build();
    let client = Builder::unix_stream(ours).p2p().build();
    let (server, client) = tokio::join!(server, client);
    (client.expect("client"), server.expect("server"), asked)
}

#[tokio::test]
async fn a_pattern_is_every_loaded_unit_in_order() {
    let units = [("w@2.service", ("done", "active")), ("w@1.service", ("done", "active")), ("x.service", ("done", "active"))];
    let (bus, _manager, asked) = manager(&units).await;
    act_on(&bus, "w@*.service", UnitAction::Restart).await.expect("restarted");
    assert_eq!(*asked.lock().expect("asked"), ["restart w@1.service", "restart w@2.service"]);
    let error = act_on(&bus, "y@*.service", UnitAction::Restart).await.expect_err("none");
    assert!(matches!(error, UnitError::NoneMatches { .. }), "{error}");
}

#[tokio::test]
async fn the_word_of_our_own_job_counts() {
    let (bus, _manager, _) = manager(&[("a.service", ("done", "active")), ("b.service", ("timeout", "active"))]).await;
    act_on(&bus, "a.service", UnitAction::Restart).await.expect("the failed job was another one");
    let error = act_on(&bus, "b.service", UnitAction::Restart).await.expect_err("its job timed out");
    assert!(matches!(&error, UnitError::Job { result, .. } if result == "timeout"), "{error}");
}

#[tokio::test]
async fn a_unit_that_failed_after_its_job_is_told_and_an_inactive_one_is_fine() {
    let (bus, _manager, _) = manager(&[("a.service", ("done", "failed")), ("once.service", ("done", "inactive"))]).await;
    let error = act_on(&bus, "a.service", UnitAction::Restart).await.expect_err("it failed");
    assert!(matches!(error, UnitError::NotActive { .. }), "{error}");
    act_on(&bus, "once.service", UnitAction::Restart).await.expect("a one-shot unit went well");
    act_on(&bus, "once.service", UnitAction::Stop).await.expect("stopped");
}

#[tokio::test]
async fn a_refusal_is_told() {
    let (bus, _manager, _) = manager(&[]).await;
    let error = act_on(&bus, "none.service", UnitAction::Restart).await.expect_err("no such unit");
    assert!(coord_proto::chain::inline(&error).contains("no such unit"), "{error:?}");
}
