//! Publishing: everything becomes visible in one transaction, or nothing does.
//!
//! ```text
//!  look (leader, sequence number, stable, rollout) ─▶ admit ─▶ manifest ─▶ sign its exact bytes ─▶ commit ─▶ settle
//! ```
//!
//! The transaction compares every key that was looked at, so whoever publishes at the same time loses as a whole. A lost answer is settled
//! by reading back: the key of its audit event is random, so what is found there is ours or is not.
//!
//! Where the trust file asks for more signatures than there are keys, all but the rollout is written: the release waits, blocks nobody, and
//! is rolled out by whoever adds the last signature ([`countersign`]).

use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, Environment, Nonce, ReleaseId, Revision, RolloutId, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::labels::Selector;
use coord_proto::manifest::{Artifact, Manifest, ManifestError};
use coord_proto::migration::Head;
use coord_proto::rollout::{Actor, ReleaseRecord, RolloutKind, RolloutPhase, RolloutSpec, SeqRecord, Serial, Verdict, Waiting};
use coord_proto::store::{Compare, Store, StoreError, Transaction, read_record};
use coord_proto::trust::{Envelope, Trust, TrustError};

use crate::commit::{CommitError, TRIES_MAX, audited};
use crate::deploy_file::{DeployFile, Edition};
use crate::exit::Exit;
use crate::sign::{SignError, Signer};
use crate::ui::Failure;

pub mod countersign;
pub mod follow;
pub mod preview;
pub mod standing;

use standing::Standing;

/// What to start when no coordinator leads.
pub const START_COORDINATOR: &str = "start it on a coordinator host: systemctl start coordinator (on a laptop: coordctl dev up)";
/// Releases of one second, and tries to find a free id.
const COLLISIONS_MAX: u32 = 20;

/// What is to be published. The artifact is in the store already.
#[derive(Debug)]
pub struct Request<'a> {
    pub deploy: &'a DeployFile,
    pub environment: Environment,
    pub artifact: Artifact,
    /// `--release`; else the time.
    pub release: Option<ReleaseId>,
    /// The VCS commit; else the release id.
    pub revision: Option<String>,
    pub serial: Option<Serial>,
    pub limit: Option<Selector>,
    /// May it take the place of a rollout that goes on?
    pub supersede: bool,
    pub by: Actor,
}

/// What was published.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Stored only if no signature is missing.
    pub spec: RolloutSpec,
    /// Signatures that servers still want.
    pub missing: usize,
    pub manifest: Manifest,
    /// The transaction's.
    pub at: Revision,
}

/// Somebody else's publication, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub release: ReleaseId,
    pub by: Actor,
}

