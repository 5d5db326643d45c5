//! Public keys, signatures over exact bytes, and how many distinct keys made them.
//!
//! ```text
//!  trust file line ─▶ PublicKey ─┐
//!                                ├─▶ KeySet::signers(bytes, texts) ─▶ distinct keys, counted against the threshold
//!  signature text ─▶ Signature ──┘
//! ```
//!
//! Two formats that people have tools for: [`minisign`] and [`openssh`]. Both end in Ed25519, and a key is its 32 bytes: the same one in two
//! formats, with two comments or under two key ids is one key, and counts once.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub mod minisign;
pub mod openssh;

/// Longest signature text accepted, in bytes.
pub const SIGNATURE_BYTES_MAX: usize = 4 * 1024;
/// Most signatures looked at for one manifest.
pub const SIGNATURES_MAX: usize = 16;
/// Longest line of a public key, with its comment, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Most keys in one set.
pub const KEYS_MAX: usize = 64;

/// An Ed25519 point, as RFC 8032 encodes it.
pub type KeyMaterial = [u8; 32];

/// A key that may sign, in the format that its signatures have.
#[derive(Debug, Clone)]
pub enum PublicKey {
    /// `RW…`
    Minisign(minisign::PublicKey),
    /// `ssh-ed25519 AAAA… comment` or `sk-ssh-ed25519@openssh.com AAAA… comment`
    OpenSsh(openssh::PublicKey),
}

/// Why a line is not a key that may sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is {len} bytes long; the limit is {KEY_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("it is not a minisign public key ({problem}); it looks like RW…")]
    Minisign { problem: String },
    #[error("it is not an OpenSSH public key ({problem}); it looks like ssh-ed25519 AAAA…")]
    OpenSsh { problem: String },
    #[error("it is an OpenSSH key of the type {algorithm}; only ssh-ed25519 and sk-ssh-ed25519@openssh.com may sign")]
    Algorithm { algorithm: String },
}

/// A signature's text, taken apart; nothing in it was checked yet.
#[derive(Debug, Clone)]
pub enum Signature {
    Minisign(minisign::Signature),
    OpenSsh(openssh::Signature),
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature is {len} bytes long; the limit is {SIGNATURE_BYTES_MAX}")]
    TooLong { len: usize },
    #[error("the text is no {format} signature: {problem}")]
    Format { format: &'static str, problem: String },
    #[error("the signature is by another key")]
    OtherKey,
    #[error("the signature is for `{found}`; releases are signed for `{}`", openssh::NAMESPACE)]
    Namespace { found: String },
    #[error("the security key was not touched for this signature")]
    Untouched,
    #[error("the signature does not fit these bytes")]
    Wrong,
}

impl PublicKey {
    /// Reads a line of a trust file.
    ///
    /// # Errors
    /// Neither format, or an algorithm that may not sign.
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        let line = line.trim();
        if line.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { len: line.len() });
        }
        // A minisign key is one word; every OpenSSH key begins with the name of its algorithm.
        if line.contains(char::is_whitespace) || line.contains('-') {
            return openssh::PublicKey::parse(line).map(Self::OpenSsh);
        }
        minisign::PublicKey::parse(line).map(Self::Minisign)
    }

    /// What makes it this key and no other.
    pub fn material(&self) -> &KeyMaterial {
        match self {
            Self::Minisign(key) => key.material(),
            Self::OpenSsh(key) => key.material(),
        }
    }

    /// Where its signature of a manifest is stored.
    pub fn id(&self) -> KeyId {
        KeyId::of(self.material())
    }

    /// Checks one signature over exactly these bytes.
    ///
    /// # Errors
    /// Another key's, for something else, or wrong.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        match (self, signature) {
            (Self::Minisign(key), Signature::Minisign(signature)) => key.verify(bytes, signature),
            (Self::OpenSsh(key), Signature::OpenSsh(signature)) => key.verify(bytes, signature),
            _ => Err(SignatureError::OtherKey),
        }
    }
}

