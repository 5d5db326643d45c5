//! A release that fails on one of ten servers, at every step from its migration on, under both policies of `on_failure`, in the first
//! batch, in the middle, and in the last one. Before that: `staging.rs`. Real etcd, real processes.

use anyhow::{Context as _, Result, ensure};
use coord_proto::keys::Key;
use coord_proto::migration::TaskState;
use coord_proto::report::{HealthState, Status};
use coord_proto::rollout::{Outcome, ReleaseRecord, RolloutPhase, Verdict};
use coord_tests::faulty::{BATCHES, EXIT_9, Faulty, Policy, TEN};
use coord_tests::fleet::{APP, app};
use coord_tests::wait::until;

/// The server that fails, by batch: the last one is the very last of all.
const VICTIMS: [usize; 3] = [1, 3, 9];

/// A step at which the server fails.
struct Failing {
    step: &'static str,
    /// The phase of the hook or check that is spoiled, and how.
    phase: &'static str,
    script: &'static str,
    /// What the operator reads.
    words: &'static str,
}

const fn hook(phase: &'static str, words: &'static str) -> Failing {
    Failing { step: phase, phase, script: EXIT_9, words }
}

const ACTIVATION: [Failing; 5] = [
    hook("drain", "the drain hook `bin/step sh bin/fault` ended with status 9"),
    // It is gone between the drain and the switch.
    Failing { step: "switch", phase: "drain", script: "rm -rf \"$COORD_RELEASE_PATH\"\n", words: "it is not on this server" },
    hook("restart", "the restart hook `bin/step sh bin/fault` ended with status 9"),
    Failing {
        step: "health",
        phase: "health",
        script: "echo no database; exit 1\n",
        words: "not healthy within 2s: exit status 1: no database",
    },
    hook("undrain", "the undrain hook `bin/step sh bin/fault` ended with status 9"),
];

fn in_case(case: &str) -> impl Fn() -> String {
    let case = case.to_owned();
    move || format!("in the case {case}")
}

/// One server fails at one step, in one batch: the operator reads why, and all servers are where the policy says.
fn fails_at(faulty: &Faulty, failing: &Failing, policy: Policy, batch: usize) -> Result<()> {
    let (release, victim) = (format!("{}-{}-{batch}", failing.step, policy.word()), TEN[VICTIMS[batch]]);
    faulty.configure(&format!("on_failure = \"{}\"\n", policy.word()), "")?;
    faulty.spoil(victim, &release, failing.phase, failing.script)?;
    let said = faulty.publish(&release)?.expect_code(policy.code())?;
    ensure!(said.says(&format!("{victim} failed; 0 tolerated; {victim}: ")) && said.says(failing.words), "{said:?}");
    let ended = match policy {
        Policy::Halt => format!("release {release} halted: "),
        Policy::Rollback => format!("rolled back to release {} by tester", faulty.base),
    };
    ensure!(said.says(&ended), "not `{ended}`: {said:?}");
    let state = faulty.expect_ended(&release, policy.phase())?;
    ensure!(state.batch == batch, "{state:?}");
    let of_victim = &state.targets[VICTIMS[batch]];
    ensure!(of_victim.node.as_str() == victim && of_victim.outcome == Outcome::Failed, "{of_victim:?}");
    faulty.expect_condemned(&release)?;
    // Whose turn had not come has seen nothing of it.
    let later = &TEN[BATCHES[batch].end..];
    faulty.expect_none_began(later, &release, "drain")?;
    if policy == Policy::Rollback {
        return faulty.expect_base_everywhere();
    }
    faulty.wait_fell_back(victim)?;
    let earlier = TEN[..BATCHES[batch].end].iter().filter(|name| **name != victim);
    earlier.clone().try_for_each(|name| faulty.fleet.wait_current(name, &release))?;
    later.iter().try_for_each(|name| faulty.fleet.wait_current(name, &faulty.base))?;
    faulty.take_back()
}

#[test]
fn a_failure_at_any_step_leaves_no_mixed_fleet_under_rollback_and_names_it_under_halt() -> Result<()> {
    let faulty = Faulty::start()?;
    for (number, failing) in ACTIVATION.iter().enumerate() {
        for policy in Policy::ALL {
            // Each policy meets each batch.
            let batch = (number + usize::from(policy == Policy::Rollback)) % BATCHES.len();
            let case = format!("{} fails under {policy:?} in batch {}", failing.step, batch + 1);
            fails_at(&faulty, failing, policy, batch).with_context(in_case(&case))?;
        }
    }
    Ok(())
}

