//! How a command fails: `error:`, its causes, a `hint:` with what to type next, and an exit code.

use std::error::Error;

use coord_proto::chain;

use crate::exit::Exit;
use crate::ui::table::printable;

/// A failed command. Any error turns into one with [`Exit::Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    /// The error and its causes, outermost first.
    pub chain: Vec<String>,
    /// What to do about it; empty where nothing helps.
    pub hint: String,
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Error, chain: chain::chain(&error), hint: String::new() }
    }
}

impl Failure {
    /// A failure in words.
    pub fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self { exit, chain: vec![words.into()], hint: String::new() }
    }

    /// The command was refused; nothing was changed.
    pub fn refused(words: impl Into<String>) -> Self {
        Self::new(Exit::Refused, words)
    }

    /// With what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// With another exit code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The lines for stderr.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (i, cause) in self.chain.iter().enumerate() {
            let lead = if i == 0 { "error: " } else { "  because: " };
            let lines: Vec<String> = cause.trim_end().lines().map(printable).collect();
            text.push_str(&format!("{lead}{}\n", lines.join("\n    ")));
        }
        if !self.hint.is_empty() {
            text.push_str(&format!("hint: {}\n", self.hint.replace('\n', "\n      ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot publish")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_told_with_its_causes_and_a_hint() {
        let error = Outer(std::io::Error::other("the disk is full"));
        let failure = Failure::from(error).hint("make room");
        assert_eq!(failure.render(), "error: cannot publish\n  because: the disk is full\nhint: make room\n");
        assert_eq!(failure.exit, Exit::Error);
    }
}
