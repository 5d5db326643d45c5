//! Artifacts and manifests that are not what was signed, while a release serves: it goes on serving, and it is said what is wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_proto::ids::Seq;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::report::{FailureCode, Status};
use coord_proto::rollout::{ReleaseRecord, RolloutPhase, RolloutSpec, SeqRecord};
use coord_proto::store::Transaction;
use coord_proto::trust::Envelope;
use coord_tests::fleet::{Fleet, app, sqlite_in};

const NODE: &str = "web-1";

fn failed_with(code: FailureCode) -> impl Fn(&Status) -> bool {
    move |status| status.failure.as_ref().is_some_and(|f| f.code == code)
}

/// One server on release `one`, whose agent is away, and release `two` published; its file in the store.
fn two_is_published_and_not_yet_taken() -> Result<(Fleet, PathBuf)> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    // Its lease keeps it a member while its agent is away.
    fleet.configure_agent(NODE, "[etcd]\nlease_ttl = \"60s\"\n")?;
    fleet.add_nodes(&[NODE])?;
    let tree = fleet.quick_tree()?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    tree.write("VERSION", "two\n")?;
    fleet.crash_agent(NODE)?;
    fleet.publish(tree.path(), "two", &["--detach"])?.expect_code(0)?;
    let stored = fleet.stored_artifact(2)?;
    Ok((fleet, stored))
}

/// Nothing of `two` came into being, and `one` serves.
fn expect_untouched(fleet: &Fleet) -> Result<()> {
    fleet.expect_serves(NODE, "one")?;
    let releases = fleet.releases(NODE)?;
    ensure!(releases == ["one"], "{releases:?}");
    let steps = fleet.steps(NODE);
    ensure!(!steps.iter().any(|s| s.starts_with("two.")), "{steps:?}");
    Ok(())
}

/// The server says this of `two`, and takes it as soon as the right bytes are there.
fn expect_waits_for_the_right_bytes(fleet: &mut Fleet, stored: &Path, right: &[u8], words: &[String]) -> Result<()> {
    fleet.start_agent(NODE)?;
    let status = fleet.wait_status(NODE, "says what is wrong", failed_with(FailureCode::Download))?;
    let chain = status.failure.context("a failure")?.chain.join(": ");
    ensure!(words.iter().all(|word| chain.contains(word)), "`{chain}` does not name {words:?}");
    expect_untouched(fleet)?;
    fs::write(stored, right)?;
    fleet.wait_rollout("the rollout succeeded", |s| s.phase == RolloutPhase::Succeeded).with_context(|| fleet.log_of(NODE))?;
    fleet.expect_serves(NODE, "two")
}

#[test]
fn a_truncated_artifact_is_told_with_both_lengths_and_waited_for() -> Result<()> {
    let (mut fleet, stored) = two_is_published_and_not_yet_taken()?;
    let right = fs::read(&stored)?;
    let half = right.len() as u64 / 2;
    File::options().write(true).open(&stored)?.set_len(half)?;
    expect_waits_for_the_right_bytes(&mut fleet, &stored, &right, &[half.to_string(), right.len().to_string()])
}

#[test]
fn an_artifact_with_a_byte_too_many_is_told_with_both_lengths_and_waited_for() -> Result<()> {
    let (mut fleet, stored) = two_is_published_and_not_yet_taken()?;
    let right = fs::read(&stored)?;
    fs::write(&stored, [right.as_slice(), b"x"].concat())?;
    expect_waits_for_the_right_bytes(&mut fleet, &stored, &right, &[(right.len() + 1).to_string(), right.len().to_string()])
}

#[test]
fn an_artifact_that_was_changed_in_the_store_is_refused() -> Result<()> {
    let (mut fleet, stored) = two_is_published_and_not_yet_taken()?;
    let mut bytes = fs::read(&stored)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&stored, bytes)?;
    fleet.start_agent(NODE)?;
    let ended = fleet.wait_rollout("the rollout ended", |s| s.phase.ended())?;
    ensure!(ended.phase == RolloutPhase::RolledBack && ended.reason.contains("signed"), "{ended:?}");
    expect_untouched(&fleet)
}

