//! What is free on the file systems of the apps, for plans: looked at with each report, and now and then between them.

use std::sync::Arc;
use std::time::Duration;

use coord_proto::ids::AppName;
use coord_proto::room::Room;

/// How often an agent with nothing else to report looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(300);
/// A file system that does not answer (a network's) holds up no report.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// One part in so many is worth a report of its own.
const WORTH: u64 = 20;

/// Asks for the room of an app; none where nobody knows. It may block.
pub type Measure = Arc<dyn Fn(&AppName) -> Option<Room> + Send + Sync>;

/// Looks, and comes back in any case.
pub async fn look(measure: &Measure, app: &AppName) -> Option<Room> {
    let (measure, app) = (measure.clone(), app.clone());
    let looking = tokio::task::spawn_blocking(move || measure(&app));
    tokio::time::timeout(ANSWER_MAX, looking).await.ok()?.ok()?
}

/// Did it change by more than a twentieth? That nobody knows any more is no news.
pub fn moved(old: Option<Room>, new: Option<Room>) -> bool {
    let far = |old: u64, new: u64| old.abs_diff(new) > old / WORTH;
    match (old, new) {
        (Some(old), Some(new)) => far(old.bytes, new.bytes) || far(old.inodes, new.inodes),
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_twentieth_is_worth_a_report() {
        let room = |bytes, inodes| Some(Room { bytes, inodes });
        assert!(!moved(room(1000, 1000), room(950, 1050)));
        assert!(moved(room(1000, 1000), room(949, 1000)));
        assert!(moved(room(1000, 1000), room(1000, 1051)));
        assert!(moved(room(0, 1000), room(1, 1000)), "a full disk that is cleared");
        assert!(moved(None, room(1, 1)) && !moved(room(1, 1), None) && !moved(None, None));
    }

    #[tokio::test]
    async fn a_file_system_that_does_not_answer_holds_up_nothing() {
        let app: AppName = "a".parse().expect("app");
        let known: Measure = Arc::new(|_| Some(Room { bytes: 7, inodes: 1 }));
        assert_eq!(look(&known, &app).await, Some(Room { bytes: 7, inodes: 1 }));
        let (answer, stuck) = std::sync::mpsc::channel();
        let stuck = std::sync::Mutex::new(stuck);
        let silent: Measure = Arc::new(move |_| stuck.lock().ok()?.recv().ok());
        assert_eq!(look(&silent, &app).await, None);
        answer.send(Room { bytes: 7, inodes: 1 }).expect("the thread waits, and ends now");
    }
}
