//! `coordctl release list [APP]`.

use coord_proto::ids::{AppName, ReleaseId, Seq};
use coord_proto::rollout::{Actor, Verdict};
use serde::Serialize;

use crate::cli::{Done, Session};
use crate::counts;
use crate::exit::Exit;
use crate::publish::countersign::waits_for;
use crate::ui::{Format, Table, words};
use crate::view::Fleet;

/// One release of one app.
#[derive(Debug, Serialize)]
struct Row<'a> {
    app: &'a AppName,
    release: &'a ReleaseId,
    seq: Seq,
    verdict: Verdict,
    stable: bool,
    /// Signatures that it waits for.
    waits_for: usize,
    /// Servers that run it.
    servers: usize,
    by: &'a Actor,
}

pub async fn run(session: &Session, app: Option<&AppName>, format: Format) -> Done {
    let fleet = session.fleet().await?;
    let rows = rows(&fleet, app);
    match format {
        Format::Json => session.ui.json(&rows)?,
        Format::Text if rows.is_empty() => session.ui.note("no release yet; `coordctl release publish DIR` publishes one"),
        Format::Text => {
            session.ui.out(table(&rows).render())?;
            let waiting = rows.iter().filter(|row| row.waits_for > 0);
            waiting.for_each(|row| session.ui.note(format!("release {} {}", row.release, waits_for(row.waits_for, row.app, row.release))));
        }
    }
    Ok(Exit::Done)
}

fn rows<'a>(fleet: &'a Fleet, only: Option<&AppName>) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (app, view) in fleet.apps.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let stable = view.stable.as_ref().map(|s| s.seq);
        let mut of_app: Vec<Row<'_>> = view
            .releases
            .iter()
            .map(|(release, record)| Row {
                app,
                release,
                seq: record.seq,
                verdict: record.verdict,
                stable: stable == Some(record.seq),
                waits_for: record.waits.as_ref().map_or(0, |waits| waits.signatures),
                servers: servers(fleet, app, release),
                by: &record.by,
            })
            .collect();
        of_app.sort_by_key(|row| std::cmp::Reverse(row.seq));
        rows.extend(of_app);
    }
    rows
}

fn servers(fleet: &Fleet, app: &AppName, release: &ReleaseId) -> usize {
    let running = |slot: &crate::view::NodeApp| slot.running().map(|r| r.release == *release);
    fleet.nodes.values().filter_map(|node| node.apps.get(app)).filter(|slot| running(slot) == Some(true)).count()
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new(&["APP", "RELEASE", "SEQ", "VERDICT", "SERVERS", "PUBLISHED", "BY"]);
    for row in rows {
        let verdict = words::verdict(row.verdict);
        table.row([
            row.app.to_string(),
            row.release.to_string(),
            row.seq.to_string(),
            if row.waits_for > 0 {
                format!("waits for {}", counts::signatures(row.waits_for))
            } else if row.stable {
                format!("{verdict}, stable")
            } else {
                verdict.to_owned()
            },
            row.servers.to_string(),
            words::time(row.by.at),
            format!("{}@{}", row.by.user, row.by.host),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn the_newest_is_first_with_its_verdict_and_servers() {
        let fleet = sample::fleet();
        insta::assert_snapshot!(table(&rows(&fleet, None)).render(), @r"
        APP      RELEASE         SEQ  VERDICT      SERVERS  PUBLISHED             BY
        mootube  20261124101112  7    good         0        2026-11-24T12:00:00Z  ada@laptop
        mootube  20261123101112  6    bad, stable  1        2026-11-24T12:00:00Z  ada@laptop
        ");
        assert!(rows(&fleet, Some(&"other".parse().expect("app"))).is_empty());
    }
}
