//! One app's card: its rollout, its servers, its run-once tasks, its history.

use coord_proto::coordinator::HistoryRecord;
use coord_proto::ids::AppName;
use coord_proto::migration::{TaskRecord, TaskState};
use coord_proto::rollout::{Outcome, RolloutKind, RolloutPhase, RolloutSpec, RolloutState, Target};

use super::html::Html;
use super::row::{self, Row};
use crate::ui::words::span;
use crate::view::{App, Drift, Fleet};

/// Finished rollouts that are shown.
const HISTORY_SHOWN: usize = 8;
/// Targets drawn one by one; beyond, the numbers say it.
const CELLS_MAX: usize = 1_000;

/// The numbers at the top.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub present: usize,
    /// App instances: servers × apps.
    pub running: usize,
    pub healthy: usize,
    pub drifting: usize,
    pub rollouts: usize,
}

impl Totals {
    /// Over all apps.
    pub fn of(fleet: &Fleet) -> Self {
        let mut totals = Self { present: fleet.nodes.values().filter(|n| n.present).count(), ..Self::default() };
        for (name, app) in &fleet.apps {
            for row in Row::of(fleet, name, app) {
                totals.running += 1;
                totals.healthy += usize::from(row.healthy());
                totals.drifting += usize::from(row.drift() != Drift::None);
            }
            totals.rollouts += usize::from(app.state.as_ref().is_some_and(|s| !s.phase.ended()));
        }
        totals
    }
}

/// The card.
pub fn section(html: &mut Html, fleet: &Fleet, name: &AppName, app: &App, now: i64) {
    html.raw("<section class=\"card\"><div class=\"head\"><h2>").text(name).raw("</h2>");
    if let Some(stable) = &app.stable {
        html.open_titled("span", "fact", "what a server that joins takes").raw("stable <b class=\"id\">").text(&stable.release);
        html.raw("</b></span>");
    }
    html.raw("</div>");
    if app.unreadable {
        html.tag("p", "banner bad", "A record of this app cannot be read: nothing is planned for it.");
    }
    match (&app.spec, &app.state) {
        (spec, Some(state)) if spec.as_ref().is_none_or(|s| s.id == state.id) => rollout(html, spec.as_ref(), state, now),
        (Some(spec), _) => awaited(html, spec, now),
        (None, _) => {}
    }
    row::table(html, app, Row::of(fleet, name, app), now);
    tasks(html, name, app, now);
    history(html, app, now);
    html.raw("</section>");
}

/// Published, and no coordinator has taken it up.
fn awaited(html: &mut Html, spec: &RolloutSpec, now: i64) {
    html.raw("<div class=\"rollout\"><span class=\"pill wait\">awaiting a coordinator</span> <b class=\"id\">").text(&spec.release);
    html.raw("</b> <span class=\"dim\">by ").text(&spec.by.user).raw(", ").text(span(spec.by.at, now)).raw(" ago</span></div>");
}

fn rollout(html: &mut Html, spec: Option<&RolloutSpec>, state: &RolloutState, now: i64) {
    html.raw("<div class=\"rollout\">").tag("span", phase_class(state), phase_words(state));
    html.raw(" <b class=\"id\">").text(&state.release).raw("</b> <span class=\"dim\">");
    if let Some(spec) = spec {
        html.text(kind_words(spec.kind)).raw(" by ").text(&spec.by.user).raw("@").text(&spec.by.host).raw(", ");
    }
    match state.ended_at {
        Some(ended) => html.text(span(ended, now)).raw(" ago, took ").text(span(state.started_at, ended)),
        None => html.text("since ").text(span(state.started_at, now)),
    };
    html.raw("</span>");
    if let Some(message) = spec.and_then(|s| s.by.message.as_ref()) {
        html.tag("p", "message", message);
    }
    if !state.reason.is_empty() {
        html.tag("p", if state.phase.ended() && state.phase != RolloutPhase::Succeeded { "reason bad" } else { "reason" }, &state.reason);
    }
    batches(html, state);
    html.raw("</div>");
}

/// One cell per server, batch by batch.
fn batches(html: &mut Html, state: &RolloutState) {
    let count = |outcome| state.targets.iter().filter(|t| t.outcome == outcome).count();
    if state.targets.len() <= CELLS_MAX {
        html.raw("<div class=\"batches\" role=\"img\" aria-label=\"servers by batch\">");
        for batch in 0..state.batches.max(1) {
            html.open("div", if batch == state.batch && !state.phase.ended() { "batch open" } else { "batch" });
            for target in state.batch_targets(batch) {
                html.open_titled("i", cell_class(target), format_args!("{}: {}", target.node, outcome_words(target))).close("i");
            }
            html.raw("</div>");
        }
        html.raw("</div>");
    }
    html.raw("<p class=\"counts\"><b>").text(count(Outcome::Done)).raw("</b> of <b>").text(state.targets.len()).raw("</b> servers");
    if !state.phase.ended() {
        html.raw(", batch <b>").text((state.batch + 1).min(state.batches.max(1))).raw("</b> of <b>").text(state.batches.max(1)).raw("</b>");
    }
    for (outcome, words, tolerated) in
        [(Outcome::Failed, " failed", state.max_failed), (Outcome::Unreachable, " unreachable", state.max_unreachable)]
    {
        let n = count(outcome);
        if n > 0 {
            html.raw(", <b class=\"bad\">").text(n).raw(words).raw("</b> (").text(tolerated).raw(" tolerated)");
        }
    }
    let back = count(Outcome::RolledBack);
    if back > 0 {
        html.raw(", <b>").text(back).raw("</b> rolled back");
    }
    html.raw("</p>");
}