/// By material alone: neither a comment nor a format makes it another key.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.material() == other.material()
    }
}
impl Eq for PublicKey {}
impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.material().hash(state);
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(line: &str) -> Result<Self, KeyError> {
        Self::parse(line)
    }
}

/// The line of a trust file.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minisign(key) => key.fmt(f),
            Self::OpenSsh(key) => key.fmt(f),
        }
    }
}

impl Signature {
    /// Reads a signature's text, of either format.
    ///
    /// # Errors
    /// Too long, or neither.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        if text.len() > SIGNATURE_BYTES_MAX {
            return Err(SignatureError::TooLong { len: text.len() });
        }
        if text.trim_start().starts_with(openssh::ARMOR) {
            return openssh::Signature::parse(text).map(Self::OpenSsh);
        }
        minisign::Signature::parse(text).map(Self::Minisign)
    }
}

/// A key's name where its signatures are stored: the first half of the SHA-256 of its material, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

/// It is not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the id of a key: 32 lower-case hexadecimal digits")]
pub struct KeyIdError(String);

impl KeyId {
    /// The id of a key.
    pub fn of(material: &KeyMaterial) -> Self {
        Self(Sha256::digest(material).iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;
    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits { Ok(Self(text.to_owned())) } else { Err(KeyIdError(text.chars().take(64).collect())) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys that may sign, and how many of them must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<PublicKey>,
    threshold: usize,
}

/// Why keys are no set that anything could satisfy, or that one person could satisfy alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("the key `{line}` cannot be used: {problem}")]
    Key { line: String, problem: KeyError },
    #[error("the key `{line}` is listed twice: it is `{first}`")]
    Twice { line: String, first: String },
    #[error("{given} keys are listed; the limit is {KEYS_MAX}")]
    TooMany { given: usize },
    #[error("threshold is {threshold} and {keys} keys are listed; it must be between 1 and the number of keys")]
    Threshold { threshold: usize, keys: usize },
}

impl KeySet {
    /// Reads the lines of a trust file.
    ///
    /// # Errors
    /// A line that is no key, one key in two lines, a threshold that cannot be met.
    pub fn parse(lines: &[String], threshold: usize) -> Result<Self, KeySetError> {
        if lines.len() > KEYS_MAX {
            return Err(KeySetError::TooMany { given: lines.len() });
        }
        let mut keys: Vec<PublicKey> = Vec::with_capacity(lines.len());
        for line in lines {
            let key = PublicKey::parse(line).map_err(|problem| KeySetError::Key { line: shown(line), problem })?;
            // Distinct keys, not distinct lines: one key listed twice must not count as two.
            if let Some(first) = keys.iter().find(|first| **first == key) {
                return Err(KeySetError::Twice { line: shown(line), first: first.to_string() });
            }
            keys.push(key);
        }
        if threshold == 0 || threshold > keys.len() {
            return Err(KeySetError::Threshold { threshold, keys: keys.len() });
        }
        Ok(Self { keys, threshold })
    }

    /// How many distinct keys must have signed.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The keys, as they are listed.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// May this key sign?
    pub fn lists(&self, key: &PublicKey) -> bool {
        self.keys.contains(key)
    }

    /// The listed keys with a valid signature among these texts; a text that is no signature is as good as none.
    pub fn signers(&self, bytes: &[u8], signatures: &[String]) -> Vec<&PublicKey> {
        let parsed: Vec<Signature> = signatures.iter().take(SIGNATURES_MAX).filter_map(|text| Signature::parse(text).ok()).collect();
        let signed = |key: &&PublicKey| parsed.iter().any(|signature| key.verify(bytes, signature).is_ok());
        self.keys.iter().filter(signed).collect()
    }

    /// How many of the listed keys have signed these bytes.
    pub fn valid(&self, bytes: &[u8], signatures: &[String]) -> usize {
        self.signers(bytes, signatures).len()
    }
}

/// A line in an error: whoever wrote it finds it again.
fn shown(line: &str) -> String {
    line.trim().chars().take(120).collect()
}

#[cfg(test)]
mod tests;
