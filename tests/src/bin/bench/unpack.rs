//! 30,000 small files, unpacked strictly and synced: beside GNU tar, which checks nothing, and is synced as well.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use coord_agent::durable::sync_filesystem;
use coord_agent::effects::unpack::unpack;
use coord_proto::manifest::Artifact;
use coordinator::deploy_file::DeployFile;
use coordinator::pack::pack;
use coordinator::ui::Ui;

use crate::loopfs::{LoopFs, tool};
use crate::{percentile, say, verdict};

const ROUNDS: usize = 5;
const FILES: usize = 30_000;
const GOAL: f64 = 1.2;

pub fn run() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        say("  left out: it mounts loop file systems, which needs root");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("small.tar.zst");
    let artifact = make(&dir.path().join("app"), &archive)?;
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        // Whoever is second finds the archive in memory in any case: both read it once before.
        fs::read(&archive)?;
        let (ours, theirs) = (ours(dir.path(), &archive, &artifact)?, theirs(dir.path(), &archive)?);
        say(format_args!("  round {}: unpack {ours:.3} s, tar {theirs:.3} s, ratio {:.2}", round + 1, ours / theirs));
        ratios.push(ours / theirs);
    }
    ratios.sort_by(f64::total_cmp);
    let median = percentile(&ratios, 50);
    say(format_args!("  {FILES} files, median ratio {median:.2} (goal: ≤ {GOAL}, {})", verdict(median <= GOAL)));
    Ok(())
}

/// Files of 100 bytes to 4 kB in 600 directories.
fn make(tree: &Path, archive: &Path) -> Result<Artifact> {
    for number in 0..FILES {
        let dir = tree.join(format!("vendor/p{}/src", number % 600));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("f{number}.php")), format!("<?php // {number}\n").repeat(5 + number % 200))?;
    }
    let deploy: DeployFile = DeployFile::parse("app = \"mootube\"", Path::new("deploy.toml"), None)?;
    Ok(pack(tree, &deploy, archive.parent().unwrap_or(archive), Ui::new())?.keep(archive)?)
}

fn ours(dir: &Path, archive: &Path, artifact: &Artifact) -> Result<f64> {
    let at = dir.join("ours");
    let _disk = LoopFs::mount(&dir.join("ours.img"), &at)?;
    let start = Instant::now();
    unpack(fs::File::open(archive)?, artifact, 1_704_067_200, &at.join("release"))?;
    sync_filesystem(&at.join("release"))?;
    Ok(start.elapsed().as_secs_f64())
}

fn theirs(dir: &Path, archive: &Path) -> Result<f64> {
    let at = dir.join("theirs");
    let _disk = LoopFs::mount(&dir.join("theirs.img"), &at)?;
    let script = "set -euo pipefail; zstd -dc \"$ARCHIVE\" | tar x -C \"$AT\"; sync -f \"$AT\"";
    let start = Instant::now();
    tool(Command::new("bash").args(["-c", script]).env("ARCHIVE", archive).env("AT", &at))?;
    Ok(start.elapsed().as_secs_f64())
}
