//! The simulator: the coordinator's planner, its real transactions and the agents' machines, together over the in-memory store's state.
//!
//! ```text
//!  queue (virtual time) ─▶ Event ─▶ world ─▶ coordinator: mirror ─▶ plan ─▶ script ─┐
//!       ▲                            │                                             ├─▶ message ─▶ store ─▶ check
//!       │                            └───▶ server: goal ─▶ machine ─▶ effect, task ┘      │
//!       └────────────────────────────────────── watches, replies, leases ◀────────────────┘
//! ```
//!
//! One loop, one generator of chance, no tokio, no threads, no clock: a seed says everything that happens. Real are what decides and what is
//! written: `plan`, the controller's script, the machine with its journal, `effective`, the migration protocol, what a claim owes, and the
//! store's revisions and comparisons. Modelled are what they touch: the network, leases, and what an effect does to a server.
//!
//! A run has two parts. In the storm everything in `faults` happens; then it is calm, an operator tidies up, and whatever was begun must
//! come to its end: a rollout that ends, servers that run what they should, and one more release that reaches all of them.
//!
//! In reading order:

mod dice;
mod queue;
mod world;

mod coordinator;
mod effects;
mod server;
mod task;

mod faults;
mod operator;
mod release;

mod check;
mod mutant;
mod trace;

pub use mutant::Mutant;
use world::World;

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seed: u64,
    /// Servers at the start.
    pub servers: usize,
    /// A guard that is left out, to see that it is missed.
    pub mutant: Option<Mutant>,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Story {
    pub events: u64,
    pub commits: u64,
    pub passes: u64,
    pub rollouts: u64,
    pub starts: u64,
    pub crashes: u64,
    /// The same for the same seed.
    pub digest: u64,
}

impl Story {
    /// Sums up several runs.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.commits += other.commits;
        self.passes += other.passes;
        self.rollouts += other.rollouts;
        self.starts += other.starts;
        self.crashes += other.crashes;
        self.digest ^= other.digest;
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}, after {:.3} s: {what}\n{}", *.at as f64 / 1000.0, .last.join("\n"))]
pub struct Violation {
    pub seed: u64,
    /// Virtual milliseconds.
    pub at: u64,
    pub what: String,
    /// The last events before it.
    pub last: Vec<String>,
}

/// Plays one seed. What failed is played again with its events noted.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(options: Options) -> Result<Story, Box<Violation>> {
    World::new(options, trace::Trace::off()).play().or_else(|_| World::new(options, trace::Trace::on()).play())
}
