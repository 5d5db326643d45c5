//! The last events in words, noted only when a run is played again because it failed.

use std::collections::VecDeque;

/// Lines kept.
const LAST: usize = 120;

/// The last lines, or nothing.
#[derive(Debug, Default)]
pub struct Trace(Option<VecDeque<String>>);

impl Trace {
    pub fn off() -> Self {
        Self(None)
    }

    pub fn on() -> Self {
        Self(Some(VecDeque::new()))
    }

    /// Notes a line; `words` are made only if somebody reads them.
    pub fn note(&mut self, now: u64, words: impl FnOnce() -> String) {
        let Some(lines) = &mut self.0 else { return };
        if lines.len() == LAST {
            lines.pop_front();
        }
        lines.push_back(format!("  {:>10.3}  {}", now as f64 / 1000.0, words()));
    }

    pub fn take(&mut self) -> Vec<String> {
        self.0.take().into_iter().flatten().collect()
    }
}
