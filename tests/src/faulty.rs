//! Ten servers whose hooks, health check and tasks a test makes fail, one release after the other: where, at which step, is said by
//! files in `shared/`, so that the same release works on one server and fails on the next.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use coord_proto::keys::Key;
use coord_proto::report::Step;
use coord_proto::rollout::{ReleaseRecord, RolloutPhase, RolloutState, StableRecord, Verdict};

use crate::fleet::{APP, Fleet, Said, app, sqlite_in};
use crate::mootube::Tree;

/// All servers, in the order of their batches: 2, then 4, then 4.
pub const TEN: [&str; 10] = ["web-01", "web-02", "web-03", "web-04", "web-05", "web-06", "web-07", "web-08", "web-09", "web-10"];
/// First index of each batch of `SERIAL`.
pub const BATCHES: [std::ops::Range<usize>; 3] = [0..2, 2..6, 6..10];
const SERIAL: &str = "serial = [2, 4]\n";
/// Reads the fault of this step, if there is one.
const FAULT: &str = "fault=\"$COORD_SHARED_PATH/fault.$COORD_RELEASE.$COORD_PHASE\"\n[ ! -e \"$fault\" ] || . \"$fault\"\n";
const COMMAND: &str = "command = [\"bin/step\", \"sh\", \"bin/fault\"]\n";
/// How a server fails, unless a test says otherwise.
pub const EXIT_9: &str = "echo it broke; exit 9\n";

/// What a rollout does at the server that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Halt,
    Rollback,
}

impl Policy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Halt, Self::Rollback];

    /// As deploy.toml has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Rollback => "rollback",
        }
    }

    /// How `release publish` ends.
    pub fn code(self) -> i32 {
        match self {
            Self::Halt => 4,
            Self::Rollback => 5,
        }
    }

    /// How the rollout ends.
    pub fn phase(self) -> RolloutPhase {
        match self {
            Self::Halt => RolloutPhase::Halted,
            Self::Rollback => RolloutPhase::RolledBack,
        }
    }
}

/// The servers, and the release that all of them run between two rollouts that fail.
pub struct Faulty {
    pub fleet: Fleet,
    pub tree: Tree,
    /// What is stable.
    pub base: String,
}

impl Faulty {
    /// Ten servers on release `base`.
    ///
    /// # Errors
    /// Something does not start, or the release does not work.
    pub fn start() -> Result<Self> {
        Self::start_with(|_| Ok(()))
    }

    /// The same; `prepare` sees the fleet before it has servers.
    ///
    /// # Errors
    /// As [`Faulty::start`].
    pub fn start_with(prepare: impl FnOnce(&mut Fleet) -> Result<()>) -> Result<Self> {
        let mut fleet = Fleet::start_with(sqlite_in)?;
        prepare(&mut fleet)?;
        fleet.add_nodes(&TEN)?;
        let tree = Tree::plain(&fleet.dir().join("app"), APP, "")?;
        tree.write("bin/fault", FAULT)?;
        let faulty = Self { fleet, tree, base: "base".to_owned() };
        faulty.configure("", "")?;
        faulty.fleet.publish(faulty.tree.path(), "base", &["--serial", "100%"])?.expect_code(0)?;
        faulty.expect_base_everywhere()?;
        Ok(faulty)
    }

    /// Writes `deploy.toml`, which is no part of the artifact: all releases are the same bytes. `rollout` is more of `[rollout]`, `tables` are more tables.
    ///
    /// # Errors
    /// The file system's.
    pub fn configure(&self, rollout: &str, tables: &str) -> Result<()> {
        let hooks: String =
            ["prepare", "drain", "restart", "undrain", "cleanup"].map(|phase| format!("[[hooks.{phase}]]\n{COMMAND}")).concat();
        let health = format!("[health]\n{COMMAND}interval = \"100ms\"\ntimeout = \"2s\"\n");
        let serial = if rollout.contains("serial") { "" } else { SERIAL };
        let text = format!(
            "app = \"{APP}\"\n[artifact]\nexclude = [\"deploy.toml\"]\n{hooks}[migrate]\n{COMMAND}timeout = \"1m\"\n{health}{tables}[rollout]\nbake = \"50ms\"\n{serial}{rollout}"
        );
        self.tree.write("deploy.toml", &text)
    }

