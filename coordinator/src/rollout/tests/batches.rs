//! Which servers, in which order, and when the next batch opens.

use super::*;

#[test]
fn staging_is_told_to_all_at_once_and_changes_nothing_that_runs() {
    let mut world = second_release();
    let decision = world.settle();
    assert_eq!(world.phase(), P::Staging);
    assert!(decision.wake_after.is_some(), "staging has a deadline");
    for node in ["n1", "n2", "n3"] {
        let told = world.desired(node);
        assert_eq!((told.run, told.stage, told.may_migrate), (Seq(1), Some(Seq(2)), false), "{node}");
        assert_eq!(world.target(node).prior, Seq(1));
    }
}

#[test]
fn batches_follow_each_other_after_their_bake_and_stable_moves_last() {
    let mut world = first_batch();
    for (done, next) in [("n1", "n2"), ("n2", "n3")] {
        world.obey(done);
        world.settle();
        world.pass(BAKE - Duration::from_millis(1));
        assert!(!world.running_orders(2).contains(&next), "{next} before the bake of {done}");
        world.pass(Duration::from_millis(1));
        assert!(world.running_orders(2).contains(&next));
        assert!(world.desired(next).may_migrate);
    }
    world.obey("n3");
    world.settle();
    assert_eq!(world.stable(), Some(Seq(1)), "not before the last bake");
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable(), world.verdict(2)), (P::Succeeded, Some(Seq(2)), Verdict::Good));
    assert_eq!(world.app().history.len(), 1);
    assert!(!world.pass(BAKE).writes(), "an ended rollout rests");
}

#[test]
fn an_answer_to_an_older_generation_is_no_answer() {
    let mut world = second_release();
    world.settle();
    world.obey_all();
    world.status_mut("n2").generation.0 -= 1;
    world.settle();
    assert_eq!(world.phase(), P::Staging);
}

#[test]
fn health_in_the_middle_of_a_switch_is_the_old_release_s() {
    let mut world = first_batch();
    world.obey("n1");
    world.status_mut("n1").step = Step::Restarting;
    world.settle();
    assert_eq!(world.target("n1").outcome, Outcome::Pending);
}

/// The simulator's seed 219: what is promoted is looked at once more.
#[test]
fn a_promotion_waits_for_a_first_batch_that_is_not_healthy_any_more() {
    let mut world = second_release();
    world.policy().promote = Promote::Manual;
    world.settle();
    world.obey_all();
    world.settle();
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    world.status_mut("n1").health = HealthState::Unhealthy;
    world.wish(Verb::Promote);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1"]));
    world.status_mut("n1").health = HealthState::Healthy;
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]), "promoted once is promoted");
}

#[test]
fn a_rollout_without_servers_waits_for_the_first() {
    let mut world = World::empty(0);
    world.publish(1);
    world.settle();
    assert_eq!((world.phase(), world.stable()), (P::Staging, None));
    assert_eq!(world.pass(DEADLINE * 2).wake_after, None);
    world.join("n1");
    world.settle();
    world.obey_all();
    world.settle();
    world.obey_all();
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(1))));
}

#[test]
fn a_new_rollout_of_the_same_release_tries_again() {
    let mut world = first_batch();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    let attempt = world.desired("n1").attempt;
    world.obey_all();
    world.settle();
    world.respec("retry");
    world.settle();
    assert_eq!((world.phase(), world.desired("n1").attempt), (P::Staging, attempt + 1));
}

#[test]
fn a_restart_is_told_once_and_awaited() {
    let mut world = World::with_stable(1);
    world.respec("again");
    world.spec_mut().force_run = true;
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!(world.desired("n1").restart, 1);
    world.obey_all();
    world.status_mut("n1").restarted = 0;
    world.settle();
    assert_eq!(world.target("n1").outcome, Outcome::Pending);
    world.status_mut("n1").restarted = 1;
    world.settle();
    assert_eq!((world.target("n1").outcome, world.desired("n1").restart), (Outcome::Done, 1));
}

#[test]
fn the_first_batch_that_opened_waits_for_its_promotion_whatever_its_number() {
    let mut world = second_release();
    world.policy().promote = Promote::Manual;
    world.policy().max_unreachable = Amount::Count(1);
    world.vanish("n1");
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!(world.running_orders(2), ["n2"]);
    world.obey("n2");
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.running_orders(2)), (P::AwaitingPromotion, vec!["n2"]));
    world.wish(Verb::Promote);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n2", "n3"]));
    world.join("n4");
    world.settle();
    for done in ["n3", "n4"] {
        world.obey_all();
        world.settle();
        world.pass(BAKE);
        assert_ne!(world.phase(), P::AwaitingPromotion, "{done}: one promotion is enough");
    }
}

#[test]
fn a_first_batch_that_failed_within_the_budget_is_not_called_healthy() {
    let mut world = second_release();
    world.policy().promote = Promote::Manual;
    world.policy().max_failed = Amount::Count(1);
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!(world.phase(), P::AwaitingPromotion);
    assert_eq!(world.state().reason, "the first batch is over, without n1; type: coordctl rollout promote mootube");
}
