//! A rollout, followed to its end: what to say meanwhile, and how it ended.

use std::collections::BTreeMap;

use coord_proto::ids::{AppName, NodeName, ReleaseId, RolloutId};
use coord_proto::report::Failure;
use coord_proto::rollout::{Outcome, RolloutKind, RolloutPhase, RolloutSpec, RolloutState};

use crate::counts;
use crate::exit::Exit;
use crate::ui::table::printable;
use crate::ui::{Table, words};
use crate::view::Fleet;

pub mod events;
pub mod picture;

/// Lines of a failed hook's output that are shown; `coordctl node show` has more of them.
const OUTPUT_LINES_MAX: usize = 20;

/// How a rollout ended, for the terminal.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    pub exit: Exit,
    /// One line per server.
    pub servers: String,
    /// How many of what.
    pub recap: String,
    /// `deployed as release X by Y`.
    pub words: String,
    /// What to type next, where something is to be done.
    pub hint: String,
}

/// Follows one rollout; it remembers what it said.
#[derive(Debug)]
pub struct Follower {
    app: AppName,
    rollout: RolloutId,
    release: ReleaseId,
    by: String,
    said: BTreeMap<String, String>,
    /// The last failure of each server: a server that went back reports none any more.
    failures: BTreeMap<NodeName, String>,
    /// Is its abort what is waited for?
    aborting: bool,
}

impl Follower {
    /// Follows the rollout with this id; `by` is who asked for it.
    pub fn new(app: AppName, rollout: RolloutId, release: ReleaseId, by: String) -> Self {
        Self { app, rollout, release, by, said: BTreeMap::new(), failures: BTreeMap::new(), aborting: false }
    }

    /// For who aborted it: that it ends so is no failure then.
    #[must_use]
    pub fn of_an_abort(self) -> Self {
        Self { aborting: true, ..self }
    }

