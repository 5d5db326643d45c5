//! Servers that come, go, are cordoned, or cannot be read; and `stable`, which the others take.

use super::*;

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

/// Release 2 went onto n2 alone and worked there.
fn good_canary() -> World {
    let mut world = second_release();
    world.spec_mut().limit = Some("node=n2".parse().expect("selector"));
    world.settle();
    world.obey_all();
    world.settle();
    world.obey_all();
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.verdict(2), world.running_orders(2)), (P::Succeeded, Verdict::Good, vec!["n2"]));
    world
}

#[test]
fn a_canary_that_worked_stays_above_stable_beside_another_rollout() {
    let mut world = good_canary();
    world.publish(3);
    world.spec_mut().limit = Some("node=n3".parse().expect("selector"));
    world.settle();
    assert_eq!(world.desired("n2").run, Seq(2));
}

#[test]
fn a_superseded_release_leaves_the_servers_that_the_next_rollout_leaves_out() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.publish(3);
    world.spec_mut().limit = Some("node=n3".parse().expect("selector"));
    world.settle();
    assert_eq!((world.desired("n1").run, world.verdict(2)), (Seq(1), Verdict::Untried));
}

#[test]
fn a_bad_release_leaves_a_server_that_left_the_rollout_and_came_again() {
    let mut world = good_canary();
    let bad = world.app_mut().releases.get_mut(&"r2".parse::<coord_proto::ids::ReleaseId>().expect("id")).expect("release");
    bad.verdict = Verdict::Bad;
    world.publish(3);
    world.spec_mut().limit = Some("node=n3".parse().expect("selector"));
    world.settle();
    assert_eq!(world.desired("n2").run, Seq(1));
}

#[test]
fn a_release_whose_migration_has_no_way_back_stays_on_the_servers_outside() {
    let mut world = first_batch();
    world.facts_mut(2).reversible = false;
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.obey("n1");
    world.settle();
    world.publish(3);
    world.spec_mut().limit = Some("node=n3".parse().expect("selector"));
    world.settle();
    assert_eq!(world.desired("n1").run, Seq(2));
}

/// Release 2 halted on all four servers.
fn halted_everywhere() -> World {
    let mut world = World::with_stable(4);
    world.publish(2);
    (world.policy().serial, world.policy().on_failure) = ("100%".parse().expect("serial"), OnFailure::Halt);
    world.settle();
    world.obey_all();
    world.settle();
    world.obey_all();
    world.fail("n4", FailureCode::HookFailed);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2).len()), (P::Halted, 4));
    world
}

/// `on_failure = "halt"` leaves servers on the release; a canary beside them must not restart all of them at once.
#[test]
fn after_a_halt_a_limited_rollout_takes_the_others_back_few_at_a_time() {
    let mut world = halted_everywhere();
    world.publish(3);
    world.spec_mut().limit = Some("node=n4".parse().expect("selector"));
    world.settle();
    assert_eq!((world.running_orders(2), world.running_orders(1)), (vec!["n2", "n3", "n4"], vec!["n1"]), "n4 waits for its batch");
    let generation = world.desired("n1").generation;
    let status = world.status_mut("n1");
    (status.generation, status.step) = (generation, Step::Probing);
    world.settle();
    assert_eq!(world.running_orders(2), ["n2", "n3", "n4"], "n1 is on its way");
    world.obey("n1");
    world.vanish("n2");
    world.settle();
    assert_eq!(world.running_orders(2), ["n2", "n4"], "n3 is next: n2 is away");
    world.obey("n3");
    world.settle();
    assert_eq!(world.running_orders(2), ["n2", "n4"]);
    world.come_back("n2");
    world.settle();
    assert_eq!(world.running_orders(2), ["n4"]);
    for _ in 0..3 {
        world.obey_all();
        world.pass(BAKE);
        world.settle();
    }
    assert_eq!((world.phase(), world.running_orders(3), world.running_orders(1).len()), (P::Succeeded, vec!["n4"], 3));
}

#[test]
fn one_that_cannot_leave_a_halted_release_or_is_cordoned_holds_up_no_other() {
    for gives_up in [|w: &mut World| w.fail("n1", FailureCode::HookFailed), |w: &mut World| w.node_mut("n1").cordoned = true] {
        let mut world = halted_everywhere();
        world.publish(3);
        world.spec_mut().limit = Some("node=n4".parse().expect("selector"));
        world.settle();
        assert_eq!(world.running_orders(2), ["n2", "n3", "n4"], "n1 has its turn");
        gives_up(&mut world);
        world.settle();
        assert_eq!(world.running_orders(2), ["n3", "n4"]);
    }
}

#[test]
fn servers_that_leave_a_halted_release_do_so_by_the_serial_of_the_rollout_that_goes_on() {
    let mut world = halted_everywhere();
    world.publish(3);
    world.spec_mut().limit = Some("node=n4".parse().expect("selector"));
    world.policy().serial = "1,50%".parse().expect("serial");
    world.settle();
    assert_eq!(world.running_orders(2), ["n3", "n4"], "half of four servers");
}
