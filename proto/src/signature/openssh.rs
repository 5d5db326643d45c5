//! OpenSSH's format: `ssh-keygen -Y sign -n coord-release`, with a key in a file, in ssh-agent or on a security key.
//!
//! The text is OpenSSH's PROTOCOL.sshsig; what a security key signs in place of the message is its PROTOCOL.u2f. Of the algorithms Ed25519
//! alone: the others would bring their own code before a signature is checked, and nobody needs them for a new key.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, LineEnding, SshSig};

use super::{KeyError, KeyMaterial, SignatureError};

/// What signatures are made for: one that the same key made for anything else (git, files, mail) does not count.
pub const NAMESPACE: &str = "coord-release";
/// How a signature's text begins.
pub const ARMOR: &str = "-----BEGIN SSH SIGNATURE-----";

/// Length of an Ed25519 signature.
const SIGNATURE_LENGTH: usize = 64;
/// Of the flags that a security key signs: somebody touched it.
const USER_PRESENT: u8 = 0x01;

/// An Ed25519 key, in a file or on a security key.
#[derive(Clone)]
pub struct PublicKey {
    key: ssh_key::PublicKey,
    material: KeyMaterial,
}

/// The armored text, taken apart.
#[derive(Clone)]
pub struct Signature(SshSig);

impl PublicKey {
    /// Reads a line of a `.pub` file; the comment may be left out.
    ///
    /// # Errors
    /// No such line, or an algorithm that may not sign.
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        let key = ssh_key::PublicKey::from_openssh(line).map_err(|e| KeyError::OpenSsh { problem: e.to_string() });
        // A type that is not even compiled in is still named, and not called damaged.
        let key = key.map_err(|error| foreign(line).map_or(error, |algorithm| KeyError::Algorithm { algorithm }))?;
        let key = Self::try_from(key)?;
        // As for signatures: the library reads lengths that OpenSSH would not write.
        let canonical = key.to_string().split_whitespace().eq(line.split_whitespace().take(2));
        if canonical { Ok(key) } else { Err(KeyError::OpenSsh { problem: "it is not as OpenSSH writes it".to_owned() }) }
    }

    /// The Ed25519 point.
    pub fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// Checks that this key signed these bytes for a release, and that somebody touched it if it is a security key.
    ///
    /// # Errors
    /// Another key's, for something else, without a touch, or wrong.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let signature = &signature.0;
        if signature.public_key() != self.key.key_data() {
            return Err(SignatureError::OtherKey);
        }
        if signature.namespace() != NAMESPACE {
            return Err(SignatureError::Namespace { found: signature.namespace().to_owned() });
        }
        let hashed = SshSig::signed_data(NAMESPACE, signature.hash_alg(), bytes).map_err(|_| SignatureError::Wrong)?;
        let made = signature.signature();
        let (raw, trailer) = made.as_bytes().split_at_checked(SIGNATURE_LENGTH).ok_or(SignatureError::Wrong)?;
        let signed = match (self.key.key_data(), made.algorithm(), trailer) {
            (KeyData::Ed25519(_), Algorithm::Ed25519, []) => hashed,
            (KeyData::SkEd25519(key), Algorithm::SkEd25519, &[flags, _, _, _, _]) => {
                if flags & USER_PRESENT == 0 {
                    return Err(SignatureError::Untouched);
                }
                [Sha256::digest(key.application()).as_slice(), trailer, Sha256::digest(hashed).as_slice()].concat()
            }
            _ => return Err(SignatureError::Wrong),
        };
        // By the provider that TLS uses too.
        UnparsedPublicKey::new(&ED25519, &self.material).verify(&signed, raw).map_err(|_| SignatureError::Wrong)
    }
}

impl TryFrom<ssh_key::PublicKey> for PublicKey {
    type Error = KeyError;
    fn try_from(key: ssh_key::PublicKey) -> Result<Self, KeyError> {
        let material = match key.key_data() {
            KeyData::Ed25519(key) => key.0,
            KeyData::SkEd25519(key) => key.public_key().0,
            other => return Err(KeyError::Algorithm { algorithm: other.algorithm().to_string() }),
        };
        Ok(Self { key, material })
    }
}

/// The name of an algorithm that this program does not know, at the beginning of something that looks like its public key.
fn foreign(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (algorithm, data) = (words.next()?, words.next()?);
    let known = ["ssh-ed25519", "sk-ssh-ed25519@openssh.com"].contains(&algorithm);
    (!known && data.starts_with("AAAA")).then(|| algorithm.to_owned())
}

impl Signature {
    /// Reads the armored text.
    ///
    /// # Errors
    /// [`SignatureError::Format`]
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let problem = |problem: String| SignatureError::Format { format: "OpenSSH", problem };
        let signature = SshSig::from_pem(text.trim()).map_err(|e| problem(e.to_string()))?;
        // The library takes older versions, of which there are none, and lengths that it does not need: what is read here is what OpenSSH
        // would write, and has no second spelling.
        let canonical = signature.to_pem(LineEnding::LF).is_ok_and(|written| written.lines().eq(text.trim().lines()));
        match signature.version() {
            SshSig::VERSION if canonical => Ok(Self(signature)),
            SshSig::VERSION => Err(problem("it is not as OpenSSH writes it".to_owned())),
            other => Err(problem(format!("it is of version {other}"))),
        }
    }
}

/// The line without its comment: what is compared, and what cannot lie about its owner.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = ssh_key::PublicKey::from(self.key.key_data().clone()).to_openssh();
        f.write_str(line.expect("a key that was read can be written").trim_end())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "openssh::PublicKey({self})")
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "openssh::Signature({:?})", self.0.namespace())
    }
}
