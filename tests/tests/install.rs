//! `make install`, with stand-ins for the programs: which files, with which modes, and units that systemd accepts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::Said;
use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["coord-agent", "coordctl", "coordinator"];
const UNITS: [&str; 3] = ["coord-agent.service", "coordinator.service", "coord-wait@.service"];

/// A target directory and a place to install into.
struct Bench {
    scratch: TempDir,
}

impl Bench {
    fn new(programs: &[&str]) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let release = scratch.path().join("target/release");
        fs::create_dir_all(&release)?;
        for program in programs {
            let path = release.join(program);
            fs::write(&path, "#!/bin/sh\n")?;
            // Stricter than what is installed: the modes are those that make install gives.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Self { scratch })
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn install(&self, variables: &[String]) -> Result<Said> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ is in the repository")?;
        let mut make = Command::new("make");
        make.arg("--no-print-directory").arg("-C").arg(repository).arg("install").args(variables);
        make.env("CARGO_TARGET_DIR", self.scratch.path().join("target"));
        // A make around this test has variables of its own.
        make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS").env_remove("DESTDIR");
        Ok(make.output().context("cannot run make")?.into())
    }

    fn install_to_opt(&self) -> Result<Said> {
        self.install(&[format!("DESTDIR={}", self.root().display()), "PREFIX=/opt/coord".into(), "SYSCONFDIR=/usr/local/etc".into()])
    }
}

#[test]
fn every_file_is_where_it_belongs_and_the_units_name_these_places() -> Result<()> {
    let bench = Bench::new(&PROGRAMS)?;
    bench.install_to_opt()?.expect_code(0)?;
    let expected = [
        ("opt/coord/bin/coord-agent", 0o755),
        ("opt/coord/bin/coordctl", 0o755),
        ("opt/coord/bin/coordinator", 0o755),
        ("opt/coord/lib/systemd/system/coord-agent.service", 0o644),
        ("opt/coord/lib/systemd/system/coord-wait@.service", 0o644),
        ("opt/coord/lib/systemd/system/coordinator.service", 0o644),
        ("opt/coord/lib/sysusers.d/coordinator.conf", 0o644),
        ("usr/local/etc/coord/agent.toml", 0o644),
        ("usr/local/etc/coord/coordinator.toml", 0o644),
    ];
    let expected = expected.map(|(path, mode)| (path.to_owned(), mode)).into();
    let found = files(&bench.root())?;
    ensure!(found == expected, "{found:#?}");
    let starts = [
        (UNITS[0], "coord-agent run", "agent.toml"),
        (UNITS[1], "coordinator run", "coordinator.toml"),
        (UNITS[2], "coord-agent wait-ready %i", "agent.toml"),
    ];
    for (unit, command, config) in starts {
        let text = fs::read_to_string(bench.root().join("opt/coord/lib/systemd/system").join(unit))?;
        let line = format!("\nExecStart=/opt/coord/bin/{command} --config /usr/local/etc/coord/{config}\n");
        ensure!(text.contains(&line), "{unit}: {text}");
    }
    Ok(())
}

#[test]
fn a_configuration_file_that_was_changed_stays() -> Result<()> {
    let bench = Bench::new(&PROGRAMS)?;
    bench.install_to_opt()?.expect_code(0)?;
    let config = bench.root().join("usr/local/etc/coord");
    let unit = bench.root().join("opt/coord/lib/systemd/system").join(UNITS[0]);
    fs::write(config.join("agent.toml"), "# mine\n")?;
    fs::write(&unit, "# an older one\n")?;
    bench.install_to_opt()?.expect_code(0)?;
    ensure!(fs::read_to_string(config.join("agent.toml"))? == "# mine\n");
    ensure!(fs::read_to_string(unit)?.contains("ExecStart="), "an older unit is replaced");
    Ok(())
}

#[test]
fn without_a_program_nothing_is_installed_and_it_says_what_to_run() -> Result<()> {
    let bench = Bench::new(&PROGRAMS[..2])?;
    // make's own code for a command that failed.
    let said = bench.install_to_opt()?.expect_code(2)?;
    ensure!(said.says("release/coordinator") && said.says("make release"), "{said:?}");
    ensure!(!bench.root().exists(), "{:?}", files(&bench.root()));
    Ok(())
}

#[test]
fn systemd_accepts_the_installed_units() -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: there is no systemd-analyze");
        return Ok(());
    }
    let bench = Bench::new(&PROGRAMS)?;
    // At places that exist: a program that is not there is a complaint too.
    let root = bench.root();
    bench
        .install(&[format!("PREFIX={}", root.join("usr").display()), format!("SYSCONFDIR={}", root.join("etc").display())])?
        .expect_code(0)?;
    let units = UNITS.map(|unit| root.join("usr/lib/systemd/system").join(unit));
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output()?;
    // It ends with 0 whatever it finds, and tells of the machine's own units too.
    let said = Said::from(output);
    let ours: Vec<&str> = said.err.lines().filter(|line| UNITS.iter().any(|unit| line.contains(unit))).collect();
    ensure!(ours.is_empty() && said.code == 0, "{said:#?}");
    Ok(())
}

/// Every file below `root`, with its mode.
fn files(root: &Path) -> Result<BTreeMap<String, u32>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root)?.display().to_string();
                found.insert(name, entry.metadata()?.permissions().mode() & 0o7777);
            }
        }
    }
    Ok(found)
}
