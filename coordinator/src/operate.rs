//! What operators do beside publishing: each verb looks at one snapshot, judges it (pure), and changes it in one transaction that compares
//! what it saw and leaves an audit event: who, from where, when, why.
//!
//! ```text
//!  pause, resume, promote, abort ─▶ rollout/wish, obeyed by the leader     wish.rs
//!  rollback, retry, restart ──────▶ rollout/spec, as a publish does        back.rs, again.rs
//!  node cordon, uncordon, forget ─▶ nodes/<node>/…                         node.rs
//! ```
//!
//! Every verb is idempotent: what is so already is said, with who did it, and is no error.

use coord_proto::ids::AppName;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::rollout::{Actor, RolloutSpec, RolloutState};
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{Compare, Store, StoreError, Transaction};

use crate::commit::CommitError;
use crate::exit::Exit;
use crate::publish::{START_COORDINATOR, phase_words};
use crate::ui::Failure;
use crate::view::{App, Fleet};

pub mod again;
pub mod back;
mod begin;
pub mod node;
pub mod wish;

pub use begin::{Options, begin};

/// What a verb comes to, once it was looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged<T> {
    /// This is to be done.
    Do(T),
    /// It is so already, in words.
    Already(String),
}

/// Why a verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// What is there does not allow it: in words, and what to type instead.
    #[error("{words}; nothing was changed")]
    Refused { words: String, hint: String },
    #[error("no coordinator runs: nobody would do it; nothing was changed")]
    NoCoordinator,
    #[error("others kept changing the same keys; nothing was changed")]
    Restless,
    #[error("no coordinator obeyed within {}; the wish stands, and the next one obeys it", humantime::format_duration(*.waited))]
    NotObeyed { waited: std::time::Duration },
    #[error(transparent)]
    Store(StoreError),
    #[error("nobody knows whether it was done")]
    Unsettled(#[source] CommitError),
    #[error("the view of the fleet ended")]
    ViewEnded,
}

impl OperateError {
    /// Refused in these words; `hint` says what to do.
    pub fn refused(words: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { words: words.into(), hint: hint.into() }
    }

    /// For the terminal: with the exit code and what to type next.
    pub fn failure(self) -> Failure {
        let (exit, hint) = match &self {
            Self::Refused { hint, .. } => (Exit::Refused, hint.clone()),
            Self::NoCoordinator => (Exit::Refused, START_COORDINATOR.to_owned()),
            Self::Restless => (Exit::Refused, "try again".to_owned()),
            Self::NotObeyed { .. } => (Exit::TimedOut, format!("does one run? {START_COORDINATOR}")),
            Self::Unsettled(_) => (Exit::Error, "look with `coordctl rollout status`, then say it again: twice is once".to_owned()),
            Self::Store(_) | Self::ViewEnded => (Exit::Error, String::new()),
        };
        Failure::from(self).exit(exit).hint(hint)
    }
}

impl From<CommitError> for OperateError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            lost @ CommitError::Unsettled(_) => Self::Unsettled(lost),
        }
    }
}

/// Everything, as of one revision.
pub struct Sight {
    mirror: Mirror,
    pub fleet: Fleet,
}

impl Sight {
    /// Looks.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(store: &dyn Store, keys: &KeySpace) -> Result<Self, OperateError> {
        let mirror = Mirror::from(store.list(&keys.all()).await.map_err(OperateError::Store)?);
        let fleet = Fleet::whole(&mirror, keys);
        Ok(Self { mirror, fleet })
    }

    /// A transaction that happens only while these keys are as they were seen.
    pub fn unchanged(&self, keys: &KeySpace, which: &[Key]) -> Transaction {
        which.iter().map(|key| keys.key(key)).fold(Transaction::new(), |transaction, key| {
            let entry = self.mirror.entries.get(&key);
            transaction.when(Compare::unchanged(key, entry))
        })
    }

    /// The app, while a coordinator leads; an app whose records cannot be read is not judged by what is left of them.
    ///
    /// # Errors
    /// No coordinator, no such app.
    pub fn app<'a>(fleet: &'a Fleet, name: &AppName) -> Result<&'a App, OperateError> {
        let none = || OperateError::refused(format!("there is no rollout of {name}"), "`coordctl release publish` begins one");
        let app = fleet.apps.get(name).ok_or_else(none)?;
        if app.unreadable {
            return Err(OperateError::refused(format!("a record of {name} cannot be read"), "`coordctl status` names it"));
        }
        if fleet.leader.is_none() {
            return Err(OperateError::NoCoordinator);
        }
        Ok(app)
    }
}

/// The current rollout, and its state if a coordinator wrote one.
pub fn current<'a>(app: &'a App, name: &AppName) -> Result<(&'a RolloutSpec, Option<&'a RolloutState>), OperateError> {
    let none = || OperateError::refused(format!("there is no rollout of {name}"), "`coordctl release publish` begins one");
    let spec = app.spec.as_ref().ok_or_else(none)?;
    Ok((spec, app.state.as_ref().filter(|state| state.id == spec.id)))
}

/// `rollout 7-1f2e3d4c of release r7 by ann@laptop (running)`.
pub fn described(spec: &RolloutSpec, state: Option<&RolloutState>) -> String {
    format!("rollout {} of release {} by {} ({})", spec.id, spec.release, spec.by, phase_words(state.map(|s| s.phase)))
}

/// Nothing new is begun while a rollout goes on.
pub fn goes_on(spec: &RolloutSpec, state: Option<&RolloutState>) -> OperateError {
    let app = &spec.app;
    let hint = format!("`coordctl rollout abort {app}` ends it and takes its servers back; `coordctl rollout watch {app}` follows it");
    OperateError::refused(format!("{} goes on", described(spec, state)), hint)
}

/// ` (because)`, where a reason was given.
pub fn because(by: &Actor) -> String {
    by.message.as_ref().map_or_else(String::new, |m| format!(" ({m})"))
}

#[cfg(test)]
mod tests;
