//! `coordctl release publish [DIR|FILE]`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coord_proto::ids::ReleaseId;
use coord_proto::labels::Selector;
use coord_proto::rollout::{RolloutSpec, Serial};
use coord_proto::trust::Trust;

use super::{application_of, packed, trust_file};
use crate::cli::key::{self, DATA_VARIABLE};
use crate::cli::rollout::watch;
use crate::cli::wait::{self, TIMEOUT};
use crate::cli::{Done, Session, actor_saying};
use crate::deploy_file::DeployFile;
use crate::exit::Exit;
use crate::pack::Packed;
use crate::publish::countersign::waits_for;
use crate::publish::follow::Follower;
use crate::publish::standing::Standing;
use crate::publish::{PublishError, Published, Request, Signing, check_free, publish};
use crate::sign::{KeySource, Signer};
use crate::ui::{Failure, Format, words};
use crate::upload::{Uploaded, Uploader};
use crate::view::Fleet;

/// What is published, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application with its deploy.toml, or a prebuilt .tar.gz or .tar.zst (deploy.toml is then read from the current directory)
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    pub(super) source: PathBuf,
    /// The release's id [default: the time, UTC]
    #[arg(long, value_name = "ID")]
    release: Option<ReleaseId>,
    /// The VCS commit, for REVISION on the servers [default: git's HEAD, else the release's id]
    #[arg(long, env = "COORDCTL_REVISION")]
    revision: Option<String>,
    /// Signing key, `-` for standard input; may be given several times [default: COORDCTL_KEY_DATA, else the context's `signing_key`]
    #[arg(long, value_name = "FILE", env = "COORDCTL_KEY")]
    pub(super) key: Vec<PathBuf>,
    /// Trust file of the servers: with fewer keys than its threshold, the release waits for `release sign` [default: the context's]
    #[arg(long, env = "COORDCTL_TRUST", value_name = "FILE")]
    pub(super) trust: Option<PathBuf>,
    /// Only these servers (role=web,zone=a or node=web-1); such a release does not become stable
    #[arg(long, value_name = "SELECTOR")]
    limit: Option<Selector>,
    /// Servers at a time, instead of `[rollout] serial`: 2, 25% or 1,25%
    #[arg(long, value_name = "SIZES")]
    serial: Option<Serial>,
    /// Show what would happen and where it would halt, and change nothing; 3: it would be refused
    #[arg(long)]
    plan: bool,
    /// The plan as JSON, or else each event of the rollout as one line of JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Do not wait: 0 means that the release was accepted
    #[arg(long)]
    detach: bool,
    /// Wait at most this long for the end of the rollout
    #[arg(long, default_value = TIMEOUT, value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Duration,
    /// Take the place of a rollout that is going on: its servers finish their step, and the migration that one of them runs
    #[arg(long)]
    supersede: bool,
    /// Why, for the record
    #[arg(long, short, value_name = "WHY")]
    message: Option<String>,
}

pub async fn run(args: Args, session: Session) -> Done {
    let ui = session.ui;
    // Everything that can be refused is looked at before something long begins.
    let deploy = DeployFile::load(&application_of(&args.source), Some(&session.context.environment))?;
    if args.plan {
        return super::plan::run(&args, &session, &deploy).await;
    }
    let signers = signers(&args.key, &session)?;
    let trust = trust_file(args.trust.as_deref(), &session).map(Trust::load).transpose()?;
    let signing = Signing { signers: &signers, trust: trust.as_ref() };
    let missing = signing.missing().map_err(PublishError::failure)?;
    let standing = look(&session, &deploy, &args, missing).await?;
    let packed = packed(&args.source, &deploy, &std::env::temp_dir(), ui).await?;
    upload(&session, &standing.stores, &packed).await?;
    let request = request(&args, &session, &deploy, &packed);
    let published = publish(session.store.as_ref(), &session.keys, &signing, &request, words::now()).await;
    let published = published.map_err(|error| match error {
        PublishError::Store(error) => session.store_failure(error),
        error => error.failure(),
    });
    follow(&args, &session, published?).await
}

/// What is asked for on this command line.
pub(super) fn request<'a>(args: &Args, session: &Session, deploy: &'a DeployFile, packed: &Packed) -> Request<'a> {
    Request {
        environment: session.context.environment.clone(),
        artifact: packed.artifact.clone(),
        release: args.release.clone(),
        revision: args.revision.clone().or_else(|| git_head(&args.source)),
        serial: args.serial.clone(),
        limit: args.limit.clone(),
        supersede: args.supersede,
        by: actor_saying(args.message.clone()),
        deploy,
    }
}

