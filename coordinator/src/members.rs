//! Coordinators that run beside each other, as each announces itself under a lease.
//!
//! A directory of artifacts belongs to one machine: beside another coordinator, half of all downloads would not find what they need. So
//! with `file://` there is one coordinator, and a second one is refused. The elder stays.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::coordinator::MemberRecord;
use coord_proto::ids::Nonce;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::retry::Backoff;
use coord_proto::store::session::Session;
use coord_proto::store::{Entry, SharedStore, StoreError, Transaction};
use tokio_util::sync::CancellationToken;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// In the state directory: a coordinator that starts again replaces its own record.
const INSTANCE_FILE: &str = "instance";

/// Why a coordinator may not run.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error(
        "the coordinator on {other} ({url}) runs already, with its artifacts in {theirs}; these would be in {own}: several coordinators need \
         one `s3://` store, named by `[artifacts] url` on each"
    )]
    SecondStore { other: String, url: String, theirs: String, own: String },
    #[error("{} cannot be read or written", path.display())]
    Instance {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One coordinator, announced while it runs.
pub struct Member {
    pub store: SharedStore,
    pub keys: KeySpace,
    pub ttl: Duration,
    /// Stays over restarts.
    pub instance: String,
    pub record: MemberRecord,
}

enum Attempt {
    Joined(Session),
    Excluded(MemberError),
    Unwritten,
}

/// The name of this coordinator, made at its first start.
///
/// # Errors
/// The state directory cannot be used.
pub fn instance(state: &Path) -> Result<String, MemberError> {
    let path = state.join(INSTANCE_FILE);
    let failed = |source| MemberError::Instance { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() && text.trim().bytes().all(|b| b.is_ascii_alphanumeric()) => return Ok(text.trim().to_owned()),
        // Empty after a power cut, or not ours: a new one does no harm.
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    let instance = Nonce::random().to_string();
    std::fs::write(&path, &instance).map_err(failed)?;
    Ok(instance)
}

impl Member {
    /// Announces itself; the announcement stands as long as the session. Waits for a store that is away; cancel it by dropping.
    ///
    /// # Errors
    /// [`MemberError::SecondStore`]: then nothing is announced.
    pub async fn join(&self, stop: &CancellationToken) -> Result<Session, MemberError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            match self.attempt(stop).await {
                Ok(Attempt::Joined(session)) => return Ok(session),
                Ok(Attempt::Excluded(by)) => return Err(by),
                Ok(Attempt::Unwritten) => {}
                Err(error) => tracing::debug!(error = %inline(&error), "cannot announce this coordinator, trying again"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Stays announced until `stop`, over leases that are lost while etcd is away.
    ///
    /// # Errors
    /// As [`Member::join`]: another one came meanwhile.
    pub async fn stay(&self, mut session: Session, stop: &CancellationToken) -> Result<(), MemberError> {
        loop {
            tokio::select! {
                biased;
                // Not given back: within its lease it may start again, and nobody takes the place of the one that has the artifacts.
                () = stop.cancelled() => return Ok(()),
                () = session.lost() => {}
            }
            session = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                joined = self.join(stop) => joined?,
            };
        }
    }

    /// Announces first and looks then: of two that start at once, both see both, and the same one stays.
    async fn attempt(&self, stop: &CancellationToken) -> Result<Attempt, StoreError> {
        let session = Session::open(self.store.clone(), self.ttl, stop).await?;
        let own = self.keys.key(&Key::Member(self.instance.clone()));
        let put = Transaction::new().put_under(session.lease(), own.clone(), &self.record);
        match self.store.commit(put).await {
            // What stands there decides, also after a reply that was lost.
            Ok(_) | Err(StoreError::Indeterminate { .. }) => {}
            Err(error) => return Err(error),
        }
        let members = self.store.list(&self.keys.members()).await?.entries;
        let Some(created) = members.iter().find(|e| e.key == own && e.lease == Some(session.lease())).map(|e| e.created) else {
            session.close().await?;
            return Ok(Attempt::Unwritten);
        };
        let elder = members.iter().filter(|e| e.key != own && e.created < created).find_map(|e| self.excludes(e));
        match elder {
            None => Ok(Attempt::Joined(session)),
            Some(by) => {
                session.close().await?;
                Ok(Attempt::Excluded(by))
            }
        }
    }

    /// Can the two not run beside each other? One that cannot be read is nobody's reason to stay away.
    fn excludes(&self, other: &Entry) -> Option<MemberError> {
        let other: MemberRecord = other.record().ok()?;
        let shared = other.shares() && other.artifacts == self.record.artifacts;
        (!shared).then(|| MemberError::SecondStore {
            other: other.host,
            url: other.url,
            theirs: other.artifacts,
            own: self.record.artifacts.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
