//! Who may sign, and the check that comes before any parser (I3).
//!
//! A signature is minisign's (<https://jedisct1.github.io/minisign/>), prehashed, over the manifest's exact bytes.

use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::ids::{Environment, Seq};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest::{Manifest, ManifestError};

/// Longest signature text accepted, in bytes.
pub const SIGNATURE_BYTES_MAX: usize = 4 * 1024;
/// Most signatures looked at for one manifest.
pub const SIGNATURES_MAX: usize = 16;
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
    /// Public keys: `RW…`, one line each, as minisign prints them.
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
    threshold: usize,
    keys: Vec<PublicKey>,
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
    /// Unreadable, unknown keys, no key, a key that is not minisign's, a threshold that cannot be met.
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
        let mut keys: Vec<PublicKey> = Vec::new();
        for line in &file.keys {
            let key = PublicKey::from_base64(line.trim())
                .map_err(|e| format!("`{line}` is not a minisign public key ({e}); it looks like RW…"))?;
            // Distinct keys, not distinct lines: one key listed twice must not count as two.
            if keys.contains(&key) {
                return Err(format!("the key `{line}` is listed twice"));
            }
            keys.push(key);
        }
        if file.threshold == 0 || file.threshold > keys.len() {
            return Err(format!(
                "threshold is {} and {} keys are listed; it must be between 1 and the number of keys",
                file.threshold,
                keys.len()
            ));
        }
        Ok(Self { environment: file.environment, floor: file.floor, threshold: file.threshold, keys })
    }

    /// Checks the signatures over `manifest`'s exact bytes, and only then parses it.
    ///
    /// # Errors
    /// Too few valid signatures, a manifest that breaks a limit, another environment.
    pub fn open(&self, manifest: &[u8], signatures: &[String]) -> Result<Manifest, TrustError> {
        if manifest.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { len: manifest.len() }.into());
        }
        let valid = self.keys.iter().filter(|key| signed_by(key, manifest, signatures)).count();
        if valid < self.threshold {
            return Err(TrustError::Signatures { needed: self.threshold, valid, given: signatures.len() });
        }
        let manifest = Manifest::decode(manifest)?;
        if manifest.environment != self.environment {
            return Err(TrustError::Environment { found: manifest.environment, expected: self.environment.clone() });
        }
        Ok(manifest)
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

fn signed_by(key: &PublicKey, manifest: &[u8], signatures: &[String]) -> bool {
    let valid =
        |text: &String| text.len() <= SIGNATURE_BYTES_MAX && Signature::decode(text).is_ok_and(|s| key.verify(manifest, &s, false).is_ok());
    signatures.iter().take(SIGNATURES_MAX).any(valid)
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
