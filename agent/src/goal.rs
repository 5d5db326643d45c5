//! Which release a server takes, when what it was told is old or missing. Pure.

use coord_proto::desired::Desired;
use coord_proto::ids::{RolloutId, Seq};

use crate::machine::Goal;

/// `desired.run` when its rollout is the current one or its seq is not below `stable`, else `stable`.
///
/// So a returner with a week-old record ends on `stable`. A record of no rollout names what the coordinator chose by
/// itself (a newcomer's `stable`, or `stable` moved back): it stands while it is not behind `stable`.
pub fn effective(desired: Desired, stable: Option<Seq>, rollout: Option<&RolloutId>) -> Goal {
    let current = desired.rollout.is_some() && desired.rollout.as_ref() == rollout;
    let mut goal = Goal { stable, ..Goal::from(desired) };
    let stable = stable.unwrap_or_default();
    if !current && goal.run < stable {
        goal.run = stable;
        goal.stage = None;
        goal.after = None;
        goal.may_migrate = false;
    }
    // Only a member of the active rollout may claim a migration (I4).
    goal.may_migrate &= current;
    goal
}

#[cfg(test)]
mod tests {
    use super::*;
    use coord_proto::ids::Generation;

    fn desired(run: u64, rollout: Option<&str>) -> Desired {
        Desired {
            node: "web-1".parse().expect("node"),
            app: "mootube".parse().expect("app"),
            run: Seq(run),
            stage: None,
            after: None,
            generation: Generation(3),
            rollout: rollout.map(|r| r.parse().expect("rollout")),
            may_migrate: true,
            restart: 0,
            attempt: 0,
        }
    }

    #[test]
    fn a_member_of_the_current_rollout_goes_where_it_was_told_even_below_stable() {
        let id = "7".parse().expect("rollout");
        let goal = effective(desired(3, Some("7")), Some(Seq(5)), Some(&id));
        assert_eq!((goal.run, goal.may_migrate), (Seq(3), true));
    }

    #[test]
    fn a_returner_with_an_old_record_takes_stable_and_migrates_nothing() {
        let id = "9".parse().expect("rollout");
        let goal = effective(desired(3, Some("7")), Some(Seq(5)), Some(&id));
        assert_eq!((goal.run, goal.may_migrate), (Seq(5), false));
    }

    #[test]
    fn what_is_not_behind_stable_stands() {
        assert_eq!(effective(desired(6, Some("7")), Some(Seq(5)), None).run, Seq(6));
        assert_eq!(effective(desired(2, None), None, None).run, Seq(2));
    }
}
