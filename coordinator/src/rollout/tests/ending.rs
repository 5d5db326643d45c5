//! How a rollout ends, and what the servers are told then.

use super::*;

/// Two servers of one batch fail, one after the other: the second one still tells of it when it has come back by itself.
#[test]
fn a_server_that_came_back_by_itself_has_returned_whatever_it_still_tells() {
    let mut world = second_release();
    world.policy().serial = "100%".parse().expect("serial");
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n1", FailureCode::Unhealthy);
    let told = world.status_mut("n1").failure.clone();
    world.settle();
    assert_eq!(world.phase(), P::RollingBack);
    world.obey_all();
    world.status_mut("n2").failure = told.map(|f| coord_proto::report::Failure { fell_back: true, ..f });
    world.settle();
    assert_eq!(world.phase(), P::RolledBack, "{}", world.state().reason);
}

/// Until its undrain hook has ended it serves nobody, and the next batch must not be drained.
#[test]
fn a_server_that_is_being_undrained_is_not_done() {
    let mut world = first_batch();
    world.obey("n1");
    world.status_mut("n1").step = Step::Undraining;
    world.settle();
    assert_eq!(world.target("n1").outcome, Outcome::Pending);
    world.obey("n1");
    world.settle();
    assert_eq!(world.target("n1").outcome, Outcome::Done);
}

#[test]
fn an_abort_takes_back_what_was_told() {
    let mut world = first_batch();
    world.obey("n1");
    world.wish(Verb::Abort);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::RollingBack, vec![]));
    assert_eq!((world.desired("n1").run, world.desired("n2").stage), (Seq(1), None));
    world.obey("n1");
    world.settle();
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Aborted, "aborted by ann"));
    assert_eq!((world.desired("n1").run, world.verdict(2)), (Seq(1), Verdict::Untried));
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

#[test]
fn a_way_back_that_halts_tells_nobody_to_run_the_bad_release_again() {
    let mut world = first_batch();
    world.obey("n1");
    world.settle();
    world.pass(BAKE);
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    world.obey("n1");
    world.settle();
    assert_eq!(world.phase(), P::RollingBack, "n2 is not back yet");
    world.pass(DEADLINE);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Halted, vec![]));
    for node in ["n1", "n2", "n3"] {
        assert_eq!((world.desired(node).run, world.desired(node).stage), (Seq(1), None), "{node}");
    }
}

#[test]
fn the_way_back_is_told_to_a_server_that_could_not_be_read_until_it_had_halted() {
    let mut world = second_release();
    world.policy().serial = "2".parse().expect("serial");
    world.policy().max_unreachable = Amount::Count(1);
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
    world.slot_mut("n1").unreadable = true;
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    world.pass(DEADLINE);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Halted, vec!["n1"]));
    world.slot_mut("n1").unreadable = false;
    world.settle();
    assert_eq!(world.running_orders(2), Vec::<&str>::new());
}

#[test]
fn one_server_with_nothing_to_go_back_to_is_no_way_back() {
    let mut world = World::empty(2);
    world.publish(1);
    world.spec_mut().limit = Some("node=n1".parse().expect("selector"));
    for _staged_and_run in 0..2 {
        world.settle();
        world.obey_all();
    }
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, None));
    world.publish(2);
    world.policy().serial = "100%".parse().expect("serial");
    world.settle();
    world.obey_all();
    world.settle();
    world.fail("n2", FailureCode::HookFailed);
    world.settle();
    world.obey("n1");
    world.settle();
    assert_eq!(
        (world.phase(), world.desired("n1").run, world.desired("n2").run),
        (P::Halted, Seq(1), Seq(0)),
        "nobody is sent to the bad release again"
    );
    assert!(world.state().reason.contains("n2 did not return"), "{}", world.state().reason);
}

#[test]
fn an_abort_of_the_after_tasks_moves_no_server() {
    let mut world = World::with_stable(2);
    world.publish(2);
    world.add_task(2, "after");
    world.policy().serial = "100%".parse().expect("serial");
    world.settle();
    world.obey_all();
    world.settle();
    world.obey_all();
    world.settle();
    world.pass(BAKE);
    assert_eq!((world.phase(), world.stable()), (P::Finishing, Some(Seq(2))));
    world.wish(Verb::Abort);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Halted, vec!["n1", "n2"]));
    assert_eq!(world.state().reason, "aborted by ann; its after tasks did not run");
    assert_eq!(world.verdict(2), Verdict::Good);
}

/// The simulator's seed 231: an abort, and the same release again before all servers are back.
#[test]
fn a_server_on_its_way_back_does_not_turn_round_before_its_batch() {
    let mut world = first_batch();
    world.obey("n1");
    world.wish(Verb::Abort);
    world.settle();
    assert_eq!(world.desired("n1").run, Seq(1));
    // It reports release 2 still.
    world.respec("again");
    world.settle();
    assert_eq!((world.desired("n1").run, world.desired("n1").stage), (Seq(1), Some(Seq(2))));
}
