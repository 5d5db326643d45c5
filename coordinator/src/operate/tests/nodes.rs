use super::*;

fn web() -> NodeName {
    "web-1".parse().expect("node")
}

async fn say(scene: &Scene, verb: NodeVerb, by: &Actor) -> Result<Judged<()>, OperateError> {
    mark(&scene.store, &keys(), &web(), verb, by).await
}

#[tokio::test]
async fn a_cordon_is_set_once_with_who_and_why_and_taken_off_once() {
    let scene = Scene::new(&["web-1"]).await;
    assert_eq!(say(&scene, NodeVerb::Cordon, &ann()).await.expect("cordoned"), Judged::Do(()));
    let cordon: CordonRecord = scene.get(&Key::NodeCordon(web())).await.expect("a mark");
    assert_eq!(cordon.by, ann());
    assert_eq!(already(say(&scene, NodeVerb::Cordon, &bob()).await), "web-1 is cordoned already by ann@laptop (it is slow)");
    assert_eq!(say(&scene, NodeVerb::Uncordon, &bob()).await.expect("uncordoned"), Judged::Do(()));
    assert_eq!(already(say(&scene, NodeVerb::Uncordon, &bob()).await), "web-1 is not cordoned");
    let said: Vec<(String, Actor)> = scene.events().await.into_iter().map(|e| (e.what, e.by)).collect();
    assert!(said.contains(&("cordoned web-1".into(), ann())) && said.contains(&("uncordoned web-1".into(), bob())), "{said:?}");
    assert_eq!(said.len(), 2, "what changed nothing leaves no event");
}

#[tokio::test]
async fn a_server_that_is_there_is_not_forgotten_and_one_that_is_gone_leaves_nothing() {
    let scene = Scene::new(&["web-1", "web-2"]).await;
    say(&scene, NodeVerb::Cordon, &ann()).await.expect("cordoned");
    assert!(refused(say(&scene, NodeVerb::Forget, &ann()).await).contains("web-1 is there"));
    scene.delete(&Key::NodeAlive(web())).await;
    assert_eq!(say(&scene, NodeVerb::Forget, &ann()).await.expect("forgotten"), Judged::Do(()));
    let left = scene.store.list(&keys().all()).await.expect("list").entries;
    let left: Vec<&str> = left.iter().map(|e| e.key.as_str()).filter(|k| k.contains("/web-1")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(already(say(&scene, NodeVerb::Forget, &bob()).await), "web-1 was forgotten already by ann@laptop (it is slow)");
    let stranger = "web-9".parse().expect("node");
    let unknown = mark(&scene.store, &keys(), &stranger, NodeVerb::Forget, &ann()).await;
    assert!(refused(unknown).contains("there is no server web-9"));
}

#[tokio::test]
async fn a_server_that_comes_back_while_it_is_forgotten_is_kept() {
    let scene = Scene::new(&["web-1"]).await;
    scene.delete(&Key::NodeAlive(web())).await;
    let sight = Sight::look(&scene.store, &keys()).await.expect("look");
    let forgotten = super::super::node::judge(&sight, &keys(), &web(), NodeVerb::Forget, &ann()).expect("judged");
    scene.server("web-1", 3, 2).await;
    let Judged::Do(transaction) = forgotten else { panic!("{forgotten:?}") };
    assert!(!scene.store.commit(transaction).await.expect("commit").committed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled() {
    let scene = Scene::new(&["web-1"]).await;
    scene.store.drop_next_reply();
    assert_eq!(say(&scene, NodeVerb::Cordon, &ann()).await.expect("cordoned"), Judged::Do(()));
    assert_eq!(scene.events().await.len(), 1);
}
