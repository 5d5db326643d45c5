//! What one app's agent must remember over a crash: written durably before an action starts (I9).
//!
//! `<state>/apps/<app>/journal.json` holds all of it; `floor` and `floor.copy` hold the floor alone, so that one damaged
//! file can not take a server back in time (I2).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use coord_proto::ids::{Digest, Generation, ReleaseId, Seq};
use coord_proto::report::{Failure, Running};
use serde::{Deserialize, Serialize};

use crate::durable::{DurableError, write_file_durably};

const JOURNAL: &str = "journal.json";
const FLOORS: [&str; 2] = ["floor", "floor.copy"];
const VERSION: u32 = 1;

/// The facts that decisions are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    pub version: u32,
    /// What `current` points to.
    pub running: Option<Running>,
    /// What ran, healthy, before it.
    pub previous_good: Option<Running>,
    pub last_healthy: Option<Running>,
    /// Highest seq whose manifest was accepted.
    pub accepted: Seq,
    pub floor: Seq,
    /// A change of `current` under way.
    pub activity: Option<Activity>,
    /// What failed, and the generation that asked for it: not tried again for that one.
    pub failed: BTreeMap<Seq, Generation>,
    /// The last failure, and the generation that it answers.
    pub failure: Option<(Generation, Failure)>,
    pub after_done: Option<Seq>,
    /// The `restart` wish that was obeyed last.
    pub restarted: u64,
    /// The complete directories below `releases/` that this agent made.
    pub releases: BTreeMap<ReleaseId, ReleaseFacts>,
}

/// One complete directory below `releases/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFacts {
    pub seq: Seq,
    pub digest: Digest,
    /// Unix seconds.
    pub created: i64,
    pub outcome: ReleaseOutcome,
    /// Did its `prepare` hooks run to the end?
    pub prepared: bool,
}

/// How a release fared on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseOutcome {
    Staged,
    Good,
    Failed,
}

/// A change of `current`, from drain to undrain; always brought to an end, also over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    pub seq: Seq,
    pub release: ReleaseId,
    /// What ran when it began: where it goes back to.
    pub previous: Option<Running>,
    pub leg: Leg,
    pub direction: Direction,
    pub restart: u64,
}

/// The part of an activity that is being done. Each may be repeated after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leg {
    Drain,
    Switch,
    Restart,
    Probe,
    Undrain,
}

/// To the new release, or back to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Forward,
    Back,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("cannot {doing} {}", .path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the journal")]
    Write(#[from] DurableError),
}

/// A journal that was read, and what is wrong with it in words for a person, if anything.
#[derive(Debug)]
pub struct Loaded {
    pub journal: Journal,
    pub alarm: Option<String>,
}

/// Reads an app's journal from `dir`; a missing one is a fresh one. A damaged one is moved aside and told, never a crash
/// loop: what runs keeps running, and the floor comes from its own two copies, at least `baked`.
///
/// # Errors
/// The directory cannot be made, read or written.
pub fn load(dir: &Path, baked: Seq) -> Result<Loaded, JournalError> {
    std::fs::create_dir_all(dir).map_err(|source| JournalError::Io { doing: "make the directory", path: dir.into(), source })?;
    let path = dir.join(JOURNAL);
    let (mut journal, mut alarm) = match read(&path)?.map(|bytes| parse(&bytes)) {
        None => (Journal::default(), None),
        Some(Some(journal)) => (journal, None),
        Some(None) => (Journal::default(), Some(set_aside(&path)?)),
    };
    let floors = [read_floor(dir, FLOORS[0])?, read_floor(dir, FLOORS[1])?];
    if floors.iter().all(Option::is_none) && alarm.is_some() {
        alarm = alarm.map(|a| format!("{a}; both copies of the floor are gone too: it restarts at {baked}"));
    }
    journal.floor = floors.into_iter().flatten().chain([journal.floor, baked]).max().unwrap_or(baked);
    Ok(Loaded { journal, alarm })
}

fn parse(bytes: &[u8]) -> Option<Journal> {
    serde_json::from_slice::<Journal>(bytes).ok().filter(|j| j.version == VERSION)
}

fn set_aside(path: &Path) -> Result<String, JournalError> {
    let aside = path.with_extension("damaged");
    std::fs::rename(path, &aside).map_err(|source| JournalError::Io { doing: "set aside the damaged", path: path.into(), source })?;
    Ok(format!("the journal {} was damaged and is now {}", path.display(), aside.display()))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, JournalError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JournalError::Io { doing: "read", path: path.into(), source }),
    }
}

fn read_floor(dir: &Path, name: &str) -> Result<Option<Seq>, JournalError> {
    let bytes = read(&dir.join(name))?;
    Ok(bytes.and_then(|b| std::str::from_utf8(&b).ok()?.trim().parse().ok()).map(Seq))
}

impl Journal {
    /// Writes it durably; `saved` is what is on disk, so that an unchanged floor costs nothing.
    ///
    /// # Errors
    /// Any write or fsync that failed: nothing may be acted on then.
    pub fn save(&self, dir: &Path, saved: &Self) -> Result<(), JournalError> {
        if self.floor != saved.floor {
            for name in FLOORS {
                write_file_durably(&dir.join(name), self.floor.to_string().as_bytes(), 0o600)?;
            }
        }
        let bytes = serde_json::to_vec(&Self { version: VERSION, ..self.clone() }).expect("a journal holds only strings, numbers and maps");
        Ok(write_file_durably(&dir.join(JOURNAL), &bytes, 0o600)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("dir");
        let journal = Journal { version: VERSION, floor: Seq(3), accepted: Seq(5), ..Journal::default() };
        journal.save(dir.path(), &Journal::default()).expect("saved");
        assert_eq!(load(dir.path(), Seq(0)).expect("loaded").journal, journal);
    }

    #[test]
    fn a_damaged_journal_is_set_aside_and_the_floor_stays() {
        let dir = tempfile::tempdir().expect("dir");
        Journal { floor: Seq(3), ..Journal::default() }.save(dir.path(), &Journal::default()).expect("saved");
        std::fs::write(dir.path().join(JOURNAL), b"{").expect("damage");
        std::fs::write(dir.path().join(FLOORS[0]), b"").expect("damage");
        let loaded = load(dir.path(), Seq(1)).expect("loaded");
        assert_eq!(loaded.journal.floor, Seq(3));
        assert!(loaded.alarm.is_some_and(|a| a.contains("damaged")));
        assert!(dir.path().join("journal.damaged").exists());
    }

    #[test]
    fn the_baked_floor_is_the_least() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(load(dir.path(), Seq(9)).expect("loaded").journal.floor, Seq(9));
    }
}
