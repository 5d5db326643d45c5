use coord_proto::rollout::RolloutPhase as P;

use super::super::wish::{Next, PATIENCE, judge, wish};
use super::*;

/// A coordinator that obeys every wish, as the planner would, until it is dropped.
struct Obedient(tokio::task::JoinHandle<()>);

impl Drop for Obedient {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn obey(scene: &Scene) -> Obedient {
    let scene = Scene { store: scene.store.another_client() };
    let store = scene.shared();
    let mut mirrors = coord_proto::store::mirror::follow(store, keys().all(), Default::default());
    Obedient(tokio::spawn(async move {
        while mirrors.changed().await.is_ok() {
            let fleet = Fleet::from_mirror(&mirrors.borrow_and_update().clone(), &keys());
            let Some(view) = fleet.apps.get(&app()) else { continue };
            let (Some(wish), Some(state)) = (&view.wish, &view.state) else { continue };
            if wish.rollout != state.id || view.wish_revision.0 <= state.wish_revision || state.phase.ended() {
                continue;
            }
            let mut state = state.clone();
            state.wish_revision = view.wish_revision.0;
            match wish.verb {
                Verb::Pause => state.paused = true,
                Verb::Resume => state.paused = false,
                Verb::Promote => state.promoted = true,
                Verb::Abort => (state.aborted, state.turned_back, state.phase) = (true, true, P::RollingBack),
                Verb::Unknown => {}
            }
            scene.put(&Key::RolloutState(app()), &state).await;
        }
    }))
}

async fn going(phase: P, change: impl FnOnce(&mut RolloutState)) -> Scene {
    let scene = Scene::new(&["web-1"]).await;
    scene.publish(4, |_| ()).await;
    scene.spec(RolloutKind::Publish, 4, bob()).await;
    scene.state(phase, change).await;
    scene
}

async fn say(scene: &Scene, verb: Verb, by: &Actor) -> Result<String, OperateError> {
    wish(&scene.shared(), &keys(), &app(), verb, by).await.map(|granted| granted.words)
}

async fn judged(scene: &Scene, verb: Verb) -> Result<Judged<Next>, OperateError> {
    let sight = Sight::look(&scene.store, &keys()).await.expect("look");
    judge(&sight.fleet, &app(), verb)
}

#[tokio::test(start_paused = true)]
async fn every_verb_is_stored_obeyed_and_said_and_the_second_time_says_who_did_it() {
    for (verb, phase, first, second) in [
        (Verb::Pause, P::Running, "paused rollout 4-publish of release r4", "was paused already by ann@laptop (it is slow)"),
        (
            Verb::Promote,
            P::AwaitingPromotion,
            "promoted rollout 4-publish of release r4",
            "was promoted already by ann@laptop (it is slow)",
        ),
        (
            Verb::Abort,
            P::Running,
            "aborted rollout 4-publish of release r4",
            "was aborted already by ann@laptop (it is slow): rolling back",
        ),
    ] {
        let scene = going(phase, |_| ()).await;
        let _coordinator = obey(&scene);
        assert_eq!(say(&scene, verb, &ann()).await.expect("obeyed"), first);
        let stored: Wish = scene.get(&Key::RolloutWish(app())).await.expect("a wish");
        assert_eq!((stored.verb, stored.by), (verb, ann()));
        let before = scene.revision().await;
        let again = say(&scene, verb, &bob()).await.expect("no error");
        assert!(again.ends_with(second), "{again}");
        assert_eq!(scene.revision().await, before, "{verb:?}: the second time changes nothing");
        let events = scene.events().await;
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].what.as_str(), &events[0].by), (&*format!("asked to {} rollout 4-publish", verb.word()), &ann()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_an_abort_in_quick_succession_are_both_obeyed() {
    let scene = going(P::Running, |_| ()).await;
    let (ann, bob) = (ann(), bob());
    let coordinator = async {
        // Both have asked by then, or wait for the other.
        until_wished(&scene).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        obey(&scene)
    };
    let (paused, aborted, _coordinator) = tokio::join!(say(&scene, Verb::Pause, &ann), say(&scene, Verb::Abort, &bob), coordinator);
    assert_eq!(aborted.expect("obeyed"), "aborted rollout 4-publish of release r4");
    // Whoever came second waited for the first: nobody's wish was written over unread.
    let words = paused.unwrap_or_else(|e| e.to_string());
    assert!(words.contains("paused rollout") || words.contains("rolling back"), "{words}");
    let events = scene.events().await.len();
    let state: RolloutState = scene.get(&Key::RolloutState(app())).await.expect("a state");
    assert_eq!((state.aborted, state.paused), (true, events == 2), "each wish that was stored was obeyed");
}

async fn until_wished(scene: &Scene) {
    while scene.get::<Wish>(&Key::RolloutWish(app())).await.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_is_not_obeyed_yet_is_waited_for_and_not_overwritten() {
    let scene = going(P::Running, |_| ()).await;
    let first = Wish { rollout: "4-publish".parse().expect("rollout"), verb: Verb::Pause, by: bob() };
    scene.put(&Key::RolloutWish(app()), &first).await;
    assert!(matches!(judged(&scene, Verb::Abort).await, Ok(Judged::Do(Next::Wait))));
    let waited = say(&scene, Verb::Abort, &ann()).await.expect_err("nobody obeys");
    assert!(waited.to_string().contains("no coordinator obeyed within 1m"), "{waited}");
    assert_eq!(waited.failure().exit, Exit::TimedOut);
    assert_eq!(scene.get::<Wish>(&Key::RolloutWish(app())).await, Some(first));
    let coordinator = obey(&scene);
    assert_eq!(say(&scene, Verb::Abort, &ann()).await.expect("obeyed"), "aborted rollout 4-publish of release r4");
    drop(coordinator);
    let state: RolloutState = scene.get(&Key::RolloutState(app())).await.expect("a state");
    assert!(state.paused && state.aborted, "both: {state:?}");
}

#[tokio::test(start_paused = true)]
async fn the_wish_of_a_rollout_that_is_over_blocks_nobody() {
    let scene = going(P::Running, |_| ()).await;
    let old = Wish { rollout: "3-publish".parse().expect("rollout"), verb: Verb::Pause, by: bob() };
    scene.put(&Key::RolloutWish(app()), &old).await;
    let _coordinator = obey(&scene);
    assert_eq!(say(&scene, Verb::Pause, &ann()).await.expect("obeyed"), "paused rollout 4-publish of release r4");
}

#[tokio::test]
async fn where_a_verb_has_no_meaning_it_is_refused_with_what_is_going_on() {
    let what = "rollout 4-publish of release r4 by bob@laptop";
    for (verb, phase, words) in [
        (Verb::Promote, P::Running, "nothing of mootube waits for a promotion"),
        (Verb::Promote, P::Staging, "nothing of mootube waits for a promotion"),
        (Verb::Promote, P::Succeeded, "nothing of mootube is being rolled out"),
        (Verb::Pause, P::Finishing, "there is nothing ahead of"),
        (Verb::Pause, P::RollingBack, "there is nothing ahead of"),
        (Verb::Pause, P::Halted, "nothing of mootube is being rolled out"),
        (Verb::Resume, P::Succeeded, "nothing of mootube is being rolled out"),
        (Verb::Abort, P::RolledBack, "nothing of mootube is being rolled out"),
    ] {
        let scene = going(phase, |_| ()).await;
        let said = refused(judged(&scene, verb).await);
        assert!(said.contains(words) && said.contains(what) && said.contains(phase.words()), "{verb:?} in {phase:?}: {said}");
        assert!(said.contains("nothing was changed"), "{said}");
    }
}

#[tokio::test]
async fn what_is_so_already_is_no_error() {
    for (verb, phase, words) in [
        (Verb::Resume, P::Running, "rollout 4-publish of release r4 is not paused"),
        (Verb::Abort, P::RollingBack, "rollout 4-publish of release r4 is rolling back already, by itself: n1 failed"),
    ] {
        let scene = going(phase, |s| s.reason = "n1 failed".into()).await;
        assert_eq!(already(judged(&scene, verb).await), words);
    }
    let scene = going(P::Running, |s| s.paused = true).await;
    assert!(already(judged(&scene, Verb::Pause).await).ends_with("was paused already"));
    assert!(matches!(judged(&scene, Verb::Resume).await, Ok(Judged::Do(Next::Store(_)))));
}

#[tokio::test]
async fn without_a_coordinator_a_rollout_or_an_app_nothing_is_written() {
    let scene = going(P::Running, |_| ()).await;
    scene.delete(&Key::Leader).await;
    let before = scene.revision().await;
    let said = refused(judged(&scene, Verb::Pause).await);
    assert!(said.contains("no coordinator runs") && said.contains("systemctl start coordinator"), "{said}");
    assert!(refused(say(&scene, Verb::Abort, &ann()).await).contains("no coordinator runs"));
    let sight = Sight::look(&scene.store, &keys()).await.expect("look");
    assert!(refused(judge(&sight.fleet, &"other".parse().expect("app"), Verb::Pause)).contains("there is no rollout of other"));
    assert_eq!(scene.revision().await, before);
}

#[tokio::test]
async fn a_rollout_that_no_coordinator_has_seen_yet_can_be_paused_and_aborted() {
    let scene = Scene::new(&["web-1"]).await;
    scene.spec(RolloutKind::Publish, 4, bob()).await;
    for verb in [Verb::Pause, Verb::Abort] {
        assert!(matches!(judged(&scene, verb).await, Ok(Judged::Do(Next::Store(_)))), "{verb:?}");
    }
    assert!(refused(judged(&scene, Verb::Promote).await).contains("waiting for the coordinator"));
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_came_too_late_is_told() {
    let scene = going(P::Running, |_| ()).await;
    let by = ann();
    let (said, ()) = tokio::join!(say(&scene, Verb::Pause, &by), async {
        until_wished(&scene).await;
        scene.state(P::Succeeded, |_| ()).await;
    });
    assert!(refused(said).contains("is succeeded by now, so the wish to pause it came too late"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_told_at_once() {
    let scene = going(P::Running, |_| ()).await;
    scene.store.set_offline(true);
    let start = tokio::time::Instant::now();
    assert!(matches!(say(&scene, Verb::Pause, &ann()).await, Err(OperateError::Store(_))));
    assert!(start.elapsed() < PATIENCE);
}
