//! Who may sign, and the check that comes before any parser (I3).
//!
//! What a key and a signature look like is [`crate::signature`]'s; here they are counted over the manifest's exact bytes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Environment, Seq};
use crate::keys::{Key, KeySpace};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::{Manifest, ManifestError};
use crate::signature::{KeySet, SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use crate::store::Entry;

/// First bytes of a manifest's envelope: guards against feeding the verifier something else.
pub const ENVELOPE_MAGIC: &[u8; 8] = b"COORDM1\n";

/// The trust file, `/etc/coord/trust.toml`: baked into the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustFile {
    pub version: u32,
    pub environment: Environment,
    /// How many distinct keys must have signed.
    #[serde(default = "one")]
    pub threshold: usize,
    /// Public keys, one line each: `RW…` as minisign prints them, `ssh-ed25519 …` or `sk-ssh-ed25519@openssh.com …` as OpenSSH does.
    pub keys: Vec<String>,
    /// Nothing below this sequence number is ever accepted.
    #[serde(default)]
    pub floor: Seq,
}

fn one() -> usize {
    1
}

/// The trust file, read and checked.
#[derive(Debug, Clone)]
pub struct Trust {
    pub environment: Environment,
    pub floor: Seq,
    pub keys: KeySet,
}

/// Why something is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read the trust file {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the trust file {} is not valid: {problem}", .path.display())]
    File { path: PathBuf, problem: String },
    #[error("no trusted key signed the manifest ({needed} needed, {valid} valid of {given} given)")]
    Signatures { needed: usize, valid: usize, given: usize },
    #[error("the manifest's envelope is {problem}")]
    Envelope { problem: &'static str },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the manifest is for the environment `{found}`; this is `{expected}`")]
    Environment { found: Environment, expected: Environment },
}

impl Trust {
    /// Reads a trust file.
    ///
    /// # Errors
    /// Unreadable, unknown keys, no key, a key of another format, a threshold that cannot be met.
    pub fn load(path: &Path) -> Result<Self, TrustError> {
        let text = std::fs::read_to_string(path).map_err(|source| TrustError::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|problem| TrustError::File { path: path.into(), problem })
    }

    /// Reads a trust file's text; the error is what is wrong with it.
    ///
    /// # Errors
    /// As [`Trust::load`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: TrustFile = toml::from_str(text).map_err(|e| e.to_string())?;
        let keys = KeySet::parse(&file.keys, file.threshold).map_err(|e| e.to_string())?;
        Ok(Self { environment: file.environment, floor: file.floor, keys })
    }

    /// Checks the signatures over `manifest`'s exact bytes, and only then parses it.
    ///
    /// # Errors
    /// Too few valid signatures, a manifest that breaks a limit, another environment.
    pub fn open(&self, manifest: &[u8], signatures: &[String]) -> Result<Manifest, TrustError> {
        self.open_signed_by(self.keys.threshold(), manifest, signatures).map(|(manifest, _)| manifest)
    }

    /// [`Trust::open`] for whoever is asked to add a signature: one is enough. Also says how many more the servers want.
    ///
    /// # Errors
    /// As [`Trust::open`]
    pub fn open_waiting(&self, manifest: &[u8], signatures: &[String]) -> Result<(Manifest, usize), TrustError> {
        let (manifest, valid) = self.open_signed_by(1, manifest, signatures)?;
        Ok((manifest, self.keys.threshold().saturating_sub(valid)))
    }

    fn open_signed_by(&self, needed: usize, manifest: &[u8], signatures: &[String]) -> Result<(Manifest, usize), TrustError> {
        if manifest.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { len: manifest.len() }.into());
        }
        let valid = self.keys.valid(manifest, signatures);
        if valid < needed {
            return Err(TrustError::Signatures { needed, valid, given: signatures.len() });
        }
        let manifest = Manifest::decode(manifest)?;
        if manifest.environment != self.environment {
            return Err(TrustError::Environment { found: manifest.environment, expected: self.environment.clone() });
        }
        Ok((manifest, valid))
    }

    /// [`Trust::open`] for the bytes stored under `manifests/<seq>`.
    ///
    /// # Errors
    /// As [`Trust::open`], and a malformed envelope.
    pub fn open_envelope(&self, bytes: &[u8]) -> Result<Manifest, TrustError> {
        let envelope = Envelope::decode(bytes)?;
        self.open(&envelope.manifest, &envelope.signatures)
    }
}

