//! Servers that are away while a release is rolled out to ten: they are counted apart from those that fail. Real etcd, real processes.

use anyhow::{Context as _, Result, ensure};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::report::Step;
use coord_proto::rollout::{Outcome, RolloutPhase, RolloutState};
use coord_proto::store::Store as _;
use coord_tests::faulty::{EXIT_9, Faulty, Policy, TEN};
use coord_tests::fleet::Fleet;
use coord_tests::wait::until;
use nix::sys::signal::Signal;

/// Of agents that are to be missed soon.
const SHORT_LEASE: &str = "[etcd]\nlease_ttl = \"2s\"\n";

fn start() -> Result<Faulty> {
    Faulty::start_with(|fleet| TEN.iter().try_for_each(|name| fleet.configure_agent(name, SHORT_LEASE)))
}

fn wait_away(fleet: &Fleet, name: &str) -> Result<()> {
    let alive = KeySpace::default().key(&Key::NodeAlive(name.parse()?));
    until(format_args!("{name} is away"), || Ok(fleet.runtime().block_on(fleet.store().read(&alive))?.entry.is_none()))
}

fn with_outcome(state: &RolloutState, outcome: Outcome) -> Vec<&str> {
    state.targets.iter().filter(|t| t.outcome == outcome).map(|t| t.node.as_str()).collect()
}

fn signal(fleet: &Fleet, name: &str, signal: Signal) -> Result<()> {
    fleet.agent(name).context("it runs")?.signal(signal)
}

#[test]
fn unreachable_and_failing_servers_within_their_budgets_abort_nothing_and_the_unreachable_follow() -> Result<()> {
    let mut faulty = start()?;
    faulty.configure("max_unreachable = 2\nmax_failed = 1\non_failure = \"rollback\"\n", "")?;
    // One is away from the start, one freezes in its own batch, and one fails.
    faulty.fleet.crash_agent("web-09")?;
    wait_away(&faulty.fleet, "web-09")?;
    faulty.spoil("web-04", "two", "restart", EXIT_9)?;
    faulty.fleet.hold("web-03", "two.restart.1")?;
    let publishing = faulty.fleet.start_publish(faulty.tree.path(), "two", &[])?;
    faulty.fleet.wait_status("web-03", "is being restarted", |s| s.step == Step::Restarting)?;
    signal(&faulty.fleet, "web-03", Signal::SIGSTOP)?;
    let said = publishing.wait()?.expect_code(8)?;
    ensure!(said.says("7 done, 1 failed, 2 unreachable"), "{said:?}");
    ensure!(said.says("deployed as release two by tester"), "{said:?}");
    let state = faulty.expect_ended("two", RolloutPhase::Succeeded)?;
    ensure!(with_outcome(&state, Outcome::Unreachable) == ["web-03", "web-09"], "{state:?}");
    ensure!(with_outcome(&state, Outcome::Failed) == ["web-04"], "{state:?}");
    ensure!(state.reason == "within the budgets, without web-03, web-04, web-09", "{state:?}");
    let status = faulty.fleet.coordctl(&["rollout", "status", coord_tests::fleet::APP])?.expect_code(0)?;
    ensure!(status.says("web-09") && status.says("unreachable"), "{status:?}");
    // Both get the release when they are back, without a word of anybody; the one that failed keeps what works there.
    faulty.fleet.let_go("web-03", "two.restart.1")?;
    signal(&faulty.fleet, "web-03", Signal::SIGCONT)?;
    faulty.fleet.start_agent("web-09")?;
    for name in TEN.iter().filter(|name| **name != "web-04") {
        faulty.fleet.wait_current(name, "two")?;
    }
    faulty.fleet.wait_current("web-04", "base")?;
    let starts = faulty.fleet.migration_starts(&TEN, "two");
    ensure!(starts.len() == 1, "{starts:?}");
    Ok(())
}

/// Three are away, two are tolerated: one before it began, and two that freeze in the first and the second batch.
fn one_too_many(faulty: &mut Faulty, policy: Policy) -> Result<()> {
    let release = format!("away-{}", policy.word());
    faulty.configure(&format!("max_unreachable = 2\nmax_failed = 9\non_failure = \"{}\"\n", policy.word()), "")?;
    faulty.fleet.crash_agent("web-10")?;
    wait_away(&faulty.fleet, "web-10")?;
    let frozen = ["web-02", "web-07"];
    for name in frozen {
        faulty.fleet.hold(name, &format!("{release}.restart.1"))?;
    }
    let publishing = faulty.fleet.start_publish(faulty.tree.path(), &release, &[])?;
    for name in frozen {
        faulty.fleet.wait_status(name, "is being restarted", |s| s.step == Step::Restarting)?;
        signal(&faulty.fleet, name, Signal::SIGSTOP)?;
    }
    let said = publishing.wait()?.expect_code(policy.code())?;
    ensure!(said.says("web-02, web-07, web-10 cannot be reached; 2 tolerated"), "{said:?}");
    let state = faulty.expect_ended(&release, policy.phase())?;
    ensure!(with_outcome(&state, Outcome::Failed).is_empty(), "nobody failed: {state:?}");
    ensure!(with_outcome(&state, Outcome::Unreachable) == ["web-02", "web-07", "web-10"], "{state:?}");
    for name in frozen {
        faulty.fleet.let_go(name, &format!("{release}.restart.1"))?;
        signal(&faulty.fleet, name, Signal::SIGCONT)?;
    }
    faulty.fleet.start_agent("web-10")?;
    let base = faulty.base.clone();
    match policy {
        // Whoever was told goes on with it, whoever was not keeps what it has.
        Policy::Halt => {
            TEN[..9].iter().try_for_each(|name| faulty.fleet.wait_current(name, &release))?;
            faulty.expect_none_began(&["web-10"], &release, "drain")?;
            faulty.fleet.wait_current("web-10", &base)
        }
        // Those that come back go back.
        Policy::Rollback => TEN.iter().try_for_each(|name| faulty.fleet.wait_current(name, &base)),
    }
}

#[test]
fn one_unreachable_server_too_many_stops_the_rollout_under_either_policy() -> Result<()> {
    let mut faulty = start()?;
    for policy in [Policy::Rollback, Policy::Halt] {
        one_too_many(&mut faulty, policy).with_context(|| format!("in the case {policy:?}"))?;
        faulty.fleet.wait_leader()?;
    }
    Ok(())
}
