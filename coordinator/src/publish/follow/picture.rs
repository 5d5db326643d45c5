//! A followed rollout for a terminal: the lines that are redrawn in place, and those that stay above them. Pure.

use coord_proto::ids::NodeName;
use coord_proto::report::{Status, Step};
use coord_proto::rollout::{Outcome, RolloutPhase, RolloutState, Target};
use indicatif::HumanBytes;

use super::{Follower, phase_words};
use crate::counts;
use crate::ui::board::{Line, Tone};
use crate::ui::table::printable;
use crate::ui::words;
use crate::view::Fleet;

/// Most servers that are listed; the others are counted.
const SERVERS_MAX: usize = 20;
/// Most batches with a bar of their own.
const BATCHES_MAX: usize = 5;
/// Cells of a bar.
const BAR_CELLS: usize = 24;

/// The lines that are redrawn: what goes on, a bar per batch, a line per server of the open one.
pub fn lines(follower: &Follower, fleet: &Fleet) -> Vec<Line> {
    let Some(state) = follower.state(fleet) else {
        return vec![Line::new(Tone::Head, format!("release {} of {}: waiting for the coordinator", follower.release, follower.app))];
    };
    let mut lines = vec![Line::new(Tone::Head, format!("release {} of {}: {}", state.release, follower.app, phase_words(state)))];
    if !state.reason.is_empty() {
        lines.push(Line::new(Tone::Quiet, printable(&state.reason)));
    }
    lines.extend(bars(follower, fleet, state));
    lines.extend(servers(follower, fleet, state));
    lines
}

/// Lines that stay: batches that were closed between `from` (a batch's index) and now.
pub fn closed(state: &RolloutState, from: usize) -> Option<Line> {
    let until = closed_until(state);
    if until <= from {
        return None;
    }
    let of = state.batches.max(1);
    let name = if until - from == 1 { format!("batch {until} of {of}") } else { format!("batches {} to {until} of {of}", from + 1) };
    let counts = Counts::of(state.targets.iter().filter(|target| (from..until).contains(&target.batch)));
    let tone = if counts.failed + counts.away == 0 { Tone::Good } else { Tone::Bad };
    Some(Line::new(tone, format!("{} {name}: {}", if tone == Tone::Good { '✓' } else { '✗' }, counts.words())))
}

/// Index of the first batch that is not over.
pub fn closed_until(state: &RolloutState) -> usize {
    let over = matches!(state.phase, RolloutPhase::Finishing | RolloutPhase::Succeeded);
    if over { state.batches } else { state.batch.min(state.batches) }
}

/// Servers of a kind.
#[derive(Debug, Default)]
struct Counts {
    done: usize,
    failed: usize,
    away: usize,
    back: usize,
    pending: usize,
}

impl Counts {
    fn of<'a>(targets: impl Iterator<Item = &'a Target>) -> Self {
        let mut counts = Self::default();
        for target in targets {
            *match target.outcome {
                Outcome::Done => &mut counts.done,
                Outcome::Failed => &mut counts.failed,
                Outcome::Unreachable => &mut counts.away,
                Outcome::RolledBack => &mut counts.back,
                Outcome::Pending | Outcome::Unknown => &mut counts.pending,
            } += 1;
        }
        counts
    }

    fn all(&self) -> usize {
        self.done + self.failed + self.away + self.back + self.pending
    }

    /// `3 done, 1 failed`.
    fn words(&self) -> String {
        let parts = [(self.done, "done"), (self.failed, "failed"), (self.away, "unreachable"), (self.back, "rolled back")];
        let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if parts.is_empty() { format!("{} not reached", self.pending) } else { parts.join(", ") }
    }
}

/// The bars of what goes on, and of what waits.
fn bars(follower: &Follower, fleet: &Fleet, state: &RolloutState) -> Vec<Line> {
    match state.phase {
        RolloutPhase::Staging => vec![staging_bar(follower, fleet, state)],
        RolloutPhase::RollingBack => vec![way_back_bar(follower, fleet, state)],
        _ => batch_bars(state),
    }
}

