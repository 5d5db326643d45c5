//! `retry` and `restart`.

use futures::FutureExt as _;

use super::super::again::{restart, retry};
use super::*;

async fn again(scene: &Scene) -> Result<Judged<RolloutSpec>, OperateError> {
    begin(&scene.store, &keys(), &app(), |sight| retry(sight, &app(), &options())).await
}

async fn anew(scene: &Scene, options: Options) -> Result<Judged<RolloutSpec>, OperateError> {
    begin(&scene.store, &keys(), &app(), |sight| restart(sight, &keys(), &app(), &options)).await
}

fn done(result: Result<Judged<RolloutSpec>, OperateError>) -> RolloutSpec {
    match result.expect("no refusal") {
        Judged::Do(spec) => spec,
        Judged::Already(words) => panic!("already: {words}"),
    }
}

fn target(node: &str, outcome: Outcome) -> Target {
    Target { node: node.parse().expect("node"), batch: 0, prior: Seq(2), told: true, outcome }
}

async fn halted() -> Scene {
    let scene = Scene::new(&["web-1", "web-2"]).await;
    let targets = vec![target("web-1", Outcome::Done), target("web-2", Outcome::Failed)];
    scene.state(RolloutPhase::Halted, |s| s.targets = targets).await;
    scene
}

#[tokio::test]
async fn a_retry_names_the_rollout_that_it_goes_on_with_and_leaves_an_event() {
    let scene = halted().await;
    let spec = done(again(&scene).await);
    assert_eq!(scene.stored_spec().await, spec);
    assert_eq!((spec.kind, spec.purpose(), spec.seq, &spec.by), (RolloutKind::Retry, RolloutKind::Publish, Seq(3), &ann()));
    assert_eq!(spec.retried.map(|r| r.rollout.to_string()), Some("3-publish".to_owned()));
    let events = scene.events().await;
    assert_eq!((events.len(), &events[0].by), (1, &ann()));
    assert!(events[0].what.starts_with("asked for a retry of release r3 (rollout 3-"), "{}", events[0].what);
}

#[tokio::test]
async fn a_second_retry_says_who_asked_for_the_first() {
    let scene = halted().await;
    done(again(&scene).await);
    let words = "a retry of release r3 was asked for already by ann@laptop (it is slow), and goes on";
    assert_eq!(already(again(&scene).await), words);
    scene.state(RolloutPhase::Running, |_| ()).await;
    assert_eq!(already(again(&scene).await), words);
    scene.state(RolloutPhase::Succeeded, |s| s.targets = vec![target("web-2", Outcome::Done)]).await;
    assert_eq!(already(again(&scene).await), "the retry by ann@laptop succeeded already: no server is left that failed");
    scene.state(RolloutPhase::Halted, |s| s.targets = vec![target("web-2", Outcome::Failed)]).await;
    let (first, second) = (scene.stored_spec().await, done(again(&scene).await));
    assert_eq!(second.retried, Some(coord_proto::rollout::Retried { rollout: first.id, kind: RolloutKind::Publish }));
}

#[tokio::test]
async fn a_retry_is_refused_where_none_failed_one_goes_on_or_a_task_waits() {
    let scene = Scene::new(&["web-1"]).await;
    assert!(refused(again(&scene).await).contains("no server failed in rollout 3-publish of release r3 by bob@laptop (succeeded)"));
    let scene = halted().await;
    scene.put(&Key::NodeCordon("web-2".parse().expect("node")), &CordonRecord { by: ann() }).await;
    assert!(refused(again(&scene).await).contains("no server failed"), "the one that did takes part in nothing");
    let scene = halted().await;
    scene.state(RolloutPhase::Running, |_| ()).await;
    let said = refused(again(&scene).await);
    assert!(
        said.contains("rollout 3-publish of release r3 by bob@laptop (running) goes on") && said.contains("rollout abort mootube"),
        "{said}"
    );
    let scene = halted().await;
    scene.task(3, "before", TaskState::Failed).await;
    assert!(refused(again(&scene).await).contains("coordctl migration resolve mootube r3"));
}

#[tokio::test]
async fn a_restart_forces_the_stable_release_with_its_own_policy() {
    let scene = Scene::new(&["web-1"]).await;
    let limit: Selector = "node=web-1".parse().expect("selector");
    let spec = done(anew(&scene, Options { limit: Some(limit.clone()), serial: Some("50%".parse().expect("serial")), ..options() }).await);
    assert_eq!((spec.kind, spec.seq, spec.force_run, &spec.limit), (RolloutKind::Restart, Seq(3), true, &Some(limit)));
    assert_eq!((spec.policy.promote, spec.policy.on_failure), (Promote::Auto, OnFailure::Halt));
    assert_eq!(spec.policy.serial.to_string(), "50%");
    assert!(already(anew(&scene, options()).await).contains("a restart of release r3 was asked for already by ann@laptop"));
    scene.state(RolloutPhase::Succeeded, |_| ()).await;
    let next = done(anew(&scene, options()).await);
    assert_ne!(next.id, spec.id, "once it has ended, another one is another one");
}

#[tokio::test]
async fn a_restart_needs_something_that_runs() {
    let scene = Scene::new(&[]).await;
    assert!(refused(anew(&scene, options()).await).contains("no server runs release r3"));
    let scene = Scene::new(&["web-1"]).await;
    scene.delete(&Key::Stable(app())).await;
    assert!(refused(anew(&scene, options()).await).contains("no release of mootube is stable yet"));
    scene.delete(&Key::Leader).await;
    assert!(refused(anew(&scene, options()).await).contains("no coordinator runs"));
}

#[tokio::test]
async fn of_two_operators_at_once_one_wins_and_the_other_is_told_by_whom_also_when_that_has_ended() {
    for ended in [false, true] {
        let scene = halted().await;
        // Bob's restart comes between ann's look and her commit.
        let (bobs, first) = (Scene { store: scene.store.another_client() }, std::cell::Cell::new(true));
        let meanwhile = async {
            bobs.spec(RolloutKind::Restart, 3, bob()).await;
            if ended {
                bobs.state(RolloutPhase::Halted, |s| s.targets = vec![target("web-2", Outcome::Failed)]).await;
            }
        };
        let meanwhile = std::cell::RefCell::new(Some(meanwhile));
        let between = |sight: &Sight| {
            let judged = retry(sight, &app(), &options());
            if first.replace(false) {
                let meanwhile = meanwhile.borrow_mut().take().expect("once");
                meanwhile.now_or_never().expect("the store in memory answers at once");
            }
            judged
        };
        let lost = refused(begin(&scene.store, &keys(), &app(), between).await);
        assert!(lost.contains("rollout 3-restart of release r3 by bob@laptop") && lost.contains("was asked for meanwhile"), "{lost}");
        assert_eq!(scene.stored_spec().await.by, bob());
        assert!(scene.events().await.is_empty(), "nothing of ann's is there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_and_happens_once() {
    let scene = halted().await;
    scene.store.drop_next_reply();
    let spec = done(again(&scene).await);
    assert_eq!((scene.stored_spec().await, scene.events().await.len()), (spec, 1));
}
