//! The simulator over a bounded number of seeds (`make simulate` plays more), and what it must miss.

use coord_tests::sim::{self, Mutant, Options};

/// Far less than a minute, also in a debug build on a busy machine.
const SEEDS: u64 = 40;
const SERVERS: usize = 10;

#[test]
fn no_seed_breaks_an_invariant() {
    for seed in 1..=SEEDS {
        if let Err(violation) = sim::run(Options { seed, servers: SERVERS, mutant: None }) {
            panic!("{violation}");
        }
    }
}

#[test]
fn a_seed_says_everything_that_happens() {
    let play = || sim::run(Options { seed: 7, servers: 8, mutant: None }).map_err(|violation| violation.to_string());
    assert_eq!(play(), play());
}

/// `first` is a seed that is known to miss it, so that the test is quick; after a change of the code the search begins there.
fn is_missed(mutant: Mutant, first: u64) {
    let broken = (first..first + 1_000).find_map(|seed| sim::run(Options { seed, servers: SERVERS, mutant: Some(mutant) }).err());
    let violation = broken.unwrap_or_else(|| panic!("nobody misses {mutant:?} in 1,000 seeds"));
    eprintln!("{mutant:?} is missed by seed {}: {}", violation.seed, violation.what);
}

#[test]
fn a_leader_without_its_guard_is_found() {
    is_missed(Mutant::LeaderGuard, 6);
}

#[test]
fn a_superseded_rollout_that_still_writes_is_found() {
    is_missed(Mutant::Spec, 21);
}

#[test]
fn an_older_migration_after_a_newer_one_is_found() {
    is_missed(Mutant::Sequence, 128);
}

#[test]
fn a_migration_record_that_is_overwritten_is_found() {
    is_missed(Mutant::MigrationRecord, 35);
}

#[test]
fn a_report_after_the_end_of_its_presence_is_found() {
    is_missed(Mutant::Presence, 6);
}

#[test]
fn a_switch_before_the_journal_says_so_is_found() {
    is_missed(Mutant::Journal, 1);
}

#[test]
fn a_floor_that_a_crash_loses_is_found() {
    is_missed(Mutant::Floor, 2);
}

#[test]
fn a_running_release_that_is_pruned_is_found() {
    is_missed(Mutant::Protected, 10);
}
