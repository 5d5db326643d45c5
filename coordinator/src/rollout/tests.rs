//! Each phase against each event, on a fleet in memory.

use std::time::Duration;

use coord_proto::ids::Seq;
use coord_proto::migration::TaskState;
use coord_proto::report::{FailureCode, HealthState, Step};
use coord_proto::rollout::{Amount, OnFailure, Outcome, Promote, RolloutPhase as P, Spread, Verb, Verdict};

use super::*;
use world::World;

mod random;
mod world;

const BAKE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(600);

/// Three servers that run release 1, and release 2 published.
fn second_release() -> World {
    let mut world = World::with_stable(3);
    world.publish(2);
    world
}

/// Staged everywhere; the first batch (n1) is told.
fn first_batch() -> World {
    let mut world = second_release();
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1"]));
    world
}

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

#[test]
fn a_failed_server_over_the_budget_turns_the_rollout_back() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    world.fail("n2", FailureCode::Unhealthy);
    world.settle();
    assert_eq!((world.phase(), world.verdict(2)), (P::RollingBack, Verdict::Bad));
    for node in ["n1", "n2", "n3"] {
        assert_eq!((world.desired(node).run, world.desired(node).stage), (Seq(1), None), "{node}");
    }
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.stable()), (P::RolledBack, Some(Seq(1))));
    assert_eq!(world.target("n1").outcome, Outcome::RolledBack);
    assert_eq!(world.target("n2").outcome, Outcome::Failed);
    assert!(world.state().reason.contains("n2 failed; 0 tolerated; n2: it broke"), "{}", world.state().reason);
}

#[test]
fn a_server_that_fell_back_by_itself_counts_as_failed_even_if_the_cause_passes() {
    let mut world = first_batch();
    world.fail("n1", FailureCode::Download);
    world.settle();
    assert_eq!(world.phase(), P::Running, "what passes is tried again");
    world.status_mut("n1").failure.as_mut().expect("failure").fell_back = true;
    world.settle();
    assert_eq!(world.phase(), P::RollingBack);
}

#[test]
fn a_server_that_does_not_return_halts_the_way_back() {
    let mut world = first_batch();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert!(world.phase() == P::RollingBack && world.pass(DEADLINE - Duration::from_secs(1)).state.is_some());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.phase(), P::Halted);
    assert!(world.state().reason.contains("n1 did not return"), "{}", world.state().reason);
}

#[test]
fn the_policy_may_leave_everything_as_it_is() {
    let mut world = second_release();
    world.policy().on_failure = OnFailure::Halt;
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!(world.phase(), P::Halted);
    assert_eq!((world.desired("n1").run, world.desired("n2").run, world.desired("n2").stage), (Seq(2), Seq(1), None));
}

#[test]
fn budgets_are_tolerated_numbers_and_count_failed_and_unreachable_apart() {
    let mut world = second_release();
    world.policy().max_failed = Amount::Count(1);
    world.policy().max_unreachable = Amount::Count(1);
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!(world.running_orders(2), ["n1", "n2"], "one may fail, and there is nothing to bake");
    world.vanish("n2");
    world.settle();
    assert_eq!(world.running_orders(2), ["n1", "n2", "n3"], "and another may be away");
    world.obey("n3");
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(2))));
    assert!(world.state().reason.contains("n1, n2"), "{}", world.state().reason);
}

#[test]
fn a_server_that_is_away_from_the_start_stops_everything_before_it_begins() {
    let mut world = World::with_stable(3);
    world.vanish("n3");
    world.publish(2);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::RolledBack, vec![]));
    assert_eq!(world.verdict(2), Verdict::Untried, "it says nothing about the release");
    assert!(world.state().reason.contains("n3 cannot be reached; 0 tolerated; no server was switched"), "{}", world.state().reason);
}

#[test]
fn a_last_batch_that_is_away_counts_before_the_end() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    world.obey("n2");
    world.vanish("n3");
    world.settle();
    world.pass(BAKE);
    assert_eq!(world.phase(), P::RollingBack);
}

