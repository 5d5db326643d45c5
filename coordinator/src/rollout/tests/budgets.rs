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
