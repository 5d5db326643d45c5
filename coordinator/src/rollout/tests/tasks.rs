//! Run-once tasks: what their records mean for the rollout.

use super::*;

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
fn a_failed_migration_ends_the_rollout() {
    let mut world = first_batch();
    world.task(2, "before", TaskState::Failed, "n1");
    world.settle();
    assert_eq!((world.phase(), world.verdict(2)), (P::RollingBack, Verdict::Bad));
    assert!(world.state().reason.contains("the task `before` failed on n1"));
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
    assert_eq!((world.verdict(2), world.stable()), (Verdict::Good, Some(Seq(2))), "the servers run it and it works");
}

/// Its lease is gone, and with it its presence and the lock that it held.
fn dies_in_its_task(world: &mut World, name: &str) {
    world.task(2, "before", TaskState::Claimed, name);
    world.status_mut(name).step = Step::Migrating;
    world.settle();
    world.vanish(name);
    world.app_mut().lock = None;
}

#[test]
fn a_server_that_dies_in_its_task_leaves_a_decision_and_no_spent_budget() {
    let mut world = first_batch();
    dies_in_its_task(&mut world, "n1");
    let decision = world.pass(Duration::ZERO);
    assert!(matches!(decision.duties.as_slice(), [Duty::MarkUnknown(_)]), "{:?}", decision.duties);
    assert_eq!(world.phase(), P::Running, "first the record says what is known");
    world.task(2, "before", TaskState::Unknown, "n1");
    world.settle();
    assert_eq!((world.phase(), world.target("n1").outcome), (P::AwaitingDecision, Outcome::Unreachable));
    assert!(world.state().reason.contains("release r2"), "{}", world.state().reason);
    world.task(2, "before", TaskState::Succeeded, "n1");
    world.settle();
    assert_eq!(world.phase(), P::RolledBack, "now that the task is decided, the server that is away counts");
}

#[test]
fn a_task_that_may_be_repeated_is_given_to_another_server_before_the_dead_one_counts() {
    let mut world = first_batch();
    world.facts_mut(2).tasks[0].on_unknown = coord_proto::manifest::OnUnknown::Retry;
    dies_in_its_task(&mut world, "n1");
    world.settle();
    world.task(2, "before", TaskState::Unknown, "n1");
    assert!(matches!(world.pass(Duration::ZERO).duties.as_slice(), [Duty::Retry(_)]));
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1"]), "the repetition is not allowed yet");
    world.task(2, "before", TaskState::Pending, "n1");
    world.settle();
    assert_eq!((world.phase(), world.running_orders(2)), (P::Running, vec!["n1", "n2"]));
    assert!(world.desired("n2").may_migrate);
    world.task(2, "before", TaskState::Claimed, "n2");
    world.settle();
    assert_eq!(world.phase(), P::Running, "n1 is still away");
    world.come_back("n1");
    world.task(2, "before", TaskState::Succeeded, "n2");
    world.obey_all();
    world.settle();
    assert_eq!((world.phase(), world.target("n1").outcome), (P::Running, Outcome::Done));
}

#[test]
fn a_task_that_may_be_repeated_and_has_nobody_left_to_do_it_ends_the_rollout() {
    let mut world = first_batch();
    world.facts_mut(2).tasks[0].on_unknown = coord_proto::manifest::OnUnknown::Retry;
    dies_in_its_task(&mut world, "n1");
    world.vanish("n2");
    world.vanish("n3");
    world.task(2, "before", TaskState::Pending, "n1");
    world.settle();
    assert_eq!(world.phase(), P::RolledBack);
    assert!(world.state().reason.contains("cannot be reached"), "{}", world.state().reason);
}

/// An older release's task, left open.
fn older_task(world: &mut World, state: TaskState) {
    world.task(1, "before", state, "n3");
    world.status_mut("n1").step = Step::WaitingForMigration;
    world.settle();
}

#[test]
fn an_older_release_s_unknown_task_waits_for_a_person_and_names_that_release() {
    let mut world = first_batch();
    older_task(&mut world, TaskState::Unknown);
    assert_eq!(world.phase(), P::AwaitingDecision);
    let reason = world.state().reason.clone();
    assert!(reason.contains("release r1") && reason.contains("coordctl migration resolve mootube r1"), "{reason}");
    world.task(1, "before", TaskState::Succeeded, "n3");
    world.settle();
    assert_eq!((world.phase(), world.state().reason.as_str()), (P::Running, ""));
}

#[test]
fn an_older_release_s_running_task_is_waited_for_in_words() {
    let mut world = first_batch();
    older_task(&mut world, TaskState::Claimed);
    assert_eq!(world.phase(), P::Running);
    assert_eq!(world.state().reason, "the task `before` of release r1 is not done yet on n3; the servers wait for it");
    world.pass(DEADLINE * 3);
    assert_eq!(world.phase(), P::Running, "no server is late by it");
    world.task(1, "before", TaskState::Succeeded, "n3");
    world.settle();
    assert_eq!(world.state().reason, "");
}
