//! From the record that names a release to an empty server, to its report that it runs it: download, verification, unpacking, sync, switch.
//! Beside it, in the same rounds, the shell pipeline that does the same without verifying before use.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use coord_proto::ids::Seq;
use coord_tests::fleet::{Fleet, sqlite_in};
use coordinator::pki::Role;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::loopfs::{LoopFs, tool};
use crate::{percentile, say, verdict, watching};

const ROUNDS: usize = 7;
const FILES: usize = 8000;
const GOAL: f64 = 1.15;
const DEPLOY: &str = "app = \"mootube\"\n[rollout]\nserial = \"100%\"\nbake = \"0s\"\n";

pub fn run() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        say("  left out: it mounts loop file systems, which needs root");
        return Ok(());
    }
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let tree = fleet.dir().join("app");
    make_tree(&tree)?;
    let records = watching::records(&fleet)?;
    // The first server makes it stable; the ones that follow take it when they appear.
    fleet.add_nodes(&["first"])?;
    fleet.publish(&tree, "big", &[])?.expect_code(0)?;
    let artifact = fleet.manifest(1)?.artifact;
    say(format_args!("  {} files, {:.1} MB, unpacked {:.1} MB", artifact.entries, mega(artifact.size), mega(artifact.unpacked_size)));
    let url = format!("{}/artifacts/{}", fleet.artifacts_url()?, artifact.digest);
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let agent = agent_seconds(&mut fleet, &records, round)?;
        let raw = raw_seconds(&fleet, &url, round)?;
        say(format_args!("  round {}: agent {agent:.3} s, raw pipeline {raw:.3} s, ratio {:.2}", round + 1, agent / raw));
        ratios.push(agent / raw);
    }
    ratios.sort_by(f64::total_cmp);
    let median = percentile(&ratios, 50);
    say(format_args!("  median ratio {median:.2} (goal: ≤ {GOAL}, {})", verdict(median <= GOAL)));
    Ok(())
}

fn agent_seconds(fleet: &mut Fleet, records: &std::sync::mpsc::Receiver<(Instant, watching::Seen)>, round: usize) -> Result<f64> {
    let name = format!("s{round}");
    let app = fleet.app_dir_of_new(&name);
    let root = app.parent().unwrap_or(&app).to_owned();
    let _disk = LoopFs::mount(&fleet.dir().join(format!("{name}.img")), &root)?;
    fleet.add_nodes(&[&name])?;
    let seconds = watching::run_times(records, Seq(1), &[name.parse()?])?;
    // Its disk goes now.
    fleet.crash_agent(&name)?;
    Ok(seconds[0])
}

/// `curl | tee >(sha256sum) | zstd -dc | tar x; sync -f`, with the certificates that an agent has.
fn raw_seconds(fleet: &Fleet, url: &str, round: usize) -> Result<f64> {
    let at = fleet.dir().join(format!("raw{round}"));
    let _disk = LoopFs::mount(&fleet.dir().join(format!("raw{round}.img")), &at)?;
    let files = fleet.config_for("node:raw", Role::Node);
    let path = |file: Option<std::path::PathBuf>| file.context("a certificate file");
    let script = "set -euo pipefail; curl -sf --cacert \"$CA\" --cert \"$CERT\" --key \"$KEY\" \"$URL\" | \
                  tee >(sha256sum >\"$AT/digest\") | zstd -dc | tar x -C \"$AT\"; sync -f \"$AT\"";
    let mut command = Command::new("bash");
    command.args(["-c", script]).env("URL", url).env("AT", &at);
    command.env("CA", path(files.ca)?).env("CERT", path(files.cert)?).env("KEY", path(files.key)?);
    let start = Instant::now();
    tool(&mut command)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Text-like files of 200 bytes to 40 kB, and a few large ones that do not compress: what a web application looks like with its vendors.
fn make_tree(tree: &Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(1);
    let words: Vec<String> = (0..4096).map(|_| format!("{:x}", random.random::<u32>() >> random.random_range(0..24))).collect();
    fs::create_dir(tree)?;
    fs::write(tree.join("deploy.toml"), DEPLOY)?;
    for number in 0..FILES - 9 {
        let dir = tree.join(format!("vendor/p{}/src", number % 200));
        fs::create_dir_all(&dir)?;
        let size = (200.0 * (random.random::<f64>() * 5.3).exp()) as usize;
        let mut text = String::with_capacity(size + 16);
        while text.len() < size {
            text += &words[random.random_range(0..words.len())];
            text.push(' ');
        }
        fs::write(dir.join(format!("f{number}.txt")), text)?;
    }
    for number in 0..8 {
        let mut bytes = vec![0; 3 << 20];
        random.fill(&mut bytes[..]);
        fs::write(tree.join(format!("large{number}.bin")), bytes)?;
    }
    Ok(())
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
