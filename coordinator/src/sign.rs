//! Signing keys: of minisign made, read and used here; of OpenSSH used through `ssh-keygen`.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use coord_proto::ids::Seq;
use coord_proto::signature::{self, KeyError, SignatureError};

mod openssh;

/// Largest key file that is read: a key is two lines.
const KEY_BYTES_MAX: u64 = 8 * 1024;
/// Bytes of a minisign secret key before its checksum: algorithms (6), salt (32), limits (16), key id (8), Ed25519 seed and point (64).
const SECRET_LENGTH: usize = 126;
const CHECKSUM_LENGTH: usize = 32;

/// Where a signing key comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// The key itself: from standard input or a CI secret.
    Text(String),
}

/// A key, ready to sign.
pub enum Signer {
    Minisign { secret: SecretKey, public: signature::PublicKey },
    OpenSsh(openssh::Signer),
}

/// Why a key cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("cannot read the signing key {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{from} is not a minisign secret key (two lines, the second begins with RW)")]
    Format {
        from: String,
        #[source]
        source: minisign::PError,
    },
    #[error("the signing key {from} needs its password")]
    Password {
        from: String,
        #[source]
        source: io::Error,
    },
    #[error("the signing key {from} cannot be opened with this password")]
    Locked {
        from: String,
        #[source]
        source: minisign::PError,
    },
    #[error("cannot sign")]
    Sign(#[source] minisign::PError),
    #[error("the OpenSSH key {from} cannot sign releases")]
    OpenSsh {
        from: String,
        #[source]
        source: KeyError,
    },
    #[error("signing with the OpenSSH key {from} needs ssh-keygen, and it is not installed")]
    NoSshKeygen { from: String },
    #[error("cannot run ssh-keygen for the key {from}")]
    RunSshKeygen {
        from: String,
        #[source]
        source: io::Error,
    },
    #[error("ssh-keygen did not sign with the key {from}: {said}")]
    SshKeygen { from: String, said: String },
    #[error("no server would accept what the key {key} signs")]
    Useless {
        key: String,
        #[source]
        source: SignatureError,
    },
}

impl SignError {
    /// What to do about it; empty where the error says all.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSshKeygen { .. } => "install it: apt-get install openssh-client",
            Self::SshKeygen { .. } => {
                "of a .pub file, the private half must be beside it or in ssh-agent: ssh-add -l lists what the agent has"
            }
            Self::OpenSsh { .. } => "ssh-keygen -t ed25519 makes a key that can; -t ed25519-sk one on a security key",
            _ => "",
        }
    }
}

/// The key itself is never shown.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public_line())
    }
}
impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl KeySource {
    /// As it is called in errors.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => "given as text".to_owned(),
        }
    }

    fn text(&self) -> Result<String, SignError> {
        let path = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(KEY_BYTES_MAX).read_to_string(&mut text));
        read.map(|_| text).map_err(|source| SignError::Read { path: path.clone(), source })
    }
}

impl Signer {
    /// Reads a key; `password` is asked only when the key has one.
    ///
    /// # Errors
    /// Unreadable, not a key, wrong password.
    pub fn read(source: &KeySource, password: impl FnOnce() -> io::Result<String>) -> Result<Self, SignError> {
        let from = source.name();
        let text = source.text()?;
        if openssh::looks_like(&text) {
            return openssh::Signer::read(source, &text).map(Self::OpenSsh);
        }
        let parse = |text: &str| SecretKeyBox::from_string(text).map_err(|source| SignError::Format { from: from.clone(), source });
        let secret = match parse(&text)?.into_unencrypted_secret_key() {
            Ok(secret) => secret,
            // Either it has a password, or it is no key: the box does not say which before it is opened.
            Err(source) if !looks_encrypted(&text) => {
                without_checksum(&text).ok_or_else(|| SignError::Format { from: from.clone(), source })?
            }
            Err(_) => {
                let password = password().map_err(|source| SignError::Password { from: from.clone(), source })?;
                parse(&text)?.into_secret_key(Some(password)).map_err(|source| SignError::Locked { from, source })?
            }
        };
        let public = PublicKey::from_secret_key(&secret).map_err(SignError::Sign)?;
        let signer = Self::minisign(secret, &public);
        // Its halves belong together, which nothing else says of a key without a checksum.
        signer.sign(b"", Seq(0)).and_then(|made| expect_good(&signer, b"", &made)).map(|()| signer)
    }

    /// A fresh key that is nowhere on a disk, for tests and `dev`.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, SignError> {
        let pair = KeyPair::generate_unencrypted_keypair().map_err(SignError::Sign)?;
        Ok(Self::minisign(pair.sk, &pair.pk))
    }

    fn minisign(secret: SecretKey, public: &PublicKey) -> Self {
        let public = signature::PublicKey::parse(&public.to_base64()).expect("both read the same format");
        Self::Minisign { secret, public }
    }

    /// Its public half.
    pub fn public(&self) -> &signature::PublicKey {
        match self {
            Self::Minisign { public, .. } => public,
            Self::OpenSsh(signer) => signer.public(),
        }
    }

    /// The line for `keys` in a trust file: `RW…` or `ssh-ed25519 …`.
    pub fn public_line(&self) -> String {
        self.public().to_string()
    }

    /// The signature's text over exactly these bytes.
    ///
    /// # Errors
    /// The system gives no randomness; of an OpenSSH key, whatever `ssh-keygen` says.
    pub fn sign(&self, bytes: &[u8], seq: Seq) -> Result<String, SignError> {
        let secret = match self {
            Self::Minisign { secret, .. } => secret,
            Self::OpenSsh(signer) => {
                let made = signer.sign(bytes)?;
                // A token that needs no touch, say, signs what nobody accepts.
                return expect_good(self, bytes, &made).map(|()| made);
            }
        };
        let comment = format!("manifest {seq}");
        let signature = minisign::sign(None, secret, io::Cursor::new(bytes), Some(&comment), Some("coord"));
        signature.map(|s| s.into_string()).map_err(SignError::Sign)
    }
}

