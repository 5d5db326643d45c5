//! The second signature: another person looks at what waits, signs the same bytes, and rolls it out with the last signature that is needed.
//!
//! ```text
//!  look (manifest, its signatures) ─▶ somebody vouches for it ─▶ sign the same bytes ─▶ add; complete: the rollout too, in one transaction
//! ```

use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, ReleaseId};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::manifest::Manifest;
use coord_proto::rollout::{Actor, ReleaseRecord, RolloutSpec, Waiting};
use coord_proto::signature::{PublicKey, Signature, SignatureError};
use coord_proto::store::{Compare, Entry, Store, StoreError, Transaction, read_record};
use coord_proto::trust::{Envelope, Trust, TrustError, gather};

use super::standing::Standing;
use super::{Other, PublishError, first_rollout};
use crate::commit::{TRIES_MAX, audited};
use crate::counts;
use crate::exit::Exit;
use crate::ui::Failure;

/// A stored release, as somebody sees it who is asked to sign it. Its manifest is covered by a trusted signature at least.
#[derive(Debug)]
pub struct Pending {
    pub record: ReleaseRecord,
    pub manifest: Manifest,
    pub envelope: Envelope,
    /// Whose signatures count.
    pub signed: Vec<PublicKey>,
    /// How many more servers want, by the trust file at hand.
    pub missing: usize,
    entry: Entry,
}

