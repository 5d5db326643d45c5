//! A release that cannot be made ready on one of ten servers, or on all: it fails before any server is switched and before the
//! migration starts, under both policies of `on_failure`. What fails later: `failures.rs`. Real etcd, real processes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_tests::faulty::{EXIT_9, Faulty, Policy, TEN};
use coord_tests::fleet::APP;
use coord_tests::wait::until;
use coordinator::sign::{self, Protection};

/// The one server that fails.
const VICTIM: &str = TEN[4];

/// What happens to a release before it is staged, and what takes it away again.
enum Fault {
    Manifest,
    Preflight,
    Fetch,
    Verify,
    Unpack,
    SharedDirectory,
    SharedFile,
    Prepare,
}

impl Fault {
    const ALL: [Self; 8] =
        [Self::Manifest, Self::Preflight, Self::Fetch, Self::Verify, Self::Unpack, Self::SharedDirectory, Self::SharedFile, Self::Prepare];

    fn word(&self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Preflight => "preflight",
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Unpack => "unpack",
            Self::SharedDirectory => "shared-directory",
            Self::SharedFile => "shared-file",
            Self::Prepare => "prepare",
        }
    }

    /// What the operator reads.
    fn words(&self) -> &'static str {
        match self {
            Self::Manifest => "no trusted key signed the manifest",
            Self::Preflight => "not enough disk space in",
            Self::Fetch => "cannot download release fetch-",
            Self::Verify => "every store sent bytes that are not the signed ones",
            Self::Unpack => "cannot unpack release unpack-",
            Self::SharedDirectory => "is a link or a file where a directory is needed",
            Self::SharedFile => "the shared file ",
            Self::Prepare => "the prepare hook `bin/step sh bin/fault` ended with status 9",
        }
    }

    /// Some things are waited for: it is the deadline that makes them a failure. A download says why it failed after a few tries.
    fn deadline(&self) -> &'static str {
        match self {
            Self::Preflight | Self::SharedFile => "batch_deadline = \"3s\"\n",
            Self::Fetch => "batch_deadline = \"8s\"\n",
            _ => "",
        }
    }

    fn everywhere(&self) -> bool {
        matches!(self, Self::Manifest | Self::Verify)
    }

    /// More of deploy.toml.
    fn tables(&self) -> &'static str {
        match self {
            Self::SharedDirectory => "[layout]\nshared_dirs = [\"var/log\"]\n",
            Self::SharedFile => "[layout]\nshared_files = [\"secret\"]\n",
            _ => "",
        }
    }
}

/// A stopped agent is started with other means: under a tracer, or with other tables in its configuration.
fn restart_agent(faulty: &mut Faulty, tables: &str, tracer: Option<Command>) -> Result<()> {
    let fleet = &mut faulty.fleet;
    fleet.crash_agent(VICTIM)?;
    fleet.configure_agent(VICTIM, tables)?;
    let ups = fleet.whole_log_of(VICTIM)?.matches("is up").count();
    match tracer {
        Some(tracer) => fleet.start_agent_under(VICTIM, tracer)?,
        None => fleet.start_agent(VICTIM)?,
    }
    until("the agent says that it is up", || Ok(fleet.whole_log_of(VICTIM)?.matches("is up").count() > ups))
}

/// In the victim's file system, whose size is known.
fn ballast(faulty: &Faulty) -> PathBuf {
    faulty.fleet.app_dir(VICTIM).join("ballast")
}

/// Makes it fail.
fn break_it(faulty: &mut Faulty, fault: &Fault, release: &str) -> Result<()> {
    let shared = |name: &str| faulty.fleet.shared_dir(name);
    match fault {
        // Another key signs it.
        Fault::Manifest => {}
        Fault::Preflight => fs::write(ballast(faulty), vec![0; 40 << 20])?,
        // Nothing listens there.
        Fault::Fetch => restart_agent(faulty, "[download]\nproxy = \"http://127.0.0.1:1\"\n", None)?,
        // All releases are the same bytes, which the store has already.
        Fault::Verify => flip_a_byte(faulty)?,
        Fault::Unpack => {
            let mut strace = Command::new("strace");
            strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=utimensat", "-e", "inject=utimensat:error=EIO"]);
            restart_agent(faulty, "", Some(strace))?;
        }
        Fault::SharedDirectory => fs::write(shared(VICTIM).join("var"), "a file")?,
        Fault::SharedFile => {
            TEN.iter().filter(|name| **name != VICTIM).try_for_each(|name| fs::write(shared(name).join("secret"), "s"))?;
        }
        Fault::Prepare => faulty.spoil(VICTIM, release, "prepare", EXIT_9)?,
    }
    Ok(())
}

