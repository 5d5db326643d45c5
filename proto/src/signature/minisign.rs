//! Minisign's format (<https://jedisct1.github.io/minisign/>), prehashed: the legacy one without the hash is not accepted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KeyError, KeyMaterial, SignatureError};

/// Bytes of a public key: algorithm (2), key id (8), Ed25519 point (32).
const KEY_LENGTH: usize = 42;

/// `RW…`, as minisign prints it.
#[derive(Clone)]
pub struct PublicKey {
    key: minisign_verify::PublicKey,
    bytes: [u8; KEY_LENGTH],
    material: KeyMaterial,
}

/// Four lines of text.
#[derive(Clone)]
pub struct Signature(minisign_verify::Signature);

impl PublicKey {
    /// Reads the line without its comment.
    ///
    /// # Errors
    /// [`KeyError::Minisign`]
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        let problem = |problem: &dyn fmt::Display| KeyError::Minisign { problem: problem.to_string() };
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|e| problem(&e))?;
        let bytes = STANDARD.decode(line).map_err(|e| problem(&e))?;
        let bytes: [u8; KEY_LENGTH] = bytes.try_into().map_err(|_| problem(&"of another length"))?;
        let material = *bytes.last_chunk().expect("42 bytes have a last 32");
        Ok(Self { key, bytes, material })
    }

    /// The Ed25519 point. Not the key id: that one is chosen by whoever makes the key, and proves nothing.
    pub fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// Checks the signature and that of its trusted comment.
    ///
    /// # Errors
    /// Another key's, or wrong.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        self.key.verify(bytes, &signature.0, false).map_err(|error| match error {
            minisign_verify::Error::UnexpectedKeyId => SignatureError::OtherKey,
            minisign_verify::Error::UnexpectedAlgorithm => {
                SignatureError::Format { format: "minisign", problem: "it is of the legacy kind, without a hash".to_owned() }
            }
            _ => SignatureError::Wrong,
        })
    }
}

impl Signature {
    /// Reads the four lines.
    ///
    /// # Errors
    /// [`SignatureError::Format`]
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let problem = |error: minisign_verify::Error| SignatureError::Format { format: "minisign", problem: error.to_string() };
        minisign_verify::Signature::decode(text).map(Self).map_err(problem)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "minisign::PublicKey({self})")
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "minisign::Signature({:?})", self.0.trusted_comment())
    }
}
