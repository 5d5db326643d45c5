//! `coordctl rollout history APP`.

use coord_proto::ids::{AppName, ReleaseId, RolloutId, Seq};
use coord_proto::rollout::{Actor, Outcome, RolloutKind, RolloutPhase, RolloutSpec, RolloutState};
use serde::Serialize;

use crate::cli::{Done, Session};
use crate::exit::Exit;
use crate::ui::{Failure, Format, Table, words};
use crate::view::Fleet;

/// One rollout.
#[derive(Debug, Serialize)]
struct Row<'a> {
    rollout: &'a RolloutId,
    /// None for one whose place another took: what it was for went with it.
    kind: Option<RolloutKind>,
    release: &'a ReleaseId,
    seq: Seq,
    phase: RolloutPhase,
    reason: &'a str,
    /// Servers that run it, of how many.
    done: usize,
    servers: usize,
    started_at: i64,
    ended_at: Option<i64>,
    by: Option<&'a Actor>,
}

pub async fn run(session: &Session, app: &AppName, format: Format) -> Done {
    let fleet = session.fleet().await?;
    let rows = rows(&fleet, app)?;
    match format {
        Format::Json => session.ui.json(&rows)?,
        Format::Text if rows.is_empty() => session.ui.note(format!("no rollout of {app} has ended yet")),
        Format::Text => session.ui.out(table(&rows).render())?,
    }
    Ok(Exit::Done)
}

/// The newest first; the one that goes on is the first.
fn rows<'a>(fleet: &'a Fleet, name: &AppName) -> Result<Vec<Row<'a>>, Failure> {
    let unknown = || Failure::new(Exit::Error, format!("there is no app {name}")).hint("`coordctl status` shows the apps");
    let app = fleet.apps.get(name).ok_or_else(unknown)?;
    let current = app.state.as_ref().filter(|s| !app.history.contains_key(&s.id));
    let current = current.map(|s| Row::of(s, app.spec.as_ref().filter(|spec| spec.id == s.id)));
    let mut rows: Vec<Row<'_>> = app.history.values().map(|h| Row::of(&h.state, h.spec.as_ref())).chain(current).collect();
    rows.sort_by_key(|row| std::cmp::Reverse((!row.phase.ended(), row.started_at, row.seq)));
    Ok(rows)
}

impl<'a> Row<'a> {
    fn of(state: &'a RolloutState, spec: Option<&'a RolloutSpec>) -> Self {
        Self {
            rollout: &state.id,
            kind: spec.map(|s| s.kind),
            release: &state.release,
            seq: state.seq,
            phase: state.phase,
            reason: &state.reason,
            done: state.targets.iter().filter(|t| t.outcome == Outcome::Done).count(),
            servers: state.targets.len(),
            started_at: state.started_at,
            ended_at: state.ended_at,
            by: spec.map(|s| &s.by),
        }
    }
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&["ROLLOUT", "KIND", "RELEASE", "ENDED", "SERVERS", "STARTED", "TOOK", "BY", "WHY"]);
    for row in rows {
        let phase = row.phase.words();
        table.row([
            row.rollout.to_string(),
            row.kind.map_or_else(String::new, |k| k.word().to_owned()),
            row.release.to_string(),
            if row.phase.ended() { phase.to_owned() } else { format!("goes on: {phase}") },
            format!("{}/{}", row.done, row.servers),
            words::time(row.started_at),
            row.ended_at.map_or_else(String::new, |at| words::span(row.started_at, at)),
            row.by.map_or_else(String::new, ToString::to_string),
            why(row),
        ]);
    }
    table
}

/// Why it was asked for, and why it ended so.
fn why(row: &Row<'_>) -> String {
    let asked = row.by.and_then(|by| by.message.as_deref());
    let parts: Vec<&str> = [asked, Some(row.reason).filter(|r| !r.is_empty())].into_iter().flatten().collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use coord_proto::coordinator::HistoryRecord;

    use super::*;
    use crate::cli::sample::{self, fixture, record};

    #[test]
    fn the_one_that_goes_on_comes_before_those_that_ended() {
        let mut fleet = sample::fleet();
        let app: AppName = "mootube".parse().expect("app");
        let ended: HistoryRecord = fixture!("finished-rollout");
        let mut superseded = HistoryRecord { spec: None, ..ended.clone() };
        superseded.state.id = "r5".parse().expect("rollout");
        (superseded.state.phase, superseded.state.started_at) = (RolloutPhase::Superseded, 0);
        let history = &mut fleet.apps.get_mut(&app).expect("the app").history;
        for mut entry in [superseded, ended] {
            if let Some(spec) = &mut entry.spec {
                entry.state.id = "r6".parse().expect("rollout");
                (spec.kind, spec.by.message) = (RolloutKind::Rollback, Some("it was slow".into()));
                entry.state.phase = RolloutPhase::Succeeded;
                entry.state.reason.clear();
                entry.state.ended_at = Some(entry.state.started_at + 90);
            }
            history.insert(entry.state.id.clone(), entry);
        }
        insta::assert_snapshot!(table(&rows(&fleet, &app).expect("rows")).render(), @r"
        ROLLOUT  KIND      RELEASE         ENDED                         SERVERS  STARTED               TOOK  BY          WHY
        r7       publish   20261124101112  goes on: awaiting a decision  1/1      2026-11-24T12:00:00Z  -     ada@laptop  weekly release; web-2 waits
        r6       rollback  20261124101112  succeeded                     1/1      2026-11-24T12:00:00Z  90s   ada@laptop  it was slow
        r5       -         20261124101112  superseded                    1/1      1970-01-01T00:00:00Z  -     -           web-2 waits
        ");
        assert!(rows(&fleet, &"other".parse().expect("app")).is_err());
    }
}
