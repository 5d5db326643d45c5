//! Each phase against each event, on a fleet in memory.

use std::time::Duration;

use coord_proto::ids::Seq;
use coord_proto::migration::TaskState;
use coord_proto::report::{FailureCode, HealthState, Step};
use coord_proto::rollout::{Amount, OnFailure, Outcome, Promote, RolloutPhase as P, Spread, Verb, Verdict};

use super::*;
use world::World;

mod batches;
mod budgets;
mod ending;
mod keys;
mod large;
mod members;
mod random;
mod table;
mod tasks;
mod times;
mod verbs;
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
