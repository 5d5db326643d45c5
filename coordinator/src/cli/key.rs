//! `coordctl key generate|inspect`.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;

use clap::Subcommand;
use coord_proto::signature::PublicKey;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::Done;
use crate::exit::Exit;
use crate::sign::{self, KeySource, Protection, SignError, Signer};
use crate::ui::{Failure, Format, Ui};

/// A password for keys, for where there is no terminal.
pub const PASSWORD_VARIABLE: &str = "COORDCTL_KEY_PASSWORD";
/// A key itself, as CI secrets give it.
pub const DATA_VARIABLE: &str = "COORDCTL_KEY_DATA";
/// Longest key on standard input.
const INPUT_BYTES_MAX: u64 = 8 * 1024;

/// `coordctl key …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a signing key: FILE (0600) and its public half beside it with the extension .pub
    Generate {
        /// Where the secret key goes; never over a file that is there
        file: PathBuf,
        /// Protect the file by its permissions alone, as CI needs it
        #[arg(long)]
        no_password: bool,
    },
    /// Print the public line of a key, for `keys` in a trust file
    Inspect {
        /// A secret or public key, of minisign or OpenSSH; `-` for standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

/// Runs it.
///
/// # Errors
/// Files that cannot be read or written, a password that cannot be asked for.
pub fn run(command: Command, ui: Ui) -> Done {
    match command {
        Command::Generate { file, no_password } => {
            let protection = if no_password { Protection::None } else { Protection::Password(new_password()?) };
            let line = sign::generate(&file, &protection).map_err(|error| {
                let there = file.exists();
                let failure = Failure::from(error);
                if there { failure.hint("keys are never overwritten: choose another file") } else { failure }
            })?;
            ui.note(format!("made {} and {}", file.display(), file.with_extension("pub").display()));
            ui.note("put this line into `keys` of the servers' trust file:");
            ui.out(line)?;
        }
        Command::Inspect { file, json } => inspect(&file, Format::of(json), ui)?,
    }
    Ok(Exit::Done)
}

fn inspect(file: &std::path::Path, format: Format, ui: Ui) -> Result<(), Failure> {
    let source = source(Some(file))?;
    let text = match &source {
        KeySource::Text(text) => text.clone(),
        KeySource::File(path) => {
            std::fs::read_to_string(path).map_err(|e| Failure::new(Exit::Error, format!("cannot read {}: {e}", path.display())))?
        }
    };
    // The last line of both formats' public files is the key; no secret key's is one.
    let public = text.lines().rfind(|line| !line.trim().is_empty()).and_then(|line| PublicKey::parse(line).ok());
    let (kind, key) = match public {
        Some(public) => ("public", public),
        None => ("secret", signer(&source)?.public().clone()),
    };
    let of = match &key {
        PublicKey::Minisign(_) => "minisign",
        PublicKey::OpenSsh(_) => "openssh",
    };
    match format {
        Format::Json => {
            ui.json(&serde_json::json!({ "kind": kind, "format": of, "id": key.id().to_string(), "public": key.to_string() }))?;
        }
        Format::Text => ui.out(key.to_string())?,
    }
    Ok(())
}

/// The key that a flag names: a file, or `-` for standard input.
///
/// # Errors
/// Standard input cannot be read.
pub fn source(file: Option<&std::path::Path>) -> Result<KeySource, Failure> {
    match file {
        Some(path) if path.as_os_str() == "-" => {
            let mut text = String::new();
            io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
            Ok(KeySource::Text(text))
        }
        Some(path) => Ok(KeySource::File(path.to_owned())),
        None => Err(Failure::new(Exit::Usage, "no signing key is given")
            .hint(format!("--key FILE, {DATA_VARIABLE}, or `signing_key` in the context; `coordctl key generate FILE` makes one"))),
    }
}

/// The password of a key that has one: from the environment, else from the terminal.
///
/// # Errors
/// Neither is there.
pub fn ask_password() -> io::Result<String> {
    match std::env::var(PASSWORD_VARIABLE) {
        Ok(password) => Ok(password),
        Err(_) => prompt("password of the signing key: "),
    }
}

/// Reads a key that signs, and asks for its password where it has one.
///
/// # Errors
/// [`Signer::read`]'s; without a terminal to ask on, with what to do.
pub fn signer(source: &KeySource) -> Result<Signer, Failure> {
    signer_asking(source, ask_password)
}

fn signer_asking(source: &KeySource, ask: impl FnOnce() -> io::Result<String>) -> Result<Signer, Failure> {
    Signer::read(source, ask).map_err(|error| match &error {
        SignError::Password { .. } | SignError::Locked { .. } => {
            Failure::from(error).hint(format!("without a terminal, {PASSWORD_VARIABLE} in the environment gives the key's password"))
        }
        _ => error.into(),
    })
}

pub(super) fn new_password() -> Result<String, Failure> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    let hint = format!("--no-password makes a key without one, {PASSWORD_VARIABLE} gives it without a terminal");
    let ask = |words: &str| prompt(words).map_err(|e| Failure::from(e).hint(hint.clone()));
    let password = ask("password for the new key: ")?;
    if password.is_empty() {
        return Err(Failure::refused("the password is empty").hint(hint));
    }
    if ask("the same again: ")? != password {
        return Err(Failure::refused("the two passwords differ; nothing was made"));
    }
    Ok(password)
}

/// Asks on the terminal, without echo; standard input stays free for a key.
fn prompt(words: &str) -> io::Result<String> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|e| io::Error::new(e.kind(), format!("there is no terminal to ask for a password ({e})")))?;
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    (&terminal).write_all(words.as_bytes())?;
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent)?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).take(1024).read_line(&mut line);
    // Whatever came of the reading, the terminal gets its echo back.
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &before)?;
    (&terminal).write_all(b"\n")?;
    read.map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_cannot_be_asked_for_is_hinted_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("release.key");
        sign::generate(&path, &Protection::Password("horse".into())).expect("made");
        let nobody = || Err(io::Error::other("there is no terminal"));
        let failure = signer_asking(&KeySource::File(path), nobody).expect_err("it has a password");
        assert!(failure.hint.contains("COORDCTL_KEY_PASSWORD"), "{failure:?}");
    }
}
