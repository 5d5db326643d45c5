//! In which order a release becomes durable, as the kernel was told: the calls of an agent during a publish (strace).
//!
//! A power cut may come between any two of them; what must have been written before is synced before.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_tests::fleet::{Fleet, sqlite_in};
use coord_tests::mootube::Tree;
use coord_tests::wait::until;

/// What makes, fills, names and syncs files.
const CALLS: &str = "trace=/^(mkdir|write|pwrite|f?chmod|symlink|link|rename|fsync|fdatasync|sync)";
/// Files and links of the sample application, at least: fewer would mean that the trace was read wrongly.
const TREE_CALLS_MIN: usize = 20;

#[test]
fn a_release_is_synced_before_it_has_its_name_and_journalled_before_it_is_current() -> Result<()> {
    let mut fleet = Fleet::start_with(sqlite_in)?;
    fleet.add_nodes(&["web-1"])?;
    let tree = Tree::copy_to(&fleet.dir().join("app"))?;
    let file = fleet.dir().join("trace");
    trace_agent(&mut fleet, "web-1", &file)?;
    fleet.publish(tree.path(), "one", &[])?.expect_code(0)?;
    // strace lets no call return before its line is written.
    let trace = Trace::read(&file)?;

    let synced = trace.only("syncfs", "")?;
    ensure!(synced.about("/releases/.staging-one>"), "{synced:?}");
    let in_tree = |call: &&Call| call.about("/releases/.staging-one") && call.name != "syncfs" && !call.about("/releases/one\"");
    let named = trace.only("rename", "/releases/one\"")?;
    let facts = trace.last_before(named, "rename", "/.coord/one.json\"")?;
    let tree: Vec<&Call> = trace.0.iter().filter(in_tree).collect();
    ensure!(tree.len() >= TREE_CALLS_MIN, "{tree:#?}");
    for call in tree.into_iter().chain([facts]) {
        ensure!(call.ended < synced.begun, "{call:?} is not covered by {synced:?}");
    }
    let name_synced = trace.next(named, "fsync", "/releases>")?;
    let made = trace.only("symlink", "\"releases/one\", ")?;
    let switched = trace.only("rename", "/srv/mootube/current\"")?;
    let switch_synced = trace.next(switched, "fsync", "/srv/mootube>")?;
    in_order(&[synced, named, name_synced, made, switched, switch_synced])?;

    // The journal says that it switches, durably, before it does (I9).
    let journalled = trace.last_before(made, "rename", "/journal.json\"")?;
    let written = trace.last_before(journalled, "fsync", "/.journal.json.coord-new>")?;
    let journal_synced = trace.next(journalled, "fsync", "/state/apps/mootube>")?;
    in_order(&[name_synced, written, journalled, journal_synced, made])?;
    // Before that the claim was journaled as intended, started, and ended; that it is over may be noted at any time.
    let claim: Vec<&Call> = trace.calls("rename", "/claims/one.before.json\"").filter(|call| call.ended < written.begun).collect();
    ensure!(claim.len() >= 3, "{claim:#?}");
    Ok(())
}

/// Starts a server's agent again, under strace.
fn trace_agent(fleet: &mut Fleet, name: &str, file: &Path) -> Result<()> {
    fleet.crash_agent(name)?;
    let mut strace = Command::new("strace");
    // Paths of descriptors (-y), nothing of what is written (-s 0).
    strace.args(["-D", "-f", "-qq", "-y", "-s", "0", "-e", "signal=none", "-e", CALLS, "-o"]).arg(file);
    fleet.start_agent_under(name, strace)?;
    until("strace sees the agent", || Ok(fs::metadata(file).is_ok_and(|m| m.len() > 0))).with_context(|| fleet.log_of(name))
}

fn in_order(calls: &[&Call]) -> Result<()> {
    for pair in calls.windows(2) {
        ensure!(pair[0].ended < pair[1].begun, "{:#?} was not over before {:#?}", pair[0], pair[1]);
    }
    Ok(())
}

/// One call: in which line of the trace it began and ended.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    begun: usize,
    ended: usize,
}

impl Call {
    fn about(&self, path: &str) -> bool {
        self.arguments.contains(path)
    }
}

/// The calls that succeeded, in the order in which they began.
struct Trace(Vec<Call>);

impl Trace {
    /// Lines are `PID name(arguments) = 0`, or two halves: `PID name(… <unfinished ...>`, `PID <... name resumed>…) = 0`.
    fn read(file: &Path) -> Result<Self> {
        let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
        let (mut calls, mut unfinished) = (Vec::new(), HashMap::new());
        for (number, line) in text.lines().enumerate() {
            let (pid, rest) = line.split_once(' ').with_context(|| format!("not a line of strace: {line}"))?;
            let (begun, whole) = match rest.trim_start().strip_prefix("<... ") {
                None => (number, rest.trim_start().to_owned()),
                Some(second) => {
                    let second = second.split_once("resumed>").with_context(|| format!("not a line of strace: {line}"))?.1;
                    let Some((begun, first)) = unfinished.remove(pid) else { continue };
                    (begun, format!("{first}{second}"))
                }
            };
            if let Some(first) = whole.strip_suffix("<unfinished ...>") {
                unfinished.insert(pid.to_owned(), (number, first.to_owned()));
            } else if let Some((name, arguments)) = whole.split_once('(').filter(|_| !whole.contains(" = -1 ")) {
                calls.push(Call { name: name.to_owned(), arguments: arguments.to_owned(), begun, ended: number });
            }
        }
        calls.sort_by_key(|call: &Call| call.begun);
        Ok(Self(calls))
    }

    /// The calls of this kind; some machines have one under a longer name (`renameat2`).
    fn calls(&self, name: &'static str, path: &'static str) -> impl DoubleEndedIterator<Item = &Call> {
        self.0.iter().filter(move |call| call.name.starts_with(name) && call.about(path))
    }

    fn only(&self, name: &'static str, path: &'static str) -> Result<&Call> {
        let found: Vec<&Call> = self.calls(name, path).collect();
        ensure!(found.len() == 1, "expected one {name} of {path}, found {found:#?}");
        Ok(found[0])
    }

    fn next(&self, after: &Call, name: &'static str, path: &'static str) -> Result<&Call> {
        let found = self.calls(name, path).find(|call| call.begun > after.ended);
        found.with_context(|| format!("no {name} of {path} after {after:?}"))
    }

    fn last_before(&self, before: &Call, name: &'static str, path: &'static str) -> Result<&Call> {
        let found = self.calls(name, path).rfind(|call| call.ended < before.begun);
        found.with_context(|| format!("no {name} of {path} before {before:?}"))
    }
}
