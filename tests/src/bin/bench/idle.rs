//! What an agent costs that has nothing to do: memory, and how often it wakes up.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use coord_tests::fleet::{Fleet, LEASE_TTL, sqlite_in};
use coord_tests::mootube::Tree;

use crate::{say, verdict};

const NODES: [&str; 3] = ["web-1", "web-2", "web-3"];
/// After the last report: timers of the deploy have run out.
const SETTLE: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(20);
const GOAL_KIB: u64 = 12 * 1024;

pub fn run() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&NODES)?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    tree.edit_deploy_file("serial = 1\nbake   = \"2s\"", "serial = \"100%\"\nbake = \"0s\"")?;
    // Idle after work: what a deploy has taken must be given back.
    for release in ["one", "two"] {
        tree.write("VERSION", release)?;
        tree.write("filler.bin", &filler(release))?;
        fleet.publish(tree.path(), release, &[])?.expect_code(0)?;
    }
    sleep(SETTLE);
    let before = NODES.iter().map(|n| wakeups(&fleet, n)).collect::<Result<Vec<u64>>>()?;
    sleep(WINDOW);
    let mut most = 0;
    for (node, before) in NODES.iter().zip(before) {
        let woken = wakeups(&fleet, node)? - before;
        let rss = memory(&fleet, node)?;
        most = most.max(rss);
        let rate = woken as f64 / WINDOW.as_secs_f64();
        say(format_args!("  {node}: RSS {rss} KiB, {rate:.1} wake-ups/s (lease {LEASE_TTL})"));
    }
    say(format_args!("  most RSS {:.1} MiB (goal: ≤ 12 MiB, {})", most as f64 / 1024.0, verdict(most <= GOAL_KIB)));
    Ok(())
}

/// 24 MB that do not compress, so that a deploy fills the agent's buffers.
fn filler(seed: &str) -> String {
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed.len() as u64 + u64::from(seed.as_bytes()[0]));
    (0..24_000_000).map(|_| char::from(random.random_range(b' '..b'~'))).collect()
}

fn pid(fleet: &Fleet, node: &str) -> Result<i32> {
    Ok(fleet.agent(node).context("the agent runs")?.pid().as_raw())
}

/// Context switches of all threads, by themselves or not.
fn wakeups(fleet: &Fleet, node: &str) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{}/task", pid(fleet, node)?))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        sum += status
            .lines()
            .filter(|l| l.contains("ctxt_switches"))
            .filter_map(|l| l.split_whitespace().last()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}

/// Resident memory, KiB.
fn memory(fleet: &Fleet, node: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid(fleet, node)?))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("VmRSS in kB")
}