#[test]
fn a_server_that_was_away_at_its_turn_gets_one_at_the_end() {
    let mut world = second_release();
    world.policy().max_unreachable = Amount::Count(1);
    world.vanish("n1");
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!(world.running_orders(2), ["n2"]);
    world.come_back("n1");
    world.settle();
    assert_eq!((world.target("n1").batch, world.target("n1").told), (3, false));
    for done in ["n2", "n3"] {
        world.obey(done);
        world.settle();
        world.pass(BAKE);
    }
    assert!(world.desired("n1").run == Seq(2), "{:?}", world.state());
}

#[test]
fn a_batch_has_a_deadline() {
    let mut world = first_batch();
    world.pass(DEADLINE - Duration::from_secs(1));
    assert_eq!(world.phase(), P::Running);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.phase(), world.target("n1").outcome), (P::RollingBack, Outcome::Failed));
}

#[test]
fn staging_has_a_deadline() {
    let mut world = second_release();
    world.settle();
    world.obey("n1");
    world.obey("n2");
    world.pass(DEADLINE);
    assert_eq!((world.phase(), world.target("n3").outcome), (P::RolledBack, Outcome::Failed));
}

#[test]
fn migration_time_does_not_count() {
    let mut world = first_batch();
    world.task(2, "before", TaskState::Claimed, "n1");
    world.status_mut("n1").step = Step::Migrating;
    world.settle();
    world.pass(DEADLINE * 3);
    world.pass(DEADLINE * 3);
    assert_eq!(world.phase(), P::Running);
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.status_mut("n1").step = Step::Switching;
    world.pass(Duration::from_secs(1));
    world.pass(DEADLINE);
    assert_eq!(world.phase(), P::RollingBack);
}

#[test]
fn waiting_for_a_migration_that_nobody_claims_does_count() {
    let mut world = first_batch();
    world.status_mut("n1").step = Step::WaitingForMigration;
    world.settle();
    world.pass(DEADLINE);
    assert_eq!(world.phase(), P::RollingBack);
}

#[test]
fn pause_time_does_not_count_and_opens_nothing() {
    let mut world = first_batch();
    world.wish(Verb::Pause);
    world.settle();
    world.pass(DEADLINE * 2);
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1"]));
    world.wish(Verb::Resume);
    world.settle();
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
}

#[test]
fn the_first_batch_waits_for_its_promotion() {
    let mut world = second_release();
    world.policy().promote = Promote::Manual;
    world.settle();
    world.obey_all();
    world.settle();
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.running_orders(2)), (P::AwaitingPromotion, vec!["n1"]));
    assert_eq!(world.pass(DEADLINE * 9).wake_after, None);
    world.wish(Verb::Promote);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]));
}

#[test]
fn an_abort_takes_back_what_was_told() {
    let mut world = first_batch();
    world.obey("n1");
    world.wish(Verb::Abort);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Aborted, vec![]));
    assert_eq!((world.desired("n1").run, world.desired("n2").stage), (Seq(1), None));
}

#[test]
fn a_wish_for_another_rollout_is_not_obeyed() {
    let mut world = first_batch();
    world.wish(Verb::Abort);
    world.fleet.apps.get_mut(&world.name).and_then(|a| a.wish.as_mut()).expect("wish").rollout = "other".parse().expect("id");
    world.settle();
    assert_eq!(world.phase(), P::Running);
}

#[test]
fn an_interrupted_bake_begins_again_in_full() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.pass(BAKE / 2);
    world.status_mut("n1").health = HealthState::Unhealthy;
    world.settle();
    world.status_mut("n1").health = HealthState::Healthy;
    world.settle();
    world.pass(BAKE / 2);
    assert_eq!(world.running_orders(2), ["n1"]);
    world.pass(BAKE / 2);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
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
fn a_done_server_that_breaks_later_counts() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    world.status_mut("n1").health = HealthState::Unhealthy;
    world.settle();
    assert_eq!((world.phase(), world.target("n1").outcome), (P::RollingBack, Outcome::Failed));
}

