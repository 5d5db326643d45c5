//! `coordctl release show|verify APP RELEASE`.

use std::path::{Path, PathBuf};

use coord_proto::ids::{AppName, ReleaseId, Seq};
use coord_proto::keys::Key;
use coord_proto::manifest::Manifest;
use coord_proto::rollout::ReleaseRecord;
use coord_proto::store::read_record;
use coord_proto::trust::{Envelope, Trust, gather};
use serde::Serialize;

use super::{artifact_words, needed_trust_file, stored};
use crate::cli::{Done, Session};
use crate::deploy_file::ArtifactSection;
use crate::exit::Exit;
use crate::pack::inspect;
use crate::publish::countersign::waits_for;
use crate::ui::{Failure, Format, words};

/// A release as it is stored.
pub struct Stored {
    pub record: ReleaseRecord,
    pub envelope: Envelope,
}

impl Stored {
    /// Reads the release's record, its manifest and all signatures; nothing is checked.
    pub async fn read(session: &Session, app: &AppName, release: &ReleaseId) -> Result<Self, Failure> {
        let store = session.store.as_ref();
        let key = session.keys.key(&Key::Release(app.clone(), release.clone()));
        let (record, _) = read_record::<ReleaseRecord>(store, &key).await.map_err(|e| session.store_failure(e))?.ok_or_else(|| {
            Failure::new(Exit::Error, format!("there is no release {release} of {app}"))
                .hint(format!("`coordctl release list {app}` lists them"))
        })?;
        // The manifest's key is a prefix of its later signatures' keys.
        let key = session.keys.key(&Key::Manifest(app.clone(), record.seq));
        let listing = store.list(&key).await.map_err(|e| session.store_failure(e))?;
        let envelope = gather(&listing.entries, &session.keys, app, record.seq)?;
        let envelope = envelope.ok_or_else(|| Failure::new(Exit::Error, format!("the manifest {key} is gone")))?;
        Ok(Self { record, envelope })
    }
}

pub async fn show(session: &Session, app: &AppName, release: &ReleaseId, format: Format) -> Done {
    let stored = stored(session, app, release).await?;
    let manifest = Manifest::decode(&stored.envelope.manifest)?;
    match format {
        Format::Json => session.ui.json(&serde_json::json!({ "record": stored.record, "manifest": manifest }))?,
        Format::Text => session.ui.out(text(&stored.record, &manifest, stored.envelope.signatures.len()))?,
    }
    Ok(Exit::Done)
}

fn text(record: &ReleaseRecord, manifest: &Manifest, signatures: usize) -> String {
    let lines = [
        ("app", manifest.app.to_string()),
        ("release", manifest.release.to_string()),
        ("environment", manifest.environment.to_string()),
        ("sequence", format!("{} (floor {})", manifest.seq, manifest.floor)),
        ("verdict", verdict(record, manifest)),
        ("published", format!("{} by {}@{}", words::time(record.by.at), record.by.user, record.by.host)),
        ("created", words::time(manifest.created)),
        ("revision", manifest.revision.clone()),
        ("artifact", artifact_words(&manifest.artifact)),
        ("signatures", format!("{signatures}, not checked here (`coordctl release verify`)")),
        ("rollout", format!("serial {}, bake {}", manifest.rollout.serial, humantime::format_duration(manifest.rollout.bake))),
        ("migration", manifest.migrate.as_ref().map_or_else(|| "none".to_owned(), |m| m.command.join(" "))),
    ];
    lines.iter().map(|(name, value)| format!("{name:<12} {}\n", crate::ui::table::printable(value))).collect()
}

fn verdict(record: &ReleaseRecord, manifest: &Manifest) -> String {
    match &record.waits {
        Some(waits) => waits_for(waits.signatures, &manifest.app, &manifest.release),
        None => words::verdict(record.verdict).to_owned(),
    }
}

/// What `verify` was asked.
pub struct Verification {
    pub app: AppName,
    pub release: ReleaseId,
    pub trust: Option<PathBuf>,
    pub artifact: Option<PathBuf>,
    pub format: Format,
}

/// What it found.
#[derive(Debug, Serialize)]
struct Verified {
    app: AppName,
    release: ReleaseId,
    seq: Seq,
    verified: bool,
    artifact_checked: bool,
}

pub async fn verify(session: &Session, asked: Verification) -> Done {
    let path = needed_trust_file(asked.trust.as_deref(), session)?;
    let trust = Trust::load(path)?;
    let stored = stored(session, &asked.app, &asked.release).await?;
    let manifest = trust.open(&stored.envelope.manifest, &stored.envelope.signatures).map_err(|e| Failure::from(e).exit(Exit::Refused))?;
    if manifest.release != asked.release || manifest.app != asked.app || manifest.seq != stored.record.seq {
        let words = format!("the manifest under this release is for {} {} number {}", manifest.app, manifest.release, manifest.seq);
        return Err(Failure::refused(words));
    }
    if let Some(file) = &asked.artifact {
        compare(file, &manifest)?;
    }
    let found =
        Verified { app: asked.app, release: asked.release, seq: manifest.seq, verified: true, artifact_checked: asked.artifact.is_some() };
    match asked.format {
        Format::Json => session.ui.json(&found)?,
        Format::Text => session.ui.out(format!("release {} of {} is signed as {} asks", found.release, found.app, path.display()))?,
    }
    Ok(Exit::Done)
}

fn compare(file: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let signed = &manifest.artifact;
    let section = ArtifactSection {
        strip_components: signed.strip_components,
        allow_symlinks_to: signed.allow_symlinks_to.clone(),
        ..ArtifactSection::default()
    };
    let found = inspect::inspect(file, &section)?;
    if found.digest == signed.digest {
        return Ok(());
    }
    Err(Failure::refused(format!("{} has the digest {}; {} is signed", file.display(), found.digest, signed.digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample::{fixture, record};

    #[test]
    fn a_manifest_in_words() {
        let bytes = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/fixtures/manifest.v1.json"));
        let manifest = Manifest::decode(bytes).expect("manifest");
        insta::assert_snapshot!(text(&fixture!("release-record"), &manifest, 2), @r"
        app          mootube
        release      20261124101112
        environment  production
        sequence     7 (floor 6)
        verdict      good
        published    2026-11-24T12:00:00Z by ada@laptop
        created      2026-11-24T12:00:00Z
        revision     abc123
        artifact     e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 (9 bytes, 20 unpacked, 3 entries)
        signatures   2, not checked here (`coordctl release verify`)
        rollout      serial 1, 25%, bake 10s
        migration    bin/console migrate
        ");
    }
}
