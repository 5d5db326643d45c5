//! What the coordinator adds to a rollout of many batches: from the last report that a batch waits for to the record that opens the next
//! one, or ends the rollout.
//!
//! A watcher sees all records in the order in which they were written, so both ends of a stretch arrive the same way. Servers that have
//! no hooks are as quick as their disks; a coordinator costs them by comparison more than those that restart an application.

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use coord_proto::ids::{NodeName, Seq};
use coord_proto::report::Step;
use coord_proto::rollout::RolloutPhase;
use coord_proto::store::{Store as _, Transaction};
use coord_tests::fleet::{Fleet, sqlite_in};

use crate::watching::{self, Seen};
use crate::{percentile, say, verdict};

const SERVERS: usize = 30;
const ROLLOUTS: u64 = 10;
const ROLLOUTS_WITH_RESTART: u64 = 2;
const GOAL_MS: f64 = 20.0;
const GOAL_RATIO: f64 = 1.05;
/// Of etcd alone, for comparison; as long as a record of a rollout of so many servers.
const COMMITS: usize = 100;
const RECORD_BYTES: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(120);

/// Eleven batches, and nothing to wait for but the servers.
const DEPLOY: &str = "app = \"mootube\"\n[rollout]\nserial = [1, 2, 3]\nbake = \"0s\"\n";
/// As long as an application takes that restarts quickly.
const RESTART: &str = "[[hooks.restart]]\ncommand = [\"sleep\", \"0.5\"]\n";

pub fn run() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    let nodes: Vec<String> = (1..=SERVERS).map(|number| format!("web-{number:02}")).collect();
    fleet.add_nodes(&nodes.iter().map(String::as_str).collect::<Vec<_>>())?;
    let tree = fleet.dir().join("app");
    fs::create_dir(&tree)?;
    let records = watching::records(&fleet)?;
    let rollout = |seq: u64, deploy: &str| -> Result<Vec<Batch>> {
        fs::write(tree.join("deploy.toml"), deploy)?;
        fs::write(tree.join("index.html"), format!("release {seq}\n"))?;
        fleet.publish(&tree, &format!("r{seq}"), &[])?.expect_code(0)?;
        batches(&records, Seq(seq))
    };
    let plain = (1..=ROLLOUTS).map(|seq| rollout(seq, DEPLOY)).collect::<Result<Vec<_>>>()?.concat();
    let last = ROLLOUTS + ROLLOUTS_WITH_RESTART;
    let with_restart = format!("{DEPLOY}{RESTART}");
    let restarting = (ROLLOUTS + 1..=last).map(|seq| rollout(seq, &with_restart)).collect::<Result<Vec<_>>>()?.concat();
    report("no hooks", &plain);
    report("a restart of half a second", &restarting);
    let commits = commits(&fleet)?;
    let (p50, p99) = (percentile(&commits, 50), percentile(&commits, 99));
    say(format_args!("  etcd alone, on the same disk: a transaction takes p50 {p50:.1} ms, p99 {p99:.1} ms"));
    Ok(())
}

/// Milliseconds that a transaction of one record takes, sorted: the coordinator goes on to the next batch by at least one.
fn commits(fleet: &Fleet) -> Result<Vec<f64>> {
    let commit = |_| {
        let began = Instant::now();
        let put = Transaction::new().put("/bench", vec![b'x'; RECORD_BYTES]);
        fleet.runtime().block_on(fleet.store().commit(put))?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    };
    let mut ms = (0..COMMITS).map(commit).collect::<Result<Vec<f64>>>()?;
    ms.sort_by(f64::total_cmp);
    Ok(ms)
}

/// When a batch opened, when its last server was done, and when the coordinator went on.
#[derive(Clone)]
struct Batch {
    opened: Instant,
    done: Instant,
    left: Instant,
}

/// The batches of a rollout that ends well.
fn batches(records: &Receiver<(Instant, Seen)>, seq: Seq) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    let mut runs: BTreeSet<NodeName> = BTreeSet::new();
    let mut done = None;
    let mut open: Option<(usize, Instant)> = None;
    loop {
        let (at, seen) = records.recv_timeout(PATIENCE).context("nothing is written any more")?;
        match seen {
            Seen::Status(s) => {
                let first = s.step == Step::Idle && s.running.as_ref().is_some_and(|r| r.seq == seq) && runs.insert(s.node);
                done = if first { Some(at) } else { done };
            }
            Seen::State(s) if s.seq == seq && s.phase != RolloutPhase::Staging => {
                if let Some((_, opened)) = open.filter(|(batch, _)| *batch != s.batch) {
                    let done = done.context("a batch was left before a server was done")?;
                    batches.push(Batch { opened, done, left: at });
                }
                if s.phase.ended() {
                    return Ok(batches);
                }
                open = open.filter(|(batch, _)| *batch == s.batch).or(Some((s.batch, at)));
            }
            _ => {}
        }
    }
}

fn report(what: &str, batches: &[Batch]) {
    let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
    let mut added: Vec<f64> = batches.iter().map(|b| seconds(b.done, b.left) * 1e3).collect();
    added.sort_by(f64::total_cmp);
    let p99 = percentile(&added, 99);
    say(format_args!(
        "  {what}, {} batches: the coordinator adds p50 {:.1} ms, p90 {:.1} ms, p99 {p99:.1} ms, most {:.1} ms (goal: p99 ≤ {GOAL_MS} ms, {})",
        added.len(),
        percentile(&added, 50),
        percentile(&added, 90),
        added[added.len() - 1],
        verdict(p99 <= GOAL_MS)
    ));
    let slowest: f64 = batches.iter().map(|b| seconds(b.opened, b.done)).sum();
    let total: f64 = batches.iter().map(|b| seconds(b.opened, b.left)).sum();
    let ratio = total / slowest;
    say(format_args!(
        "    {total:.2} s in all, {ratio:.2} × the slowest server of each batch, {:.0} ms on average (goal: ≤ {GOAL_RATIO}, {})",
        slowest * 1e3 / batches.len() as f64,
        verdict(ratio <= GOAL_RATIO)
    ));
}
