//! `current` of every server, watched as the web server in front of the application sees it.

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
    /// Of each server what was seen, in order, without repetitions.
    thread: JoinHandle<Vec<Vec<Option<String>>>>,
}

impl Links {
    /// Begins to read.
    pub fn watch(fleet: &Fleet) -> Self {
        let links: Vec<PathBuf> = fleet.node_names().iter().map(|name| fleet.app_dir(name).join("current")).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen: Vec<Vec<Option<String>>> = vec![Vec::new(); links.len()];
            while !stopped.load(Ordering::Relaxed) {
                for (link, seen) in links.iter().zip(&mut seen) {
                    let now = std::fs::read_link(link).ok().map(|p| p.display().to_string());
                    if seen.last() != Some(&now) {
                        seen.push(now);
                    }
                }
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
        for links in seen {
            // Where nothing ran before, there is no link at first, and never again after it was there.
            let there = if old.is_none() { links.strip_prefix(&[None]).unwrap_or(&links) } else { &links };
            let strange = there.iter().any(|link| link.is_none() || *link != old && *link != new);
            ensure!(!strange, "seen beside {old:?} and {new:?}: {links:?}");
        }
        Ok(())
    }
}
