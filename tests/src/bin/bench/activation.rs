//! From the record that lets a staged server run a release, to its report that it does.

use std::fs;

use anyhow::Result;
use coord_proto::ids::NodeName;
use coord_tests::fleet::{Fleet, sqlite_in};

use crate::{percentile, say, verdict, watching};

const NODES: [&str; 3] = ["web-1", "web-2", "web-3"];
const RELEASES: u64 = 100;
const GOAL_MS: f64 = 50.0;

/// All servers in one batch, no hooks, no health check.
const DEPLOY: &str = "app = \"mootube\"\n[rollout]\nserial = \"100%\"\nbake = \"0s\"\n";

pub fn run() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&NODES)?;
    let nodes = NODES.iter().map(|n| n.parse()).collect::<Result<Vec<NodeName>, _>>()?;
    let tree = fleet.dir().join("app");
    fs::create_dir(&tree)?;
    fs::write(tree.join("deploy.toml"), DEPLOY)?;
    let records = watching::records(&fleet)?;
    let mut times = Vec::new();
    for number in 1..=RELEASES {
        fs::write(tree.join("index.html"), format!("release {number}\n"))?;
        fleet.publish(&tree, &format!("r{number}"), &[])?.expect_code(0)?;
        times.extend(watching::run_times(&records, coord_proto::ids::Seq(number), &nodes)?);
    }
    let mut ms: Vec<f64> = times.iter().map(|t| t * 1000.0).collect();
    ms.sort_by(f64::total_cmp);
    let p99 = percentile(&ms, 99);
    say(format_args!(
        "  {} activations: p50 {:.1} ms, p90 {:.1} ms, p99 {p99:.1} ms, most {:.1} ms (goal: p99 ≤ {GOAL_MS} ms, {})",
        ms.len(),
        percentile(&ms, 50),
        percentile(&ms, 90),
        ms[ms.len() - 1],
        verdict(p99 <= GOAL_MS)
    ));
    Ok(())
}
