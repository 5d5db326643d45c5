//! One server's line: what it runs, how it is, and what it should run instead.

use coord_proto::ids::{AppName, NodeName};
use coord_proto::labels::Labels;
use coord_proto::report::{HealthState, Status, Step};

use super::html::Html;
use crate::ui::words::span;
use crate::view::{App, Drift, Fleet, Node, NodeApp, drift};

/// Lines per app: beyond, those that need a look come first and the others are counted.
const ROWS_MAX: usize = 500;

/// One line of the table.
pub struct Row<'a> {
    name: &'a NodeName,
    node: &'a Node,
    slot: &'a NodeApp,
    drift: Drift,
}

impl<'a> Row<'a> {
    /// The servers that have something to do with an app, by name.
    pub fn of(fleet: &'a Fleet, name: &AppName, app: &App) -> Vec<Self> {
        let slots = fleet.nodes.iter().filter_map(|(node_name, node)| Some((node_name, node, node.apps.get(name)?)));
        slots.map(|(name, node, slot)| Row { name, node, slot, drift: drift(app, slot) }).collect()
    }

    /// Is the server there, healthy, and on its release?
    pub fn fine(&self) -> bool {
        self.healthy() && self.drift == Drift::None
    }

    /// Does it run what it should?
    pub fn drift(&self) -> Drift {
        self.drift
    }

    /// Is it there, and says that it is healthy?
    pub fn healthy(&self) -> bool {
        self.node.present && self.slot.status.as_ref().is_some_and(|s| s.health == HealthState::Healthy)
    }

    fn cells(&self, html: &mut Html, app: &App, now: i64) {
        let status = self.slot.status.as_ref();
        html.open("tr", if self.node.present { "" } else { "gone" });
        html.raw("<th scope=\"row\">").text(self.name);
        self.labels(html);
        html.raw("</th>");
        match status.and_then(|s| s.running.as_ref()) {
            Some(running) => {
                html.open_titled("td", "id", format_args!("sequence number {}", running.seq)).text(&running.release).close("td")
            }
            None => html.tag("td", "dim", "nothing yet"),
        };
        self.step(html, status);
        self.health(html, status);
        self.seen(html, status, now);
        self.drifting(html, app);
        html.raw("</tr>");
    }

    fn labels(&self, html: &mut Html) {
        if self.node.cordoned {
            html.raw(" ").tag("span", "pill warn", "cordoned");
        }
        let none = Labels::new();
        for (key, value) in self.node.info.as_ref().map_or(&none, |i| &i.labels) {
            html.raw(" ").tag("span", "label", format_args!("{key}={value}"));
        }
    }

    fn step(&self, html: &mut Html, status: Option<&Status>) {
        html.raw("<td>");
        match status {
            None => drop(html.tag("span", "dim", if self.slot.unreadable { "unreadable record" } else { "no word yet" })),
            Some(status) => {
                let class = if status.step == Step::Idle { "dim" } else { "busy" };
                html.tag("span", class, &status.words);
                if let Some(progress) = status.progress.filter(|p| p.total > 0) {
                    html.raw("<progress max=\"").text(progress.total).raw("\" value=\"").text(progress.done).raw("\"></progress>");
                }
                if let Some(failure) = &status.failure {
                    html.tag("div", "failure", failure.chain.join(": "));
                    if !failure.hint.is_empty() {
                        html.tag("div", "hint", &failure.hint);
                    }
                }
            }
        }
        html.raw("</td>");
    }

    fn health(&self, html: &mut Html, status: Option<&Status>) {
        let (class, word) = match status.filter(|_| self.node.present).map(|s| s.health) {
            Some(HealthState::Healthy) => ("dot good", "healthy"),
            Some(HealthState::Unhealthy) => ("dot bad", "unhealthy"),
            Some(HealthState::Unproven) => ("dot wait", "not probed yet"),
            Some(HealthState::Unknown) | None => ("dot", "unknown"),
        };
        html.raw("<td>").tag("span", class, word).raw("</td>");
    }

    fn seen(&self, html: &mut Html, status: Option<&Status>, now: i64) {
        html.raw("<td>");
        match (self.node.present, status) {
            (true, _) => html.tag("span", "", "now"),
            (false, Some(status)) => {
                html.open_titled("span", "bad", "its lease has ended; this is when it last reported").text(span(status.since, now));
                html.raw(" ago</span>")
            }
            (false, None) => html.tag("span", "bad", "gone"),
        };
        html.raw("</td>");
    }

    fn drifting(&self, html: &mut Html, app: &App) {
        match self.drift {
            Drift::None => html.tag("td", "dim", "none"),
            Drift::Unknown => html.tag("td", "bad", "unknown"),
            Drift::Wants(seq) => {
                html.raw("<td class=\"wants\">\u{2192} ");
                match app.release_of(seq) {
                    Some(release) => html.tag("span", "id", release),
                    None => html.text(format_args!("number {seq}")),
                };
                html.raw("</td>")
            }
        };
    }
}

/// The table of an app's servers.
pub fn table(html: &mut Html, app: &App, mut rows: Vec<Row<'_>>, now: i64) {
    if rows.is_empty() {
        html.tag("p", "dim", "No server has this app yet.");
        return;
    }
    let hidden = rows.len().saturating_sub(ROWS_MAX);
    if hidden > 0 {
        // Stable: by name within the two groups.
        rows.sort_by_key(Row::fine);
    }
    html.raw("<div class=\"scroll\"><table><thead><tr><th>Server</th><th>Release</th><th>Step</th><th>Health</th>");
    html.raw("<th>Last seen</th><th>Drift</th></tr></thead><tbody>");
    rows.iter().take(ROWS_MAX).for_each(|row| row.cells(html, app, now));
    html.raw("</tbody></table></div>");
    if hidden > 0 {
        html.raw("<p class=\"dim\">and ").text(hidden).raw(" more, all shown by <code>coordctl status</code></p>");
    }
}
