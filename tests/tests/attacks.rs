//! What a thief of the build machine or of the artifact store can do: signed archives that are meant to reach beyond the release, and a
//! store that sends something else than what was signed. Each is refused with its own words, and nothing outside staging changes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use coord_agent::effects::unpack::unpack;
use coord_proto::chain::inline;
use coord_proto::manifest::Artifact;
use coord_proto::rollout::RolloutPhase;
use coord_tests::attack::{self, Attack, Outside, Tar};
use coord_tests::fleet::{APP, Fleet, sqlite_in};
use coord_tests::hostile::{Deed, Elsewhere, HostileStore};
use coord_tests::mootube::Tree;
use coord_tests::snapshot::Snapshot;
use coord_tests::visitor::Visitor;

const NODE: &str = "web-1";
const CREATED: i64 = 1_704_067_200;

fn nothing(_: &Path) -> bool {
    false
}

/// A directory to unpack into, and beside it one that nothing may reach.
struct Place {
    temp: tempfile::TempDir,
    outside: PathBuf,
}

impl Place {
    fn make() -> Result<Self> {
        let temp = tempfile::tempdir()?;
        let outside = temp.path().join("outside");
        attack::make_outside(&outside)?;
        fs::create_dir(temp.path().join("releases"))?;
        Ok(Self { temp, outside })
    }

    fn staging(&self) -> PathBuf {
        self.temp.path().join("releases/.staging")
    }

    fn attacks(&self) -> Result<Vec<Attack>> {
        let absolute = self.outside.to_str().context("a path of text")?;
        Ok(attack::all(Outside { absolute, relative: "../../outside" }))
    }

    /// Unpacks into a fresh directory, as staging does.
    fn unpack(&self, bytes: &[u8], artifact: &Artifact) -> Result<(), String> {
        fs::remove_dir_all(self.staging()).ok();
        unpack(bytes, artifact, CREATED, &self.staging()).map_err(|e| inline(&e))
    }
}

#[test]
fn every_bad_archive_is_refused_with_its_own_words_and_reaches_nothing() -> Result<()> {
    let place = Place::make()?;
    let before = Snapshot::of(&place.outside, nothing)?;
    let whole = Tar::default().dir("d/").file("d/a", &[1; 700]).link("d/l", "a").pax(b'x', &[("path", b"long")]).file("b", b"x").end();
    let attacks = place.attacks()?;
    ensure!(attacks.len() > 60, "{}", attacks.len());
    for attack in attacks.into_iter().chain(attack::cut_at_every_block(&whole)) {
        let result = place.unpack(&attack.bytes, &attack.artifact());
        let text = result.err().with_context(|| format!("{} was unpacked", attack.name))?;
        ensure!(text.contains(attack.says), "{}: `{text}` does not say `{}`", attack.name, attack.says);
        before.expect_unchanged(nothing).with_context(|| attack.name)?;
        let beside = fs::read_dir(place.temp.path())?.count() + fs::read_dir(place.temp.path().join("releases"))?.count();
        ensure!(beside == 3, "{} left something beside the staging directory", attack.name);
    }
    Ok(())
}

/// Attacks 63, 64, 65: they are not refused, because honest archives have such things too, but nothing of it comes to the disk.
#[test]
fn modes_owners_and_attributes_of_an_archive_are_not_taken_over() -> Result<()> {
    let place = Place::make()?;
    let bytes = attack::packed(attack::untamed());
    let artifact = Artifact { entries: 7, unpacked_size: 13, ..Attack::artifact(&place.attacks()?[0]) };
    let artifact = Artifact { allow_symlinks_to: vec![], size: bytes.len() as u64, ..artifact };
    place.unpack(&bytes, &artifact).map_err(anyhow::Error::msg)?;
    let modes = [("bin", 0o755), ("bin/set-uid", 0o755), ("for-all", 0o644), ("closed", 0o755), ("closed/in", 0o644), ("open", 0o755)];
    let own = nix::unistd::Uid::effective().as_raw();
    for (path, mode) in modes.into_iter().chain([("attributes", 0o644)]) {
        let path = place.staging().join(path);
        let meta = fs::symlink_metadata(&path)?;
        ensure!(meta.mode() & 0o7777 == mode && meta.uid() == own, "{}: {:o}, {}", path.display(), meta.mode(), meta.uid());
        ensure!(attributes(&path)?.is_empty(), "{}: {:?}", path.display(), attributes(&path)?);
    }
    Ok(())
}