/// A server on which the restart fails, and then the way back at this leg of the release before, again and again.
fn fails_on_the_way_back(faulty: &mut Faulty, leg: &str, policy: Policy) -> Result<()> {
    let (release, victim) = (format!("back-{leg}-{}", policy.word()), TEN[3]);
    faulty.configure(&format!("on_failure = \"{}\"\n", policy.word()), "")?;
    faulty.spoil(victim, &release, "restart", EXIT_9)?;
    faulty.spoil(victim, &faulty.base, leg, EXIT_9)?;
    let said = faulty.publish(&release)?.expect_code(4)?;
    ensure!(said.says(&format!("{victim} failed; 0 tolerated; {victim}: the restart hook")), "{said:?}");
    // What was told to return and did not is named; it is no rollback that came to its end.
    ensure!(said.says(&format!("{victim} did not return")) == (policy == Policy::Rollback), "{said:?}");
    let state = faulty.expect_ended(&release, RolloutPhase::Halted)?;
    ensure!(state.turned_back == (policy == Policy::Rollback), "{state:?}");
    faulty.expect_condemned(&release)?;
    let stranded = |s: &Status| s.health == HealthState::Unhealthy && s.failure.as_ref().is_some_and(|f| !f.fell_back);
    faulty.fleet.wait_status(victim, "says that a person is needed", stranded)?;
    faulty.expect_none_began(&TEN[BATCHES[1].end..], &release, "drain")?;
    if policy == Policy::Rollback {
        let others = TEN.iter().filter(|name| **name != victim);
        others.clone().try_for_each(|name| faulty.fleet.wait_current(name, &faulty.base))?;
    }
    faulty.renew(&format!("after-{leg}-{}", policy.word()))?;
    let well = |s: &Status| s.health == HealthState::Healthy && s.failure.is_none();
    faulty.fleet.wait_status(victim, "is well again", well)?;
    Ok(())
}

#[test]
fn a_server_that_fails_on_its_way_back_is_named_and_takes_the_next_release() -> Result<()> {
    let mut faulty = Faulty::start()?;
    for (leg, policy) in [("restart", Policy::Halt), ("restart", Policy::Rollback), ("health", Policy::Rollback), ("undrain", Policy::Halt)]
    {
        let case = format!("{leg} fails on the way back under {policy:?}");
        fails_on_the_way_back(&mut faulty, leg, policy).with_context(in_case(&case))?;
    }
    Ok(())
}

/// The migration fails, or nobody knows how it ended until a person says that it failed.
fn migration_fails(faulty: &Faulty, policy: Policy, script: &str, undecided: bool) -> Result<()> {
    let release = format!("migration-{}-{}", if undecided { "undecided" } else { "failed" }, policy.word());
    faulty.configure(&format!("on_failure = \"{}\"\n", policy.word()), "")?;
    TEN.iter().try_for_each(|name| faulty.spoil(name, &release, "before", script))?;
    if undecided {
        let said = faulty.publish(&release)?.expect_code(7)?;
        ensure!(said.says(&format!("migration resolve {APP} {release} --as")), "{said:?}");
        faulty.fleet.coordctl(&["migration", "resolve", APP, &release, "--as", "failed"])?.expect_code(0)?;
        faulty.fleet.wait_rollout("it has ended", |s| s.phase.ended())?;
    } else {
        let said = faulty.publish(&release)?.expect_code(policy.code())?;
        ensure!(said.says("the task `before` failed on web-0") && said.says("exit status 9"), "{said:?}");
    }
    let state = faulty.expect_ended(&release, policy.phase())?;
    ensure!(state.batch == 0, "{state:?}");
    faulty.expect_none_began(&TEN, &release, "drain")?;
    faulty.expect_base_everywhere()?;
    faulty.expect_condemned(&release)?;
    let record = faulty.fleet.migration(&release)?.context("a migration")?;
    ensure!(record.state == TaskState::Failed && record.attempt == 1, "{record:?}");
    let starts = faulty.fleet.migration_starts(&TEN, &release);
    ensure!(starts.len() == 1, "{starts:?}");
    if policy == Policy::Halt { faulty.take_back() } else { Ok(()) }
}

#[test]
fn a_migration_that_fails_runs_once_and_switches_no_server() -> Result<()> {
    let faulty = Faulty::start()?;
    for policy in Policy::ALL {
        for (script, undecided) in [(EXIT_9, false), ("kill -9 $$\n", true)] {
            let case = format!("`{}` under {policy:?}", script.trim());
            migration_fails(&faulty, policy, script, undecided).with_context(in_case(&case))?;
        }
    }
    Ok(())
}

fn verdict(faulty: &Faulty, release: &str) -> Result<Verdict> {
    let record: ReleaseRecord = faulty.fleet.record(&Key::Release(app(), release.parse()?))?.context("a release record")?;
    Ok(record.verdict)
}

