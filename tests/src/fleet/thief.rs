//! Who has the signing key and does not care for `coordctl`: manifests signed by hand, with any artifact.

use std::fs;

use anyhow::{Context as _, Result};
use coord_proto::ids::Seq;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::manifest::{Artifact, Manifest};
use coord_proto::rollout::{ReleaseRecord, RolloutSpec, SeqRecord};
use coord_proto::store::Transaction;
use coord_proto::trust::Envelope;
use coordinator::sign::{KeySource, Signer};

use super::{Fleet, app};

impl Fleet {
    /// Release 1 under another name and with another artifact, signed with the fleet's key and rolled out; nothing is checked.
    /// Its bytes are to be in a store already.
    ///
    /// # Errors
    /// etcd refused it, or the first release is not there.
    pub fn publish_by_hand(&self, release: &str, artifact: Artifact) -> Result<RolloutSpec> {
        let last: SeqRecord = self.record(&Key::AppSeq(app()))?.context("a sequence number")?;
        let mut manifest = self.manifest(1)?;
        (manifest.seq, manifest.created) = (Seq(last.seq.0 + 1), last.created + 1);
        (manifest.release, manifest.artifact) = (release.parse()?, artifact);
        self.roll_out_signed(&manifest)
    }

    fn roll_out_signed(&self, manifest: &Manifest) -> Result<RolloutSpec> {
        let mut spec: RolloutSpec = self.record(&Key::RolloutSpec(app()))?.context("a spec")?;
        (spec.id, spec.seq, spec.release) = (format!("{}-by-hand", manifest.seq).parse()?, manifest.seq, manifest.release.clone());
        let one: ReleaseRecord = self.record(&Key::Release(app(), self.manifest(1)?.release))?.context("a release")?;
        let signer = Signer::read(&KeySource::File(self.dir().join("release.key")), || Err(std::io::ErrorKind::Unsupported.into()))?;
        let bytes = manifest.encode();
        let signatures = vec![signer.sign(&bytes, manifest.seq)?];
        let keys = KeySpace::default();
        let transaction = Transaction::new()
            .put_record(keys.key(&Key::AppSeq(app())), &SeqRecord { seq: manifest.seq, created: manifest.created })
            .put(keys.key(&Key::Manifest(app(), manifest.seq)), Envelope { manifest: bytes, signatures }.encode())
            .put_record(keys.key(&Key::Release(app(), manifest.release.clone())), &ReleaseRecord { seq: manifest.seq, ..one })
            .put_record(keys.key(&Key::RolloutSpec(app())), &spec);
        self.write_into_etcd(transaction)?;
        Ok(spec)
    }

    /// Puts bytes into the coordinator's store, under their digest.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_artifact(&self, artifact: &Artifact, bytes: &[u8]) -> Result<()> {
        let path = self.stored_artifact(1)?.with_file_name(artifact.digest.to_string());
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}
