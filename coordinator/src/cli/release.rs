//! `coordctl release pack|publish|sign|list|show|verify`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use coord_proto::ids::{AppName, Environment, ReleaseId};
use coord_proto::manifest::Artifact;

use super::{Done, Global, Session};
use crate::deploy_file::{DeployFile, FILE_NAME};
use crate::exit::Exit;
use crate::pack::{self, Packed};
use crate::ui::{Failure, Format, Ui};

mod list;
mod plan;
mod publish;
mod show;
mod sign;

/// `coordctl release …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the archive of an application: the same tree gives the same bytes
    Pack {
        /// The application, with its deploy.toml
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Where the archive goes (.tar.zst)
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Whose overlay of deploy.toml to use
        #[arg(long, env = "COORDCTL_ENVIRONMENT")]
        environment: Option<Environment>,
        #[arg(long)]
        json: bool,
    },
    /// Pack, sign and publish a release, and follow its rollout
    Publish(publish::Args),
    /// Add a signature to a release that waits for it; the last one begins its rollout
    Sign(sign::Args),
    /// Releases, the newest first
    List {
        /// Only this app
        app: Option<AppName>,
        #[arg(long)]
        json: bool,
    },
    /// What a release's manifest says
    Show {
        app: AppName,
        release: ReleaseId,
        #[arg(long)]
        json: bool,
    },
    /// Check a release's signatures against a trust file
    Verify {
        app: AppName,
        release: ReleaseId,
        /// Trust file [default: the context's]
        #[arg(long, env = "COORDCTL_TRUST", value_name = "FILE")]
        trust: Option<PathBuf>,
        /// Also compare this archive with the signed digest
        #[arg(long, value_name = "FILE")]
        artifact: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
}

/// Runs it.
///
/// # Errors
/// What went wrong, with its exit code.
pub async fn run(command: Command, global: Global, ui: Ui) -> Done {
    match command {
        Command::Pack { dir, output, environment, json } => pack_to(&dir, &output, environment, Format::of(json), ui).await,
        Command::Publish(args) => publish::run(args, global.session(ui)?).await,
        Command::Sign(args) => sign::run(args, global.session(ui)?).await,
        Command::List { app, json } => list::run(&global.session(ui)?, app.as_ref(), Format::of(json)).await,
        Command::Show { app, release, json } => show::show(&global.session(ui)?, &app, &release, Format::of(json)).await,
        Command::Verify { app, release, trust, artifact, json } => {
            let asked = show::Verification { app, release, trust, artifact, format: Format::of(json) };
            show::verify(&global.session(ui)?, asked).await
        }
    }
}

async fn pack_to(dir: &Path, output: &Path, environment: Option<Environment>, format: Format, ui: Ui) -> Done {
    let mut deploy = DeployFile::load(&application_of(dir), environment.as_ref())?;
    // The archive of the last time is no part of the next one.
    deploy.artifact.exclude.extend(pattern_of(output, &dir.join(&deploy.artifact.dir)));
    let scratch = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let artifact = packed(dir, &deploy, scratch, ui).await?.keep(output)?;
    match format {
        Format::Json => ui.json(&artifact)?,
        Format::Text => ui.out(format!("{}  {}", artifact.digest, output.display()))?,
    }
    Ok(Exit::Done)
}

/// The gitignore pattern of a file that is there, as it is seen from a directory above it.
fn pattern_of(file: &Path, above: &Path) -> Option<String> {
    let (file, above) = (file.canonicalize().ok()?, above.canonicalize().ok()?);
    let mut pattern = String::from("/");
    for letter in file.strip_prefix(above).ok()?.to_str()?.chars() {
        pattern.extend("\\*?[ ".contains(letter).then_some('\\'));
        pattern.push(letter);
    }
    Some(pattern)
}

/// The directory with deploy.toml: the application itself, or for a prebuilt archive the current one.
fn application_of(source: &Path) -> PathBuf {
    if source.is_dir() { source.to_owned() } else { PathBuf::from(".") }
}

/// Packs, and says what was left out for looking like a secret.
async fn packed(source: &Path, deploy: &DeployFile, scratch: &Path, ui: Ui) -> Result<Packed, Failure> {
    let (source, deploy, scratch) = (source.to_owned(), deploy.clone(), scratch.to_owned());
    let work = tokio::task::spawn_blocking(move || pack::pack(&source, &deploy, &scratch, ui));
    let packed = work.await?.map_err(|error| {
        let by_servers = matches!(error, pack::PackError::Refused { .. });
        let exit = if error.refused() { Exit::Refused } else { Exit::Error };
        let failure = Failure::from(error).exit(exit);
        if by_servers { failure.hint(format!("leave it out with `artifact.exclude` in {FILE_NAME}, or change it")) } else { failure }
    })?;
    if !packed.withheld.is_empty() {
        let shown: Vec<&str> = packed.withheld.iter().map(String::as_str).take(5).collect();
        let more = packed.withheld.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        ui.note(format!("left out, because they look like secrets: {}{more} (`artifact.include` packs them)", shown.join(", ")));
    }
    Ok(packed)
}

/// The trust file that a flag names, else the context's.
fn trust_file<'a>(given: Option<&'a Path>, session: &'a Session) -> Option<&'a Path> {
    given.or(session.context.trust.as_deref())
}

/// [`trust_file`], where nothing can be said without one.
fn needed_trust_file<'a>(given: Option<&'a Path>, session: &'a Session) -> Result<&'a Path, Failure> {
    let missing = || Failure::new(Exit::Usage, "no trust file is given").hint("--trust FILE, or `trust` in the context");
    trust_file(given, session).ok_or_else(missing)
}

/// For people: digest and size.
fn artifact_words(artifact: &Artifact) -> String {
    format!("{} ({} bytes, {} unpacked, {} entries)", artifact.digest, artifact.size, artifact.unpacked_size, artifact.entries)
}

/// The release's record and the bytes of its manifest.
async fn stored(session: &Session, app: &AppName, release: &ReleaseId) -> Result<show::Stored, Failure> {
    show::Stored::read(session, app, release).await
}
