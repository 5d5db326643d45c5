//! Every key of `[rollout]`: a test for each row of the README's table, with the row's own example and under its name.

use super::table::policy;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);

/// Servers that run release 1, and release 2 published as the row's example says.
fn published(row: &str, servers: usize) -> World {
    let mut world = World::with_stable(servers);
    world.publish(2);
    *world.policy() = policy(row);
    world.settle();
    world
}

/// The same, staged everywhere and the first batch told.
fn opened(row: &str, servers: usize) -> World {
    let mut world = published(row, servers);
    world.obey_all();
    world.settle();
    world
}

fn done(world: &mut World, name: &str) {
    world.obey(name);
    world.settle();
}

/// It does its part, and its batch is baked.
fn passes(world: &mut World, name: &str) {
    done(world, name);
    world.pass(world.app().spec.as_ref().expect("a spec").policy.bake);
}

fn fails(world: &mut World, name: &str) {
    world.fail(name, FailureCode::HookFailed);
    world.settle();
}

fn is_away(world: &mut World, name: &str) {
    world.vanish(name);
    world.settle();
}

/// How many servers in each batch.
fn sizes(world: &World) -> Vec<usize> {
    (0..world.state().batches).map(|batch| world.state().batch_targets(batch).count()).collect()
}

fn batches_of<const N: usize>(world: &World, names: [&str; N]) -> [usize; N] {
    names.map(|name| world.target(name).batch)
}

fn reason(world: &World) -> &str {
    &world.state().reason
}

#[test]
fn serial_number() {
    let world = opened("serial_number", 7);
    assert_eq!(sizes(&world), [3, 3, 1]);
    assert_eq!(world.running_orders(2), ["n1", "n2", "n3"]);

    let mut world = World::with_stable(4);
    world.label("n4", "role", "db");
    world.publish(2);
    *world.policy() = policy("serial_number");
    world.facts_mut(2).tasks[0].on = [("role".to_owned(), "db".to_owned())].into();
    world.settle();
    assert_eq!(batches_of(&world, ["n4", "n1", "n2", "n3"]), [0, 0, 0, 1]);
}

#[test]
fn serial_percentage() {
    assert_eq!(sizes(&published("serial_percentage", 10)), [2, 2, 2, 2, 2]);
    assert_eq!(sizes(&published("serial_percentage", 3)), [1, 1, 1]);
}

#[test]
fn serial_list() {
    assert_eq!(sizes(&published("serial_list", 12)), [1, 3, 3, 3, 2]);
}

#[test]
fn serial_joiner() {
    let mut world = opened("serial_joiner", 3);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
    for name in ["a1", "a2"] {
        world.join(name);
        world.settle();
    }
    assert_eq!(batches_of(&world, ["n1", "n2", "n3", "a1", "a2"]), [0, 0, 1, 1, 2]);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);

    let mut world = opened("serial_joiner", 3);
    done(&mut world, "n1");
    passes(&mut world, "n2");
    assert_eq!(world.running_orders(2), ["n1", "n2", "n3"]);
    world.join("a1");
    world.settle();
    assert_eq!(batches_of(&world, ["n3", "a1"]), [1, 2], "the last batch has opened");
}

#[test]
fn promote_manual() {
    let mut world = opened("promote_manual", 3);
    passes(&mut world, "n1");
    assert_eq!((world.phase(), world.running_orders(2)), (P::AwaitingPromotion, vec!["n1"]));
    assert_eq!(world.pass(DEADLINE * 9).wake_after, None);
    world.wish(Verb::Promote);
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]));
    passes(&mut world, "n2");
    assert_eq!(world.running_orders(2), ["n1", "n2", "n3"], "once is enough");

    let mut world = opened("promote_manual", 1);
    passes(&mut world, "n1");
    assert_eq!(world.phase(), P::Succeeded, "there is no second batch");
}

#[test]
fn spread_zone() {
    let mut world = World::with_stable(4);
    for (node, zone) in [("n1", "b"), ("n2", "a"), ("n3", "b"), ("n4", "a")] {
        world.label(node, "zone", zone);
    }
    world.publish(2);
    *world.policy() = policy("spread_zone");
    world.settle();
    assert_eq!(batches_of(&world, ["n2", "n4", "n1", "n3"]), [0, 0, 1, 1]);
    for (node, zone) in [("n5", "c"), ("n6", "a"), ("n7", "c")] {
        world.join(node);
        world.label(node, "zone", zone);
    }
    world.settle();
    assert_eq!(batches_of(&world, ["n1", "n3", "n6", "n5", "n7"]), [1, 1, 2, 3, 3], "zone b had room for one more");
}

#[test]
fn bake() {
    let mut world = opened("bake", 2);
    done(&mut world, "n1");
    world.pass(MINUTE - MOMENT);
    assert_eq!(world.running_orders(2), ["n1"]);
    world.pass(MOMENT);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
    done(&mut world, "n2");
    world.pass(MINUTE - MOMENT);
    assert_eq!((world.phase(), world.stable()), (P::Running, Some(Seq(1))));
    world.pass(MOMENT);
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(2))));
}

