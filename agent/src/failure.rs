//! From an error to the failure that is reported: its kind, its causes, and what to do about it.

use std::error::Error;

use coord_proto::chain::chain;
use coord_proto::ids::Seq;
use coord_proto::report::{Failure, FailureCode, Step};

/// A failure of `step` on the way to `seq`.
pub fn failure(seq: Seq, step: Step, code: FailureCode, error: &(dyn Error + 'static)) -> Failure {
    Failure { seq, step, code, chain: chain(error), hint: hint(code).to_owned(), log_tail: String::new(), fell_back: false, attempt: 1 }
}

/// For what cannot happen, and yet must not end the agent.
#[derive(Debug, thiserror::Error)]
#[error("the manifest for {action} was not loaded; this is a mistake in the agent, please report it")]
pub struct NotLoaded {
    pub action: String,
}

/// What a person does about it; one line each.
fn hint(code: FailureCode) -> &'static str {
    match code {
        FailureCode::ManifestMissing => "the manifest may have been pruned; publish the release again",
        FailureCode::ManifestRefused => "publish with a coordctl of this agent's version, or upgrade the agent",
        FailureCode::SignatureInvalid => "compare the keys in the server's trust file with the key that signed (coordctl key inspect)",
        FailureCode::WrongEnvironment => "publish with the context of this server's environment",
        FailureCode::BelowFloor => "publish the older release again: it gets a new number and a signature",
        FailureCode::NotAllowed => "allow the app in [apps] allow of agent.toml, or change [targets]",
        FailureCode::DiskFull | FailureCode::InodesExhausted => "make room; the agent goes on by itself",
        FailureCode::Store => "see that etcd answers; the agent goes on by itself",
        FailureCode::Download => "see that the artifact store answers; the agent goes on by itself",
        FailureCode::DigestMismatch => "the artifact in the store is not the one that was signed; publish again",
        FailureCode::ArchiveRefused => "pack with coordctl release pack, which refuses the same with the path",
        FailureCode::SharedFileMissing => "put the file into shared/ on that server; the agent goes on by itself",
        FailureCode::CurrentNotALink => "move the real file or directory `current` away",
        FailureCode::HookFailed | FailureCode::HookTimedOut => "see the hook's output: coordctl node logs, or the agent's journal",
        FailureCode::UnitNotAllowed => "list the unit in [apps.NAME] units of agent.toml",
        FailureCode::MigrationFailed => "mend the migration and publish again, or coordctl migration resolve",
        FailureCode::MigrationUnknown => "look at the database, then coordctl migration resolve --as succeeded|failed|retry",
        FailureCode::Unhealthy => "the health check's last answer is above",
        FailureCode::Io | FailureCode::Unknown => "",
    }
}