#[test]
fn a_manifest_that_nobody_signed_is_refused_by_the_server() -> Result<()> {
    let (fleet, _tree) = Fleet::on_release_one(&[NODE])?;
    let keys = KeySpace::default();
    let mut manifest = fleet.manifest(1)?;
    (manifest.seq, manifest.release, manifest.created) = (Seq(2), "two".parse()?, manifest.created + 1);
    let mut spec: RolloutSpec = fleet.record(&Key::RolloutSpec(app()))?.context("a spec")?;
    (spec.id, spec.seq, spec.release) = ("2-intruder".parse()?, manifest.seq, manifest.release.clone());
    let one = Key::Release(app(), "one".parse()?);
    let release: ReleaseRecord = fleet.record(&one)?.map(|r: ReleaseRecord| ReleaseRecord { seq: Seq(2), ..r }).context("a release")?;
    let envelope = Envelope { manifest: manifest.encode(), signatures: vec![] };
    let transaction = Transaction::new()
        .put_record(keys.key(&Key::AppSeq(app())), &SeqRecord { seq: manifest.seq, created: manifest.created })
        .put(keys.key(&Key::Manifest(app(), manifest.seq)), envelope.encode())
        .put_record(keys.key(&Key::Release(app(), manifest.release.clone())), &release)
        .put_record(keys.key(&Key::RolloutSpec(app())), &spec);
    fleet.write_into_etcd(transaction)?;
    let ended = fleet.wait_rollout("the rollout ended", |s| s.id == spec.id && s.phase.ended())?;
    ensure!(ended.phase == RolloutPhase::RolledBack, "{ended:?}");
    ensure!(ended.reason.contains("no trusted key signed the manifest (1 needed, 0 valid of 0 given)"), "{ended:?}");
    expect_untouched(&fleet)
}

#[test]
fn an_artifact_over_the_stores_limit_is_not_published() -> Result<()> {
    let mut fleet = Fleet::without_coordinator(sqlite_in)?;
    fleet.configure_coordinator("[artifacts]\nmax_size = \"1KiB\"\n");
    fleet.start_coordinator()?;
    fleet.add_nodes(&[NODE])?;
    let tree = fleet.quick_tree()?;
    let said = fleet.publish(tree.path(), "one", &[])?.expect_code(1)?;
    ensure!(said.says("are more than the 1024 that `[artifacts] max_size` allows"), "{said:?}");
    ensure!(fleet.rollout()?.is_none() && fleet.record::<SeqRecord>(&Key::AppSeq(app()))?.is_none(), "something was published");
    ensure!(fleet.currents()[NODE].is_none(), "{:?}", fleet.currents());
    Ok(())
}

#[test]
fn a_prebuilt_gzip_archive_is_published_and_its_top_directory_stripped() -> Result<()> {
    let (fleet, tree) = Fleet::on_release_one(&[NODE])?;
    tree.edit_deploy_file("[artifact]", "[artifact]\nstrip_components = 1")?;
    tree.write("VERSION", "prebuilt\n")?;
    let archive = fleet.dir().join("built.tar.gz");
    let tar =
        Command::new("tar").arg("--create").arg("--gzip").arg("--file").arg(&archive).arg("-C").arg(fleet.dir()).arg("app").status()?;
    ensure!(tar.success(), "{tar}");
    let mut command = fleet.coordctl_command(&["release", "publish"])?;
    let output = command.arg(&archive).args(["--release", "two"]).current_dir(tree.path()).output()?;
    let said = coord_tests::fleet::Said::from(output).expect_code(0)?;
    ensure!(said.says("deployed as release two by tester"), "{said:?}");
    fleet.expect_serves(NODE, "two")?;
    let version = fs::read_to_string(fleet.app_dir(NODE).join("current/VERSION"))?;
    ensure!(version == "prebuilt\n", "{version}");
    ensure!(!fleet.app_dir(NODE).join("current/app").exists(), "the top directory was not stripped");
    Ok(())
}
