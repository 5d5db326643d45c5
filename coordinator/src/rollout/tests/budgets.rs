//! How many servers may fail or be away, and what counts.

use super::*;

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
fn many_servers_at_once_are_one_line_of_the_audit_trail() {
    let mut world = World::with_stable(100);
    world.publish(2);
    world.settle();
    let late = world.pass(DEADLINE);
    assert_eq!(world.phase(), P::RolledBack);
    assert!(late.events.len() <= 3, "{:?}", late.events);
    assert!(late.events[0].contains("counts n1, n10, n100, n11, n12 and 95 more as failed"), "{}", late.events[0]);

    let mut world = first_batch();
    (10..90).for_each(|n| world.join(&format!("m{n}")));
    let joined = world.pass(Duration::ZERO);
    assert!(matches!(joined.events.as_slice(), [e] if e.contains("takes in m10, m11, m12, m13, m14 and 75 more")), "{:?}", joined.events);
}

#[test]
fn a_batch_of_many_servers_is_named_in_short() {
    let mut world = World::with_stable(1000);
    world.publish(2);
    world.policy().serial = "100%".parse().expect("serial");
    world.settle();
    world.obey_all();
    let opened = world.pass(Duration::ZERO);
    assert!(opened.events.iter().all(|e| e.len() < 200), "{:?}", opened.events);
}
