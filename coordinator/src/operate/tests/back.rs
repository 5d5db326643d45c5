//! `rollback`. No test here has a key: none is needed.

use super::super::back::rollback;
use super::*;

async fn back(scene: &Scene, to: Option<u64>, force: bool) -> Result<Judged<RolloutSpec>, OperateError> {
    let (options, named) = (Options { force, ..options() }, to.map(release));
    begin(&scene.store, &keys(), &app(), |sight| rollback(sight, &keys(), (&app(), named.as_ref()), &options)).await
}

fn goal(result: Result<Judged<RolloutSpec>, OperateError>) -> u64 {
    match result.expect("no refusal") {
        Judged::Do(spec) => spec.seq.0,
        Judged::Already(words) => panic!("already: {words}"),
    }
}

#[tokio::test]
async fn without_a_name_it_is_the_release_before() {
    let scene = Scene::new(&["web-1"]).await;
    assert_eq!(goal(back(&scene, None, false).await), 2);
    let spec = scene.stored_spec().await;
    assert_eq!((spec.kind, &spec.by, spec.limit.is_none(), spec.force_run), (RolloutKind::Rollback, &ann(), true, false));
    assert_eq!((spec.policy.promote, spec.policy.on_failure), (Promote::Auto, OnFailure::Halt));
    let events = scene.events().await;
    assert!(events.len() == 1 && events[0].by == ann() && events[0].what.starts_with("asked for a rollback of release r2"), "{events:?}");
}

#[tokio::test]
async fn the_release_before_is_what_was_stable_then_and_never_one_that_failed_or_was_left() {
    // 4 failed, 3 is stable.
    let scene = Scene::new(&["web-1"]).await;
    scene.publish(4, |m| m.floor = Seq(3)).await;
    scene.judge(4, Verdict::Bad).await;
    scene.spec(RolloutKind::Publish, 4, bob()).await;
    scene.state(RolloutPhase::Halted, |_| ()).await;
    scene.server("web-1", 4, 2).await;
    assert_eq!(goal(back(&scene, None, false).await), 3);
    // 3 was rolled back from, then 4 was published over 2.
    let scene = Scene::new(&["web-1"]).await;
    scene.publish(4, |m| m.floor = Seq(2)).await;
    scene.judge(4, Verdict::Good).await;
    scene.put(&Key::Stable(app()), &StableRecord { seq: Seq(4), release: release(4), back_from: None }).await;
    scene.spec(RolloutKind::Publish, 4, bob()).await;
    scene.state(RolloutPhase::Succeeded, |_| ()).await;
    scene.server("web-1", 4, 2).await;
    assert_eq!(goal(back(&scene, None, false).await), 2);
    // What was stable then was found bad since, or never proved itself.
    for verdict in [Verdict::Bad, Verdict::Untried] {
        let scene = Scene::new(&["web-1"]).await;
        scene.judge(2, verdict).await;
        scene.server("web-1", 3, 1).await;
        assert_eq!(goal(back(&scene, None, false).await), 1, "{verdict:?}");
    }
}

#[tokio::test]
async fn there_may_be_none_before() {
    let scene = Scene::new(&["web-1"]).await;
    for seq in [1, 2] {
        scene.judge(seq, Verdict::Bad).await;
    }
    assert!(refused(back(&scene, None, false).await).contains("there is no good release of mootube before release r3"));
}

#[tokio::test]
async fn the_second_time_says_who_did_it_and_goes_no_further_back() {
    let scene = Scene::new(&["web-1"]).await;
    assert_eq!(goal(back(&scene, None, false).await), 2);
    let by = "the rollback to release r2 was asked for already by ann@laptop (it is slow), and";
    for to in [None, Some(2)] {
        assert_eq!(already(back(&scene, to, false).await), format!("{by} goes on"));
    }
    let other = refused(back(&scene, Some(1), false).await);
    assert!(other.contains("of release r2 by ann@laptop (waiting for the coordinator) goes on"), "{other}");
    scene.state(RolloutPhase::Succeeded, |_| ()).await;
    scene.put(&Key::Stable(app()), &StableRecord { seq: Seq(2), release: release(2), back_from: Some(Seq(3)) }).await;
    scene.server("web-1", 2, 1).await;
    assert_eq!(already(back(&scene, None, false).await), format!("{by} has ended well; name an older release to go further back"));
    assert_eq!(goal(back(&scene, Some(1), false).await), 1);
    scene.state(RolloutPhase::Halted, |_| ()).await;
    assert_eq!(goal(back(&scene, None, false).await), 1, "one that did not end well is meant again");
}