#[test]
fn a_done_server_that_goes_away_does_not_count() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.vanish("n1");
    world.settle();
    assert_eq!((world.phase(), world.target("n1").outcome), (P::Running, Outcome::Done));
}

#[test]
fn an_unknown_migration_waits_for_a_person_and_then_goes_on() {
    let mut world = first_batch();
    world.task(2, "before", TaskState::Unknown, "n1");
    world.fail("n1", FailureCode::MigrationUnknown);
    world.settle();
    assert_eq!(world.phase(), P::AwaitingDecision);
    assert!(world.state().reason.contains("coordctl migration resolve mootube"), "{}", world.state().reason);
    assert_eq!(world.pass(DEADLINE * 9).wake_after, None);
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.obey("n1");
    world.settle();
    assert_eq!((world.phase(), world.target("n1").outcome), (P::Running, Outcome::Done));
}

#[test]
fn a_holder_that_is_gone_leaves_a_decision_and_no_way_back_that_hides_it() {
    let mut world = first_batch();
    world.task(2, "before", TaskState::Claimed, "n1");
    world.vanish("n1");
    world.app_mut().lock = None;
    world.settle();
    assert_eq!(world.phase(), P::Running, "first its record is marked");
    world.task(2, "before", TaskState::Unknown, "n1");
    world.settle();
    assert_eq!(world.phase(), P::AwaitingDecision);
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.settle();
    assert_eq!(world.phase(), P::RolledBack, "it is away still, and none may be");
}

#[test]
fn a_failed_migration_ends_the_rollout() {
    let mut world = first_batch();
    world.task(2, "before", TaskState::Failed, "n1");
    world.settle();
    assert_eq!((world.phase(), world.verdict(2)), (P::RollingBack, Verdict::Bad));
    assert!(world.state().reason.contains("the task `before` failed on n1"));
}

#[test]
fn no_way_back_past_an_irreversible_migration() {
    let mut world = first_batch();
    world.facts_mut(2).reversible = false;
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.fail("n1", FailureCode::Unhealthy);
    world.settle();
    assert_eq!((world.phase(), world.desired("n1").run), (P::Halted, Seq(2)));
    assert!(world.state().reason.contains("no way back"));
}

#[test]
fn an_abort_past_an_irreversible_migration_halts() {
    let mut world = first_batch();
    world.facts_mut(2).reversible = false;
    world.task(2, "before", TaskState::Claimed, "n1");
    world.wish(Verb::Abort);
    world.settle();
    assert_eq!((world.phase(), world.desired("n1").run), (P::Halted, Seq(2)));
}

#[test]
fn duties_mark_what_lost_its_lock_and_repeat_what_may_be_repeated() {
    let mut world = first_batch();
    world.task(2, "before", TaskState::Claimed, "n1");
    assert_eq!(world.pass(Duration::ZERO).duties, [], "its lock is there");
    world.app_mut().lock = None;
    assert!(matches!(world.pass(Duration::ZERO).duties.as_slice(), [Duty::MarkUnknown(t)] if t.seq == Seq(2)));
    world.task(2, "before", TaskState::Unknown, "n1");
    assert_eq!(world.pass(Duration::ZERO).duties, [], "a person decides");
    world.facts_mut(2).tasks[0].on_unknown = coord_proto::manifest::OnUnknown::Retry;
    assert!(matches!(world.pass(Duration::ZERO).duties.as_slice(), [Duty::Retry(_)]));
    world.app_mut().tasks[0].attempt = coord_proto::limits::MIGRATION_ATTEMPTS_MAX;
    assert_eq!(world.pass(Duration::ZERO).duties, [], "and not for ever");
}

