//! Progress on stderr: a bar where there is a terminal, one closing line where there is none.

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second: enough for the eye, cheap over ssh.
const DRAWS_PER_SECOND: u8 = 8;

/// Progress through a known number of bytes.
#[derive(Debug)]
pub struct Progress {
    what: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(what: &str, total: u64, bars: bool) -> Self {
        let bar = bars.then(|| {
            let style = ProgressStyle::with_template("{msg:>9} {bar:30} {bytes:>10} of {total_bytes}  {bytes_per_sec}  {eta}");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.with_message(what.to_owned())
        });
        Self { what: what.to_owned(), bar }
    }

    /// `done` bytes so far.
    pub fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Ended; the returned line says how much, for whoever has no bar.
    pub fn finish(self, done: u64) -> String {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        format!("{}: {}", self.what, HumanBytes(done))
    }
}