fn staging_bar(follower: &Follower, fleet: &Fleet, state: &RolloutState) -> Line {
    let statuses = || state.targets.iter().filter_map(|target| status(follower, fleet, &target.node));
    let staged = statuses().filter(|status| is_staged(status, state)).count();
    let bytes: u64 = statuses().filter_map(|status| status.progress).map(|progress| progress.done).sum();
    let bytes = if bytes > 0 { format!(", {} so far", HumanBytes(bytes)) } else { String::new() };
    let total = state.targets.len();
    bar(
        Tone::Plain,
        "staging",
        staged,
        total,
        format!("{staged} of {} {} ready{bytes}", counts::servers(total), counts::plural(total, "is", "are")),
    )
}

fn way_back_bar(follower: &Follower, fleet: &Fleet, state: &RolloutState) -> Line {
    let told: Vec<&Target> = state.targets.iter().filter(|target| target.told).collect();
    let back = told.iter().filter(|target| is_back(follower, fleet, target)).count();
    bar(
        Tone::Bad,
        "going back",
        back,
        told.len(),
        format!("{back} of {} {} back", counts::servers(told.len()), counts::plural(told.len(), "is", "are")),
    )
}

fn batch_bars(state: &RolloutState) -> Vec<Line> {
    let first = closed_until(state);
    let shown = state.batches.min(first + BATCHES_MAX);
    let mut lines: Vec<Line> = (first..shown).map(|batch| batch_bar(state, batch)).collect();
    let rest = state.targets.iter().filter(|target| target.batch >= shown).count();
    if rest > 0 {
        let batches = state.batches - shown;
        lines.push(Line::new(
            Tone::Quiet,
            format!("and {batches} more {} with {}", counts::plural(batches, "batch", "batches"), counts::servers(rest)),
        ));
    }
    lines
}

fn batch_bar(state: &RolloutState, batch: usize) -> Line {
    let counts = Counts::of(state.batch_targets(batch));
    let (all, settled) = (counts.all(), counts.all() - counts.pending);
    let name = format!("batch {}", batch + 1);
    if batch != state.batch {
        return bar(Tone::Quiet, &name, 0, all, format!("{} {}", counts::servers(all), counts::plural(all, "waits", "wait")));
    }
    let tone = if counts.failed + counts.away > 0 { Tone::Bad } else { Tone::Plain };
    let words = match settled {
        0 => counts::servers(all),
        _ if counts.pending == 0 && counts.done > 0 => format!("{} of {all}, must stay healthy", counts.words()),
        _ => format!("{} of {all}", counts.words()),
    };
    bar(tone, &name, settled, all, words)
}

fn bar(tone: Tone, name: &str, done: usize, total: usize, words: String) -> Line {
    let full = (done * BAR_CELLS).checked_div(total).unwrap_or(0).min(BAR_CELLS);
    Line::new(tone, format!("{name:<10} {}{}  {words}", "█".repeat(full), "░".repeat(BAR_CELLS - full)))
}

/// The servers that something is going on with; those that need a look come first.
fn servers(follower: &Follower, fleet: &Fleet, state: &RolloutState) -> Vec<Line> {
    let all = matches!(state.phase, RolloutPhase::Staging | RolloutPhase::RollingBack | RolloutPhase::Finishing);
    let concerned = |target: &&Target| match state.phase {
        RolloutPhase::RollingBack => target.told,
        RolloutPhase::Finishing => rank(follower, fleet, state, target) != Rank::Done,
        _ => all || target.batch == state.batch,
    };
    let mut rows: Vec<(Rank, &Target)> =
        state.targets.iter().filter(concerned).map(|target| (rank(follower, fleet, state, target), target)).collect();
    rows.sort_by_key(|(rank, _)| *rank);
    let width = rows.iter().take(SERVERS_MAX).map(|(_, target)| target.node.as_str().len()).max().unwrap_or(0);
    let mut lines: Vec<Line> =
        rows.iter().take(SERVERS_MAX).map(|(rank, target)| server_line(follower, fleet, target, *rank, width)).collect();
    let more = rows.len().saturating_sub(SERVERS_MAX);
    if more > 0 {
        lines.push(Line::new(Tone::Quiet, format!("  and {} more", counts::servers(more))));
    }
    lines
}

