use coord_proto::coordinator::{HistoryRecord, LeaderRecord};
use coord_proto::ids::{Generation, Nonce, Seq};
use coord_proto::migration::Head;
use coord_proto::report::{Failure, FailureCode, HealthState, Running, Status, Step};
use coord_proto::rollout::{Actor, RolloutKind, RolloutPolicy, RolloutSpec, StableRecord, Target};

use super::*;

pub(super) fn app() -> AppName {
    "mootube".parse().expect("app")
}

pub(super) fn rollout() -> RolloutId {
    "7-a".parse().expect("rollout")
}

pub(super) fn release(id: &str) -> ReleaseId {
    id.parse().expect("release")
}

pub(super) fn follower() -> Follower {
    Follower::new(app(), rollout(), release("r7"), "alice".into())
}

pub(super) fn target(node: &str, batch: usize, outcome: Outcome) -> Target {
    Target { node: node.parse().expect("node"), batch, prior: Seq(6), told: true, outcome }
}

pub(super) fn state(phase: RolloutPhase, targets: Vec<Target>) -> RolloutState {
    RolloutState {
        id: rollout(),
        seq: Seq(7),
        release: release("r7"),
        phase,
        batch: 0,
        batches: 2,
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

pub(super) fn fleet(state: RolloutState) -> Fleet {
    let leader = LeaderRecord { host: "c".into(), pid: 1, instance: Nonce::fixed("l"), since: 0 };
    let mut fleet = Fleet { fresh: true, leader: Some(leader), ..Fleet::default() };
    let view = fleet.apps.entry(app()).or_default();
    view.stable = Some(StableRecord { seq: Seq(6), release: release("r6"), back_from: None });
    view.releases.insert(
        release("r6"),
        coord_proto::rollout::ReleaseRecord {
            seq: Seq(6),
            verdict: coord_proto::rollout::Verdict::Good,
            by: actor("bob"),
            notes: BTreeMap::new(),
            waits: None,
        },
    );
    view.spec = Some(spec(rollout(), "r7", "alice"));
    view.state = Some(state);
    fleet
}

pub(super) fn actor(user: &str) -> Actor {
    Actor { user: user.into(), host: "laptop".into(), at: 0, message: None }
}

pub(super) fn spec(id: RolloutId, name: &str, user: &str) -> RolloutSpec {
    RolloutSpec {
        id,
        app: app(),
        seq: Seq(7),
        release: release(name),
        kind: RolloutKind::Publish,
        policy: RolloutPolicy::default(),
        limit: None,
        force_run: false,
        retried: None,
        by: actor(user),
    }
}

pub(super) fn report(fleet: &mut Fleet, node: &str, words: &str, failed: Option<&str>) {
    let name: NodeName = node.parse().expect("node");
    let failure = failed.map(|text| Failure {
        seq: Seq(7),
        step: Step::Probing,
        code: FailureCode::Unhealthy,
        chain: vec![text.into()],
        hint: String::new(),
        log_tail: String::new(),
        fell_back: true,
        attempt: 0,
    });
    let status = Status {
        node: name.clone(),
        app: app(),
        accepted: Seq(7),
        floor: Seq(6),
        running: Some(Running { seq: Seq(6), release: release("r6") }),
        staged: None,
        after_done: None,
        step: Step::Probing,
        words: words.into(),
        health: HealthState::Healthy,
        generation: Generation(1),
        rollout: Some(rollout()),
        failure,
        digest: None,
        progress: None,
        restarted: 0,
        held: std::collections::BTreeMap::new(),
        free: None,
        since: 0,
    };
    fleet.nodes.entry(name).or_default().apps.entry(app()).or_default().status = Some(status);
}

fn ending(phase: RolloutPhase, outcomes: &[Outcome]) -> Option<Ending> {
    let targets = outcomes.iter().enumerate().map(|(i, outcome)| target(&format!("web-{}", i + 1), i, *outcome)).collect();
    follower().ending(&fleet(state(phase, targets)))
}

#[test]
fn every_phase_has_its_exit_code_or_goes_on() {
    use Outcome::{Done, Failed, Pending, RolledBack, Unreachable};
    let exit = |phase, outcomes: &[Outcome]| ending(phase, outcomes).map(|e| e.exit);
    assert_eq!(exit(RolloutPhase::Succeeded, &[Done, Done]), Some(Exit::Done));
    assert_eq!(exit(RolloutPhase::Succeeded, &[Done, Failed]), Some(Exit::Partial));
    assert_eq!(exit(RolloutPhase::Succeeded, &[Done, Unreachable]), Some(Exit::Partial));
    assert_eq!(exit(RolloutPhase::RolledBack, &[RolledBack, Pending]), Some(Exit::RolledBack));
    for phase in [RolloutPhase::Halted, RolloutPhase::Aborted, RolloutPhase::Superseded] {
        assert_eq!(exit(phase, &[Done, Failed]), Some(Exit::Failed), "{phase:?}");
    }
    assert_eq!(exit(RolloutPhase::AwaitingDecision, &[Pending]), Some(Exit::Decision));
    let goes_on = [RolloutPhase::Staging, RolloutPhase::Running, RolloutPhase::AwaitingPromotion, RolloutPhase::Finishing];
    for phase in goes_on.into_iter().chain([RolloutPhase::RollingBack, RolloutPhase::Unknown]) {
        assert_eq!(exit(phase, &[Done]), None, "{phase:?}");
    }
}

#[test]
fn the_closing_words_are_those_that_scripts_look_for() {
    let done = ending(RolloutPhase::Succeeded, &[Outcome::Done, Outcome::Done]).expect("ended");
    assert_eq!(done.words, "deployed as release r7 by alice");
    assert_eq!(done.recap, "2 servers in 2 batches: 2 done");
    let back = ending(RolloutPhase::RolledBack, &[Outcome::Failed, Outcome::Pending]).expect("ended");
    assert_eq!(back.words, "rolled back to release r6 by alice");
    assert_eq!(back.recap, "2 servers in 2 batches: 1 failed, 1 not reached");
    let waits = ending(RolloutPhase::AwaitingDecision, &[Outcome::Pending]).expect("waits");
    assert!(waits.hint.contains("coordctl migration resolve mootube r7 --as"), "{}", waits.hint);
}

#[test]
fn one_server_in_one_batch_is_said_so() {
    let mut alone = state(RolloutPhase::Succeeded, vec![target("web-1", 0, Outcome::Done)]);
    alone.batches = 1;
    assert_eq!(follower().ending(&fleet(alone)).expect("ended").recap, "1 server in 1 batch: 1 done");
}

#[test]
fn with_nothing_to_go_back_to_no_release_is_named() {
    let mut first = state(RolloutPhase::RolledBack, vec![target("web-1", 0, Outcome::Failed)]);
    first.previous_stable = Seq(0);
    let mut nowhere = first.clone();
    nowhere.targets[0].told = false;
    let ended = follower().ending(&fleet(nowhere)).expect("ended");
    assert_eq!(ended.words, "release r7, asked for by alice, was switched to nowhere: no server ran a release before");
    // A canary had its own release before, and none was stable.
    let ended = follower().ending(&fleet(first)).expect("ended");
    assert_eq!(ended.words, "release r7, asked for by alice, was taken back");
}

#[test]
fn a_server_that_waits_says_for_what_and_until_when() {
    let mut follower = follower();
    let mut fleet = fleet(state(RolloutPhase::Staging, vec![target("web-1", 0, Outcome::Pending)]));
    report(&mut fleet, "web-1", "waiting", Some("the shared file /srv/mootube/shared/.env is missing on this server; put it there"));
    let slot = fleet.nodes.values_mut().next().and_then(|n| n.apps.get_mut(&app())).and_then(|s| s.status.as_mut()).expect("status");
    slot.failure.as_mut().expect("failure").code = FailureCode::SharedFileMissing;
    let waits = "  web-1: waits: the shared file /srv/mootube/shared/.env is missing on this server; put it there; \
                 it counts as failed 10m after its batch opened";
    assert_eq!(follower.news(&fleet), ["staging", waits]);
    fleet.apps.values_mut().filter_map(|a| a.state.as_mut()).for_each(|s| s.targets[0].outcome = Outcome::Failed);
    let late = "  web-1: failed: the shared file /srv/mootube/shared/.env is missing on this server; put it there";
    assert_eq!(follower.news(&fleet), [late], "at the deadline");
}

#[test]
fn the_hint_names_the_release_whose_task_is_open() {
    let mut fleet = fleet(state(RolloutPhase::AwaitingDecision, vec![target("web-1", 0, Outcome::Pending)]));
    let head = Head { seq: Seq(6), release: "r6".parse().expect("release"), task: "before".parse().expect("task"), open: true };
    fleet.apps.values_mut().for_each(|app| app.head = Some(head.clone()));
    let waits = follower().ending(&fleet).expect("waits");
    assert!(waits.hint.contains("coordctl migration resolve mootube r6 --as"), "{}", waits.hint);
}

#[test]
fn one_line_per_server_names_why_it_failed_even_after_it_went_back() {
    let mut follower = follower();
    let mut fleet = fleet(state(RolloutPhase::Running, vec![target("web-1", 0, Outcome::Failed)]));
    report(&mut fleet, "web-1", "probing r7", Some("not healthy within 1s"));
    assert!(follower.news(&fleet).contains(&"  web-1: failed: not healthy within 1s".to_owned()));
    report(&mut fleet, "web-1", "running r6", None);
    fleet.apps.get_mut(&app()).expect("app").state.as_mut().expect("state").phase = RolloutPhase::RolledBack;
    let ended = follower.ending(&fleet).expect("ended");
    assert!(ended.servers.contains("web-1   failed   r6       healthy  not healthy within 1s"), "{}", ended.servers);
}

#[test]
fn the_end_of_a_failed_hooks_output_is_told_once() {
    let mut follower = follower();
    let mut fleet = fleet(state(RolloutPhase::Running, vec![target("web-1", 0, Outcome::Failed)]));
    report(&mut fleet, "web-1", "running r6", Some("the restart hook ended with status 1"));
    let slot = fleet.nodes.values_mut().next().and_then(|n| n.apps.get_mut(&app())).and_then(|s| s.status.as_mut()).expect("status");
    let printed: Vec<String> = (1..=30).map(|n| format!("line\u{7} {n}")).collect();
    slot.failure.as_mut().expect("failure").log_tail = printed.join("\n");
    let news = follower.news(&fleet);
    assert_eq!(news.iter().filter(|l| l.starts_with("    | line  ")).count(), 20, "{news:?}");
    assert_eq!(news.last().map(String::as_str), Some("    | line  30"));
    assert!(follower.news(&fleet).is_empty());
}

#[test]
fn news_are_told_once() {
    let mut follower = follower();
    let mut seen = fleet(state(RolloutPhase::Running, vec![target("web-1", 0, Outcome::Pending)]));
    report(&mut seen, "web-1", "switching to r7", None);
    assert_eq!(follower.news(&seen), ["batch 1 of 2", "  web-1: switching to r7"]);
    assert!(follower.news(&seen).is_empty());
    seen.fresh = false;
    assert_eq!(follower.news(&seen).len(), 1, "etcd is away: said once");
    assert!(follower.news(&seen).is_empty());
    seen.fresh = true;
    seen.leader = None;
    assert_eq!(follower.news(&seen), ["no coordinator leads at the moment; the rollout goes on when one does"]);
}

#[test]
fn a_word_of_another_rollout_is_not_told() {
    let mut follower = follower();
    let mut seen = fleet(state(RolloutPhase::Staging, vec![target("web-1", 0, Outcome::Pending)]));
    report(&mut seen, "web-1", "old words", None);
    let slot = seen.nodes.values_mut().next().and_then(|n| n.apps.get_mut(&app())).and_then(|s| s.status.as_mut()).expect("status");
    slot.rollout = Some("6-b".parse().expect("rollout"));
    assert_eq!(follower.news(&seen), ["staging"]);
}

#[test]
fn a_rollout_that_another_replaced_is_found_in_the_history_or_said_to_be_superseded() {
    let mut seen = fleet(state(RolloutPhase::Succeeded, vec![target("web-1", 0, Outcome::Done)]));
    let view = seen.apps.get_mut(&app()).expect("app");
    let finished = view.state.take().expect("state");
    view.spec = Some(spec("8-b".parse().expect("rollout"), "r8", "bob"));
    let lost = follower().ending(&seen).expect("superseded");
    assert_eq!(lost.exit, Exit::Failed);
    assert!(lost.words.contains("superseded by release r8, asked for by bob@laptop"), "{}", lost.words);
    seen.apps.get_mut(&app()).expect("app").history.insert(rollout(), HistoryRecord { spec: None, state: finished });
    assert_eq!(follower().ending(&seen).expect("finished").exit, Exit::Done);
}

#[test]
fn before_the_coordinator_wrote_a_state_nothing_has_ended() {
    let mut seen = fleet(state(RolloutPhase::Running, vec![]));
    seen.apps.get_mut(&app()).expect("app").state = None;
    assert_eq!(follower().ending(&seen), None);
    assert!(follower().news(&seen).is_empty());
}
