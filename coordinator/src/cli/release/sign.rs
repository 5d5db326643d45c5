//! `coordctl release sign APP RELEASE`: one more signature for a release that waits.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use coord_proto::ids::{AppName, ReleaseId};
use coord_proto::manifest::{Hook, HookPhase, Manifest};
use coord_proto::migration::Phase;
use coord_proto::signature::PublicKey;
use coord_proto::trust::Trust;

use super::publish::{followed, signers};
use super::{artifact_words, needed_trust_file};
use crate::cli::wait::TIMEOUT;
use crate::cli::{Done, Session, actor_saying};
use crate::counts;
use crate::exit::Exit;
use crate::publish::PublishError;
use crate::publish::countersign::{Added, Approval, CountersignError, Pending, add, waits_for};
use crate::sign::Signer;
use crate::ui::{Failure, Format, words};

/// What is signed, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    app: AppName,
    release: ReleaseId,
    /// Signing key, as for `release publish`; may be given several times
    #[arg(long, value_name = "FILE", env = "COORDCTL_KEY")]
    key: Vec<PathBuf>,
    /// Trust file of the servers: who may sign, and how many must [default: the context's]
    #[arg(long, env = "COORDCTL_TRUST", value_name = "FILE")]
    trust: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Each event of the rollout as one line of JSON
    #[arg(long)]
    json: bool,
    /// Do not wait for the end of the rollout that the last signature begins
    #[arg(long)]
    detach: bool,
    /// Wait at most this long for the end of the rollout
    #[arg(long, default_value = TIMEOUT, value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Duration,
    /// Take the place of a rollout that is going on
    #[arg(long)]
    supersede: bool,
    /// Why, for the record
    #[arg(long, short, value_name = "WHY")]
    message: Option<String>,
}

pub async fn run(args: Args, session: Session) -> Done {
    let trust = Trust::load(needed_trust_file(args.trust.as_deref(), &session)?)?;
    let failed = |error| failure(&session, error);
    let (store, keys) = (session.store.as_ref(), &session.keys);
    let pending = Pending::look(store, keys, &trust, (&args.app, &args.release)).await.map_err(failed)?;
    let signers = signers(&args.key, &session)?;
    let new: Vec<_> = signers.iter().filter(|signer| !pending.signed.contains(signer.public())).collect();
    if let Some(signer) = new.iter().find(|signer| !trust.keys.lists(signer.public())) {
        return Err(CountersignError::NotListed { key: signer.public_line() }.failure());
    }
    if pending.record.waits.is_some() {
        pending.expect_newest(store, keys).await.map_err(failed)?;
    }
    if !new.is_empty() {
        session.ui.note(said(&pending).trim_end());
        confirm(args.yes)?;
    }
    let sign = |signer: &Signer| {
        let text = signer.sign(&pending.envelope.manifest, pending.manifest.seq)?;
        Ok::<_, PublishError>((signer.public().clone(), text))
    };
    // A key that has signed already is not asked again; that it has is all that is to be said.
    let signatures: Vec<(PublicKey, String)> = new.into_iter().map(sign).collect::<Result<_, _>>().map_err(PublishError::failure)?;
    let by = actor_saying(args.message.clone());
    let approval = Approval { app: &args.app, release: &args.release, signatures: &signatures, supersede: args.supersede, by };
    let added = add(store, keys, &trust, &approval).await.map_err(failed)?;
    told(&args, &session, added).await
}

fn failure(session: &Session, error: CountersignError) -> Failure {
    match error {
        CountersignError::Publish(PublishError::Store(error)) => session.store_failure(error),
        error => error.failure(),
    }
}

async fn told(args: &Args, session: &Session, added: Added) -> Done {
    let (app, release) = (&args.app, &args.release);
    let waits = |missing: usize| match missing {
        0 => String::new(),
        missing => format!("; it {}", waits_for(missing, app, release)),
    };
    let line = match added {
        Added::Complete(spec) => {
            session.ui.note(format!("signed release {release}: it has all its signatures (rollout {})", spec.id));
            return followed(session, *spec, (args.detach, args.timeout), Format::of(args.json)).await;
        }
        Added::Already { missing } => format!("release {release} is signed with this key already{}; nothing was changed", waits(missing)),
        Added::Waits { missing } => format!("signed release {release}{}", waits(missing)),
        Added::Another => format!("signed release {release}; it was complete before, and nothing is rolled out by this"),
    };
    match Format::of(args.json) {
        Format::Text => session.ui.out(line)?,
        Format::Json => session.ui.event(&serde_json::json!({ "event": "signed", "app": app, "release": release, "words": line }))?,
    }
    Ok(Exit::Done)
}

/// What the signature will stand for.
fn said(pending: &Pending) -> String {
    let m = &pending.manifest;
    let by: Vec<String> = pending.signed.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        ("app", m.app.to_string()),
        ("release", format!("{} (number {}, revision {})", m.release, m.seq, m.revision)),
        ("environment", m.environment.to_string()),
        ("published", format!("{} by {}@{}", words::time(pending.record.by.at), pending.record.by.user, pending.record.by.host)),
        ("artifact", artifact_words(&m.artifact)),
        ("runs once", tasks(m)),
        ("hooks", hooks(m)),
    ];
    let waits = pending.record.waits.as_ref();
    lines.extend(waits.and_then(|w| w.limit.as_ref()).map(|limit| ("only on", limit.to_string())));
    lines.extend(waits.and_then(|w| w.serial.as_ref()).map(|serial| ("at a time", serial.to_string())));
    lines.push(("signed by", by.join(", ")));
    lines.push(("wants", if pending.missing > 0 { counts::signatures(pending.missing) } else { "no more signatures".to_owned() }));
    lines.iter().map(|(name, value)| format!("{name:<12} {}\n", crate::ui::table::printable(value))).collect()
}

fn tasks(m: &Manifest) -> String {
    let of = |phase| m.once_tasks(phase).into_iter().map(|task| format!("{} ({})", task.command.join(" "), task.name));
    listed([Phase::Before, Phase::After].into_iter().flat_map(of).collect(), "; ")
}

fn hooks(m: &Manifest) -> String {
    let does = |hook: &Hook| if hook.command.is_empty() { hook.units.join(" ") } else { hook.command.join(" ") };
    let of =
        |(phase, hooks): (HookPhase, &[Hook])| hooks.iter().map(|hook| format!("{} ({})", does(hook), phase.name())).collect::<Vec<_>>();
    listed(m.hooks.phases().flat_map(of).collect(), "; ")
}

fn listed(items: Vec<String>, between: &str) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(between) }
}

/// Asks on the terminal; elsewhere `--yes` is the word.
fn confirm(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::refused("there is no terminal to ask whether this is to be signed; nothing was changed")
            .hint("look at what is printed above, and say --yes"));
    }
    eprint!("sign it? [y/N] ");
    let mut line = String::new();
    io::stdin().lock().take(16).read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::refused("not signed; nothing was changed")) }
}