fn flip_a_byte(faulty: &Faulty) -> Result<()> {
    let stored = faulty.fleet.stored_artifact(1)?;
    let mut bytes = fs::read(&stored)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(stored, bytes)?)
}

/// Takes it away.
fn mend_it(faulty: &mut Faulty, fault: &Fault) -> Result<()> {
    match fault {
        Fault::Manifest | Fault::Prepare => {}
        Fault::Preflight => fs::remove_file(ballast(faulty))?,
        Fault::Fetch | Fault::Unpack => restart_agent(faulty, "", None)?,
        Fault::Verify => flip_a_byte(faulty)?,
        Fault::SharedDirectory => fs::remove_file(faulty.fleet.shared_dir(VICTIM).join("var"))?,
        Fault::SharedFile => {
            TEN.iter()
                .filter(|name| **name != VICTIM)
                .try_for_each(|name| fs::remove_file(faulty.fleet.shared_dir(name).join("secret")))?;
        }
    }
    faulty.mend()
}

/// It fails there: no server is switched, no migration starts, and the release is bad.
fn fails_at(faulty: &mut Faulty, fault: &Fault, policy: Policy) -> Result<()> {
    let release = format!("{}-{}", fault.word(), policy.word());
    break_it(faulty, fault, &release)?;
    faulty.configure(&format!("on_failure = \"{}\"\n{}", policy.word(), fault.deadline()), fault.tables())?;
    let stranger = faulty.fleet.dir().join("stranger.key").display().to_string();
    let more: Vec<&str> = if matches!(fault, Fault::Manifest) { vec!["--key", &stranger] } else { vec![] };
    let said = faulty.fleet.publish(faulty.tree.path(), &release, &more)?.expect_code(policy.code())?;
    let who = if fault.everywhere() { " failed; 0 tolerated" } else { "web-05 failed; 0 tolerated" };
    ensure!(said.says(who) && said.says(fault.words()), "not `{who}`, `{}`: {said:?}", fault.words());
    let ended = match policy {
        Policy::Halt => format!("release {release} halted: "),
        Policy::Rollback => "no server was switched".to_owned(),
    };
    ensure!(said.says(&ended), "not `{ended}`: {said:?}");
    let state = faulty.expect_ended(&release, policy.phase())?;
    ensure!(state.targets.iter().all(|t| !t.told), "nobody was told to run it: {state:?}");
    faulty.expect_none_began(&TEN, &release, "drain")?;
    faulty.expect_base_everywhere()?;
    faulty.expect_condemned(&release)?;
    ensure!(faulty.fleet.migration(&release)?.is_none(), "its migration was claimed");
    mend_it(faulty, fault)
}

#[test]
fn a_release_that_cannot_be_staged_switches_no_server_under_either_policy() -> Result<()> {
    let mut roomy = true;
    let mut faulty = Faulty::start_with(|fleet| {
        roomy = fleet.mount_app_dir(VICTIM, "size=64m")?;
        sign::generate(&fleet.dir().join("stranger.key"), &Protection::None)?;
        Ok(())
    })?;
    for fault in Fault::ALL.iter().filter(|f| roomy || !matches!(f, Fault::Preflight)) {
        for policy in Policy::ALL {
            fails_at(&mut faulty, fault, policy).with_context(|| format!("in the case {} under {policy:?}", fault.word()))?;
        }
    }
    // What is mended is taken: nothing of the failures is left.
    faulty.renew("mended")?;
    let said = faulty.fleet.coordctl(&["status", APP])?.expect_code(0)?;
    ensure!(!said.says("failed"), "{said:?}");
    Ok(())
}