/// Names of extended attributes that a file of its own would not have; the tests' Python asks, so that nothing unsafe is needed here.
fn attributes(path: &Path) -> Result<Vec<String>> {
    let script = "import os, sys; print('\\n'.join(os.listxattr(sys.argv[1], follow_symlinks=False)))";
    let output = std::process::Command::new("/usr/bin/python3").arg("-c").arg(script).arg(path).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A security module labels every file by itself.
    let names = String::from_utf8(output.stdout)?;
    Ok(names.lines().filter(|name| !name.is_empty() && *name != "security.selinux").map(str::to_owned).collect())
}

/// Snapshots of all that an archive must not change on a server.
struct Untouched(Vec<Snapshot>);

impl Untouched {
    fn of(fleet: &Fleet, outside: &Path) -> Result<Self> {
        let app = fleet.app_dir(NODE);
        let of = |path: PathBuf| Snapshot::of(&path, nothing);
        Ok(Self(vec![of(outside.to_owned())?, of(app.join("current"))?, of(app.join("releases/one"))?, of(app.join("shared/.env"))?]))
    }

    fn expect(&self) -> Result<()> {
        self.0.iter().try_for_each(|snapshot| snapshot.expect_unchanged(nothing))
    }
}

/// Correctly signed, digests right, one rollout each: the server refuses it, the rollout says why, and `one` serves all the time.
#[test]
fn signed_bad_archives_fail_their_rollout_while_the_running_release_serves() -> Result<()> {
    let (fleet, _tree) = Fleet::on_release_one(&[NODE])?;
    let outside = fleet.dir().join("outside");
    attack::make_outside(&outside)?;
    let names = |dir: PathBuf| -> Result<Vec<_>> { fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect() };
    let (untouched, beside) = (Untouched::of(&fleet, &outside)?, names(fleet.app_dir(NODE))?);
    let visitor = Visitor::begin(&fleet.app_url(NODE), "\"release\": \"one\"");
    let absolute = outside.to_str().context("a path of text")?;
    // <dir>/nodes/web-1/srv/mootube/releases/.staging-<release>
    let attacks = attack::all(Outside { absolute, relative: "../../../../../../outside" });
    for attack in &attacks {
        let artifact = attack.artifact();
        fleet.keep_artifact(&artifact, &attack.bytes)?;
        let spec = fleet.publish_by_hand(&attack.name.replace('_', "-"), artifact)?;
        let ended = fleet.wait_rollout(attack.name, |s| s.id == spec.id && s.phase.ended()).with_context(|| fleet.log_of(NODE))?;
        ensure!(ended.phase == RolloutPhase::RolledBack, "{}: {ended:?}", attack.name);
        ensure!(ended.reason.contains(attack.says), "{}: `{}` does not say `{}`", attack.name, ended.reason, attack.says);
        ensure!(fleet.releases(NODE)? == ["one"], "{}: {:?}", attack.name, fleet.releases(NODE)?);
        untouched.expect().with_context(|| attack.name)?;
    }
    ensure!(names(fleet.app_dir(NODE))? == beside, "{:?}", names(fleet.app_dir(NODE))?);
    ensure!(visitor.end()? > attacks.len(), "it was hardly visited");
    fleet.expect_serves(NODE, "one")
}

