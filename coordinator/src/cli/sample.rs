//! A fleet for the tests of screens: two servers, two releases, a rollout that waits; of the records that are proto's fixtures.

use coord_proto::record::{Record, decode};
use coord_proto::rollout::{ReleaseRecord, Verdict};

use crate::view::{App, Fleet, Node, NodeApp};

macro_rules! fixture {
    ($name:literal) => {
        record(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/fixtures/", $name, ".v1.json")))
    };
}
pub(super) use fixture;

/// One record of them.
pub(super) fn record<R: Record>(bytes: &[u8]) -> R {
    decode(bytes).expect("proto's tests read it too")
}

/// web-1 failed release 20261124101112 and went back to 20261123101112; web-2 has registered and is gone.
pub(super) fn fleet() -> Fleet {
    let mut fleet = Fleet { fresh: true, leader: Some(fixture!("leader-record")), ..Fleet::default() };
    let app = "mootube".parse().expect("app");
    let (first, second) = ("web-1".parse().expect("node"), "web-2".parse().expect("node"));
    let node = Node { info: Some(fixture!("node-info")), alive: Some(fixture!("presence")), present: true, ..Node::default() };
    let slot = NodeApp { status: Some(fixture!("status")), desired: Some(fixture!("desired-record")), unreadable: false };
    fleet.nodes.insert(second, Node { present: false, alive: None, cordoned: true, ..node.clone() });
    fleet.nodes.insert(first, Node { apps: [(app, slot)].into(), ..node });
    let release: ReleaseRecord = fixture!("release-record");
    let older = ReleaseRecord { seq: coord_proto::ids::Seq(6), verdict: Verdict::Bad, ..release.clone() };
    let mootube = App {
        stable: Some(fixture!("stable-record")),
        spec: Some(fixture!("rollout-spec")),
        state: Some(fixture!("rollout-state")),
        tasks: vec![fixture!("migration-record")],
        releases: [("20261124101112".parse().expect("release"), release), ("20261123101112".parse().expect("release"), older)].into(),
        ..App::default()
    };
    fleet.apps.insert("mootube".parse().expect("app"), mootube);
    fleet
}
