//! What one app's agent must remember over a crash: written durably before an action starts (I9).
//!
//! `<state>/apps/<app>/journal.json` holds all of it; `floor` and `floor.copy` hold the floor alone, so that one damaged
//! file can not take a server back in time (I2).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use coord_proto::ids::{Digest, Generation, ReleaseId, Seq};
use coord_proto::report::{Failure, HealthState, Running};
use serde::{Deserialize, Serialize};

use crate::durable::{DurableError, ensure_dir_durably, write_file_durably};

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
    /// Of what runs. Over a restart too: a way back that failed must not look ready.
    pub health: HealthState,
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
    /// Whose cleanup hooks are still to be run.
    pub cleanup: Option<Seq>,
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
    /// What ran when it began; on the way back, where it goes.
    pub previous: Option<Running>,
    pub leg: Leg,
    pub direction: Direction,
    pub restart: u64,
}

impl Activity {
    /// What `current` will point to at its end.
    pub fn heading_to(&self) -> &ReleaseId {
        match (self.direction, &self.previous) {
            (Direction::Back, Some(previous)) => &previous.release,
            _ => &self.release,
        }
    }
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
    #[error("the journal {} has version {found}, and this agent reads version {VERSION}; upgrade the agent", .path.display())]
    Newer { path: PathBuf, found: u32 },
}

/// A journal that was read, and what was found wrong in words for a person.
#[derive(Debug)]
pub struct Loaded {
    pub journal: Journal,
    pub alarms: Vec<String>,
}

/// Reads an app's journal from `dir`; a missing one is a fresh one. A damaged one is moved aside and told, never a crash
/// loop: what runs keeps running, and the floor comes from its own two copies, at least `baked`. A copy that is lost is
/// told and written again.
///
/// # Errors
/// The directory cannot be made, read or written, or a newer agent wrote the journal.
pub fn load(dir: &Path, baked: Seq) -> Result<Loaded, JournalError> {
    ensure_dir_durably(dir)?;
    let path = dir.join(JOURNAL);
    let (mut journal, mut alarms) = match read(&path)?.map(|bytes| parse(&bytes)) {
        None => (Journal::default(), vec![]),
        Some(Parsed::Journal(journal)) => (*journal, vec![]),
        Some(Parsed::Newer(found)) => return Err(JournalError::Newer { path, found }),
        Some(Parsed::Damaged) => (Journal::default(), vec![set_aside(&path)?]),
    };
    let floors = [read_floor(dir, FLOORS[0])?, read_floor(dir, FLOORS[1])?];
    if floors.iter().all(Option::is_none) && !alarms.is_empty() {
        alarms.push(format!("both copies of the floor are gone too: it restarts at {baked}"));
    }
    let noted = floors.into_iter().flatten().chain([journal.floor]).max().unwrap_or_default();
    journal.floor = noted.max(baked);
    for (name, floor) in FLOORS.iter().zip(floors) {
        // A crash between the two copies leaves one lower; a missing one where there was a floor is damage.
        if floor.is_none() && noted > Seq(0) {
            alarms.push(format!("{} was missing or damaged; it is written again", dir.join(name).display()));
        }
        if journal.floor > Seq(0) && floor != Some(journal.floor) {
            write_floor(dir, name, journal.floor)?;
        }
    }
    Ok(Loaded { journal, alarms })
}

enum Parsed {
    Journal(Box<Journal>),
    Newer(u32),
    Damaged,
}

fn parse(bytes: &[u8]) -> Parsed {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_slice::<Version>(bytes).map(|v| v.version) {
        Ok(VERSION) => serde_json::from_slice(bytes).map_or(Parsed::Damaged, Parsed::Journal),
        Ok(newer) if newer > VERSION => Parsed::Newer(newer),
        _ => Parsed::Damaged,
    }
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

fn write_floor(dir: &Path, name: &str, floor: Seq) -> Result<(), DurableError> {
    write_file_durably(&dir.join(name), floor.to_string().as_bytes(), 0o600)
}

impl Journal {
    /// What ran here before `release` does, or did: `COORD_PREVIOUS_RELEASE` of its hooks.
    pub fn before(&self, release: &ReleaseId) -> Option<&ReleaseId> {
        let activity = self.activity.iter().flat_map(|a| [a.previous.as_ref().map(|p| &p.release), Some(&a.release)]).flatten();
        let noted = [&self.running, &self.previous_good].into_iter().flatten().map(|r| &r.release);
        activity.chain(noted).find(|r| *r != release)
    }

    /// Writes it durably; `saved` is what is on disk, so that an unchanged floor costs nothing.
    ///
    /// # Errors
    /// Any write or fsync that failed: nothing may be acted on then.
    pub fn save(&self, dir: &Path, saved: &Self) -> Result<(), JournalError> {
        if self.floor != saved.floor {
            for name in FLOORS {
                write_floor(dir, name, self.floor)?;
            }
        }
        let bytes = serde_json::to_vec(&Self { version: VERSION, ..self.clone() }).expect("a journal holds only strings, numbers and maps");
        Ok(write_file_durably(&dir.join(JOURNAL), &bytes, 0o600)?)
    }
}

#[cfg(test)]
mod tests;
