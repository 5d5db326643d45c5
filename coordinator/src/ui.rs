//! The terminal: results on stdout, everything else on stderr. Nothing else in this crate writes to either.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

pub mod board;
pub mod error;
pub mod progress;
pub mod table;
pub mod words;

pub use board::Board;
pub use error::Failure;
pub use progress::Progress;
pub use table::Table;

/// What a reading command prints: tables for people, JSON for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl Format {
    /// From `--json`.
    pub fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// The one writer of results, notes and progress.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    bars: bool,
}

impl Ui {
    /// For this process's terminal, if it has one.
    pub fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { bars: io::stderr().is_terminal() && !dumb }
    }

    /// Prints lines of a result. A reader that has seen enough (`| head`) is no error.
    ///
    /// # Errors
    /// Standard output cannot be written, for example because a disk is full.
    pub fn out(&self, text: impl AsRef<str>) -> io::Result<()> {
        let text = text.as_ref();
        let mut out = io::stdout().lock();
        let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
        let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Prints a record as JSON.
    ///
    /// # Errors
    /// As [`Ui::out`].
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.out(serde_json::to_string_pretty(value).map_err(io::Error::other)?)
    }

    /// Prints one event of a stream: one object, one line.
    ///
    /// # Errors
    /// As [`Ui::out`], and [`io::ErrorKind::BrokenPipe`] when the reader is gone: a stream is worth nothing without one.
    pub fn event(&self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value).map_err(io::Error::other)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush())
    }

    /// Lines that are redrawn in place, where there is a terminal.
    pub fn board(&self) -> Option<Board> {
        self.bars.then(Board::new)
    }

    /// A line about what happens. There is nowhere to report that stderr is gone.
    pub fn note(&self, line: impl AsRef<str>) {
        let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
    }

    /// Progress through `total` bytes: a bar on a terminal, else one line at the end.
    pub fn progress(&self, what: &str, total: u64) -> Progress {
        Progress::new(what, total, self.bars)
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}
