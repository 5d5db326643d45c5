//! What an operator wants of the running rollout; each wish is obeyed once.

use coord_proto::rollout::{RolloutPhase, Verb};

use super::course::Course;

impl Course<'_> {
    /// Obeys the stored wish, if it is for this rollout and was not obeyed before. What has no meaning in this phase changes
    /// nothing: who wished it looks at what came of it.
    pub fn obey_wish(&mut self) {
        let Some(wish) = &self.app.wish else { return };
        if wish.rollout != self.state.id || self.app.wish_revision.0 <= self.state.wish_revision {
            return;
        }
        self.state.wish_revision = self.app.wish_revision.0;
        let by = format!("by {}", wish.by.user);
        match wish.verb {
            Verb::Pause if may_pause(self.state.phase) && !self.state.paused => {
                self.state.paused = true;
                self.note(&format!("was paused {by}"));
            }
            Verb::Resume if self.state.paused => {
                self.state.paused = false;
                self.note(&format!("was resumed {by}"));
            }
            Verb::Promote if self.state.phase == RolloutPhase::AwaitingPromotion && !self.state.promoted => {
                self.state.promoted = true;
                self.state.reason.clear();
                self.note(&format!("was promoted {by}"));
            }
            Verb::Abort => self.abort(&by),
            Verb::Pause | Verb::Resume | Verb::Promote | Verb::Unknown => {}
        }
    }
}

/// Is there something ahead that a pause would hold?
pub fn may_pause(phase: RolloutPhase) -> bool {
    matches!(phase, RolloutPhase::Staging | RolloutPhase::Running | RolloutPhase::AwaitingPromotion | RolloutPhase::AwaitingDecision)
}
