use super::*;
use crate::limits::RECORD_BYTES_MAX;
use crate::record;
use crate::rollout::{RolloutPhase, RolloutState};

fn state(targets: Vec<Target>) -> RolloutState {
    RolloutState {
        id: "r7".parse().expect("id"),
        seq: Seq(7),
        release: "r7".parse().expect("release"),
        phase: RolloutPhase::Running,
        batch: 0,
        batches: targets.last().map_or(0, |t| t.batch + 1),
        targets,
        max_failed: 0,
        max_unreachable: 0,
        batch_elapsed: 0,
        whole: true,
        previous_stable: Seq(6),
        reason: String::new(),
        generation: 0,
        started_at: 0,
        ended_at: None,
        wish_revision: 0,
        paused: false,
        promoted: false,
        turned_back: false,
        aborted: false,
    }
}

/// Servers with names of 28 characters, in batches of `serial`.
fn fleet(servers: usize, serial: usize) -> Vec<Target> {
    let outcomes = [Outcome::Done, Outcome::Failed, Outcome::Unreachable, Outcome::RolledBack, Outcome::Pending, Outcome::Unknown];
    let target = |n: usize| Target {
        node: format!("web-{n:05}.eu-west-1.example.com").chars().take(28).collect::<String>().parse().expect("node"),
        batch: n / serial,
        prior: Seq(if n.is_multiple_of(1000) { 5 } else { 6 }),
        told: n.is_multiple_of(3),
        outcome: outcomes[n % outcomes.len()],
    };
    (0..servers).map(target).collect()
}

#[test]
fn ten_thousand_servers_are_well_below_a_record_s_limit_and_come_back_as_they_were() {
    for (serial, most) in [(1, 420_000), (100, 320_000)] {
        let state = state(fleet(10_000, serial));
        let bytes = record::encode(&state);
        assert!(bytes.len() < most && most < RECORD_BYTES_MAX, "serial {serial}: {} bytes", bytes.len());
        assert_eq!(record::decode::<RolloutState>(&bytes).expect("read back"), state);
    }
}

#[test]
fn no_servers_are_no_servers() {
    let state = state(vec![]);
    assert_eq!(record::decode::<RolloutState>(&record::encode(&state)).expect("read back"), state);
}

#[test]
fn columns_of_different_lengths_are_refused() {
    let good = r#"{"nodes":"a b","outcomes":"Dp","batches":[[0,2]],"priors":[[6,1],[5,1]]}"#;
    let read = |text: &str| deserialize(&mut serde_json::Deserializer::from_str(text));
    assert_eq!(read(good).expect("good").len(), 2);
    for (from, to) in [("\"a b\"", "\"a\""), ("\"Dp\"", "\"D\""), ("[[0,2]]", "[[0,3]]"), ("[5,1]", "[5,18446744073709551615]")] {
        let error = read(&good.replace(from, to)).expect_err(to).to_string();
        assert!(error.contains("not equally long"), "{to}: {error}");
    }
}