/// What is stored under `manifests/<seq>`: length-limited framing around exact bytes and their first signatures.
///
/// `COORDM1\n`, u32 count of signatures; for each u32 length and text; u32 length and manifest; all big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub manifest: Vec<u8>,
    pub signatures: Vec<String>,
}

impl Envelope {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = ENVELOPE_MAGIC.to_vec();
        let frame = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend_from_slice(&u32::try_from(bytes.len()).expect("limits are far below 4 GiB").to_be_bytes());
            out.extend_from_slice(bytes);
        };
        out.extend_from_slice(&u32::try_from(self.signatures.len()).expect("a handful").to_be_bytes());
        self.signatures.iter().for_each(|s| frame(&mut out, s.as_bytes()));
        frame(&mut out, &self.manifest);
        out
    }

    /// Splits stored bytes; nothing in them is trusted yet.
    ///
    /// # Errors
    /// [`TrustError::Envelope`] says what is wrong with the framing.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        let problem = |problem| TrustError::Envelope { problem };
        let mut rest = bytes.strip_prefix(ENVELOPE_MAGIC).ok_or(problem("not a manifest's"))?;
        let count = take_u32(&mut rest).ok_or(problem("cut short"))?;
        if count > SIGNATURES_MAX {
            return Err(problem("over its limit of signatures"));
        }
        let mut signatures = Vec::with_capacity(count);
        for _ in 0..count {
            let text = take_frame(&mut rest, SIGNATURE_BYTES_MAX).ok_or(problem("cut short or over its limits"))?;
            signatures.push(String::from_utf8(text.to_vec()).map_err(|_| problem("not text where a signature should be"))?);
        }
        let manifest = take_frame(&mut rest, MANIFEST_BYTES_MAX).ok_or(problem("cut short or over its limits"))?.to_vec();
        if rest.is_empty() { Ok(Self { manifest, signatures }) } else { Err(problem("followed by other bytes")) }
    }
}

/// A manifest as it is stored: what it was published with, and each later signature under a key of its own.
///
/// # Errors
/// [`TrustError::Envelope`]; of the signatures, what is too long or too many is left out, because anybody may have written it.
pub fn gather(listed: &[Entry], keys: &KeySpace, app: &AppName, seq: Seq) -> Result<Option<Envelope>, TrustError> {
    let manifest = Key::Manifest(app.clone(), seq);
    let Some(entry) = listed.iter().find(|entry| keys.parse(&entry.key).as_ref() == Some(&manifest)) else { return Ok(None) };
    let mut envelope = Envelope::decode(&entry.value)?;
    let of_this = |entry: &&Entry| matches!(keys.parse(&entry.key), Some(Key::ManifestSignature(a, s, _)) if a == *app && s == seq);
    let later = listed.iter().filter(of_this).filter(|entry| entry.value.len() <= SIGNATURE_BYTES_MAX);
    let later = later.filter_map(|entry| String::from_utf8(entry.value.clone()).ok());
    let room = SIGNATURES_MAX - envelope.signatures.len();
    envelope.signatures.extend(later.take(room));
    Ok(Some(envelope))
}

fn take_u32(rest: &mut &[u8]) -> Option<usize> {
    let (head, tail) = rest.split_at_checked(4)?;
    *rest = tail;
    Some(u32::from_be_bytes(head.try_into().ok()?) as usize)
}

fn take_frame<'a>(rest: &mut &'a [u8], max: usize) -> Option<&'a [u8]> {
    let len = take_u32(rest)?;
    let (frame, tail) = rest.split_at_checked(len).filter(|_| len <= max)?;
    *rest = tail;
    Some(frame)
}

#[cfg(test)]
mod tests;
