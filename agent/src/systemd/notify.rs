//! What the agent tells the manager that started it: sd_notify(3). Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tracing::debug;

/// The agent is up; what it says now is its `STATUS=`.
pub fn ready(words: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(words))]);
}

/// `STATUS=`: the same words as in the log and in the status record.
pub fn status(words: &str) {
    send(&[NotifyState::Status(&one_line(words))]);
}

/// The agent stops.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// How often systemd wants a sign of life; none: it does not watch.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}

/// Signs of life for ever. Run it on the loop's own thread: when that hangs, they stop, and systemd restarts the agent.
pub async fn keep_alive() {
    let Some(every) = watchdog_interval().filter(|e| !e.is_zero()) else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

/// A newline would begin another assignment of the protocol.
fn one_line(words: &str) -> String {
    words.replace(['\n', '\r', '\0'], " ")
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!("systemd was not told: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cannot_smuggle_an_assignment() {
        assert_eq!(one_line("broken\nREADY=1"), "broken READY=1");
    }
}
