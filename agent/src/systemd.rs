//! The service manager: what it is told (sd_notify(3)), and what it is asked to do with units.

use std::time::Duration;

use async_trait::async_trait;
use coord_proto::manifest::UnitAction;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;
use tracing::debug;

mod bus;

pub use bus::SystemBus;

/// Acts on units.
#[async_trait]
pub trait Units: Send + Sync {
    /// Acts on every loaded unit that matches the pattern (a name, or with `*`), and waits until systemd has done it.
    async fn act(&self, pattern: &str, action: UnitAction) -> Result<(), UnitError>;
}

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    #[error("systemd cannot be reached over D-Bus")]
    Bus(#[source] Box<zbus::Error>),
    #[error("systemd refused")]
    Refused(#[source] Box<zbus::Error>),
    #[error("no unit matches `{pattern}`")]
    NoneMatches { pattern: String },
    #[error("systemd's job for `{unit}` ended as `{result}`; see systemctl status {unit}")]
    Job { unit: String, result: String },
    #[error("`{unit}` is {state} afterwards; see systemctl status {unit}")]
    NotActive { unit: String, state: String },
    #[error("systemd was not done before the hook's deadline")]
    Deadline,
}

/// Tells systemd; without NOTIFY_SOCKET nothing happens.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!("systemd was not told: {e}");
    }
}

/// How often the watchdog wants to be fed: half of WATCHDOG_USEC, as sd_watchdog_enabled(3) recommends.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// STATUS= at each change of `words`, and WATCHDOG=1 `every` so often, whatever changes meanwhile: words that change fast
/// must not starve the watchdog. Both come from the runtime that runs the loop: a thread that is blocked starves it.
pub async fn keep_told(
    mut words: watch::Receiver<String>,
    stop: CancellationToken,
    every: Option<Duration>,
    mut tell: impl FnMut(&[NotifyState<'_>]),
) {
    let mut pings = every.map(tokio::time::interval);
    words.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tick(&mut pings) => tell(&[NotifyState::Watchdog]),
            changed = words.changed() => {
                if changed.is_err() {
                    return;
                }
                let status = one_line(&words.borrow_and_update());
                tell(&[NotifyState::Status(&status)]);
            }
        }
    }
}

async fn tick(pings: &mut Option<Interval>) {
    match pings {
        Some(pings) => _ = pings.tick().await,
        None => std::future::pending().await,
    }
}

/// For STATUS=: a newline would begin another assignment of the protocol.
pub fn one_line(words: &str) -> String {
    words.replace(['\n', '\r', '\0'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_smuggle_an_assignment() {
        assert_eq!(one_line("broken\nREADY=1"), "broken READY=1");
    }
    /// WatchdogSec=30s, and a rollout that changes the words every ten seconds.
    #[tokio::test(start_paused = true)]
    async fn words_that_change_all_the_time_do_not_starve_the_watchdog() {
        let (words, seen) = watch::channel("0".to_owned());
        let stop = CancellationToken::new();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let tell = move |states: &[NotifyState<'_>]| told.send((tokio::time::Instant::now(), states[0].to_string())).expect("heard");
        let task = tokio::spawn(keep_told(seen, stop.clone(), Some(Duration::from_secs(15)), tell));
        let mut last = tokio::time::Instant::now();
        for turn in 1..=30 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            words.send_replace(turn.to_string());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        task.await.expect("ended");
        let mut statuses = vec![];
        while let Some((at, text)) = heard.recv().await {
            match text.strip_prefix("STATUS=") {
                Some(words) => statuses.push(words.trim().to_owned()),
                None => {
                    assert!(at - last <= Duration::from_secs(15), "systemd would have killed it");
                    last = at;
                }
            }
        }
        assert!(last.elapsed() <= Duration::from_secs(15));
        assert_eq!(statuses.last().map(String::as_str), Some("30"), "{statuses:?}");
    }
}