    /// The app that is followed.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// The rollout's state, current or finished.
    pub fn state<'a>(&self, fleet: &'a Fleet) -> Option<&'a RolloutState> {
        fleet.apps.get(&self.app)?.state_of(&self.rollout)
    }

    /// Lines for what changed since the last call.
    pub fn news(&mut self, fleet: &Fleet) -> Vec<String> {
        let mut lines = self.connection(fleet);
        let Some(state) = self.state(fleet).filter(|_| fleet.fresh) else { return lines };
        self.say(&mut lines, "phase", phase_line(state));
        self.note_failures(fleet, state);
        for target in &state.targets {
            if let Some(words) = self.server_words(fleet, &target.node, target.outcome) {
                self.say(&mut lines, target.node.as_str(), format!("  {}: {words}", target.node));
            }
            self.say_output(&mut lines, fleet, &target.node);
        }
        lines
    }

    /// The same beside a picture of what goes on: only what must stay to be read.
    pub fn lasting_news(&mut self, fleet: &Fleet) -> Vec<String> {
        let mut lines = self.connection(fleet);
        let Some(state) = self.state(fleet).filter(|_| fleet.fresh) else { return lines };
        self.note_failures(fleet, state);
        for target in &state.targets {
            let status = fleet.node_app(&target.node, &self.app).and_then(|slot| slot.status.as_ref());
            let failed = status.is_some_and(|s| s.failure.is_some()) || target.outcome == Outcome::Unreachable;
            if let Some(words) = self.server_words(fleet, &target.node, target.outcome).filter(|_| failed) {
                self.say(&mut lines, target.node.as_str(), format!("{}: {words}", target.node));
            }
            self.say_output(&mut lines, fleet, &target.node);
        }
        lines
    }

    /// What is wrong with what is seen, once each time.
    fn connection(&mut self, fleet: &Fleet) -> Vec<String> {
        let mut lines = Vec::new();
        if !fleet.fresh {
            self.say(&mut lines, "etcd", "etcd does not answer; what is shown is the last that was seen".to_owned());
            return lines;
        }
        self.said.remove("etcd");
        if fleet.leader.is_none() {
            self.say(&mut lines, "leader", "no coordinator leads at the moment; the rollout goes on when one does".to_owned());
        } else {
            self.said.remove("leader");
        }
        lines
    }

    fn note_failures(&mut self, fleet: &Fleet, state: &RolloutState) {
        for target in &state.targets {
            let status = fleet.node_app(&target.node, &self.app).and_then(|slot| slot.status.as_ref());
            if let Some(failure) = status.and_then(|s| s.failure.as_ref()).filter(|f| f.seq == state.seq) {
                self.failures.insert(target.node.clone(), failure.chain.join(": "));
            }
        }
    }

    fn say(&mut self, lines: &mut Vec<String>, about: &str, line: String) {
        if self.said.get(about) != Some(&line) {
            self.said.insert(about.to_owned(), line.clone());
            lines.push(printable(&line));
        }
    }

    /// The end of what a failed hook or task printed, once: on the way back the server's status forgets it.
    fn say_output(&mut self, lines: &mut Vec<String>, fleet: &Fleet, node: &NodeName) {
        let status = fleet.node_app(node, &self.app).and_then(|slot| slot.status.as_ref());
        let status = status.filter(|s| s.rollout.as_ref() == Some(&self.rollout));
        let Some(failure) = status.and_then(|s| s.failure.as_ref()).filter(|f| !f.log_tail.is_empty()) else { return };
        let output: Vec<&str> = failure.log_tail.lines().collect();
        let about = format!("output of {node}");
        if self.said.insert(about, failure.log_tail.clone()).as_ref() != Some(&failure.log_tail) {
            lines.extend(output[output.len().saturating_sub(OUTPUT_LINES_MAX)..].iter().map(|line| printable(&format!("    | {line}"))));
        }
    }

    fn server_words(&self, fleet: &Fleet, node: &NodeName, outcome: Outcome) -> Option<String> {
        match outcome {
            Outcome::Done => return Some(format!("runs release {}", self.release)),
            Outcome::Unreachable => return Some("unreachable".to_owned()),
            Outcome::RolledBack => return Some("rolled back".to_owned()),
            Outcome::Pending | Outcome::Failed | Outcome::Unknown => {}
        }
        let status = fleet.node_app(node, &self.app)?.status.as_ref()?;
        if status.rollout.as_ref() != Some(&self.rollout) {
            return None;
        }
        let words = match &status.failure {
            Some(failure) if outcome != Outcome::Failed && failure.code.transient() => waits_for(fleet, &self.app, failure),
            Some(failure) => format!("failed: {}", failure.chain.join(": ")),
            None => status.words.clone(),
        };
        Some(words).filter(|w| !w.is_empty())
    }

    /// Has it ended, or come to where only a person can go on?
    pub fn ending(&self, fleet: &Fleet) -> Option<Ending> {
        let Some(state) = self.state(fleet) else {
            return self.superseded(fleet);
        };
        let exit = match state.phase {
            RolloutPhase::Succeeded if self.missing(state) == 0 => Exit::Done,
            RolloutPhase::Succeeded => Exit::Partial,
            RolloutPhase::Aborted if self.aborting => Exit::Done,
            RolloutPhase::Halted | RolloutPhase::Aborted | RolloutPhase::Superseded => Exit::Failed,
            RolloutPhase::RolledBack => Exit::RolledBack,
            RolloutPhase::AwaitingDecision => Exit::Decision,
            _ => return None,
        };
        Some(self.ended(fleet, state, exit))
    }

    /// The spec names another rollout, and the history knows nothing of this one.
    fn superseded(&self, fleet: &Fleet) -> Option<Ending> {
        let spec = fleet.apps.get(&self.app)?.spec.as_ref().filter(|spec| spec.id != self.rollout)?;
        let words =
            format!("release {} was superseded by release {}, asked for by {}@{}", self.release, spec.release, spec.by.user, spec.by.host);
        let hint = format!("see `coordctl rollout status {}`", self.app);
        Some(Ending { exit: Exit::Failed, servers: String::new(), recap: String::new(), words, hint })
    }

    fn missing(&self, state: &RolloutState) -> usize {
        state.targets.iter().filter(|t| t.outcome != Outcome::Done).count()
    }

    fn ended(&self, fleet: &Fleet, state: &RolloutState, exit: Exit) -> Ending {
        let count = |outcome| state.targets.iter().filter(|t| t.outcome == outcome).count();
        let parts = [
            (Outcome::Done, "done"),
            (Outcome::Failed, "failed"),
            (Outcome::Unreachable, "unreachable"),
            (Outcome::RolledBack, "rolled back"),
            (Outcome::Pending, "not reached"),
        ];
        let parts: Vec<String> =
            parts.into_iter().map(|(o, name)| (count(o), name)).filter(|(n, _)| *n > 0).map(|(n, s)| format!("{n} {s}")).collect();
        let recap = format!("{} in {}: {}", counts::servers(state.targets.len()), counts::batches(state.batches), parts.join(", "));
        let (words, hint) = self.words(fleet, state, exit);
        Ending { exit, servers: self.servers(fleet, state), recap, words, hint }
    }

    fn words(&self, fleet: &Fleet, state: &RolloutState, exit: Exit) -> (String, String) {
        let reason = if state.reason.is_empty() { String::new() } else { format!(": {}", printable(&state.reason)) };
        let (app, by) = (&self.app, &self.by);
        match exit {
            Exit::Done if self.aborting => (format!("aborted the rollout of release {} by {by}", self.release), String::new()),
            Exit::Done | Exit::Partial => (self.done_words(fleet), String::new()),
            Exit::RolledBack => {
                let before = fleet.apps.get(app).and_then(|a| a.release_of(state.previous_stable));
                let words = match before {
                    Some(before) => format!("rolled back to release {before} by {by}"),
                    None if state.targets.iter().any(|t| t.told) => format!("release {}, asked for by {by}, was taken back", self.release),
                    None => format!("release {}, asked for by {by}, was switched to nowhere: no server ran a release before", self.release),
                };
                (words, format!("release {} failed{reason}", self.release))
            }
            Exit::Decision => {
                // The open task may be an older release's.
                let head = fleet.apps.get(app).and_then(|a| a.head.as_ref()).filter(|h| h.open);
                let r = head.map_or(&self.release, |h| &h.release);
                let hint =
                    format!("coordctl migration show {app} {r}, then coordctl migration resolve {app} {r} --as succeeded|failed|retry");
                (format!("release {} waits for a decision about a migration{reason}", self.release), hint)
            }
            _ => (
                format!("release {} {}{reason}", self.release, state.phase.words()),
                format!("coordctl status shows what runs where; coordctl rollout status {app} the whole rollout"),
            ),
        }
    }

    /// `deployed as release X by Y`, and how it is said of what operators ask for beside that.
    fn done_words(&self, fleet: &Fleet) -> String {
        let app = fleet.apps.get(&self.app);
        let current = app.and_then(|a| a.spec.as_ref()).filter(|spec| spec.id == self.rollout);
        let spec = current.or_else(|| app.and_then(|a| a.history.get(&self.rollout)?.spec.as_ref()));
        let what = match spec.map(RolloutSpec::purpose) {
            Some(RolloutKind::Rollback) => "rolled back to",
            Some(RolloutKind::Restart) => "restarted",
            _ => "deployed as",
        };
        format!("{what} release {} by {}", self.release, self.by)
    }

    fn servers(&self, fleet: &Fleet, state: &RolloutState) -> String {
        let mut table = Table::new(&["SERVER", "OUTCOME", "RELEASE", "HEALTH", "WORDS"]);
        for target in &state.targets {
            let status = fleet.node_app(&target.node, &self.app).and_then(|slot| slot.status.as_ref());
            let running = status.and_then(|s| s.running.as_ref()).map(|r| r.release.to_string());
            let failed = self.failures.get(&target.node).filter(|_| target.outcome != Outcome::Done);
            let words = failed.cloned().or_else(|| status.map(|s| s.words.clone()));
            let health = status.map(|s| words::health(s.health).to_owned());
            let cells = [Some(target.node.to_string()), Some(words::outcome(target.outcome).to_owned()), running, health, words];
            table.row(cells.into_iter().map(Option::unwrap_or_default));
        }
        table.render()
    }
}

