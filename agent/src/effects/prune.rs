//! Removes old releases: chosen by a pure function, removed slowly, never on the critical path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use coord_proto::ids::ReleaseId;

use crate::durable::{DurableError, remove_tree};
use crate::journal::{ReleaseFacts, ReleaseOutcome};
use crate::layout::{AppDir, LayoutError};

/// A release on disk, as pruning sees it. Sorted by age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub release: ReleaseId,
    /// Unix seconds; releases of other tools count as oldest.
    pub created: i64,
    pub outcome: ReleaseOutcome,
}

/// The releases on disk with what the journal knows of them.
///
/// # Errors
/// `releases/` cannot be read.
pub fn survey(dir: &AppDir, known: &BTreeMap<ReleaseId, ReleaseFacts>) -> Result<Vec<Kept>, LayoutError> {
    let look = |release: ReleaseId| {
        // Whatever another tool left has served: it counts as good, and as older than anything of ours.
        let (created, outcome) = known.get(&release).map_or((0, ReleaseOutcome::Good), |f| (f.created, f.outcome));
        Kept { release, created, outcome }
    };
    Ok(dir.list_releases()?.into_iter().map(look).collect())
}

/// Which releases go: all but the newest `keep` good ones and the protected ones (current, run, stage, stable, last healthy, journaled).
/// Only good ones count towards `keep`, so a row of failed releases never pushes out the one to go back to. A failed or untried one goes
/// once it is older than the newest good one that stays; a newer one is left for a look at what went wrong, up to `keep` of them.
pub fn choose(releases: &[Kept], keep: usize, protected: &BTreeSet<ReleaseId>) -> Vec<ReleaseId> {
    let mut newest_first: Vec<&Kept> = releases.iter().collect();
    newest_first.sort_by(|a, b| (b.created, &b.release).cmp(&(a.created, &a.release)));
    let (mut good, mut other) = (0, 0);
    let mut stays = |r: &Kept| match r.outcome {
        ReleaseOutcome::Good => {
            good += 1;
            good <= keep
        }
        ReleaseOutcome::Staged | ReleaseOutcome::Failed => {
            other += 1;
            good == 0 && other <= keep
        }
    };
    let mut gone: Vec<ReleaseId> = newest_first.into_iter().filter(|r| !stays(r)).map(|r| r.release.clone()).collect();
    gone.retain(|release| !protected.contains(release));
    gone.reverse();
    gone
}

/// Removes one release: its name is gone at once, its files follow. A crash in between is finished by [`AppDir::sweep`].
///
/// # Errors
/// It cannot be renamed or removed. The release that `current` points to is refused whatever the caller says.
pub fn remove(dir: &AppDir, release: &ReleaseId) -> Result<(), PruneError> {
    if dir.current()?.as_ref() == Some(release) {
        return Err(PruneError::Current { release: release.clone() });
    }
    let (from, trash) = (dir.release(release), dir.trash(release));
    // A removal that failed before left it in the way.
    remove_tree(&trash).map_err(LayoutError::from)?;
    fs::rename(&from, &trash).map_err(DurableError::on("set aside", &from)).map_err(LayoutError::from)?;
    dir.remove_proof(release)?;
    Ok(remove_tree(&trash).map_err(LayoutError::from)?)
}

/// Surveys, chooses and removes. What is gone, also in part, and why what should have gone stays: one bad release does not
/// keep the others.
pub fn prune(
    dir: &AppDir,
    known: &BTreeMap<ReleaseId, ReleaseFacts>,
    keep: usize,
    protected: &BTreeSet<ReleaseId>,
) -> (Vec<ReleaseId>, Vec<PruneError>) {
    let releases = match survey(dir, known) {
        Ok(releases) => releases,
        Err(e) => return (vec![], vec![e.into()]),
    };
    let chosen = choose(&releases, keep, protected);
    let problems = chosen.iter().filter_map(|release| remove(dir, release).err()).collect();
    let gone = chosen.into_iter().filter(|release| dir.release(release).symlink_metadata().is_err()).collect();
    (gone, problems)
}

/// Why a release was not removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("release {release} is what `current` points to; it stays")]
    Current { release: ReleaseId },
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

#[cfg(test)]
mod tests;