/// In the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Trouble,
    Busy,
    Waits,
    Done,
}

fn rank(follower: &Follower, fleet: &Fleet, state: &RolloutState, target: &Target) -> Rank {
    if state.phase == RolloutPhase::RollingBack {
        return if is_back(follower, fleet, target) { Rank::Done } else { Rank::Busy };
    }
    match (target.outcome, status(follower, fleet, &target.node)) {
        (Outcome::Failed | Outcome::Unreachable, _) => Rank::Trouble,
        (Outcome::Done, Some(status)) if state.phase == RolloutPhase::Finishing && status.step == Step::AfterTasks => Rank::Busy,
        (Outcome::Done | Outcome::RolledBack, _) => Rank::Done,
        (_, Some(status)) if status.failure.is_some() => Rank::Trouble,
        (_, Some(status)) if state.phase == RolloutPhase::Staging && is_staged(status, state) => Rank::Done,
        (_, Some(status)) if !matches!(status.step, Step::Idle | Step::Waiting | Step::WaitingForMigration) => Rank::Busy,
        _ => Rank::Waits,
    }
}

fn server_line(follower: &Follower, fleet: &Fleet, target: &Target, rank: Rank, width: usize) -> Line {
    let (tone, mark) = match rank {
        Rank::Trouble => (Tone::Bad, '✗'),
        Rank::Busy => (Tone::Plain, '›'),
        Rank::Waits => (Tone::Quiet, '·'),
        Rank::Done => (Tone::Good, '✓'),
    };
    let status = status(follower, fleet, &target.node);
    let words = match follower.server_words(fleet, &target.node, target.outcome) {
        Some(_) if rank == Rank::Busy || target.outcome == Outcome::Failed && rank == Rank::Done => {
            status.map(|status| status.words.clone()).unwrap_or_default()
        }
        // It is ready for its turn: what it runs until then says less.
        _ if rank == Rank::Done && target.outcome == Outcome::Pending => "is ready".to_owned(),
        Some(words) => words,
        None if target.outcome == Outcome::Pending => "waits".to_owned(),
        None => words::outcome(target.outcome).to_owned(),
    };
    let progress = status.and_then(|status| status.progress).filter(|_| rank == Rank::Busy);
    let progress =
        progress.map(|progress| format!("  {} of {}", HumanBytes(progress.done), HumanBytes(progress.total))).unwrap_or_default();
    Line::new(tone, printable(&format!("  {mark} {:<width$}  {words}{progress}", target.node.as_str())))
}

/// A server's status, if it speaks of this rollout.
fn status<'a>(follower: &Follower, fleet: &'a Fleet, node: &NodeName) -> Option<&'a Status> {
    let status = fleet.node_app(node, &follower.app)?.status.as_ref()?;
    (status.rollout.as_ref() == Some(&follower.rollout)).then_some(status)
}

fn is_staged(status: &Status, state: &RolloutState) -> bool {
    status.staged == Some(state.seq) || status.running.as_ref().is_some_and(|running| running.seq == state.seq)
}

/// Did it return to what it had? One that failed went back by itself.
fn is_back(follower: &Follower, fleet: &Fleet, target: &Target) -> bool {
    let had = |status: &Status| status.step == Step::Idle && status.running.as_ref().is_some_and(|running| running.seq == target.prior);
    target.outcome == Outcome::RolledBack || status(follower, fleet, &target.node).is_some_and(had)
}

#[cfg(test)]
mod tests;