#[test]
fn bake_interrupted() {
    let mut world = opened("bake_interrupted", 2);
    done(&mut world, "n1");
    world.pass(MINUTE - MOMENT);
    for health in [HealthState::Unhealthy, HealthState::Healthy] {
        world.status_mut("n1").health = health;
        world.settle();
    }
    world.pass(MINUTE - MOMENT);
    assert_eq!(world.running_orders(2), ["n1"]);
    world.pass(MOMENT);
    assert_eq!(world.running_orders(2), ["n1", "n2"]);
}

#[test]
fn max_failed() {
    let mut world = opened("max_failed", 4);
    fails(&mut world, "n1");
    assert_eq!(world.running_orders(2), ["n1", "n2"], "there is nothing to bake");
    passes(&mut world, "n2");
    fails(&mut world, "n3");
    assert_eq!((world.phase(), world.running_orders(2)), (P::RollingBack, vec![]));
    assert!(reason(&world).starts_with("n1, n3 failed; 1 tolerated"), "{}", reason(&world));

    let mut world = opened("max_failed", 1);
    fails(&mut world, "n1");
    assert_eq!((world.phase(), world.verdict(2)), (P::RollingBack, Verdict::Bad));
    assert_eq!(reason(&world), "no server runs it");
}

#[test]
fn max_failed_percentage() {
    let mut world = published("max_failed_percentage", 7);
    world.join("n8");
    world.settle();
    assert_eq!((world.state().targets.len(), world.state().max_failed), (8, 1));
    assert_eq!(published("max_failed_percentage", 3).state().max_failed, 0);
}

#[test]
fn max_failed_counts() {
    let mut world = opened("max_failed_counts", 4);
    fails(&mut world, "n1");
    done(&mut world, "n1");
    fails(&mut world, "n2");
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2", "n3"]), "n1 counts no more");
    passes(&mut world, "n3");
    world.status_mut("n3").health = HealthState::Unhealthy;
    world.settle();
    assert_eq!((world.phase(), world.target("n3").outcome), (P::RollingBack, Outcome::Failed));
}

#[test]
fn max_unreachable() {
    let mut world = opened("max_unreachable", 5);
    fails(&mut world, "n1");
    is_away(&mut world, "n2");
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2", "n3"]), "one of each");
    is_away(&mut world, "n3");
    assert_eq!((world.phase(), world.running_orders(2)), (P::RollingBack, vec![]));
    assert!(reason(&world).starts_with("n2, n3 cannot be reached; 1 tolerated"), "{}", reason(&world));

    let mut world = opened("max_unreachable", 3);
    is_away(&mut world, "n1");
    passes(&mut world, "n2");
    passes(&mut world, "n3");
    assert_eq!((world.phase(), world.stable()), (P::Succeeded, Some(Seq(2))));
    assert_eq!(reason(&world), "within the budgets, without n1");
}

#[test]
fn max_unreachable_turn() {
    let mut world = World::with_stable(3);
    world.vanish("n3");
    world.publish(2);
    *world.policy() = policy("max_unreachable_turn");
    world.settle();
    assert_eq!((world.phase(), world.verdict(2)), (P::RolledBack, Verdict::Untried), "it says nothing about the release");
    assert_eq!(reason(&world), "n3 cannot be reached; 0 tolerated; no server was switched");

    let mut world = opened("max_unreachable_turn", 3);
    is_away(&mut world, "n3");
    passes(&mut world, "n1");
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]));
    passes(&mut world, "n2");
    assert_eq!(world.phase(), P::RollingBack, "its turn has come");
}

#[test]
fn max_unreachable_return() {
    let mut world = World::with_stable(3);
    world.vanish("n1");
    world.publish(2);
    *world.policy() = policy("max_unreachable_return");
    world.settle();
    world.obey_all();
    world.settle();
    assert_eq!(world.running_orders(2), ["n2"]);
    world.come_back("n1");
    world.settle();
    assert_eq!((world.target("n1").batch, world.target("n1").told), (3, false));
    passes(&mut world, "n2");
    passes(&mut world, "n3");
    assert_eq!(world.running_orders(2), ["n1", "n2", "n3"]);
}

#[test]
fn max_unreachable_bake() {
    let mut world = opened("max_unreachable_bake", 2);
    done(&mut world, "n1");
    is_away(&mut world, "n1");
    assert_eq!((world.phase(), world.target("n1").outcome), (P::RolledBack, Outcome::Unreachable));

    let mut world = opened("max_unreachable_bake", 2);
    passes(&mut world, "n1");
    is_away(&mut world, "n1");
    assert_eq!((world.phase(), world.target("n1").outcome), (P::Running, Outcome::Done), "another batch is the open one");

    let mut world = World::with_stable(2);
    world.publish(2);
    *world.policy() = policy("max_unreachable_bake");
    world.policy().promote = Promote::Manual;
    world.settle();
    world.obey_all();
    world.settle();
    passes(&mut world, "n1");
    is_away(&mut world, "n1");
    assert_eq!((world.phase(), world.target("n1").outcome), (P::AwaitingPromotion, Outcome::Done), "it is baked");
}