#[test]
fn what_fails_after_the_last_switch_takes_nothing_back() -> Result<()> {
    let mut faulty = Faulty::start()?;
    // Cleaning up is the server's own business: it is logged there.
    TEN.iter().try_for_each(|name| faulty.spoil(name, "untidy", "cleanup", EXIT_9))?;
    faulty.publish("untidy")?.expect_code(0)?;
    faulty.base = "untidy".to_owned();
    faulty.expect_base_everywhere()?;
    for name in TEN {
        let words = "untidy serves, but the cleanup hook `bin/step sh bin/fault` ended with status 9";
        until(format_args!("{name} logs the cleanup"), || Ok(faulty.fleet.whole_log_of(name)?.contains(words)))?;
    }
    // The contract phase is the fleet's: it halts, whatever the policy says, and every server goes on with the release.
    for policy in Policy::ALL {
        let release = format!("after-{}", policy.word());
        let rollout = format!("serial = \"50%\"\non_failure = \"{}\"\n", policy.word());
        faulty.configure(&rollout, "[migrate.after]\ncommand = [\"bin/step\", \"sh\", \"bin/fault\"]\n")?;
        TEN.iter().try_for_each(|name| faulty.spoil(name, &release, "after", EXIT_9))?;
        let said = faulty.publish(&release)?.expect_code(4).with_context(in_case(&release))?;
        ensure!(said.says("the task `after` failed on web-") && said.says("exit status 9"), "{said:?}");
        faulty.expect_ended(&release, RolloutPhase::Halted)?;
        faulty.base = release;
        faulty.expect_base_everywhere()?;
        ensure!(verdict(&faulty, &faulty.base)? == Verdict::Good, "every server runs it, and it works");
    }
    Ok(())
}

#[test]
fn the_last_servers_failure_is_no_success_and_a_budget_holds_for_the_whole_rollout() -> Result<()> {
    let faulty = Faulty::start()?;
    // One in each batch: no batch alone is over the budget.
    let fail = |release: &str, servers: &[&str]| servers.iter().try_for_each(|name| faulty.spoil(name, release, "restart", EXIT_9));
    let within = "max_failed = 3\non_failure = \"halt\"\n";
    faulty.configure(within, "")?;
    fail("tolerated", &[TEN[0], TEN[2], TEN[9]])?;
    let said = faulty.publish("tolerated")?.expect_code(8)?;
    ensure!(said.says("10 servers in 3 batches: 7 done, 3 failed"), "{said:?}");
    let state = faulty.expect_ended("tolerated", RolloutPhase::Succeeded)?;
    ensure!(state.reason == "within the budgets, without web-01, web-03, web-10", "{state:?}");
    // Reached is not exceeded: it takes one more.
    faulty.configure("max_failed = 2\non_failure = \"halt\"\n", "")?;
    fail("exceeded", &[TEN[0], TEN[2], TEN[9]])?;
    let plan = faulty.fleet.publish(faulty.tree.path(), "exceeded", &["--plan"])?.expect_code(0)?;
    ensure!(plan.says("3rd failed server"), "{plan:?}");
    let said = faulty.publish("exceeded")?.expect_code(4)?;
    ensure!(said.says("web-01, web-03, web-10 failed; 2 tolerated"), "{said:?}");
    let state = faulty.expect_ended("exceeded", RolloutPhase::Halted)?;
    ensure!(state.batch == 2, "it takes the last batch to go over it: {state:?}");
    ensure!(verdict(&faulty, "exceeded")? == Verdict::Bad, "the servers that run it do not make it good");
    // The very last server, and no other one.
    faulty.mend()?;
    faulty.configure("on_failure = \"rollback\"\n", "")?;
    fail("last", &[TEN[9]])?;
    let said = faulty.publish("last")?.expect_code(5)?;
    ensure!(said.says("rolled back to release tolerated by tester"), "{said:?}");
    faulty.fleet.expect_everywhere("tolerated")
}

#[test]
fn failed_releases_push_no_good_one_out_and_neither_rollback_nor_joiner_takes_one() -> Result<()> {
    let mut faulty = Faulty::start()?;
    faulty.renew("second")?;
    let layout = "[layout]\nkeep_releases = 3\n";
    faulty.configure("on_failure = \"rollback\"\n", layout)?;
    let failed = ["bad-1", "bad-2", "bad-3", "bad-4"];
    for release in failed {
        faulty.spoil(TEN[1], release, "restart", EXIT_9)?;
        faulty.publish(release)?.expect_code(5).with_context(in_case(release))?;
        faulty.expect_condemned(release)?;
    }
    for name in TEN {
        let there = faulty.fleet.releases(name)?;
        ensure!(["base", "second"].iter().all(|good| there.iter().any(|r| r == good)), "{name}: {there:?}");
    }
    // The last one stays on some servers.
    faulty.configure("on_failure = \"halt\"\n", layout)?;
    faulty.spoil(TEN[3], "bad-5", "restart", EXIT_9)?;
    faulty.publish("bad-5")?.expect_code(4)?;
    faulty.fleet.wait_current(TEN[0], "bad-5")?;
    faulty.fleet.add_nodes(&["web-11"])?;
    faulty.fleet.wait_current("web-11", "second")?;
    faulty.take_back()?;
    let steps = faulty.fleet.steps("web-11");
    ensure!(steps.iter().all(|s| s.starts_with("second.")), "it never met another release: {steps:?}");
    Ok(())
}
