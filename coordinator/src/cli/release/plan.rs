//! `coordctl release publish --plan`: what would happen, and whether it would be refused. Nothing is written.

use coord_proto::trust::Trust;

use super::publish::{Args, request, signers};
use super::{packed, trust_file};
use crate::cli::{Done, Session};
use crate::counts;
use crate::deploy_file::DeployFile;
use crate::exit::Exit;
use crate::plan::{Ask, Plan, Refusal};
use crate::publish::preview::preview;
use crate::publish::{PublishError, Signing};
use crate::ui::{Failure, Format, words};

/// Packs, because the archive's size decides what fits; looks; prints.
pub(super) async fn run(args: &Args, session: &Session, deploy: &DeployFile) -> Done {
    let ui = session.ui;
    let signers = signers(&args.key, session)?;
    let trust = trust_file(args.trust.as_deref(), session).map(Trust::load).transpose()?;
    let packed = packed(&args.source, deploy, &std::env::temp_dir(), ui).await?;
    let request = request(args, session, deploy, &packed);
    let signing = Signing { signers: &signers, trust: trust.as_ref() };
    let previewed = preview(session.store.as_ref(), &session.keys, &signing, &request, words::now()).await;
    let previewed = previewed.map_err(|error| match error {
        PublishError::Store(error) => session.store_failure(error),
        error => error.failure(),
    })?;
    if previewed.missing > 0 {
        ui.note(format!("it would wait for {}, and be rolled out with the last one", counts::signatures(previewed.missing)));
    }
    let fleet = session.fleet().await?;
    let refused: Vec<Refusal> = previewed.refused.into_iter().map(|error| error.failure().into()).collect();
    let plan = Plan::of(&Ask { fleet: &fleet, spec: &previewed.spec, manifest: &previewed.manifest }, refused);
    match Format::of(args.json) {
        Format::Json => ui.json(&plan)?,
        Format::Text => ui.out(plan.text())?,
    }
    ended(plan)
}

/// All reasons are told; the exit code is that of the refusal.
fn ended(plan: Plan) -> Done {
    if plan.refused.is_empty() {
        return Ok(Exit::Done);
    }
    let hints: Vec<String> = plan.refused.iter().map(|r| r.hint.clone()).filter(|hint| !hint.is_empty()).collect();
    let mut failure = Failure::refused("it would be refused; nothing was changed").hint(hints.join("\n"));
    failure.chain.extend(plan.refused.into_iter().map(|refusal| refusal.why));
    Err(failure)
}
