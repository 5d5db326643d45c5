//! `coord-agent status`: what the journals say, read only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coord_proto::ids::AppName;
use coord_proto::report::Running;

use crate::journal::{Journal, Leg};

/// Why the journals cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the journal {} is damaged; the agent sets it aside at its next start", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Every app's journal below a state directory. Nothing is mended here: the agent that runs owns these files.
///
/// # Errors
/// A journal cannot be read.
pub fn read(state_dir: &Path) -> Result<BTreeMap<AppName, Journal>, StatusError> {
    let dir = state_dir.join("apps");
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| StatusError::Read { path, source }
    };
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        read => read.map_err(fail(&dir))?,
    };
    let mut journals = BTreeMap::new();
    for entry in entries {
        let name = entry.map_err(fail(&dir))?.file_name();
        let Some(app) = name.to_str().and_then(|n| n.parse::<AppName>().ok()) else { continue };
        let path = dir.join(&name).join("journal.json");
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            read => read.map_err(fail(&path))?,
        };
        let journal = serde_json::from_slice(&bytes).map_err(|source| StatusError::Damaged { path, source })?;
        journals.insert(app, journal);
    }
    Ok(journals)
}

/// For programs.
pub fn json(journals: &BTreeMap<AppName, Journal>) -> String {
    let text = serde_json::to_string_pretty(journals).expect("a journal holds only strings, numbers and maps");
    text + "\n"
}

/// For people: one line for each app.
pub fn table(journals: &BTreeMap<AppName, Journal>) -> String {
    if journals.is_empty() {
        return "no app has been here yet\n".to_owned();
    }
    let mut text = format!("{:<20} {:<22} {:>6} {:>6}  {:<22} {}\n", "APP", "RUNS", "SEQ", "FLOOR", "BEFORE", "DOING");
    for (app, journal) in journals {
        let release = |r: &Option<Running>| r.as_ref().map_or("-".to_owned(), |r| r.release.to_string());
        let seq = journal.running.as_ref().map_or(0, |r| r.seq.0);
        let (runs, before) = (release(&journal.running), release(&journal.previous_good));
        let _ = writeln!(text, "{app:<20} {runs:<22} {seq:>6} {:>6}  {before:<22} {}", journal.floor.0, doing(journal));
    }
    text
}

fn doing(journal: &Journal) -> String {
    let Some(activity) = &journal.activity else { return "-".to_owned() };
    let leg = match activity.leg {
        Leg::Drain => "draining for",
        Leg::Switch => "switching to",
        Leg::Restart => "restarting on",
        Leg::Probe => "probing",
        Leg::Undrain => "undraining on",
    };
    format!("{leg} {}", activity.release)
}

#[cfg(test)]
mod tests {
    use coord_proto::ids::Seq;

    use super::*;
    use crate::journal::{Activity, Direction};

    #[test]
    fn what_runs_and_what_is_being_done() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(table(&read(dir.path()).expect("read")), "no app has been here yet\n");
        let running = |seq, release: &str| Some(Running { seq: Seq(seq), release: release.parse().expect("release") });
        let activity = Activity {
            seq: Seq(4),
            release: "r4".parse().expect("release"),
            previous: running(3, "r3"),
            leg: Leg::Probe,
            direction: Direction::Forward,
            restart: 0,
        };
        let journal = Journal {
            running: running(4, "r4"),
            previous_good: running(3, "r3"),
            floor: Seq(2),
            activity: Some(activity),
            ..Journal::default()
        };
        let app = dir.path().join("apps/shop");
        fs::create_dir_all(&app).expect("dir");
        journal.save(&app, &Journal::default()).expect("saved");
        fs::create_dir_all(dir.path().join("apps/empty")).expect("dir");

        let journals = read(dir.path()).expect("read");
        let text = table(&journals);
        let line: Vec<&str> = text.lines().nth(1).expect("a line").split_whitespace().collect();
        assert_eq!(line, ["shop", "r4", "4", "2", "r3", "probing", "r4"]);
        assert!(json(&journals).contains("\"shop\""));

        fs::write(app.join("journal.json"), "{").expect("damage");
        assert!(matches!(read(dir.path()), Err(StatusError::Damaged { .. })));
        assert!(app.join("journal.json").exists(), "nothing is set aside by looking");
    }
}