/// What a signer made, read as servers read it.
fn expect_good(signer: &Signer, bytes: &[u8], made: &str) -> Result<(), SignError> {
    let checked = signature::Signature::parse(made).and_then(|made| signer.public().verify(bytes, &made));
    checked.map_err(|source| SignError::Useless { key: signer.public_line(), source })
}

/// The second line holds the algorithm's name in its third and fourth byte: `Sc` is scrypt, zero is none.
fn looks_encrypted(text: &str) -> bool {
    secret_bytes(text).get(2..4) == Some(b"Sc")
}

/// `minisign -G -W` leaves the checksum of a key without a password empty, and the library demands one.
fn without_checksum(text: &str) -> Option<SecretKey> {
    let bytes = secret_bytes(text);
    let (_, checksum) = bytes.split_at_checked(SECRET_LENGTH).filter(|(key, _)| key.starts_with(b"Ed\0\0"))?;
    let empty = checksum.len() == CHECKSUM_LENGTH && checksum.iter().all(|byte| *byte == 0);
    empty.then(|| SecretKey::from_bytes(&bytes).ok()).flatten()
}

fn secret_bytes(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let line = text.lines().nth(1).unwrap_or_default().trim();
    base64::engine::general_purpose::STANDARD.decode(line).unwrap_or_default()
}

/// The password of a key file, or that it has none.
#[derive(Clone, PartialEq, Eq)]
pub enum Protection {
    Password(String),
    None,
}

/// Makes a key: the secret into `path` (0600, never over a file that is there), the public one beside it with the extension `.pub`.
/// Returns the line for a trust file.
///
/// # Errors
/// A file that is there already or cannot be written.
pub fn generate(path: &Path, protection: &Protection) -> Result<String, SignError> {
    let pair = match protection {
        Protection::None => KeyPair::generate_unencrypted_keypair(),
        Protection::Password(password) => KeyPair::generate_encrypted_keypair(Some(password.clone())),
    };
    let pair = pair.map_err(SignError::Sign)?;
    let secret = pair.sk.to_box(Some("coord signing key")).map_err(SignError::Sign)?.into_string();
    let public = pair.pk.to_box().map_err(SignError::Sign)?.into_string();
    write_new(path, &secret, 0o600)?;
    let beside = path.with_extension("pub");
    write_new(&beside, &public, 0o644)?;
    Ok(pair.pk.to_base64())
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), SignError> {
    crate::new_file::write(path, text, mode).map_err(|source| SignError::Write { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use coord_proto::trust::Trust;

    use super::*;

    fn refuse() -> io::Result<String> {
        Err(io::Error::other("nobody there"))
    }

    fn trusts(line: &str, bytes: &[u8], signature: String) -> bool {
        let trust = Trust::parse(&format!("version = 1\nenvironment = \"test\"\nkeys = [\"{line}\"]")).expect("trust file");
        // A signature that is accepted leads to the parser, which then refuses these bytes.
        matches!(trust.open(bytes, &[signature]), Err(coord_proto::trust::TrustError::Manifest(_)))
    }

    #[test]
    fn a_generated_key_is_its_owners_alone_and_signs_what_trust_accepts() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("release.key");
        let line = generate(&path, &Protection::None).expect("made");
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let signer = Signer::read(&KeySource::File(path.clone()), refuse).expect("read");
        assert_eq!(signer.public_line(), line);
        let signature = signer.sign(b"bytes", Seq(7)).expect("signed");
        assert!(trusts(&line, b"bytes", signature.clone()));
        assert!(!trusts(&line, b"other", signature));
        assert!(matches!(generate(&path, &Protection::None), Err(SignError::Write { .. })), "never over a key");
    }

    #[test]
    fn a_key_with_a_password_opens_with_it_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("release.key");
        let line = generate(&path, &Protection::Password("horse".into())).expect("made");
        let source = KeySource::Text(std::fs::read_to_string(&path).expect("key"));
        assert_eq!(Signer::read(&source, || Ok("horse".into())).expect("read").public_line(), line);
        assert!(matches!(Signer::read(&source, || Ok("cow".into())), Err(SignError::Locked { .. })));
        assert!(matches!(Signer::read(&source, refuse), Err(SignError::Password { .. })));
    }

    #[test]
    fn what_is_no_key_is_said_and_never_shown() {
        let source = KeySource::Text("untrusted comment: x\nnot a key".into());
        assert!(matches!(Signer::read(&source, refuse), Err(SignError::Format { .. })));
        assert!(!format!("{source:?}").contains("not a key"));
        let missing = KeySource::File("/nowhere/key".into());
        assert!(Signer::read(&missing, refuse).expect_err("missing").to_string().contains("/nowhere/key"));
        let signer = Signer::generate().expect("made");
        assert_eq!(format!("{signer:?}"), format!("Signer({})", signer.public_line()));
    }
}