/// Signatures to add, over the exact bytes that were shown.
#[derive(Debug)]
pub struct Approval<'a> {
    pub app: &'a AppName,
    pub release: &'a ReleaseId,
    pub signatures: &'a [(PublicKey, String)],
    /// May it take the place of a rollout that goes on?
    pub supersede: bool,
    pub by: Actor,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Added {
    /// These keys have signed it before; nothing was changed.
    Already { missing: usize },
    /// Added; it waits for more.
    Waits { missing: usize },
    /// Added to a release that waits for nothing.
    Another,
    /// Added, and it is rolled out.
    Complete(Box<RolloutSpec>),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum CountersignError {
    #[error("there is no release {release} of {app}")]
    Unknown { app: AppName, release: ReleaseId },
    #[error("the manifest of release {release} is gone")]
    NoManifest { app: AppName, release: ReleaseId },
    #[error("nobody who may sign has signed release {release} as it is stored; nothing was changed")]
    Unvouched {
        release: ReleaseId,
        #[source]
        source: TrustError,
    },
    #[error("the manifest under release {release} is for {found}; nothing was changed")]
    Misfiled { release: ReleaseId, found: String },
    #[error("{other} was rolled out meanwhile, and has a higher number; nothing was changed")]
    Overtaken { app: AppName, other: Box<Other> },
    #[error("the trust file does not list the key {key}; nothing was changed")]
    NotListed { key: String },
    #[error("the signature by {key} does not fit release {release}; nothing was changed")]
    Invalid {
        key: String,
        release: ReleaseId,
        #[source]
        source: SignatureError,
    },
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<StoreError> for CountersignError {
    fn from(error: StoreError) -> Self {
        Self::Publish(error.into())
    }
}

impl CountersignError {
    /// For the terminal: with the exit code and what to type next.
    pub fn failure(self) -> Failure {
        let (exit, hint) = match self {
            Self::Publish(error) => return error.failure(),
            Self::Unknown { ref app, .. } | Self::NoManifest { ref app, .. } => {
                (Exit::Error, format!("`coordctl release list {app}` lists them"))
            }
            Self::Unvouched { .. } | Self::Misfiled { .. } => {
                (Exit::Refused, "find out who wrote it into etcd (`coordctl release show`), and publish again".to_owned())
            }
            Self::Invalid { .. } => (Exit::Error, String::new()),
            Self::Overtaken { .. } => (Exit::Refused, "publish again: `coordctl release publish`".to_owned()),
            Self::NotListed { .. } => {
                (Exit::Refused, "sign with a key that it lists: `coordctl key inspect` prints a key's line".to_owned())
            }
        };
        Failure::from(self).exit(exit).hint(hint)
    }
}

impl Pending {
    /// Reads it, and checks that a trusted key has signed it before anything in it is shown (I3).
    ///
    /// # Errors
    /// No such release, nobody vouches for it, or it is another one.
    pub async fn look(
        store: &dyn Store,
        keys: &KeySpace,
        trust: &Trust,
        (app, release): (&AppName, &ReleaseId),
    ) -> Result<Self, CountersignError> {
        let unknown = || CountersignError::Unknown { app: app.clone(), release: release.clone() };
        let key = keys.key(&Key::Release(app.clone(), release.clone()));
        let (record, entry) = read_record::<ReleaseRecord>(store, &key).await?.ok_or_else(unknown)?;
        let listed = store.list(&keys.key(&Key::Manifest(app.clone(), record.seq))).await?.entries;
        let unvouched = |source| CountersignError::Unvouched { release: release.clone(), source };
        let gone = || CountersignError::NoManifest { app: app.clone(), release: release.clone() };
        let envelope = gather(&listed, keys, app, record.seq).map_err(unvouched)?.ok_or_else(gone)?;
        let (manifest, missing) = trust.open_waiting(&envelope.manifest, &envelope.signatures).map_err(unvouched)?;
        if manifest.app != *app || manifest.release != *release || manifest.seq != record.seq {
            let found = format!("{} {} number {}", manifest.app, manifest.release, manifest.seq);
            return Err(CountersignError::Misfiled { release: release.clone(), found });
        }
        let signed = trust.keys.signers(&envelope.manifest, &envelope.signatures).into_iter().cloned().collect();
        Ok(Self { record, manifest, envelope, signed, missing, entry })
    }

    /// Is it still the newest that anybody wanted on the servers? Asked of all releases and not of the rollout: that one may be a way back.
    ///
    /// # Errors
    /// [`CountersignError::Overtaken`] names the newer one.
    pub async fn expect_newest(&self, store: &dyn Store, keys: &KeySpace) -> Result<(), CountersignError> {
        let app = &self.manifest.app;
        for entry in store.list(&keys.releases(app)).await?.entries {
            let Some(Key::Release(_, release)) = keys.parse(&entry.key) else { continue };
            let other: ReleaseRecord = entry.record()?;
            if other.seq > self.record.seq && other.waits.is_none() {
                return Err(CountersignError::Overtaken { app: app.clone(), other: Box::new(Other { release, by: other.by }) });
            }
        }
        Ok(())
    }

    /// `release 7 (number 7)` and who signs what, in the audit trail.
    fn event(&self, approval: &Approval<'_>, complete: bool) -> AuditEvent {
        let ids: Vec<String> = approval.signatures.iter().map(|(key, _)| key.id().to_string()).collect();
        let then = if complete { ", and rolled it out" } else { "" };
        let what = format!("signed release {} with the key {}{then}", approval.release, ids.join(", "));
        AuditEvent { app: Some(approval.app.clone()), what, by: approval.by.clone() }
    }
}

/// Adds the signatures; with the last one that is needed, begins the rollout in the same transaction.
///
/// # Errors
/// Unless it says otherwise, nothing was changed.
pub async fn add(store: &dyn Store, keys: &KeySpace, trust: &Trust, approval: &Approval<'_>) -> Result<Added, CountersignError> {
    let app = approval.app;
    for _ in 0..TRIES_MAX {
        let pending = Pending::look(store, keys, trust, (app, approval.release)).await?;
        let fresh: Vec<&(PublicKey, String)> = approval.signatures.iter().filter(|(key, _)| !pending.signed.contains(key)).collect();
        fresh.iter().try_for_each(|signature| expect_good(&pending, trust, signature))?;
        let missing = missing_with(&pending, trust, &fresh)?;
        let complete = pending.record.waits.is_some() && missing == 0;
        if fresh.is_empty() && !complete {
            return Ok(Added::Already { missing });
        }
        let (transaction, spec) = if complete {
            // The standing first: what is published after it refuses the transaction, what was before is found in the list.
            let standing = Standing::look(store, keys, app).await?;
            pending.expect_newest(store, keys).await?;
            standing.admit_rollout(approval.supersede)?;
            let waits = pending.record.waits.as_ref();
            let asked = (waits.and_then(|w| w.serial.as_ref()), waits.and_then(|w| w.limit.as_ref()));
            let spec = first_rollout(&pending.manifest, asked, &approval.by);
            (standing.unchanged(keys, app).put_record(keys.key(&Key::RolloutSpec(app.clone())), &spec), Some(spec))
        } else {
            (Transaction::new(), None)
        };
        let transaction = with_signatures(transaction, keys, (&pending, missing), &fresh);
        let event = pending.event(approval, complete);
        let committed = audited(store, keys, transaction, &event).await.map_err(|e| PublishError::of(e, approval.release))?;
        if committed.is_some() {
            return Ok(match (spec, pending.record.waits) {
                (Some(spec), _) => Added::Complete(Box::new(spec)),
                (None, Some(_)) => Added::Waits { missing },
                (None, None) => Added::Another,
            });
        }
    }
    Err(PublishError::Restless { app: app.clone() }.into())
}

/// A listed key's signature over what is stored: another one would only take its place, for ever.
fn expect_good(pending: &Pending, trust: &Trust, (key, text): &(PublicKey, String)) -> Result<(), CountersignError> {
    if !trust.keys.lists(key) {
        return Err(CountersignError::NotListed { key: key.to_string() });
    }
    let checked = Signature::parse(text).and_then(|signature| key.verify(&pending.envelope.manifest, &signature));
    let release = pending.manifest.release.clone();
    checked.map_err(|source| CountersignError::Invalid { key: key.to_string(), release, source })
}

/// How many signatures servers want beside these too.
fn missing_with(pending: &Pending, trust: &Trust, fresh: &[&(PublicKey, String)]) -> Result<usize, CountersignError> {
    let texts: Vec<String> = pending.envelope.signatures.iter().chain(fresh.iter().map(|(_, text)| text)).cloned().collect();
    let opened = trust.open_waiting(&pending.envelope.manifest, &texts);
    let unvouched = |source| CountersignError::Unvouched { release: pending.manifest.release.clone(), source };
    opened.map(|(_, missing)| missing).map_err(unvouched)
}

/// Each signature under its own key, create-only; and what the release waits for now.
fn with_signatures(
    transaction: Transaction,
    keys: &KeySpace,
    (pending, missing): (&Pending, usize),
    fresh: &[&(PublicKey, String)],
) -> Transaction {
    let (app, seq) = (&pending.manifest.app, pending.manifest.seq);
    let release = keys.key(&Key::Release(app.clone(), pending.manifest.release.clone()));
    let waits = pending.record.waits.clone().filter(|_| missing > 0).map(|waits| Waiting { signatures: missing, ..waits });
    let record = ReleaseRecord { waits, ..pending.record.clone() };
    let transaction = transaction.when(Compare::unchanged(release.clone(), Some(&pending.entry))).put_record(release, &record);
    fresh.iter().fold(transaction, |transaction, (key, text)| {
        let place = keys.key(&Key::ManifestSignature(app.clone(), seq, key.id()));
        transaction.when(Compare::absent(&place)).put(place, text.clone().into_bytes())
    })
}

/// `waits for 1 more signature: coordctl release sign APP RELEASE`
pub fn waits_for(missing: usize, app: &AppName, release: &ReleaseId) -> String {
    format!("waits for {}: coordctl release sign {app} {release}", counts::signatures(missing))
}

#[cfg(test)]
mod tests;
