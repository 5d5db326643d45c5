//! `coordctl status`: one table for the whole fleet.

use coord_proto::ids::{AppName, NodeName, ReleaseId};
use coord_proto::report::{HealthState, Step};
use coord_proto::rollout::RolloutPhase;
use serde::Serialize;

use super::{Done, Global};
use crate::exit::Exit;
use crate::ui::table::printable;
use crate::ui::{Format, Table, Ui, words};
use crate::view::{App, Drift, Fleet, Node, NodeApp, Problem, drift};

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this app
    app: Option<AppName>,
    #[arg(long)]
    json: bool,
}

/// The fleet in short, as JSON has it.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// Does a coordinator lead?
    pub leader: Option<String>,
    pub apps: Vec<AppLine>,
    pub servers: Vec<ServerLine>,
    pub problems: Vec<Problem>,
}

/// One app.
#[derive(Debug, Serialize)]
pub struct AppLine {
    pub app: AppName,
    pub stable: Option<ReleaseId>,
    pub rollout: Option<ReleaseId>,
    pub phase: Option<RolloutPhase>,
}

/// One app on one server.
#[derive(Debug, Serialize)]
pub struct ServerLine {
    pub server: NodeName,
    pub app: AppName,
    pub release: Option<ReleaseId>,
    pub step: Option<Step>,
    pub health: Option<HealthState>,
    /// Is its lease alive?
    pub present: bool,
    pub cordoned: bool,
    /// When it last reported, Unix seconds by its own clock.
    pub reported: Option<i64>,
    /// What it should run instead; none when it runs what it should.
    pub drift: Option<String>,
    /// The last failure, outermost first.
    pub failure: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// etcd does not answer.
pub async fn run(args: Args, global: Global, ui: Ui) -> Done {
    let session = global.session(ui)?;
    let overview = Overview::of(&session.fleet().await?, args.app.as_ref());
    match Format::of(args.json) {
        Format::Json => ui.json(&overview)?,
        Format::Text => print(&overview, ui)?,
    }
    Ok(Exit::Done)
}

impl Overview {
    /// Of one app, or of all.
    pub fn of(fleet: &Fleet, only: Option<&AppName>) -> Self {
        let wanted = |name: &AppName| only.is_none_or(|only| only == name);
        let leader = fleet.leader.as_ref().map(|l| l.host.clone());
        let apps = fleet.apps.iter().filter(|(name, _)| wanted(name)).map(|(name, app)| AppLine::of(name, app)).collect();
        let none = App::default();
        let mut servers = Vec::new();
        for (server, node) in &fleet.nodes {
            for (name, slot) in node.apps.iter().filter(|(name, _)| wanted(name)) {
                servers.push(ServerLine::of((server, node), (name, fleet.apps.get(name).unwrap_or(&none)), slot));
            }
        }
        Self { leader, apps, servers, problems: fleet.problems.clone() }
    }
}

impl AppLine {
    fn of(name: &AppName, app: &App) -> Self {
        let current = app.spec.as_ref();
        let phase = current.and_then(|spec| app.state.as_ref().filter(|state| state.id == spec.id)).map(|state| state.phase);
        Self {
            app: name.clone(),
            stable: app.stable.as_ref().map(|s| s.release.clone()),
            rollout: current.map(|s| s.release.clone()),
            phase,
        }
    }
}

impl ServerLine {
    fn of((server, node): (&NodeName, &Node), (name, app): (&AppName, &App), slot: &NodeApp) -> Self {
        let status = slot.status.as_ref();
        let drift = match drift(app, slot) {
            Drift::None => None,
            Drift::Unknown => Some("unreadable record".to_owned()),
            Drift::Wants(seq) => {
                Some(app.release_of(seq).map_or_else(|| format!("wants number {seq}"), |release| format!("wants {release}")))
            }
        };
        Self {
            server: server.clone(),
            app: name.clone(),
            release: status.and_then(|s| s.running.as_ref()).map(|r| r.release.clone()),
            step: status.map(|s| s.step),
            health: status.map(|s| s.health),
            present: node.present,
            cordoned: node.cordoned,
            reported: status.map(|s| s.since),
            drift,
            failure: status.and_then(|s| s.failure.as_ref()).map(|f| f.chain.clone()).unwrap_or_default(),
        }
    }

    fn seen(&self, now: i64) -> String {
        match (self.present, self.reported) {
            (true, _) => "now".to_owned(),
            (false, Some(at)) => format!("gone, reported {}", words::ago(at, now)),
            (false, None) => "gone".to_owned(),
        }
    }
}

fn print(overview: &Overview, ui: Ui) -> std::io::Result<()> {
    for problem in &overview.problems {
        ui.note(format!("warning: {}: {}", problem.key, problem.error));
    }
    ui.out(text(overview, words::now()))
}

fn text(overview: &Overview, now: i64) -> String {
    let mut text = match &overview.leader {
        Some(host) => format!("coordinator: {host} leads\n"),
        None => "coordinator: none leads; servers keep what they run, and nothing is rolled out\n".to_owned(),
    };
    for line in &overview.apps {
        let stable = line.stable.as_ref().map_or("none", |r| r.as_str());
        let rollout = match (&line.rollout, line.phase) {
            (Some(release), Some(phase)) => format!("; rollout of {release}: {}", phase.words()),
            (Some(release), None) => format!("; rollout of {release}: waiting for the coordinator"),
            (None, _) => String::new(),
        };
        text += &format!("{}: stable {stable}{rollout}\n", line.app);
    }
    if overview.servers.is_empty() {
        return text + "no server runs an app yet\n";
    }
    text + "\n" + &table(overview, now).render() + &failures(overview)
}

/// Why what the table names failed, in full, once each.
fn failures(overview: &Overview) -> String {
    let failed = overview.servers.iter().filter(|line| !line.failure.is_empty());
    let lines: Vec<String> =
        failed.map(|line| format!("{}: {}: {}\n", line.server, line.app, printable(&line.failure.join(": ")))).collect();
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

fn table(overview: &Overview, now: i64) -> Table {
    let mut table = Table::new(&["SERVER", "APP", "RELEASE", "STEP", "HEALTH", "SEEN", "DRIFT"]);
    for line in &overview.servers {
        let step = line.step.map(words::step).unwrap_or_default();
        let failed = if line.failure.is_empty() { "" } else { " (failed)" };
        table.row([
            if line.cordoned { format!("{} (cordoned)", line.server) } else { line.server.to_string() },
            line.app.to_string(),
            line.release.as_ref().map(ToString::to_string).unwrap_or_default(),
            format!("{step}{failed}"),
            line.health.map(words::health).unwrap_or_default().to_owned(),
            line.seen(now),
            line.drift.clone().unwrap_or_else(|| "none".to_owned()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests;
