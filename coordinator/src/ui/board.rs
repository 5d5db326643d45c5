//! Lines at the bottom of a terminal that are redrawn in place, below those that stay.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second: enough for the eye, cheap over ssh.
const DRAWS_PER_SECOND: u8 = 8;
/// How often the head line shows that somebody is still watching.
const TICK: Duration = Duration::from_millis(250);

/// One line with what it is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub tone: Tone,
    pub text: String,
}

/// How a line looks; without colours all but the first look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// The first line: it moves, and has the time.
    Head,
    Plain,
    Good,
    Bad,
    Quiet,
}

impl Line {
    /// A line.
    pub fn new(tone: Tone, text: String) -> Self {
        Self { tone, text }
    }
}

impl Tone {
    /// Of indicatif; `wide_msg` cuts what is too long for the terminal.
    fn template(self) -> &'static str {
        match self {
            Self::Head => "{spinner:.cyan} {wide_msg:.bold} {elapsed:.dim}",
            Self::Plain => "  {wide_msg}",
            Self::Good => "  {wide_msg:.green}",
            Self::Bad => "  {wide_msg:.red}",
            Self::Quiet => "  {wide_msg:.dim}",
        }
    }

    fn style(self) -> ProgressStyle {
        ProgressStyle::with_template(self.template()).unwrap_or_else(|_| ProgressStyle::default_spinner())
    }
}

/// The redrawn lines.
#[derive(Debug)]
pub struct Board {
    screen: MultiProgress,
    rows: Vec<(ProgressBar, Tone)>,
}

impl Board {
    pub(super) fn new() -> Self {
        Self { screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)), rows: Vec::new() }
    }

    /// Shows these lines, below an empty one, instead of those before.
    ///
    /// The empty one is there for the `^C` that a terminal shows: it moves the cursor to the next line, unseen, so that the topmost line
    /// is the one that stays behind.
    pub fn draw(&mut self, lines: &[Line]) {
        let gap = Line::new(Tone::Plain, String::new());
        let lines: Vec<&Line> = std::iter::once(&gap).filter(|_| !lines.is_empty()).chain(lines).collect();
        for (row, _) in self.rows.drain(lines.len().min(self.rows.len())..) {
            row.finish_and_clear();
            self.screen.remove(&row);
        }
        for (at, line) in lines.into_iter().enumerate() {
            if at == self.rows.len() {
                let row = self.row(line.tone);
                // Seen from now on, even if it is empty.
                row.set_message(line.text.clone());
                self.rows.push((row, line.tone));
            }
            let (row, tone) = &mut self.rows[at];
            if *tone != line.tone {
                row.set_style(line.tone.style());
                *tone = line.tone;
            }
            if row.message() != line.text {
                row.set_message(line.text.clone());
            }
        }
    }

    fn row(&self, tone: Tone) -> ProgressBar {
        let row = self.screen.add(ProgressBar::no_length());
        row.set_style(tone.style());
        if tone == Tone::Head {
            row.enable_steady_tick(TICK);
        }
        row
    }

    /// A line that stays, above the redrawn ones.
    pub fn print(&self, line: &str) {
        // There is nowhere to report that the terminal is gone.
        let _ = self.screen.println(line);
    }

    /// Takes the redrawn lines away.
    pub fn clear(mut self) {
        self.draw(&[]);
    }
}