#[test]
fn after_tasks_wait_for_every_target() {
    let mut world = second_release();
    world.add_task(2, "after");
    world.policy().max_unreachable = Amount::Count(1);
    world.settle();
    world.obey_all();
    world.settle();
    world.vanish("n1");
    world.settle();
    for done in ["n2", "n3"] {
        world.obey(done);
        world.settle();
        world.pass(BAKE);
    }
    world.settle();
    assert_eq!((world.phase(), world.stable(), world.desired("n2").after), (P::Finishing, Some(Seq(2)), None));
    assert!(world.state().reason.contains("wait for n1"));
    world.come_back("n1");
    world.settle();
    world.obey("n1");
    world.settle();
    for node in ["n1", "n2", "n3"] {
        assert_eq!((world.desired(node).after, world.desired(node).run), (Some(Seq(2)), Seq(2)), "{node}");
    }
    world.task(2, "after", TaskState::Succeeded, "n2");
    world.settle();
    assert_eq!(world.phase(), P::Succeeded);
    assert!(!world.pass(Duration::ZERO).writes());
}

#[test]
fn a_failed_after_task_halts_and_takes_nothing_back() {
    let mut world = World::with_stable(1);
    world.publish(2);
    world.add_task(2, "after");
    world.settle();
    world.obey_all();
    world.settle();
    world.obey_all();
    world.settle();
    world.pass(BAKE);
    assert_eq!(world.desired("n1").after, Some(Seq(2)));
    world.task(2, "after", TaskState::Failed, "n1");
    world.settle();
    assert_eq!((world.phase(), world.desired("n1").run), (P::Halted, Seq(2)));
}

#[test]
fn a_newcomer_in_mid_rollout_takes_stable_and_comes_last() {
    let mut world = first_batch();
    world.join("a-first-by-name");
    world.settle();
    let told = world.desired("a-first-by-name");
    assert_eq!((told.run, told.stage, world.target("a-first-by-name").batch), (Seq(1), Some(Seq(2)), 3));
    assert_eq!((world.state().batches, world.running_orders(2)), (4, vec!["n1"]));
}

#[test]
fn newcomers_share_batches_of_the_policy_s_size() {
    let mut world = World::with_stable(3);
    world.publish(2);
    world.policy().serial = "2".parse().expect("serial");
    world.settle();
    world.join("n4");
    world.join("n5");
    world.settle();
    let batches: Vec<usize> = ["n1", "n2", "n3", "n4", "n5"].iter().map(|n| world.target(n).batch).collect();
    assert_eq!(batches, [0, 0, 1, 1, 2]);
}

#[test]
fn the_very_first_release_tells_waiting_servers_to_run_nothing_yet() {
    let mut world = World::empty(2);
    world.publish(1);
    world.settle();
    let told = world.desired("n2");
    assert_eq!((told.run, told.stage), (Seq(0), Some(Seq(1))));
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.desired("n1").run), (P::RolledBack, Seq(1)), "there is nothing to go back to");
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
fn newcomers_and_returners_take_stable_when_nothing_is_rolled_out() {
    let mut world = World::with_stable(2);
    world.join("n9");
    world.settle();
    let told = world.desired("n9");
    assert_eq!((told.run, told.stage, told.may_migrate, told.rollout.clone()), (Seq(1), None, false, None));
    assert!(!world.pass(Duration::ZERO).writes());
    world.move_stable(5);
    world.settle();
    assert_eq!((world.desired("n9").run, world.desired("n9").generation.0), (Seq(5), 2));
}

#[test]
fn a_canary_never_becomes_stable() {
    let mut world = second_release();
    world.spec_mut().limit = Some("node=n2".parse().expect("selector"));
    world.settle();
    world.obey_all();
    world.settle();
    world.obey_all();
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable(), world.running_orders(2)), (P::Succeeded, Some(Seq(1)), vec!["n2"]));
    world.new_leader();
    assert!(!world.pass(Duration::ZERO).writes(), "and stays on its server");
}

#[test]
fn a_limit_that_covered_all_does_not_cover_a_newcomer_outside_it() {
    let mut world = World::with_stable(1);
    world.label("n1", "role", "web");
    world.publish(2);
    world.spec_mut().limit = Some("role=web".parse().expect("selector"));
    world.settle();
    assert!(world.state().whole);
    world.join("n2");
    for _told_staged_and_run in 0..2 {
        world.obey_all();
        world.settle();
    }
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable(), world.desired("n2").run), (P::Succeeded, Some(Seq(1)), Seq(1)));
}