async fn follow(args: &Args, session: &Session, published: Published) -> Done {
    let (spec, missing) = (published.spec, published.missing);
    if missing == 0 {
        session.ui.note(format!("published release {} (number {}, rollout {})", spec.release, spec.seq, spec.id));
        return followed(session, spec, (args.detach, args.timeout), Format::of(args.json)).await;
    }
    let (app, release, seq) = (&spec.app, &spec.release, spec.seq);
    let words = format!("release {release} {}", waits_for(missing, app, release));
    match Format::of(args.json) {
        Format::Text if args.detach => session.ui.out(words)?,
        Format::Text => session.ui.note(words),
        Format::Json => {
            session
                .ui
                .event(&serde_json::json!({ "event": "waits", "app": app, "release": release, "seq": seq, "signatures": missing }))?;
        }
    }
    if args.detach {
        return Ok(Exit::Done);
    }
    let began = Instant::now();
    let spec = wait::for_signatures(session, &spec, args.timeout).await?;
    followed(session, spec, (false, args.timeout.saturating_sub(began.elapsed())), Format::of(args.json)).await
}

/// To the end of the rollout, or not at all.
pub(super) async fn followed(session: &Session, spec: RolloutSpec, (detach, timeout): (bool, Duration), format: Format) -> Done {
    if detach {
        return watch::accepted(session.ui, format, &spec);
    }
    let follower = Follower::new(spec.app, spec.id, spec.release, spec.by.user);
    wait::to_the_end(session, follower, timeout, format).await
}

async fn look(session: &Session, deploy: &DeployFile, args: &Args, missing: usize) -> Result<Standing, Failure> {
    let standing = Standing::look(session.store.as_ref(), &session.keys, &deploy.app).await.map_err(|e| session.store_failure(e))?;
    standing.admit(missing, args.supersede).map_err(PublishError::failure)?;
    if let Some(release) = &args.release {
        check_free(session.store.as_ref(), &session.keys, &deploy.app, release).await.map_err(PublishError::failure)?;
    }
    if let Some(limit) = &args.limit {
        limit_meets_somebody(limit, &session.fleet().await?)?;
    }
    Ok(standing)
}

/// A rollout that waits for servers that nobody has is a typing error that blocks the app.
fn limit_meets_somebody(limit: &Selector, fleet: &Fleet) -> Result<(), Failure> {
    if fleet.nodes.values().any(|node| limit.matches(&node.labels())) {
        return Ok(());
    }
    Err(Failure::refused("no registered server matches --limit; nothing was changed")
        .hint("`coordctl node list` shows names and labels; a name is written node=NAME"))
}

/// The keys that sign.
pub(super) fn signers(files: &[PathBuf], session: &Session) -> Result<Vec<Signer>, Failure> {
    let data = std::env::var(DATA_VARIABLE).ok().filter(|data| !data.trim().is_empty());
    let sources: Vec<KeySource> = match (files, data) {
        ([], Some(data)) => vec![KeySource::Text(data)],
        ([], None) => vec![key::source(session.context.signing_key.as_deref())?],
        (files, _) => files.iter().map(|file| key::source(Some(file))).collect::<Result<_, _>>()?,
    };
    sources.iter().map(key::signer).collect()
}

async fn upload(session: &Session, stores: &[String], packed: &Packed) -> Result<(), Failure> {
    let progress = session.ui.progress("uploaded", packed.artifact.size);
    let uploader = Uploader::new(&session.context.tls)?;
    let uploaded = uploader.ensure(stores, &packed.artifact, packed.path(), &mut |done| progress.set(done)).await;
    let uploaded =
        uploaded.map_err(|e| Failure::from(e).hint("nothing was published; the upload goes on where it was when you publish again"))?;
    let line = progress.finish(packed.artifact.size);
    session.ui.note(match uploaded {
        Uploaded::Sent => line,
        Uploaded::WasThere => "the artifact store has this archive already".to_owned(),
    });
    Ok(())
}

/// The commit that is checked out, where git knows one. A tree that differs from it is told by a `+`.
fn git_head(source: &Path) -> Option<String> {
    let directory = source.is_dir().then_some(source)?;
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(directory).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"]).filter(|head| !head.is_empty())?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "."]).is_some_and(|lines| !lines.is_empty());
    Some(if changed { format!("{head}+") } else { head })
}