/// Deadlines that a test can wait for.
fn impatient(store: &HostileStore) -> String {
    let timeouts = "connect_timeout = \"500ms\"\nheader_timeout = \"800ms\"\nidle_timeout = \"800ms\"\nmin_rate = \"4k\"\n";
    format!("[download]\nmirrors = [\"{}\"]\n{timeouts}", store.base("user:hunter2@"))
}

/// Attacks 31–36 and 87: the stolen store is asked first each time; its misdeed is told, and the next store gives the signed bytes.
#[test]
fn a_stolen_store_delays_nothing_but_itself() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&[NODE])?;
    let tree = Tree::plain(&fleet.dir().join("app"), APP, "[rollout]\nbake = \"100ms\"\n")?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    let artifact = fleet.manifest(1)?.artifact;
    let pki = fleet.etcd().pki();
    let store = HostileStore::serve(fs::read(fleet.stored_artifact(1)?)?, &pki)?;
    fleet.crash_agent(NODE)?;
    fleet.configure_agent(NODE, &impatient(&store))?;
    fleet.start_agent(NODE)?;
    let (host, port) = (Elsewhere::at("127.0.0.2")?, Elsewhere::at("127.0.0.1")?);
    let deeds = refused(host.address()?.to_string(), port.address()?.to_string());
    let mut said = fleet.whole_log_of(NODE)?.len();
    for (n, (deed, words)) in deeds.into_iter().chain(TAKEN.map(|deed| (deed, "bytes instead of"))).enumerate() {
        store.begin(deed.clone());
        let (release, before) = (format!("r{n}"), store.connections());
        let spec = fleet.publish_by_hand(&release, artifact.clone())?;
        let ended = fleet.wait_rollout(&format!("{deed:?}"), |s| s.id == spec.id && s.phase.ended()).with_context(|| fleet.log_of(NODE))?;
        ensure!(ended.phase == RolloutPhase::Succeeded, "{deed:?}: {ended:?}");
        fleet.expect_everywhere(&release)?;
        ensure!(store.connections() > before, "{deed:?}: the stolen store was not asked");
        let log = fleet.whole_log_of(NODE)?;
        let new = &log[said..];
        ensure!(
            new.contains(words) && new.matches("download interrupted").count() == 1,
            "{deed:?}: `{words}` is not what was logged: {new}"
        );
        said = log.len();
    }
    ensure!(!host.was_called() && !port.was_called(), "a redirect was followed");
    let log = fleet.whole_log_of(NODE)?;
    ensure!(!log.contains("hunter2") && !log.contains("secret"), "a password or token is in the log");
    Ok(())
}

/// Each with the words that are logged, on one line, before the next store is asked.
fn refused(host: String, port: String) -> Vec<(Deed, &'static str)> {
    let redirect = |place: String| Deed::RedirectTo(format!("{place}/artifacts/x?token=secret"));
    vec![
        (Deed::OneByteMore, "bytes instead of"),
        (Deed::OneByteLess, "bytes instead of"),
        (Deed::TenBytesASecond, "less than 4000 per second"),
        (Deed::BodyStopsHalfway, "nothing more came for 800ms"),
        (Deed::HeadersNeverEnd, "no answer within 800ms"),
        (Deed::SilenceAfterAccept, "no answer within 800ms"),
        (Deed::HandshakeNeverEnds, "(Connect): operation timed out"),
        (redirect(format!("https://{host}")), "redirects to https://127.0.0.2:"),
        (redirect(format!("http://{port}")), "redirects to http://127.0.0.1:"),
        (redirect("http://169.254.169.254".to_owned()), "redirects to http://169.254.169.254;"),
        (Deed::ContentEncodingGzip, "is encoded as"),
        (Deed::OneBitFlipped, "piece 0 is not the signed one"),
    ]
}

/// Every signed byte came: it is told that more followed, which was cut off unread, and nobody else is asked.
const TAKEN: [Deed; 2] = [Deed::OneByteMoreUncounted, Deed::EndlessBody];
