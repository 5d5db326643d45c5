//! Which release a server takes, when what it was told is old or missing. Pure.

use coord_proto::desired::Desired;
use coord_proto::ids::RolloutId;
use coord_proto::rollout::StableRecord;

use crate::machine::Goal;

/// `desired.run` when its rollout is the current one or its seq is not below `stable`, else `stable`; `stable` too when an
/// operator moved that back from it.
///
/// So a returner with a week-old record ends on `stable`, whichever way that went meanwhile; its floor is looked at where
/// releases are made ready (I2). A record of no rollout names what the coordinator chose by itself: it stands likewise.
pub fn effective(desired: Desired, stable: Option<&StableRecord>, rollout: Option<&RolloutId>) -> Goal {
    let current = desired.rollout.is_some() && desired.rollout.as_ref() == rollout;
    let mut goal = Goal { stable: stable.map(|s| s.seq), ..Goal::from(desired) };
    if let Some(stable) = stable.filter(|s| !current && s.overrules(goal.run)) {
        goal.run = stable.seq;
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
    use coord_proto::ids::{Generation, Seq};

    fn stable(seq: u64, back_from: Option<u64>) -> StableRecord {
        StableRecord { seq: Seq(seq), release: "r".parse().expect("release"), back_from: back_from.map(Seq) }
    }

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
        let goal = effective(desired(3, Some("7")), Some(&stable(5, None)), Some(&id));
        assert_eq!((goal.run, goal.may_migrate), (Seq(3), true));
    }

    #[test]
    fn a_returner_with_an_old_record_takes_stable_and_migrates_nothing() {
        let id = "9".parse().expect("rollout");
        let goal = effective(desired(3, Some("7")), Some(&stable(5, None)), Some(&id));
        assert_eq!((goal.run, goal.may_migrate), (Seq(5), false));
    }

    #[test]
    fn what_is_not_behind_stable_stands() {
        assert_eq!(effective(desired(6, Some("7")), Some(&stable(5, None)), None).run, Seq(6));
        assert_eq!(effective(desired(2, None), None, None).run, Seq(2));
    }

    #[test]
    fn a_returner_with_a_release_that_stable_was_moved_back_from_takes_stable() {
        let (back, id) = (stable(5, Some(7)), "9".parse().expect("rollout"));
        for (run, taken) in [(4, 5), (5, 5), (6, 5), (7, 5), (8, 8)] {
            let goal = effective(desired(run, Some("7")), Some(&back), Some(&id));
            assert_eq!((goal.run, goal.may_migrate), (Seq(taken), false), "{run}");
        }
        let member = effective(desired(7, Some("9")), Some(&back), Some(&id));
        assert_eq!(member.run, Seq(7), "its rollout goes on");
    }
}
