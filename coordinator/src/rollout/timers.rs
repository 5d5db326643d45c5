//! Elapsed time of the open batch, on the leader's monotonic clock; what a new leader lacks, it counts again.

use std::time::Duration;

use coord_proto::ids::RolloutId;
use coord_proto::rollout::{RolloutPhase, RolloutPolicy, RolloutState};

/// The open time is stored when it has grown by this much, so that a new leader does not grant the whole deadline again.
pub const CHECKPOINT: Duration = Duration::from_secs(30);

/// How long the open batch (or staging, or the way back) has been open, and healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timers {
    of: Option<Stretch>,
    /// Without migration and pause time.
    pub(super) open: Duration,
    /// None: not healthy now. A new leader begins again with zero.
    healthy: Option<Duration>,
    counting: bool,
}

/// What is timed: one batch, staging, or the way back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    rollout: RolloutId,
    phase: RolloutPhase,
    batch: usize,
}

impl Stretch {
    fn of(state: &RolloutState) -> Self {
        Self { rollout: state.id.clone(), phase: state.phase, batch: state.batch }
    }
}

impl Timers {
    /// The timers as of now: `elapsed` later, or a new leader's for this state.
    ///
    /// A state that was written and whose answer was lost is news too: the time of the stretch before is not its own.
    pub(super) fn resumed(&self, state: &RolloutState, elapsed: Duration) -> Self {
        if self.of.as_ref() != Some(&Stretch::of(state)) {
            return Self { of: Some(Stretch::of(state)), open: Duration::from_secs(state.batch_elapsed), ..Self::default() };
        }
        let open = if self.counting { self.open + elapsed } else { self.open };
        Self { open, healthy: self.healthy.map(|h| h + elapsed), ..self.clone() }
    }

    /// The store was away: nobody knows whether the batch was healthy, and servers could not report.
    #[must_use]
    pub fn doubted(&self) -> Self {
        Self { healthy: None, counting: false, ..self.clone() }
    }

    /// They belong to this state from now on.
    pub(super) fn keep_for(&mut self, state: &RolloutState) {
        self.of = Some(Stretch::of(state));
    }

    /// A batch opens.
    pub(super) fn restart(&mut self) {
        self.open = Duration::ZERO;
        self.rest();
    }

    /// Does the time until the next pass count as open?
    pub(super) fn count(&mut self, counting: bool) {
        self.counting = counting;
    }

    /// Nothing is timed until the next pass.
    pub(super) fn rest(&mut self) {
        self.counting = false;
        self.healthy = None;
    }

    /// Is the batch healthy from now on? Each interruption starts it again in full.
    pub(super) fn bake(&mut self, healthy: bool) {
        self.healthy = healthy.then(|| self.healthy.unwrap_or_default());
    }

    pub(super) fn baked(&self, bake: Duration) -> bool {
        self.healthy.is_some_and(|h| h >= bake)
    }

    /// Seconds to store: the stored ones until a checkpoint's worth has passed.
    pub(super) fn stored(&self, before: u64) -> u64 {
        let open = self.open.as_secs();
        if open < before || open - before >= CHECKPOINT.as_secs() { open } else { before }
    }

    /// When something happens by time alone.
    pub(super) fn next(&self, policy: &RolloutPolicy, stored: u64) -> Option<Duration> {
        let bake = self.healthy.map(|h| policy.bake.saturating_sub(h));
        let checkpoint = (Duration::from_secs(stored) + CHECKPOINT).saturating_sub(self.open);
        let late = policy.batch_deadline.saturating_sub(self.open);
        // A deadline that passed while there was nothing to do about it must not spin.
        let late = if late.is_zero() { checkpoint } else { late.min(checkpoint) };
        let open = self.counting.then_some(late.max(Duration::from_millis(1)));
        [bake, open].into_iter().flatten().min()
    }
}
