//! `make simulate`: many seeds of the simulator, each on its own; ends with 1 and the first violation when an invariant did not hold.
//!
//! `simulate [--first SEED] [--seeds N] [--servers N] [--mutant 0..3]`; with `--seeds 1` the same seed plays the same run again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use coord_tests::sim::{self, Mutant, Options, Story};

struct Asked {
    mutant: Option<Mutant>,
    first: u64,
    seeds: u64,
    servers: usize,
}

fn asked() -> Result<Asked> {
    let mut asked = Asked { mutant: None, first: 1, seeds: 1_000, servers: 50 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a number"))?;
        let number = value.parse().with_context(|| format!("{value} is not a number"))?;
        match word.as_str() {
            "--mutant" => asked.mutant = Mutant::ALL.get(usize::try_from(number)?).copied(),
            "--first" => asked.first = number,
            "--seeds" => asked.seeds = number,
            "--servers" => asked.servers = usize::try_from(number)?,
            _ => bail!("there is no {word}; there are --first, --seeds, --servers and --mutant"),
        }
    }
    Ok(asked)
}

/// Plays all seeds, one thread per core; each run is one thread's alone.
fn play(asked: &Asked) -> (u64, Story, Vec<String>) {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new((0, Story::default(), Vec::new()));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= asked.seeds {
                return;
            }
            let ended = sim::run(Options { seed: asked.first + at, servers: asked.servers, mutant: asked.mutant });
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            match ended {
                Ok(story) => {
                    sum.0 += 1;
                    sum.1.add(&story);
                }
                Err(violation) => {
                    stop.store(true, Ordering::Relaxed);
                    sum.2.push(violation.to_string());
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn main() -> Result<()> {
    let asked = asked()?;
    let began = Instant::now();
    let (played, story, broken) = play(&asked);
    let seconds = began.elapsed().as_secs_f64();
    println!("{played} seeds x {} servers in {seconds:.1} s: {:.1} seeds/s", asked.servers, played as f64 / seconds);
    println!(
        "{} events, {} commits, {} passes of a planner, {} rollouts, {} starts of run-once commands, {} agents killed",
        story.events, story.commits, story.passes, story.rollouts, story.starts, story.crashes
    );
    if broken.is_empty() {
        return Ok(());
    }
    println!("{}", broken.join("\n\n"));
    std::process::exit(1)
}
