//! Backoff with full jitter: the one place where waits between tries are computed.
//!
//! Full jitter (a uniform draw below the cap) spreads a herd best; see "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015.

use std::time::Duration;

use rand::Rng;

/// Doubling caps from `first` to `most`; each wait is drawn below the cap.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// A fresh one.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, tries: 0 }
    }

    /// Tries so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The last try worked: begin again with `first`.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How long to wait before the next try; never zero.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and nobody folds over waits")]
    pub fn next(&mut self) -> Duration {
        let cap = self.first.saturating_mul(1u32 << self.tries.min(16)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        let floor = cap / 10;
        floor + (cap - floor).mul_f64(rand::rng().random::<f64>())
    }
}

/// Waits, or for ever where there is nothing to wait for: an arm of a `select!` that is only sometimes due.
pub async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_reach_zero() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 0..40 {
            let wait = backoff.next();
            assert!(wait >= Duration::from_millis(10) && wait <= Duration::from_secs(5), "{wait:?}");
        }
        assert_eq!(backoff.tries(), 40);
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