#[test]
fn on_failure_rollback() {
    let mut world = opened("on_failure_rollback", 3);
    passes(&mut world, "n1");
    fails(&mut world, "n2");
    assert_eq!((world.phase(), world.verdict(2)), (P::RollingBack, Verdict::Bad));
    for node in ["n1", "n2", "n3"] {
        assert_eq!((world.desired(node).run, world.desired(node).stage), (Seq(1), None), "{node}");
    }
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.stable()), (P::RolledBack, Some(Seq(1))));
    assert_eq!((world.target("n1").outcome, world.target("n2").outcome), (Outcome::RolledBack, Outcome::Failed));
    assert_eq!(reason(&world), "n2 failed; 0 tolerated; n2: it broke");
}

#[test]
fn on_failure_halt() {
    let mut world = opened("on_failure_halt", 3);
    passes(&mut world, "n1");
    fails(&mut world, "n2");
    assert_eq!((world.phase(), world.verdict(2)), (P::Halted, Verdict::Bad));
    let told: Vec<(Seq, Option<Seq>)> = ["n1", "n2", "n3"].map(|n| (world.desired(n).run, world.desired(n).stage)).into();
    assert_eq!(told, [(Seq(2), None), (Seq(2), None), (Seq(1), None)]);
}

#[test]
fn on_failure_no_way_back() {
    for started in [TaskState::Claimed, TaskState::Succeeded] {
        let mut world = opened("on_failure_no_way_back", 2);
        world.facts_mut(2).reversible = false;
        world.task(2, "before", started, "n1");
        fails(&mut world, "n1");
        assert_eq!((world.phase(), world.desired("n1").run), (P::Halted, Seq(2)), "{started:?}");
        assert!(reason(&world).contains("its migration has no way back, so the servers stay as they are"), "{}", reason(&world));
    }

    let mut world = World::empty(2);
    world.publish(1);
    *world.policy() = policy("on_failure_no_way_back");
    world.settle();
    assert_eq!((world.desired("n2").run, world.desired("n2").stage), (Seq(0), Some(Seq(1))), "nothing yet");
    world.obey_all();
    world.settle();
    fails(&mut world, "n1");
    assert_eq!((world.phase(), world.desired("n1").run, world.desired("n2").run), (P::Halted, Seq(1), Seq(0)));
    assert!(reason(&world).contains("there is no release to go back to"), "{}", reason(&world));
}

#[test]
fn batch_deadline() {
    let mut world = opened("batch_deadline", 3);
    world.pass(MINUTE * 5 - MOMENT);
    passes(&mut world, "n1");
    world.pass(MINUTE * 5 - MOMENT);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]), "each batch has its own");
    world.pass(MOMENT);
    assert_eq!((world.phase(), world.target("n2").outcome), (P::RollingBack, Outcome::Failed));
}

#[test]
fn batch_deadline_staging_and_back() {
    let mut world = published("batch_deadline_staging_and_back", 3);
    world.obey("n1");
    world.obey("n2");
    world.pass(MINUTE * 5 - MOMENT);
    assert_eq!(world.phase(), P::Staging);
    world.pass(MOMENT);
    assert_eq!((world.phase(), world.target("n3").outcome), (P::RolledBack, Outcome::Failed));

    let mut world = opened("batch_deadline_staging_and_back", 3);
    fails(&mut world, "n1");
    world.pass(MINUTE * 5 - MOMENT);
    assert_eq!(world.phase(), P::RollingBack);
    world.pass(MOMENT);
    assert_eq!(world.phase(), P::Halted);
    assert!(reason(&world).ends_with("n1 did not return"), "{}", reason(&world));
}

#[test]
fn batch_deadline_migration() {
    let mut world = opened("batch_deadline_migration", 3);
    world.task(2, "before", TaskState::Claimed, "n1");
    for step in [Step::WaitingForMigration, Step::Migrating] {
        world.status_mut("n1").step = step;
        world.settle();
        world.pass(DEADLINE * 3);
        world.pass(DEADLINE * 3);
        assert_eq!(world.phase(), P::Running, "{step:?}");
    }
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.status_mut("n1").step = Step::Switching;
    world.settle();
    world.pass(MINUTE * 5 - MOMENT);
    assert_eq!(world.phase(), P::Running);
    world.pass(MOMENT);
    assert_eq!(world.phase(), P::RollingBack);
}

#[test]
fn batch_deadline_pause() {
    let mut world = opened("batch_deadline_pause", 3);
    world.wish(Verb::Pause);
    world.settle();
    world.pass(DEADLINE * 2);
    world.pass(DEADLINE * 2);
    done(&mut world, "n1");
    world.pass(MINUTE);
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1"]), "and it opens nothing");
    world.wish(Verb::Resume);
    world.settle();
    assert_eq!(world.running_orders(2), ["n1", "n2"]);

    let mut world = opened("batch_deadline_pause", 2);
    world.policy().bake = DEADLINE * 2;
    done(&mut world, "n1");
    world.pass(DEADLINE);
    world.pass(DEADLINE - MOMENT);
    assert_eq!((world.phase(), world.target("n1").outcome), (P::Running, Outcome::Done), "nor does it bake on that time");
}