impl Other {
    fn of(spec: &RolloutSpec) -> Box<Self> {
        Box::new(Self { release: spec.release.clone(), by: spec.by.clone() })
    }
}

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = jiff::Timestamp::from_second(self.by.at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "release {} by {}@{} at {at}", self.release, self.by.user, self.by.host)
    }
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("no coordinator runs: nobody would roll the release out; nothing was changed")]
    NoCoordinator,
    #[error("{other} is being rolled out ({phase}); nothing was changed")]
    Active { app: AppName, other: Box<Other>, phase: &'static str },
    #[error("the run-once task `{}` of release {} is not decided, and every server would wait for it; nothing was changed", head.task, head.release)]
    TaskOpen { app: AppName, head: Box<Head> },
    #[error("{other} was published meanwhile and won; nothing was changed")]
    Lost { app: AppName, other: Box<Other> },
    #[error("the release id {release} was published before, by {}@{}; an id is never used again; nothing was changed", by.user, by.host)]
    ReleaseTaken { release: ReleaseId, by: Actor },
    #[error("the keys of {app} changed {TRIES_MAX} times while publishing; nothing was changed")]
    Restless { app: AppName },
    #[error("the manifest breaks a limit; nothing was changed")]
    Manifest(#[from] ManifestError),
    #[error("the servers would not accept this release; nothing was changed")]
    NotTrusted(#[source] TrustError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nobody knows whether release {release} was published: the store's answer was lost")]
    Unsettled {
        release: ReleaseId,
        #[source]
        source: StoreError,
    },
}

impl PublishError {
    fn of(error: CommitError, release: &ReleaseId) -> Self {
        match error {
            CommitError::Store(error) => error.into(),
            CommitError::Unsettled(source) => Self::Unsettled { release: release.clone(), source },
        }
    }

    /// For the terminal: with the exit code and what to type next.
    pub fn failure(self) -> Failure {
        let error = self;
        let (exit, hint) = match &error {
            PublishError::NoCoordinator => (Exit::Refused, START_COORDINATOR.to_owned()),
            PublishError::Active { app, .. } => {
                let hint = format!(
                    "watch it with `coordctl rollout watch {app}` and publish when it has ended; end it with `coordctl rollout abort {app}`; or take its place with --supersede"
                );
                (Exit::Refused, hint)
            }
            PublishError::TaskOpen { app, head } => {
                let release = &head.release;
                let hint = format!(
                    "look with `coordctl migration show {app} {release}`; if nobody knows how it ended: coordctl migration resolve {app} {release} --as succeeded|failed|retry"
                );
                (Exit::Refused, hint)
            }
            PublishError::Lost { app, .. } => {
                (Exit::Refused, format!("see `coordctl rollout status {app}`; publish again when that rollout has ended"))
            }
            PublishError::ReleaseTaken { .. } => (Exit::Refused, "choose another --release, or leave it out".to_owned()),
            PublishError::Restless { .. } => (Exit::Refused, "try again".to_owned()),
            PublishError::Manifest(_) => (Exit::Refused, String::new()),
            PublishError::NotTrusted(_) => {
                (Exit::Refused, "sign with a key that the trust file lists: `coordctl key inspect` prints its public line".to_owned())
            }
            PublishError::Sign(error) => (Exit::Error, error.hint().to_owned()),
            PublishError::Store(_) => (Exit::Error, String::new()),
            PublishError::Unsettled { .. } => (Exit::Error, "look with `coordctl release list` before publishing again".to_owned()),
        };
        Failure::from(error).exit(exit).hint(hint)
    }
}

/// Who signs, and what the servers trust (where the operator has the file: a wrong key is then found before anything is written).
#[derive(Debug)]
pub struct Signing<'a> {
    pub signers: &'a [Signer],
    pub trust: Option<&'a Trust>,
}

/// Publishes. `now` is Unix seconds.
///
/// # Errors
/// Unless it says otherwise, nothing was changed.
pub async fn publish(
    store: &dyn Store,
    keys: &KeySpace,
    signing: &Signing<'_>,
    request: &Request<'_>,
    now: i64,
) -> Result<Published, PublishError> {
    let app = &request.deploy.app;
    let missing = signing.missing()?;
    let mut standing = Standing::look(store, keys, app).await?;
    standing.admit(missing, request.supersede)?;
    let seen = standing.spec.as_ref().map(|(spec, _)| spec.id.clone());
    for _ in 0..TRIES_MAX {
        let release = free_release(store, keys, request, now).await?;
        let draft = Draft::new(&standing, request, release, now);
        let envelope = signing.seal(&draft.manifest)?;
        let (transaction, spec) = draft.transaction(keys, &standing, request, (&envelope, missing));
        let what = format!("published release {}{}", spec.release, if missing > 0 { ", which waits for signatures" } else { "" });
        let event = AuditEvent { app: Some(app.clone()), what, by: request.by.clone() };
        let committed = audited(store, keys, transaction, &event).await.map_err(|e| PublishError::of(e, &spec.release))?;
        if let Some(at) = committed {
            return Ok(Published { spec, missing, manifest: draft.manifest, at });
        }
        standing = Standing::look(store, keys, app).await?;
        if missing == 0 {
            standing.lost_to_another(seen.as_ref())?;
        }
        standing.admit(missing, request.supersede)?;
    }
    Err(PublishError::Restless { app: app.clone() })
}

impl Signing<'_> {
    /// How many signatures servers would still want beside those of these keys. Nothing is signed for it: a security key is not touched.
    ///
    /// # Errors
    /// None of the keys is trusted.
    pub fn missing(&self) -> Result<usize, PublishError> {
        let Some(trust) = self.trust else { return Ok(0) };
        let needed = trust.keys.threshold();
        let listed = trust.keys.keys().iter().filter(|key| self.signers.iter().any(|signer| signer.public() == *key)).count();
        if listed == 0 {
            return Err(PublishError::NotTrusted(TrustError::Signatures { needed, valid: 0, given: self.signers.len() }));
        }
        Ok(needed.saturating_sub(listed))
    }

    /// The manifest's exact bytes, which servers would not refuse for their size, shape or environment.
    fn checked(&self, manifest: &Manifest) -> Result<Vec<u8>, PublishError> {
        manifest.check()?;
        let bytes = manifest.encode();
        // Read back as servers read it.
        Manifest::decode(&bytes)?;
        match self.trust.map(|trust| &trust.environment).filter(|expected| **expected != manifest.environment) {
            Some(expected) => {
                let (found, expected) = (manifest.environment.clone(), expected.clone());
                Err(PublishError::NotTrusted(TrustError::Environment { found, expected }))
            }
            None => Ok(bytes),
        }
    }

    /// Checks, signs and frames the manifest's exact bytes.
    fn seal(&self, manifest: &Manifest) -> Result<Envelope, PublishError> {
        let bytes = self.checked(manifest)?;
        let signatures: Vec<String> = self.signers.iter().map(|s| s.sign(&bytes, manifest.seq)).collect::<Result<_, _>>()?;
        if let Some(trust) = self.trust {
            let (_, missing) = trust.open_waiting(&bytes, &signatures).map_err(PublishError::NotTrusted)?;
            if missing != self.missing()? {
                let (needed, given) = (trust.keys.threshold(), signatures.len());
                return Err(PublishError::NotTrusted(TrustError::Signatures { needed, valid: needed.saturating_sub(missing), given }));
            }
        }
        Ok(Envelope { manifest: bytes, signatures })
    }
}