#[tokio::test]
async fn what_runs_everywhere_needs_no_rollback() {
    let scene = Scene::new(&["web-1", "web-2"]).await;
    assert_eq!(already(back(&scene, Some(3), false).await), "every server runs release r3 already");
    scene.server("web-2", 2, 2).await;
    assert_eq!(goal(back(&scene, Some(3), false).await), 3);
}

#[tokio::test]
async fn below_the_floor_of_any_server_it_needs_a_signature_whatever_is_forced() {
    let scene = Scene::new(&["web-1", "web-2"]).await;
    scene.server("web-1", 3, 1).await;
    for force in [false, true] {
        let said = refused(back(&scene, Some(1), force).await);
        assert!(said.contains("release r1 (number 1) is below the floor of web-2: a server never goes back that far"), "{said}");
        assert!(said.contains("publishing it again is needed, with a signature: check out revision commit-1"), "{said}");
    }
    scene.server("web-2", 3, 1).await;
    assert_eq!(goal(back(&scene, Some(1), false).await), 1, "at the floor no key is needed");
}

#[tokio::test]
async fn a_named_release_must_be_known_and_good() {
    let scene = Scene::new(&["web-1"]).await;
    assert!(refused(back(&scene, Some(9), true).await).contains("there is no release r9 of mootube"));
    scene.judge(2, Verdict::Bad).await;
    let said = refused(back(&scene, Some(2), false).await);
    assert!(said.contains("release r2 is bad") && said.contains("--force"), "{said}");
    assert_eq!(goal(back(&scene, Some(2), true).await), 2);
}

#[tokio::test]
async fn a_migration_without_a_way_back_needs_force() {
    let irreversible = |m: &mut Manifest| {
        m.migrate = Some(Migrate {
            command: vec!["bin/migrate".into()],
            reversible: false,
            ..serde_json::from_str(r#"{"command": ["x"]}"#).expect("a migration")
        });
    };
    for (task, state, barred, words) in [
        ("before", TaskState::Pending, false, ""),
        ("before", TaskState::Claimed, true, "release r3 has no way back"),
        ("before", TaskState::Succeeded, true, "release r3 has no way back"),
        ("after", TaskState::Claimed, true, "release r3 has no way back"),
    ] {
        let scene = Scene::new(&["web-1"]).await;
        scene.publish(3, irreversible).await;
        scene.judge(3, Verdict::Good).await;
        scene.task(3, task, state).await;
        if barred {
            let said = refused(back(&scene, None, false).await);
            assert!(said.contains(words) && said.contains("say --force"), "{said}");
            assert!(scene.events().await.is_empty());
        }
        assert_eq!(goal(back(&scene, None, barred).await), 2, "{task} {state:?}");
    }
    // A release further up counts too, whatever servers run.
    let scene = Scene::new(&["web-1"]).await;
    scene.publish(4, irreversible).await;
    scene.judge(4, Verdict::Bad).await;
    scene.task(4, "before", TaskState::Succeeded).await;
    assert!(refused(back(&scene, Some(2), false).await).contains("release r4 has no way back"));
    // One that may still be running is no better.
    let scene = Scene::new(&["web-1"]).await;
    scene.task(3, "before", TaskState::Unknown).await;
    assert!(refused(back(&scene, None, false).await).contains("the run-once task `before` of release r3 is not decided"));
}

#[tokio::test]
async fn while_something_is_rolled_out_it_is_refused_and_says_how_to_end_that() {
    let scene = Scene::new(&["web-1"]).await;
    scene.spec(RolloutKind::Publish, 4, bob()).await;
    scene.state(RolloutPhase::Running, |_| ()).await;
    let said = refused(back(&scene, None, false).await);
    assert!(said.contains("rollout 4-publish of release r4 by bob@laptop (running) goes on") && said.contains("rollout abort"), "{said}");
    scene.delete(&Key::Leader).await;
    assert!(refused(back(&scene, None, false).await).contains("no coordinator runs"));
}