fn tasks(html: &mut Html, name: &AppName, app: &App, now: i64) {
    let current = app.state.as_ref().map(|s| s.seq);
    let shown: Vec<&TaskRecord> = app.tasks.iter().filter(|t| t.settled_at.is_none() || Some(t.seq) == current).collect();
    if shown.is_empty() {
        return;
    }
    html.raw("<h3>Run-once tasks</h3><ul class=\"lines\">");
    for task in shown {
        let (class, word) = task_words(task.state);
        html.raw("<li>").tag("span", class, word).raw(" <b>").text(&task.task).raw("</b> of <span class=\"id\">").text(&task.release);
        html.raw("</span> <span class=\"dim\">on ").text(&task.holder).raw(", start ").text(task.attempt);
        html.raw(", ").text(span(task.settled_at.unwrap_or(task.claimed_at), now)).raw(" ago</span>");
        if !task.detail.is_empty() {
            html.tag("div", "failure", &task.detail);
        }
        if task.state == TaskState::Unknown {
            html.raw("<div class=\"hint\"><code>coordctl migration show ")
                .text(format_args!("{name} {}", task.release))
                .raw("</code></div>");
        }
        html.raw("</li>");
    }
    html.raw("</ul>");
}

fn history(html: &mut Html, app: &App, now: i64) {
    let mut finished: Vec<&HistoryRecord> = app.history.values().collect();
    if finished.is_empty() {
        return;
    }
    finished.sort_by_key(|h| std::cmp::Reverse((h.state.ended_at.unwrap_or(h.state.started_at), h.state.seq)));
    html.raw("<h3>History</h3><ul class=\"lines\">");
    for HistoryRecord { spec, state } in finished.into_iter().take(HISTORY_SHOWN) {
        html.raw("<li>").tag("span", phase_class(state), phase_words(state));
        html.raw(" <span class=\"id\">").text(&state.release).raw("</span> <span class=\"dim\">");
        if let Some(spec) = spec {
            html.text(kind_words(spec.kind)).raw(" by ").text(&spec.by.user).raw("@").text(&spec.by.host).raw(", ");
        }
        let ended = state.ended_at.unwrap_or(state.started_at);
        html.text(span(ended, now)).raw(" ago, took ").text(span(state.started_at, ended)).raw("</span></li>");
    }
    html.raw("</ul>");
}

fn phase_words(state: &RolloutState) -> &'static str {
    if state.paused && !state.phase.ended() { "paused" } else { state.phase.words() }
}

fn phase_class(state: &RolloutState) -> &'static str {
    match state.phase {
        _ if state.paused && !state.phase.ended() => "pill wait",
        RolloutPhase::Succeeded => "pill good",
        RolloutPhase::Staging | RolloutPhase::Running | RolloutPhase::Finishing => "pill busy",
        RolloutPhase::AwaitingPromotion | RolloutPhase::AwaitingDecision => "pill wait",
        RolloutPhase::Halted | RolloutPhase::RollingBack | RolloutPhase::RolledBack | RolloutPhase::Unknown => "pill bad",
        RolloutPhase::Aborted | RolloutPhase::Superseded => "pill",
    }
}

fn kind_words(kind: RolloutKind) -> &'static str {
    match kind {
        RolloutKind::Publish => "published",
        RolloutKind::Rollback => "rolled back",
        RolloutKind::Retry => "retried",
        RolloutKind::Restart => "restarted",
        RolloutKind::Unknown => "started",
    }
}

fn cell_class(target: &Target) -> &'static str {
    match target.outcome {
        Outcome::Done => "good",
        Outcome::Failed => "bad",
        Outcome::Unreachable => "lost",
        Outcome::RolledBack => "back",
        Outcome::Pending if target.told => "busy",
        Outcome::Pending | Outcome::Unknown => "",
    }
}

fn outcome_words(target: &Target) -> &'static str {
    match target.outcome {
        Outcome::Done => "runs it",
        Outcome::Failed => "failed",
        Outcome::Unreachable => "unreachable",
        Outcome::RolledBack => "rolled back",
        Outcome::Pending if target.told => "at it",
        Outcome::Pending => "waits for its batch",
        Outcome::Unknown => "unknown",
    }
}

fn task_words(state: TaskState) -> (&'static str, &'static str) {
    match state {
        TaskState::Pending => ("pill", "pending"),
        TaskState::Claimed => ("pill busy", "running"),
        TaskState::Succeeded => ("pill good", "succeeded"),
        TaskState::Failed => ("pill bad", "failed"),
        TaskState::Unknown => ("pill wait", "needs a decision"),
        TaskState::Foreign => ("pill", "unknown"),
    }
}