#[test]
fn cordoned_servers_are_left_alone() {
    let mut world = World::with_stable(3);
    world.node_mut("n2").cordoned = true;
    world.publish(2);
    world.settle();
    assert!(world.state().targets.iter().all(|t| t.node.as_str() != "n2"));
    assert!(world.state().whole, "a cordoned server does not keep stable from moving");
    world.node_mut("n3").cordoned = true;
    world.settle();
    assert_eq!(world.state().targets.len(), 1);
}

#[test]
fn an_unreadable_server_keeps_stable_from_moving() {
    let mut world = World::with_stable(2);
    world.node_mut("n2").unreadable = true;
    world.node_mut("n2").info = None;
    world.publish(2);
    world.settle();
    assert!(!world.state().whole);
}

#[test]
fn an_unreadable_status_is_an_unreachable_server_and_nothing_is_written_for_it() {
    let mut world = World::with_stable(2);
    world.slot_mut("n2").unreadable = true;
    world.publish(2);
    let decision = world.settle();
    assert_eq!(world.target("n2").outcome, Outcome::Unreachable);
    assert!(decision.desired.iter().all(|d| d.node.as_str() != "n2"));
}

#[test]
fn an_unreadable_rollout_is_not_an_absent_one() {
    let mut world = first_batch();
    world.app_mut().unreadable = true;
    let decision = world.pass(Duration::ZERO);
    assert!(decision.blocked.is_some() && !decision.writes());
    world.app_mut().unreadable = false;
    world.app_mut().manifests.remove(&Seq(2));
    assert!(world.pass(Duration::ZERO).blocked.expect("blocked").contains("manifest 2"));
}

#[test]
fn a_newer_coordinator_s_phase_is_left_as_it_is() {
    let mut world = first_batch();
    world.app_mut().state.as_mut().expect("state").phase = P::Unknown;
    assert!(!world.pass(DEADLINE).writes());
}

#[test]
fn a_superseded_release_is_no_place_to_go_back_to() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.publish(3);
    world.settle();
    assert_eq!(world.app().history.values().map(|h| h.state.phase).collect::<Vec<_>>(), [P::Superseded]);
    assert_eq!((world.target("n1").prior, world.desired("n1").run), (Seq(1), Seq(2)), "it stays until its turn");
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.desired("n1").run), (P::RollingBack, Seq(1)));
}

#[test]
fn one_zone_at_a_time() {
    let mut world = World::with_stable(4);
    for (node, zone) in [("n1", "b"), ("n2", "a"), ("n3", "b"), ("n4", "a")] {
        world.label(node, "zone", zone);
    }
    world.publish(2);
    world.policy().spread = Spread::Zone;
    world.policy().serial = "3".parse().expect("serial");
    world.settle();
    let order: Vec<(&str, usize)> = world.state().targets.iter().map(|t| (t.node.as_str(), t.batch)).collect();
    assert_eq!(order, [("n2", 0), ("n4", 0), ("n1", 1), ("n3", 1)]);
}

#[test]
fn servers_that_may_migrate_come_first() {
    let mut world = World::with_stable(3);
    world.label("n3", "role", "db");
    world.publish(2);
    world.facts_mut(2).tasks[0].on = [("role".to_owned(), "db".to_owned())].into();
    world.settle();
    assert_eq!(world.state().targets[0].node.as_str(), "n3");
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
fn the_history_is_capped() {
    let mut world = World::with_stable(1);
    for number in 0..coord_proto::limits::HISTORY_MAX + 3 {
        world.respec(&format!("r{number}"));
        world.now += 1;
        world.settle();
    }
    assert_eq!(world.app().history.len(), coord_proto::limits::HISTORY_MAX);
    assert!(!world.app().history.contains_key(&"r0".parse::<RolloutId>().expect("id")));
}
