//! A rollout without a new release: looked at, judged, and written as one transaction.

use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::labels::Selector;
use coord_proto::manifest::Manifest;
use coord_proto::rollout::{Actor, OnFailure, Promote, RolloutPolicy, RolloutSpec, Serial};
use coord_proto::store::Store;
use coord_proto::trust::Envelope;

use super::{Judged, OperateError, Sight, described};
use crate::commit::{TRIES_MAX, audited};

/// What an operator may say beside the verb.
#[derive(Debug, Clone)]
pub struct Options {
    /// Servers at a time, instead of the release's own `serial`.
    pub serial: Option<Serial>,
    pub limit: Option<Selector>,
    /// Past migrations without a way back, and to a release that did not prove itself.
    pub force: bool,
    pub by: Actor,
}

/// Begins the rollout that `judge` asks for.
///
/// # Errors
/// What `judge` refuses, somebody else's rollout that came first, and the store's.
pub async fn begin(
    store: &dyn Store,
    keys: &KeySpace,
    name: &AppName,
    judge: impl Fn(&Sight) -> Result<Judged<RolloutSpec>, OperateError>,
) -> Result<Judged<RolloutSpec>, OperateError> {
    let mut seen = None;
    for _ in 0..TRIES_MAX {
        let sight = Sight::look(store, keys).await?;
        let app = sight.fleet.apps.get(name);
        let now = app.and_then(|a| a.spec.as_ref());
        if let (Some(before), Some(now)) = (&seen, now)
            && *before != now.id
        {
            let state = app.and_then(|a| a.state.as_ref()).filter(|s| s.id == now.id);
            let hint = format!("look with `coordctl rollout status {name}`, then say it again if it is still meant");
            return Err(OperateError::refused(format!("{} was asked for meanwhile", described(now, state)), hint));
        }
        seen = now.map(|spec| spec.id.clone());
        let spec = match judge(&sight)? {
            Judged::Do(spec) => spec,
            already @ Judged::Already(_) => return Ok(already),
        };
        let what = format!("asked for a {} of release {} (rollout {})", spec.kind.word(), spec.release, spec.id);
        let event = AuditEvent { app: Some(name.clone()), what, by: spec.by.clone() };
        let of = |key: fn(AppName) -> Key| key(name.clone());
        let transaction = sight
            .unchanged(keys, &[of(Key::RolloutSpec), of(Key::RolloutState), of(Key::Stable), of(Key::MigrationHead), of(Key::AppSeq)])
            .put_record(keys.key(&of(Key::RolloutSpec)), &spec);
        if audited(store, keys, transaction, &event).await?.is_some() {
            return Ok(Judged::Do(spec));
        }
    }
    Err(OperateError::Restless)
}

impl Sight {
    /// The policy of a release's own manifest, for a rollout that an operator asked for: it waits for no promotion, and halts where it
    /// fails, because there is nothing better to go back to.
    pub(super) fn policy(&self, keys: &KeySpace, name: &AppName, seq: Seq, options: &Options) -> Result<RolloutPolicy, OperateError> {
        let key = keys.key(&Key::Manifest(name.clone(), seq));
        let manifest = self.mirror.entries.get(&key).and_then(|entry| Envelope::decode(&entry.value).ok());
        let manifest = manifest.and_then(|envelope| Manifest::decode(&envelope.manifest).ok());
        let missing = || OperateError::refused(format!("the manifest of release number {seq} cannot be read"), "publish the release again");
        let own = manifest.ok_or_else(missing)?.rollout.with_serial(options.serial.as_ref());
        Ok(RolloutPolicy { promote: Promote::Auto, on_failure: OnFailure::Halt, ..own })
    }
}
