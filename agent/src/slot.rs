//! One app on this server: its machine, and its journal on disk. Opening it puts right what a crash or another tool left.

use std::path::PathBuf;
use std::time::Duration;

use coord_proto::chain::inline;
use coord_proto::ids::{AppName, NodeName, ReleaseId, Seq};
use coord_proto::report::{HealthState, Running};
use coord_proto::retry::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::journal::{self, Journal, JournalError, ReleaseFacts, ReleaseOutcome};
use crate::layout::AppDir;
use crate::machine::Machine;

/// An app's machine with what the loop keeps beside it.
pub struct Slot {
    pub machine: Machine,
    /// What is on disk.
    saved: Journal,
    dir: PathBuf,
    pub give_way: CancellationToken,
    /// Tells what cannot yield that the agent ends.
    pub end: CancellationToken,
    pub retry_at: Option<Instant>,
    pub backoff: Backoff,
    pub words: String,
    /// What the log said last of a failure.
    pub failure: Option<String>,
}

/// Where an app lives.
#[derive(Debug, Clone)]
pub struct Place {
    pub node: NodeName,
    pub app: AppName,
    /// Of the journal.
    pub state: PathBuf,
    pub dir: AppDir,
    /// The trust file's floor.
    pub baked: Seq,
}

impl Slot {
    /// Reads the journal, sweeps, and compares both with what is there.
    ///
    /// # Errors
    /// The journal cannot be read or a newer agent wrote it. What is wrong with the app's directory is told, and fails
    /// the next action that needs it, of this app alone.
    pub async fn open(place: Place) -> Result<Self, JournalError> {
        // Removing a large tree may take longer than the watchdog allows.
        tokio::task::spawn_blocking(move || Self::open_here(&place)).await.expect("opening does not panic")
    }

    fn open_here(place: &Place) -> Result<Self, JournalError> {
        let loaded = journal::load(&place.state, place.baked)?;
        for alarm in &loaded.alarms {
            error!("{}: {alarm}", place.app);
        }
        for problem in place.dir.sweep() {
            warn!("{}: left over and still there: {}", place.app, inline(&problem));
        }
        let saved = loaded.journal.clone();
        let mut journal = loaded.journal;
        forget_what_is_gone(&mut journal, &place.dir, &place.app);
        forget_refusals(&mut journal);
        adopt(&mut journal, &place.dir, &place.app);
        Ok(Self {
            machine: Machine::new(place.node.clone(), place.app.clone(), journal),
            saved,
            dir: place.state.clone(),
            give_way: CancellationToken::new(),
            end: CancellationToken::new(),
            retry_at: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            words: String::new(),
            failure: None,
        })
    }

    /// Writes the journal, if it changed.
    ///
    /// # Errors
    /// Nothing may be acted on then.
    pub async fn save(&mut self) -> Result<(), JournalError> {
        let journal = self.machine.journal();
        if *journal == self.saved {
            return Ok(());
        }
        let (new, old, dir) = (journal.clone(), self.saved.clone(), self.dir.clone());
        let written = tokio::task::spawn_blocking(move || new.save(&dir, &old).map(|()| new)).await;
        self.saved = written.expect("saving does not panic")?;
        Ok(())
    }
}

/// A crash came between a removal and its journal entry, or somebody removed it: what is not there, whole, is staged again.
fn forget_what_is_gone(journal: &mut Journal, dir: &AppDir, app: &AppName) {
    journal.releases.retain(|release: &ReleaseId, facts: &mut ReleaseFacts| match dir.is_complete(release, &facts.digest) {
        Ok(true) => true,
        Ok(false) => {
            info!("{app}: {release} is no longer here");
            false
        }
        // A failed look is no word (I6).
        Err(e) => {
            warn!("{app}: {}", inline(&e));
            true
        }
    });
}

/// What was refused before anything changed may have been mended meanwhile, as in agent.toml: it is tried once more. What failed
/// after its switch is not.
fn forget_refusals(journal: &mut Journal) {
    let releases = &journal.releases;
    journal.failed.retain(|seq, _| releases.values().any(|f| f.seq == *seq && f.outcome == ReleaseOutcome::Failed));
}

/// `current` is the truth: a crash between the switch and the journal, or an older tool, may have moved it.
fn adopt(journal: &mut Journal, dir: &AppDir, app: &AppName) {
    let found = match dir.current() {
        Ok(found) => found,
        // Told again, with a failure, when something is to be staged; until then nothing is touched.
        Err(e) => return warn!("{app}: {}", inline(&e)),
    };
    if found.as_ref() == journal.running.as_ref().map(|r| &r.release) {
        return;
    }
    journal.health = HealthState::Unproven;
    journal.running = found.map(|release| {
        info!("{app}: {release} is current here; it is adopted");
        Running { seq: journal.releases.get(&release).map_or(Seq(0), |f| f.seq), release }
    });
}

#[cfg(test)]
mod tests;
