//! One file per record and version that was ever released: each must still be read, field by field.

use std::path::PathBuf;

use coord_proto::coordinator::{CordonRecord, HistoryRecord, LeaderRecord, StoresRecord};
use coord_proto::desired::Desired;
use coord_proto::event::AuditEvent;
use coord_proto::manifest::Manifest;
use coord_proto::migration::{Head, LockRecord, TaskRecord};
use coord_proto::record::{Record, RecordError, decode, encode};
use coord_proto::report::{Alive, NodeInfo, Status};
use coord_proto::rollout::{ActiveRollout, ReleaseRecord, RolloutSpec, RolloutState, SeqRecord, StableRecord, Wish};
use serde_json::Value;

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.json"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Read and written again, nothing is lost; with a field of a newer program, it is still read.
fn check<R: Record>(name: &str) {
    let bytes = fixture(name);
    let record: R = decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!(json(&encode(&record)), json(&bytes), "{name}");
    let mut newer = json(&bytes);
    newer["field_of_the_future"] = true.into();
    decode::<R>(newer.to_string().as_bytes()).unwrap_or_else(|e| panic!("{name} with an unknown field: {e:?}"));
    newer["version"] = (R::VERSION + 1).into();
    let refused = decode::<R>(newer.to_string().as_bytes()).err();
    assert!(matches!(refused, Some(RecordError::Version { .. })), "{name} of a newer version: {refused:?}");
}

#[test]
fn every_released_version_of_every_record_is_read() {
    check::<SeqRecord>("sequence-record.v1");
    check::<StableRecord>("stable-record.v1");
    check::<ReleaseRecord>("release-record.v1");
    check::<RolloutSpec>("rollout-spec.v1");
    check::<RolloutState>("rollout-state.v1");
    check::<Wish>("rollout-wish.v1");
    check::<HistoryRecord>("finished-rollout.v1");
    check::<Head>("migration-head.v1");
    check::<TaskRecord>("migration-record.v1");
    check::<LockRecord>("migration-lock.v1");
    check::<NodeInfo>("node-info.v1");
    check::<Alive>("presence.v1");
    check::<Desired>("desired-record.v1");
    check::<Status>("status.v1");
    check::<AuditEvent>("audit-event.v1");
    check::<LeaderRecord>("leader-record.v1");
    check::<StoresRecord>("artifact-stores.v1");
    check::<CordonRecord>("cordon.v1");
}

/// A policy of a newer program inside a record leaves the record readable, for coordinators and agents.
#[test]
fn a_rollout_with_a_newer_policy_is_still_read() {
    let mut spec = json(&fixture("rollout-spec.v1"));
    spec["policy"]["key_of_the_future"] = 1.into();
    spec["policy"]["promote"] = "when-quiet".into();
    let bytes = spec.to_string();
    assert_eq!(decode::<RolloutSpec>(bytes.as_bytes()).expect("read").id.as_str(), "r7");
    assert_eq!(decode::<ActiveRollout>(bytes.as_bytes()).expect("read").seq.0, 7);
    let mut finished = json(&fixture("finished-rollout.v1"));
    finished["spec"] = spec;
    decode::<HistoryRecord>(finished.to_string().as_bytes()).expect("read");
}

#[test]
fn every_released_version_of_the_manifest_is_read() {
    let bytes = fixture("manifest.v1");
    let manifest = Manifest::decode(&bytes).expect("read");
    assert_eq!(json(&manifest.encode()), json(&bytes));
}
