//! This server's claims, journaled before they are made: `<state>/apps/<app>/claims/<release>.<task>.json`.
//!
//! One task of the agent at a time works on a claim: the effect that wants the work done, or who settles what is owed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, NodeName, Nonce, ReleaseId, Seq};
use coord_proto::migration::{Ending, TaskId, TaskName, TaskState};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedMutexGuard};
use tracing::warn;

use super::MigrateError;
use crate::durable::{ensure_dir_durably, remove_if_there, write_file_durably};

/// One claim of this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub seq: Seq,
    pub release: ReleaseId,
    pub task: TaskName,
    pub nonce: Nonce,
    pub progress: Progress,
}

/// How far a claim has come, as far as this server knows. Each is on disk before what it speaks of happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It may have been made. Nothing was started under it.
    Intended,
    /// Nothing was started under it, and nothing ever will be.
    Forgone,
    Started,
    Ended(JournaledEnding),
    /// It was started once; the record has its end, or another's word.
    Over,
}

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournaledEnding {
    state: TaskState,
    detail: String,
    log_tail: String,
    now: i64,
}

impl JournaledEnding {
    /// Of a command that was started by an agent which is not there any more.
    pub fn lost(node: &NodeName, now: i64) -> Self {
        let detail = format!("the agent on {node} ended while the command ran");
        Self { state: TaskState::Unknown, detail, log_tail: String::new(), now }
    }

    /// Does nobody know how it ended?
    pub fn is_unknown(&self) -> bool {
        self.state == TaskState::Unknown
    }
}

impl From<Ending> for JournaledEnding {
    fn from(Ending { state, detail, log_tail, now }: Ending) -> Self {
        Self { state, detail, log_tail, now }
    }
}

impl From<JournaledEnding> for Ending {
    fn from(JournaledEnding { state, detail, log_tail, now }: JournaledEnding) -> Self {
        Self { state, detail, log_tail, now }
    }
}

/// All claims of this server, and who works on which.
#[derive(Clone)]
pub struct Claims {
    apps: PathBuf,
    locks: Arc<Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>>,
    freed: Arc<Notify>,
}

impl Claims {
    /// `apps` is `<state>/apps`; nothing is touched.
    pub fn new(apps: PathBuf) -> Self {
        Self { apps, locks: Arc::default(), freed: Arc::default() }
    }

    /// The claim of `task`, once nobody else works on it.
    pub async fn hold(&self, task: &TaskId) -> Held {
        let path = self.path(task);
        let guard = self.lock(&path).lock_owned().await;
        Held { path, guard: Some(guard), freed: self.freed.clone() }
    }

    /// The files of all claims.
    ///
    /// # Errors
    /// A directory cannot be listed.
    pub fn files(&self) -> Result<Vec<(AppName, PathBuf)>, MigrateError> {
        let mut files = vec![];
        for app in list(&self.apps)? {
            let Some(app) = app.file_name().and_then(|n| n.to_str()?.parse::<AppName>().ok()) else { continue };
            let claims = list(&self.dir(&app))?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"));
            files.extend(claims.map(|path| (app.clone(), path)));
        }
        Ok(files)
    }

    /// The claim in a file, if nobody works on it and it is not over. One that cannot be read is told and left out.
    pub fn hold_idle(&self, app: &AppName, path: PathBuf) -> Option<(TaskId, Claim, Held)> {
        let guard = self.lock(&path).try_lock_owned().ok()?;
        // Letting go of it again tells nobody: whoever looks for idle claims is who holds it.
        let held = Held { path, guard: Some(guard), freed: Arc::default() };
        let claim = held.load().inspect_err(|e| warn!("a claim is left as it is: {}", inline(e))).ok()??;
        let task = TaskId { app: app.clone(), release: claim.release.clone(), seq: claim.seq, task: claim.task.clone() };
        (claim.progress != Progress::Over).then_some((task, claim, held))
    }

    /// Resolves after somebody let go of a claim.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    pub(super) fn path(&self, task: &TaskId) -> PathBuf {
        self.dir(&task.app).join(format!("{}.{}.json", task.release, task.task))
    }

    fn dir(&self, app: &AppName) -> PathBuf {
        self.apps.join(app.as_str()).join("claims")
    }

    fn lock(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(path.to_owned()).or_default().clone()
    }
}

/// One claim's file, held.
pub struct Held {
    path: PathBuf,
    guard: Option<OwnedMutexGuard<()>>,
    freed: Arc<Notify>,
}

impl Held {
    /// The claim, if one was ever intended.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn load(&self) -> Result<Option<Claim>, MigrateError> {
        let damaged = |source| MigrateError::Damaged { path: self.path.clone(), source };
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| damaged(e.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(damaged(source)),
        }
    }

    /// Forgets a claim under which nothing was started.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self) -> Result<(), MigrateError> {
        Ok(remove_if_there(&self.path)?)
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// Any write or fsync that failed: nothing may be acted on then.
    pub fn save(&self, claim: &Claim) -> Result<(), MigrateError> {
        let dir = self.path.parent().expect("made by joining names");
        ensure_dir_durably(dir)?;
        let bytes = serde_json::to_vec(claim).expect("a claim holds only strings and numbers");
        Ok(write_file_durably(&self.path, &bytes, 0o600)?)
    }
}

/// What is in a directory; nothing where it is missing.
fn list(dir: &Path) -> Result<Vec<PathBuf>, MigrateError> {
    let damaged = |source| MigrateError::Damaged { path: dir.to_owned(), source };
    match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(vec![]),
        read => read.map_err(damaged)?.map(|entry| Ok(entry.map_err(damaged)?.path())).collect(),
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.guard.take());
        self.freed.notify_one();
    }
}