/// What a server waits for, in full, and until when: it tries again by itself, and nothing has failed yet.
pub fn waits_for(fleet: &Fleet, app: &AppName, failure: &Failure) -> String {
    let deadline = fleet.apps.get(app).and_then(|a| a.spec.as_ref()).map(|spec| spec.policy.batch_deadline);
    let until =
        deadline.map_or_else(String::new, |d| format!("; it counts as failed {} after its batch opened", humantime::format_duration(d)));
    format!("waits: {}{until}", failure.chain.join(": "))
}

fn phase_line(state: &RolloutState) -> String {
    let reason = if state.reason.is_empty() { String::new() } else { format!(" ({})", state.reason) };
    match state.phase {
        RolloutPhase::AwaitingPromotion => phase_words(state),
        _ => phase_words(state) + &reason,
    }
}

fn phase_words(state: &RolloutState) -> String {
    let paused = if state.paused { ", paused" } else { "" };
    match state.phase {
        RolloutPhase::Running => format!("batch {} of {}{paused}", state.batch + 1, state.batches.max(1)),
        RolloutPhase::AwaitingPromotion => "the first batch is done; `coordctl rollout promote` opens the next".to_owned(),
        phase => format!("{}{paused}", phase.words()),
    }
}

#[cfg(test)]
mod tests;