/// Is this release id free? Asked before anything is packed; the transaction asks again.
///
/// # Errors
/// [`PublishError::ReleaseTaken`], and the store's.
pub async fn check_free(store: &dyn Store, keys: &KeySpace, app: &AppName, release: &ReleaseId) -> Result<(), PublishError> {
    match read_record::<ReleaseRecord>(store, &keys.key(&Key::Release(app.clone(), release.clone()))).await? {
        None => Ok(()),
        Some((taken, _)) => Err(PublishError::ReleaseTaken { release: release.clone(), by: taken.by }),
    }
}

/// The id asked for, if it is free; else the time, with `-2`, `-3`, … when others published in the same second.
async fn free_release(store: &dyn Store, keys: &KeySpace, request: &Request<'_>, now: i64) -> Result<ReleaseId, PublishError> {
    let app = &request.deploy.app;
    if let Some(wanted) = &request.release {
        return check_free(store, keys, app, wanted).await.map(|()| wanted.clone());
    }
    for attempt in 1..=COLLISIONS_MAX {
        let id = ReleaseId::from_time(now).on_collision(attempt);
        match check_free(store, keys, app, &id).await {
            Err(PublishError::ReleaseTaken { .. }) => {}
            other => return other.map(|()| id),
        }
    }
    Err(PublishError::Restless { app: app.clone() })
}

/// A manifest for one standing.
struct Draft {
    manifest: Manifest,
}

impl Draft {
    fn new(standing: &Standing, request: &Request<'_>, release: ReleaseId, now: i64) -> Self {
        let last = standing.seq.as_ref().map(|(record, _)| record);
        let edition = Edition {
            environment: request.environment.clone(),
            seq: last.map_or(Seq(0), |r| r.seq).next(),
            floor: standing.stable.as_ref().map_or(Seq(0), |(record, _)| record.seq),
            created: last.map_or(now, |r| now.max(r.created + 1)),
            revision: request.revision.clone().unwrap_or_else(|| release.to_string()),
            release,
        };
        Self { manifest: request.deploy.manifest(edition, request.artifact.clone()) }
    }

    fn transaction(
        &self,
        keys: &KeySpace,
        standing: &Standing,
        request: &Request<'_>,
        (envelope, missing): (&Envelope, usize),
    ) -> (Transaction, RolloutSpec) {
        let m = &self.manifest;
        let spec = self.spec(request);
        let waits = Waiting { signatures: missing, serial: request.serial.clone(), limit: request.limit.clone() };
        let record = ReleaseRecord {
            seq: m.seq,
            verdict: Verdict::Untried,
            by: request.by.clone(),
            notes: std::collections::BTreeMap::new(),
            waits: (missing > 0).then_some(waits),
        };
        let manifest_key = keys.key(&Key::Manifest(m.app.clone(), m.seq));
        let release_key = keys.key(&Key::Release(m.app.clone(), m.release.clone()));
        let transaction = standing
            .unchanged(keys, &m.app)
            .when(Compare::absent(&manifest_key))
            .when(Compare::absent(&release_key))
            .put_record(keys.key(&Key::AppSeq(m.app.clone())), &SeqRecord { seq: m.seq, created: m.created })
            .put(manifest_key, envelope.encode())
            .put_record(release_key, &record);
        if missing > 0 {
            return (transaction, spec);
        }
        (transaction.put_record(keys.key(&Key::RolloutSpec(m.app.clone())), &spec), spec)
    }

    fn spec(&self, request: &Request<'_>) -> RolloutSpec {
        first_rollout(&self.manifest, (request.serial.as_ref(), request.limit.as_ref()), &request.by)
    }
}

/// The rollout that a release is published for.
fn first_rollout(m: &Manifest, (serial, limit): (Option<&Serial>, Option<&Selector>), by: &Actor) -> RolloutSpec {
    RolloutSpec {
        id: rollout_id(m.seq),
        app: m.app.clone(),
        seq: m.seq,
        release: m.release.clone(),
        kind: RolloutKind::Publish,
        policy: m.rollout.clone().with_serial(serial),
        limit: limit.cloned(),
        force_run: false,
        retried: None,
        by: by.clone(),
    }
}

/// `7-1f2e3d4c`: sorts by eye, and no two are alike.
pub fn rollout_id(seq: Seq) -> RolloutId {
    let nonce = Nonce::random();
    let id = format!("{seq}-{}", nonce.as_str().get(..8).unwrap_or_default());
    id.parse().expect("digits, a dash and hexadecimal digits are a rollout id")
}

/// The words for a rollout whose state nobody wrote yet.
pub fn phase_words(phase: Option<RolloutPhase>) -> &'static str {
    phase.map_or("waiting for the coordinator", RolloutPhase::words)
}

#[cfg(test)]
mod tests;
