//! How a followed rollout is shown: drawn in place on a terminal, plain lines elsewhere, or events for a program.

use std::io;

use coord_proto::rollout::RolloutSpec;
use serde::Serialize;

use crate::cli::Done;
use crate::exit::Exit;
use crate::publish::follow::events::{Event, Teller};
use crate::publish::follow::{Ending, Follower, picture};
use crate::ui::{Board, Failure, Format, Ui, words};
use crate::view::Fleet;

/// One way to show it.
pub struct Display {
    ui: Ui,
    way: Way,
}

enum Way {
    Plain,
    Drawn {
        board: Board,
        /// Batches whose closing line was printed.
        closed: usize,
    },
    Events(Teller),
}

/// An event with its time.
#[derive(Serialize)]
struct Stamped<'a> {
    /// Unix seconds, by this machine's clock.
    at: i64,
    #[serde(flatten)]
    event: &'a Event,
}

impl Display {
    /// As this process's output can have it.
    pub fn of(ui: Ui, format: Format) -> Self {
        let way = match (format, ui.board()) {
            (Format::Json, _) => Way::Events(Teller::default()),
            (Format::Text, Some(board)) => Way::Drawn { board, closed: 0 },
            (Format::Text, None) => Way::Plain,
        };
        Self { ui, way }
    }

    /// What changed.
    ///
    /// # Errors
    /// stdout cannot be written: no program reads the events.
    pub fn show(&mut self, follower: &mut Follower, fleet: &Fleet) -> io::Result<()> {
        let ui = self.ui;
        match &mut self.way {
            Way::Plain => follower.news(fleet).iter().for_each(|line| ui.note(line)),
            Way::Drawn { board, closed } => {
                // Above what is redrawn stays what is over.
                follower.lasting_news(fleet).iter().for_each(|line| board.print(line));
                if let Some(state) = follower.state(fleet) {
                    if let Some(line) = picture::closed(state, *closed) {
                        board.print(&line.text);
                    }
                    *closed = picture::closed_until(state).max(*closed);
                }
                board.draw(&picture::lines(follower, fleet));
            }
            Way::Events(teller) => return teller.news(follower, fleet).iter().try_for_each(|event| print(ui, event)),
        }
        Ok(())
    }

    /// The rollout has ended, or waits for a person.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub fn ended(self, ending: &Ending) -> Done {
        let ui = self.ui;
        match self.way {
            Way::Events(_) => {
                print(ui, &Event::end(ending)).or_else(unread)?;
                return Ok(ending.exit);
            }
            Way::Drawn { board, .. } => board.clear(),
            Way::Plain => {}
        }
        for part in [&ending.servers, &ending.recap, &ending.words] {
            if !part.is_empty() {
                ui.out(part)?;
            }
        }
        if !ending.hint.is_empty() {
            ui.note(format!("hint: {}", ending.hint));
        }
        Ok(ending.exit)
    }

    /// The rollout goes on, and nobody follows it any more.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub fn left(self, failure: &Failure) -> io::Result<()> {
        match self.way {
            Way::Events(_) => {
                let (exit, words, hint) = (failure.exit.code(), failure.chain.join(": "), failure.hint.clone());
                print(self.ui, &Event::End { exit, words, recap: String::new(), hint }).or_else(unread)
            }
            Way::Drawn { board, .. } => {
                board.clear();
                Ok(())
            }
            Way::Plain => Ok(()),
        }
    }
}

/// A release that is published and not followed.
///
/// # Errors
/// stdout cannot be written.
pub fn accepted(ui: Ui, format: Format, spec: &RolloutSpec) -> Done {
    let RolloutSpec { app, id, release, seq, .. } = spec.clone();
    match format {
        Format::Text => ui.out(format!("accepted release {release}"))?,
        Format::Json => print(ui, &Event::Accepted { app, rollout: id, release, seq }).or_else(unread)?,
    }
    Ok(Exit::Done)
}

fn print(ui: Ui, event: &Event) -> io::Result<()> {
    ui.event(&Stamped { at: words::now(), event })
}

/// The exit code says it as well.
fn unread(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}
