//! The fold: what can be read, and what cannot.

use coord_proto::coordinator::StoresRecord;
use coord_proto::ids::Generation;
use coord_proto::record::encode;

use super::*;

fn mirror(entries: &[(Key, Vec<u8>)]) -> Mirror {
    let keys = KeySpace::default();
    let entry = |(key, value): &(Key, Vec<u8>)| {
        let key = keys.key(key);
        let entry = Entry { key: key.clone(), value: value.clone(), created: Revision(1), modified: Revision(7), lease: None };
        (key, entry)
    };
    Mirror { entries: entries.iter().map(entry).collect(), revision: Revision(9), fresh: true, ready: true, restored: false }
}

fn app() -> AppName {
    "mootube".parse().expect("app")
}

fn node() -> NodeName {
    "n1".parse().expect("node")
}

fn desired() -> Desired {
    Desired {
        node: node(),
        app: app(),
        run: Seq(3),
        stage: None,
        after: None,
        generation: Generation(1),
        rollout: None,
        may_migrate: false,
        restart: 0,
        attempt: 0,
    }
}

fn fold(entries: &[(Key, Vec<u8>)]) -> Fleet {
    Fleet::from_mirror(&mirror(entries), &KeySpace::default())
}

#[test]
fn records_land_where_they_belong() {
    let stores = StoresRecord { urls: vec!["https://c1".into()] };
    let fleet =
        fold(&[(Key::Desired(node(), app()), encode(&desired())), (Key::Stores, encode(&stores)), (Key::NodeCordon(node()), vec![])]);
    assert_eq!(fleet.node_app(&node(), &app()).and_then(|s| s.desired.clone()), Some(desired()));
    assert_eq!((fleet.stores.as_slice(), fleet.problems.as_slice()), (["https://c1".to_owned()].as_slice(), [].as_slice()));
    assert!(fleet.nodes[&node()].cordoned, "the key's existence counts, whatever it holds");
    assert_eq!((fleet.revision, fleet.fresh), (Revision(9), true));
}

#[test]
fn what_cannot_be_read_is_a_named_problem_and_marks_what_hangs_on_it() {
    let newer = br#"{"version":99}"#.to_vec();
    for key in [Key::Desired(node(), app()), Key::Status(node(), app())] {
        let fleet = fold(&[(key.clone(), newer.clone())]);
        assert!(fleet.nodes[&node()].apps[&app()].unreadable, "{key:?}");
        assert!(fleet.problems[0].error.contains("version 99"), "{:?}", fleet.problems);
    }
    let of_app = [
        Key::Stable(app()),
        Key::RolloutSpec(app()),
        Key::RolloutState(app()),
        Key::RolloutWish(app()),
        Key::MigrationHead(app()),
        Key::MigrateLock(app()),
        Key::Migration(app(), "r1".parse().expect("release"), "before".parse().expect("task")),
    ];
    for key in of_app {
        assert!(fold(&[(key.clone(), newer.clone())]).apps[&app()].unreadable, "{key:?}");
    }
    let fleet = fold(&[(Key::NodeInfo(node()), newer)]);
    assert!(fleet.nodes[&node()].unreadable);
}

#[test]
fn a_manifest_that_matters_and_cannot_be_read_is_a_problem_and_the_others_are_not_parsed() {
    let entries = [
        (Key::Desired(node(), app()), encode(&desired())),
        (Key::AppSeq(app()), br#"{"version":1,"seq":4,"created":0}"#.to_vec()),
        (Key::Manifest(app(), Seq(3)), b"junk".to_vec()),
        (Key::Manifest(app(), Seq(2)), b"junk nobody runs".to_vec()),
    ];
    let fleet = fold(&entries);
    let keys: Vec<&str> = fleet.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, [KeySpace::default().key(&Key::Manifest(app(), Seq(3)))]);
}

#[test]
fn an_unreadable_presence_is_not_an_absent_server() {
    let fleet = fold(&[(Key::NodeAlive(node()), b"{}".to_vec())]);
    assert!(fleet.nodes[&node()].present, "its lease lives");
}

/// `node` is the server's own name, whatever its configuration calls so.
#[test]
fn a_label_asked_for_is_the_one_in_the_map_of_all() {
    let labels = [("node", "another"), ("role", "web")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let info = NodeInfo { node: node(), labels, addresses: vec![], agent_version: "0".into(), apps: vec![], since: 0 };
    let server = Node { info: Some(info), ..Node::default() };
    assert_eq!(server.labels().len(), 2);
    assert!(server.labels().iter().all(|(name, value)| server.label(name) == Some(value)));
    assert_eq!(server.label("node"), Some("n1"));
    assert_eq!(server.label("zone"), None);
}

fn stored(seq: u64) -> Vec<u8> {
    let digest = coord_proto::ids::Digest::of(b"x");
    let json = format!(
        r#"{{"version":1,"app":"mootube","environment":"e","release":"r{seq}","seq":{seq},"floor":0,"created":{seq},"revision":"x",
        "artifact":{{"digest":"{digest}","compression":"zstd","size":1,"unpacked_size":1,"entries":1,"piece_size":4194304,
        "pieces":["{digest}"]}},"targets":{{}}}}"#
    );
    coord_proto::trust::Envelope { manifest: json.into_bytes(), signatures: vec![] }.encode()
}

/// Puts and deletions as a store makes them, each at its own revision.
fn change(mirror: &mut Mirror, key: &Key, value: Option<Vec<u8>>) {
    mirror.revision.0 += 1;
    let (key, modified) = (KeySpace::default().key(key), mirror.revision);
    match value {
        None => drop(mirror.entries.remove(&key)),
        Some(value) => {
            let created = mirror.entries.get(&key).map_or(modified, |old| old.created);
            mirror.entries.insert(key.clone(), Entry { key, value, created, modified, lease: None });
        }
    }
}

#[test]
fn a_view_that_is_followed_is_the_one_made_anew() {
    let (keys, mut followed, mut mirror) = (KeySpace::default(), Followed::default(), mirror(&[]));
    let desired = |run| Some(encode(&Desired { run: Seq(run), ..desired() }));
    let release: ReleaseId = "r".parse().expect("release");
    let stable = |seq| Some(encode(&StableRecord { seq: Seq(seq), release: release.clone(), back_from: None }));
    let newer = || Some(br#"{"version":99}"#.to_vec());
    let (told, manifest) = (Key::Desired(node(), app()), |seq| Key::Manifest(app(), Seq(seq)));
    let story = [
        (told.clone(), desired(3)),
        (manifest(3), Some(stored(3))),
        (manifest(4), Some(stored(4))),
        (told.clone(), desired(4)),
        (Key::Stable(app()), stable(3)),
        (Key::NodeCordon(node()), Some(vec![])),
        (told.clone(), newer()),
        (told.clone(), desired(4)),
        (Key::Stable(app()), newer()),
        (Key::Stable(app()), stable(4)),
        (Key::NodeCordon(node()), None),
        (told.clone(), None),
        (told, desired(3)),
    ];
    for (at, (key, value)) in story.into_iter().enumerate() {
        change(&mut mirror, &key, value);
        assert_eq!(*followed.fleet(&mirror, &keys), Fleet::from_mirror(&mirror, &keys), "after change {at}");
    }
    // Several at once: one goes as another one comes.
    change(&mut mirror, &Key::Desired(node(), app()), None);
    change(&mut mirror, &Key::NodeCordon(node()), Some(vec![]));
    mirror.fresh = false;
    assert_eq!(*followed.fleet(&mirror, &keys), Fleet::from_mirror(&mirror, &keys));
}
