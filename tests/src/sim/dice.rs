//! The one generator of chance: everything that a seed decides is drawn here.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Draws from one seed.
#[derive(Debug, Clone)]
pub struct Dice(StdRng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// True in so many of a thousand draws.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.0.random_range(0..1000) < permille
    }

    /// From `least` to `most`, both possible.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most.max(least))
    }

    /// An index below `len`, which is not zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}
