//! `make simulate`: many seeds of the simulator, each on its own; ends with 1 and the first violation when an invariant did not hold.
//!
//! `simulate [--first SEED] [--seeds N] [--servers N] [--jobs N] [--mutant 0..7]`; with `--seeds 1` the same seed plays the same run again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use coord_tests::sim::{self, Mutant, Options, Story, Violation};

/// A line of progress after so many seeds.
const PROGRESS: u64 = 250;

struct Asked {
    mutant: Option<Mutant>,
    first: u64,
    seeds: u64,
    servers: usize,
    jobs: u64,
}

fn asked() -> Result<Asked> {
    let mut asked = Asked { mutant: None, first: 1, seeds: 1_000, servers: 50, jobs: 1 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a number"))?;
        let number = value.parse().with_context(|| format!("{value} is not a number"))?;
        match word.as_str() {
            "--mutant" => asked.mutant = Mutant::ALL.get(usize::try_from(number)?).copied(),
            "--first" => asked.first = number,
            "--seeds" => asked.seeds = number,
            "--servers" => asked.servers = usize::try_from(number)?,
            "--jobs" => asked.jobs = number.max(1),
            _ => bail!("there is no {word}; there are --first, --seeds, --servers, --jobs and --mutant"),
        }
    }
    Ok(asked)
}

/// What came of the seeds that were played.
#[derive(Default)]
struct Played {
    /// By seed, until it is known that all before it held.
    stories: Vec<(u64, Story)>,
    /// The smallest seed that failed.
    broken: Option<Box<Violation>>,
}

impl Played {
    fn note(&mut self, seed: u64, ended: Result<Story, Box<Violation>>) {
        match ended {
            Ok(story) => self.stories.push((seed, story)),
            Err(violation) if self.broken.as_ref().is_none_or(|b| seed < b.seed) => self.broken = Some(violation),
            Err(_) => {}
        }
    }

    /// The seeds that held, and their sum: without what other threads had played beyond the one that did not.
    fn sum(&self) -> (u64, Story) {
        let before = |(seed, _): &&(u64, Story)| self.broken.as_ref().is_none_or(|b| *seed < b.seed);
        self.stories.iter().filter(before).fold((0, Story::default()), |(count, mut sum), (_, story)| {
            sum.add(story);
            (count + 1, sum)
        })
    }
}

/// Plays the seeds in their order until one fails, each on one thread alone. Those before it are played to their end, so that what is
/// said does not depend on the number of threads.
#[expect(clippy::print_stderr, reason = "progress")]
fn play(asked: &Asked) -> Played {
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let (stop, played) = (AtomicU64::new(u64::MAX), Mutex::new(Played::default()));
    let work = || loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let seed = asked.first + at;
        if at >= asked.seeds || seed > stop.load(Ordering::Relaxed) {
            return;
        }
        let ended = sim::run(Options { seed, servers: asked.servers, mutant: asked.mutant });
        if ended.is_err() {
            stop.fetch_min(seed, Ordering::Relaxed);
            eprintln!("seed {seed} breaks an invariant");
        }
        let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
        played.note(seed, ended);
        let count = played.stories.len() as u64;
        if count.is_multiple_of(PROGRESS) {
            eprintln!("{count} of {} seeds, {:.1} seeds/s", asked.seeds, count as f64 / began.elapsed().as_secs_f64());
        }
    };
    std::thread::scope(|scope| (0..asked.jobs).for_each(|_| drop(scope.spawn(work))));
    played.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn main() -> Result<()> {
    let asked = asked()?;
    let began = Instant::now();
    let played = play(&asked);
    let (count, story) = played.sum();
    let seconds = began.elapsed().as_secs_f64();
    println!("{count} seeds x {} servers in {seconds:.1} s: {:.1} seeds/s", asked.servers, count as f64 / seconds);
    println!(
        "{} events, {} commits, {} passes of a planner, {} rollouts, {} starts of run-once commands, {} agents killed; digest {:016x}",
        story.events, story.commits, story.passes, story.rollouts, story.starts, story.crashes, story.digest
    );
    let Some(violation) = played.broken else { return Ok(()) };
    println!("{violation}");
    std::process::exit(1)
}
