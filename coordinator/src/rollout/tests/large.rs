//! Ten thousand servers: what is stored stays small, and a pass takes no longer than it must.

use std::time::Instant;

use coord_proto::coordinator::HistoryRecord;
use coord_proto::limits::RECORD_BYTES_MAX;
use coord_proto::record;

use super::*;

const SERVERS: usize = 10_000;
/// etcd's `--max-request-bytes` is 1.5 MiB; 80 desired records go with the state.
const REQUEST_BYTES: usize = 1_500_000 - 80 * 1_000;
/// A pass takes 0.1 to 0.3 s in a test's build, and took 7 s when every server was compared with every target. Other programs run beside it.
const PASS_MOST: Duration = Duration::from_secs(5);

fn timed_pass(world: &mut World, elapsed: Duration) -> Decision {
    let begun = Instant::now();
    let decision = world.plan(elapsed);
    let taken = begun.elapsed();
    assert!(taken < PASS_MOST, "a pass of {SERVERS} servers took {taken:?}");
    world.apply(&decision);
    decision
}

#[test]
fn ten_thousand_servers_fit_into_a_record_and_a_pass() {
    let mut world = World::with_stable(SERVERS);
    world.publish(2);
    world.policy().serial = "1,50%".parse().expect("serial");
    timed_pass(&mut world, Duration::ZERO);
    while !world.phase().ended() {
        world.obey_all();
        let decision = timed_pass(&mut world, BAKE);
        let size = |bytes: Vec<u8>| bytes.len();
        let state = decision.state.as_ref().map_or(0, |s| size(record::encode(s)));
        let history: usize = decision.history.iter().map(|(_, h): &(_, HistoryRecord)| size(record::encode(h))).sum();
        assert!(state < RECORD_BYTES_MAX / 2 && history < RECORD_BYTES_MAX / 2, "state {state}, history {history} bytes");
        assert!(state + history < REQUEST_BYTES);
    }
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(2))));
}

#[test]
fn ten_thousand_batches_are_no_slower() {
    let mut world = World::with_stable(SERVERS);
    world.publish(2);
    timed_pass(&mut world, Duration::ZERO);
    assert_eq!(world.state().batches, SERVERS);
    world.obey_all();
    timed_pass(&mut world, Duration::ZERO);
    // All are away but the last: thousands of batches are passed over.
    world.policy().max_unreachable = Amount::Percent(100);
    world.app_mut().state.as_mut().expect("state").max_unreachable = SERVERS;
    let names: Vec<String> = world.state().targets.iter().map(|t| t.node.to_string()).collect();
    names.iter().take(SERVERS - 1).for_each(|name| world.vanish(name));
    timed_pass(&mut world, BAKE);
    assert_eq!((world.phase(), world.state().batch), (P::Running, SERVERS - 1));
}