    /// Makes a step of a release fail on a server: `script` runs in its hook, task or check.
    ///
    /// # Errors
    /// The file system's.
    pub fn spoil(&self, server: &str, release: &str, phase: &str, script: &str) -> Result<()> {
        let path = self.fleet.shared_dir(server).join(format!("fault.{release}.{phase}"));
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes all faults away.
    ///
    /// # Errors
    /// The file system's.
    pub fn mend(&self) -> Result<()> {
        for name in TEN {
            for entry in fs::read_dir(self.fleet.shared_dir(name))? {
                let path = entry?.path();
                if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("fault.")) {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }

    /// Publishes this release, to its end.
    ///
    /// # Errors
    /// As [`Fleet::publish`].
    pub fn publish(&self, release: &str) -> Result<Said> {
        self.fleet.publish(self.tree.path(), release, &[])
    }

    /// A release that works, on all servers: what is stable from now on.
    ///
    /// # Errors
    /// It does not work.
    pub fn renew(&mut self, release: &str) -> Result<()> {
        self.mend()?;
        self.configure("serial = \"100%\"\n", "")?;
        self.publish(release)?.expect_code(0)?;
        self.base = release.to_owned();
        self.expect_base_everywhere()
    }

    /// Where servers are that stay on a release that failed, an operator takes them back, and no name is needed.
    ///
    /// # Errors
    /// It does not end on what is stable.
    pub fn take_back(&self) -> Result<()> {
        self.mend()?;
        let said = self.fleet.coordctl(&["rollback", APP, "--serial", "100%"])?.expect_code(0)?;
        ensure!(said.says(&format!("rolled back to release {} by tester", self.base)), "{said:?}");
        self.expect_base_everywhere()
    }

    /// Every server runs what is stable.
    ///
    /// # Errors
    /// One does not.
    pub fn expect_base_everywhere(&self) -> Result<()> {
        self.fleet.expect_everywhere(&self.base)
    }

    /// The rollout that ended last, of this release, in this way.
    ///
    /// # Errors
    /// Another one, or otherwise.
    pub fn expect_ended(&self, release: &str, phase: RolloutPhase) -> Result<RolloutState> {
        let state = self.fleet.rollout()?.context("a rollout")?;
        ensure!(state.release.as_str() == release && state.phase == phase, "{phase:?} of {release} expected: {state:?}");
        Ok(state)
    }

    /// It is marked bad; what is stable did not move, and no rollback takes the bad one by its name.
    ///
    /// # Errors
    /// One of them is not so.
    pub fn expect_condemned(&self, release: &str) -> Result<()> {
        let record: ReleaseRecord = self.fleet.record(&Key::Release(app(), release.parse()?))?.context("a release record")?;
        ensure!(record.verdict == Verdict::Bad, "{record:?}");
        let stable: StableRecord = self.fleet.record(&Key::Stable(app()))?.context("something is stable")?;
        ensure!(stable.release.as_str() == self.base, "{stable:?}");
        let refused = self.fleet.coordctl(&["rollback", APP, release])?.expect_code(3)?;
        ensure!(refused.says(&format!("release {release} is bad")), "{refused:?}");
        Ok(())
    }

    /// Waits until a server that fell back by itself says so, and runs what is stable.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_fell_back(&self, server: &str) -> Result<()> {
        let back = |s: &coord_proto::report::Status| s.step == Step::Idle && s.failure.as_ref().is_some_and(|f| f.fell_back);
        self.fleet.wait_status(server, "fell back", back)?;
        self.fleet.wait_current(server, &self.base)
    }

    /// None of these servers came as far as this step of a release.
    ///
    /// # Errors
    /// One did.
    pub fn expect_none_began(&self, servers: &[&str], release: &str, phase: &str) -> Result<()> {
        for server in servers {
            let steps = self.fleet.steps(server);
            ensure!(!steps.contains(&format!("{release}.{phase}.1")), "{server} began {phase} of {release}: {steps:?}");
        }
        Ok(())
    }
}
