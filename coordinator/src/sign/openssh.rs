//! Signing with OpenSSH keys: `ssh-keygen -Y sign` does it, so that ssh-agent, security keys and passphrases work as their owner knows them.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use coord_proto::signature::openssh::{NAMESPACE, PublicKey};
use coord_proto::signature::{self, KeyError};
use tempfile::NamedTempFile;

use super::{KeySource, SignError};

const PROGRAM: &str = "ssh-keygen";

/// A key that `ssh-keygen` signs with. This program never has its secret half, unless it was given as text.
pub struct Signer {
    from: String,
    file: KeyFile,
    public: signature::PublicKey,
}

enum KeyFile {
    /// A private key, or a `.pub` whose private half is beside it or in ssh-agent.
    Named(PathBuf),
    /// Given as text; 0600, removed with this value.
    Kept(NamedTempFile),
}

impl KeyFile {
    fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Kept(file) => file.path(),
        }
    }
}

/// Is it a key for `ssh-keygen`, of whatever algorithm? Minisign's begin with a comment.
pub fn looks_like(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with("-----BEGIN ") || ["ssh-", "sk-ssh-", "sk-ecdsa-", "ecdsa-"].iter().any(|start| text.starts_with(start))
}

impl Signer {
    /// Takes the public half out of a private or public key; no passphrase is needed for that.
    ///
    /// # Errors
    /// Not a key, an algorithm that may not sign.
    pub fn read(source: &KeySource, text: &str) -> Result<Self, SignError> {
        let from = source.name();
        let public = public_half(text).map_err(|source| SignError::OpenSsh { from: from.clone(), source })?;
        let file = match source {
            KeySource::File(path) => KeyFile::Named(path.clone()),
            KeySource::Text(text) => KeyFile::Kept(kept(text)?),
        };
        Ok(Self { from, file, public: signature::PublicKey::OpenSsh(public) })
    }

    /// Its public half.
    pub fn public(&self) -> &signature::PublicKey {
        &self.public
    }

    /// The armored signature over exactly these bytes. May wait for a passphrase or a touch, which `ssh-keygen` asks for itself.
    ///
    /// # Errors
    /// No `ssh-keygen`, or it refuses.
    pub fn sign(&self, bytes: &[u8]) -> Result<String, SignError> {
        let from = || self.from.clone();
        let output = self.run(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SignError::NoSshKeygen { from: from() },
            _ => SignError::RunSshKeygen { from: from(), source },
        })?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !output.status.success() {
            let said = if said.is_empty() { output.status.to_string() } else { said };
            return Err(SignError::SshKeygen { from: from(), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&self, bytes: &[u8]) -> io::Result<Output> {
        // On a terminal its owner must see `Confirm user presence`; elsewhere what it says is the reason.
        let said = if io::stderr().is_terminal() { Stdio::inherit() } else { Stdio::piped() };
        let mut command = Command::new(PROGRAM);
        command.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(self.file.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said).spawn()?;
        let mut input = child.stdin.take().expect("it was asked for");
        // It reads all before it says anything; if it ends earlier, its own words are the better ones.
        let written = input.write_all(bytes);
        drop(input);
        let output = child.wait_with_output()?;
        if output.status.success() { written.map(|()| output) } else { Ok(output) }
    }
}

fn public_half(text: &str) -> Result<PublicKey, KeyError> {
    if !text.trim_start().starts_with("-----BEGIN ") {
        return PublicKey::parse(text.trim());
    }
    let key = ssh_key::PrivateKey::from_openssh(text).map_err(|e| KeyError::OpenSsh { problem: e.to_string() })?;
    PublicKey::try_from(key.public_key().clone())
}

fn kept(text: &str) -> Result<NamedTempFile, SignError> {
    let written = NamedTempFile::with_prefix("coordctl-key-").and_then(|mut file| {
        // OpenSSH reads no key whose last line does not end.
        writeln!(file, "{}", text.trim_end()).map(|()| file)
    });
    written.map_err(|source| SignError::Write { path: std::env::temp_dir(), source })
}
