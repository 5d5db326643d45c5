//! How many servers may fail, or be away, before the rollout stops: at number max + 1.

use coord_proto::rollout::{Outcome, RolloutPhase, RolloutState, Target};

use super::names;

/// Why the rollout must stop for servers that failed, if it must. Failed and unreachable servers are counted apart.
pub fn failed(state: &RolloutState) -> Option<String> {
    let failed = names(state, |t| t.outcome == Outcome::Failed);
    (failed.len() > state.max_failed).then(|| words(&failed, "failed", state.max_failed))
}

/// Why it must stop for servers that cannot be reached, if it must.
pub fn away(state: &RolloutState) -> Option<String> {
    // Before the first batch opens, everybody counts; afterwards a server that is away counts when its turn has come.
    let turn = |t: &Target| state.phase == RolloutPhase::Staging || t.told || t.batch <= state.batch;
    let away = names(state, |t| t.outcome == Outcome::Unreachable && turn(t));
    (away.len() > state.max_unreachable).then(|| words(&away, "cannot be reached", state.max_unreachable))
}

fn names(state: &RolloutState, which: impl Fn(&Target) -> bool) -> Vec<&str> {
    state.targets.iter().filter(|t| which(t)).map(|t| t.node.as_str()).collect()
}

fn words(names: &[&str], what: &str, max: usize) -> String {
    format!("{} {what}; {max} tolerated", names::short(names))
}
