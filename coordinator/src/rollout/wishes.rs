//! What an operator wants of the running rollout; each wish is obeyed once.

use coord_proto::rollout::{RolloutPhase, Verb};

use super::course::Course;

impl Course<'_> {
    /// Obeys the stored wish, if it is for this rollout and was not obeyed before.
    pub fn obey_wish(&mut self) {
        let Some(wish) = &self.app.wish else { return };
        if wish.rollout != self.state.id || self.app.wish_revision.0 <= self.state.wish_revision {
            return;
        }
        self.state.wish_revision = self.app.wish_revision.0;
        let by = format!("by {}", wish.by.user);
        match wish.verb {
            Verb::Pause => {
                self.state.paused = true;
                self.note(&format!("was paused {by}"));
            }
            Verb::Resume => {
                self.state.paused = false;
                self.note(&format!("was resumed {by}"));
            }
            Verb::Promote if self.state.phase == RolloutPhase::AwaitingPromotion => {
                self.state.promoted = true;
                self.note(&format!("was promoted {by}"));
                self.open_batch_from(self.state.batch + 1);
            }
            Verb::Abort => self.abort(&by),
            Verb::Promote | Verb::Unknown => {}
        }
    }
}
