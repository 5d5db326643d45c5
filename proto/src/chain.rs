//! An error and its causes, as lines: for logs, status records and the terminal.

use std::error::Error;

/// The error and its sources, outermost first; a source that only repeats its parent's words is left out.
pub fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(e) = next {
        let text = e.to_string();
        if lines.last().is_none_or(|last| !last.contains(&text)) {
            lines.push(text);
        }
        next = e.source();
    }
    lines
}

/// The chain on one line: `outer: middle: inner`.
pub fn inline(error: &(dyn Error + 'static)) -> String {
    chain(error).join(": ")
}
