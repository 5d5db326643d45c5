//! Bake and deadlines: what counts, and what a new leader lacks.

use super::*;

#[test]
fn waiting_for_a_migration_that_nobody_claims_does_count() {
    let mut world = first_batch();
    world.status_mut("n1").step = Step::WaitingForMigration;
    world.settle();
    world.pass(DEADLINE);
    assert_eq!(world.phase(), P::RollingBack);
}

#[test]
fn a_new_leader_bakes_in_full_and_goes_on_with_the_deadline() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.pass(BAKE / 2);
    world.new_leader();
    world.pass(BAKE / 2);
    assert_eq!(world.running_orders(2), ["n1"], "the elapsed time of another leader's clock is not its own");
    world.pass(BAKE);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
    world.pass(DEADLINE - Duration::from_secs(60));
    world.new_leader();
    world.settle();
    world.pass(Duration::from_secs(61 + 30));
    assert_eq!(world.phase(), P::RollingBack, "the open time was stored");
}

#[test]
fn while_the_store_was_away_nothing_baked_and_no_deadline_ran() {
    let mut world = first_batch();
    world.timers = world.timers.doubted();
    world.pass(DEADLINE * 2);
    assert_eq!(world.phase(), P::Running);
    world.obey("n1");
    world.settle();
    world.timers = world.timers.doubted();
    world.pass(BAKE);
    assert_eq!(world.running_orders(2), ["n1"]);
}

#[test]
fn a_paused_batch_that_is_baked_does_not_wake_the_leader() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.wish(Verb::Pause);
    world.settle();
    assert_eq!(world.pass(BAKE).wake_after, None);
}

#[test]
fn the_way_back_of_a_paused_rollout_keeps_its_deadline() {
    let mut world = first_batch();
    world.wish(Verb::Pause);
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!(world.phase(), P::RollingBack);
    assert!(world.pass(Duration::ZERO).wake_after.is_some());
}

#[test]
fn the_open_time_of_one_batch_is_not_counted_for_the_next_whose_answer_was_lost() {
    let mut world = first_batch();
    world.pass(DEADLINE - Duration::from_secs(60));
    world.obey("n1");
    world.settle();
    let before = world.timers.clone();
    world.pass(BAKE);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
    // The state is stored, and the leader never heard of it.
    world.timers = before;
    world.pass(Duration::from_secs(120));
    world.pass(Duration::from_secs(120));
    assert_eq!(world.phase(), P::Running);
}

#[test]
fn a_way_back_whose_answer_was_lost_has_its_whole_deadline() {
    let mut world = first_batch();
    world.pass(DEADLINE - Duration::from_secs(1));
    let before = world.timers.clone();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.phase(), P::RollingBack);
    world.timers = before;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.phase(), P::RollingBack);
}
