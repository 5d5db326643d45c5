//! `make bench`: what a deploy costs, on real processes of the release build. Nothing here passes or fails: shared machines are noisy, so
//! each figure stands beside its goal, and a pipeline beside another one of the same run.
//!
//! In reading order: `activation`, `staging` and `unpack` (need root, for their loop file systems), `idle`, `batches`, `planner`.

use anyhow::{Result, bail};

mod activation;
mod batches;
mod idle;
mod loopfs;
mod planner;
mod staging;
mod unpack;
mod watching;

/// One line of the report.
#[expect(clippy::print_stdout, reason = "this is the program's answer")]
pub fn say(line: impl std::fmt::Display) {
    println!("{line}");
}

/// The value below which `percent` of the samples lie.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// `met` or `missed`.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

/// A benchmark and its name.
type Part = (&'static str, fn() -> Result<()>);

const PARTS: [Part; 6] = [
    ("activation", activation::run),
    ("staging", staging::run),
    ("unpack", unpack::run),
    ("idle", idle::run),
    ("batches", batches::run),
    ("planner", planner::run),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|w| PARTS.iter().all(|(name, _)| name != w)) {
        bail!("there is no benchmark `{unknown}`; there are activation, staging, unpack, idle, batches and planner");
    }
    for (name, run) in PARTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        say(format_args!("== {name}"));
        run()?;
    }
    Ok(())
}
