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
    assert_eq!((world.verdict(2), world.stable()), (Verdict::Good, Some(Seq(2))), "the servers run it and it works");
}
