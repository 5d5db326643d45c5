//! `current` of every server, watched as the web server in front of the application sees it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::fleet::Fleet;

/// Reads every server's `current` again and again.
#[derive(Debug)]
pub struct Links {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<Option<String>>>,
}

impl Links {
    /// Begins to read.
    pub fn watch(fleet: &Fleet) -> Self {
        let links: Vec<PathBuf> = fleet.node_names().iter().map(|name| fleet.app_dir(name).join("current")).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                seen.extend(links.iter().map(|link| std::fs::read_link(link).ok().map(|p| p.display().to_string())));
                thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self { stop, thread }
    }

    /// Fails if a link was ever missing (once there was one), or anything but the newest of `before` and `release`.
    ///
    /// # Errors
    /// What was seen beside them is in the error.
    pub fn expect_only_with(self, before: &[String], release: &str) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().ok().context("the watching thread panicked")?;
        let old = before.last().map(|release| format!("releases/{release}"));
        let new = Some(format!("releases/{release}"));
        let strange: Vec<_> = seen.iter().filter(|link| **link != old && **link != new).collect();
        ensure!(strange.is_empty(), "seen beside {old:?} and {new:?}: {strange:?}");
        Ok(())
    }
}
