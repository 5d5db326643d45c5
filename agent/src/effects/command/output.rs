//! A command's output, bounded: its beginning in the log file, its end for the status record, secrets blanked out in both.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use coord_proto::limits::{HOOK_LOG_BYTES_MAX, LOG_TAIL_BYTES_MAX};
use tracing::warn;

/// Log files kept in one directory; the oldest go.
const LOG_FILES_MAX: usize = 100;
const BLANK: &[u8] = b"[redacted]";

/// Takes output as it comes.
#[derive(Debug)]
pub struct Capture {
    secrets: Secrets,
    /// None once it could not be written.
    file: Option<File>,
    /// What the file may still take.
    room: usize,
    /// Bytes that may be the beginning of a secret.
    undecided: Vec<u8>,
    /// The last bytes as printed: the tail, and as much before it as a secret may reach into it.
    last: VecDeque<u8>,
    printed: u64,
}

impl Capture {
    /// Replaces the log file at `path`.
    ///
    /// # Errors
    /// The file or its directory cannot be made.
    pub fn open(path: &Path, secrets: &[String]) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            remove_oldest(dir)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self {
            secrets: Secrets::new(secrets),
            file: Some(file),
            room: HOOK_LOG_BYTES_MAX,
            undecided: Vec::new(),
            last: VecDeque::new(),
            printed: 0,
        })
    }

    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.printed += bytes.len() as u64;
        if self.room > 0 {
            self.undecided.extend_from_slice(bytes);
            let mut clear = Vec::with_capacity(self.undecided.len());
            let decided = self.secrets.blank(&self.undecided, self.secrets.longest, &mut clear);
            self.undecided.drain(..decided);
            self.write(&clear);
        }
        let keep = LOG_TAIL_BYTES_MAX + self.secrets.longest;
        self.last.extend(&bytes[bytes.len().saturating_sub(keep)..]);
        let excess = self.last.len().saturating_sub(keep);
        self.last.drain(..excess);
    }

    /// Closes the file; the tail, and how much was printed.
    pub fn finish(mut self) -> (String, u64) {
        let tail = self.tail();
        if self.room > 0 {
            let mut clear = Vec::new();
            self.secrets.blank(&std::mem::take(&mut self.undecided), 0, &mut clear);
            self.write(&clear);
        } else {
            self.room = usize::MAX;
            let note = format!("\n[… {} bytes were printed; the end follows …]\n", self.printed);
            self.write(note.as_bytes());
            self.write(tail.as_bytes());
        }
        (tail, self.printed)
    }

    fn write(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.room)];
        self.room -= bytes.len();
        let Some(file) = &mut self.file else { return };
        if let Err(e) = file.write_all(bytes) {
            // A full disk must not fail the command that may be about to free it.
            warn!("a command's log is cut short: {e}");
            self.file = None;
        }
    }

    fn tail(&self) -> String {
        let last: Vec<u8> = self.last.iter().copied().collect();
        let cut_off = self.printed > last.len() as u64;
        let mut clear = Vec::new();
        // Where bytes before these were dropped, the first ones may be the rest of a secret: they are looked at, not shown.
        let hidden = if cut_off { self.secrets.longest.saturating_sub(1) } else { 0 };
        let start = self.secrets.blank_range(&last, 0, hidden, &mut Vec::new());
        self.secrets.blank_range(&last, start, last.len(), &mut clear);
        let text = printable(&clear);
        let mut from = text.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text[from..].to_owned()
    }
}

/// Text that may go into a record and onto a terminal: no escape sequences.
fn printable(bytes: &[u8]) -> String {
    let keep = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    String::from_utf8_lossy(bytes).chars().filter(keep).collect::<String>().trim_end().to_owned()
}

/// Texts to blank out.
#[derive(Debug)]
struct Secrets {
    /// Longest first: one may begin with another.
    texts: Vec<Vec<u8>>,
    longest: usize,
}

impl Secrets {
    fn new(texts: &[String]) -> Self {
        let mut texts: Vec<Vec<u8>> = texts.iter().filter(|t| !t.is_empty()).map(|t| t.clone().into_bytes()).collect();
        texts.sort_by_key(|t| std::cmp::Reverse(t.len()));
        let longest = texts.first().map_or(0, Vec::len);
        Self { texts, longest }
    }

    /// Appends `bytes` without secrets to `out`, up to where fewer than `lookahead` bytes are left; returns how far that is.
    fn blank(&self, bytes: &[u8], lookahead: usize, out: &mut Vec<u8>) -> usize {
        let end = if lookahead == 0 { bytes.len() } else { (bytes.len() + 1).saturating_sub(lookahead) };
        self.blank_range(bytes, 0, end, out)
    }

    /// Appends what begins in `[from, end)`; returns where the next one begins, which is past `end` after a secret.
    fn blank_range(&self, bytes: &[u8], from: usize, end: usize, out: &mut Vec<u8>) -> usize {
        if self.texts.is_empty() {
            let end = end.max(from);
            out.extend_from_slice(&bytes[from..end]);
            return end;
        }
        let mut at = from;
        while at < end {
            match self.texts.iter().find(|t| bytes[at..].starts_with(t)) {
                Some(secret) => {
                    out.extend_from_slice(BLANK);
                    at += secret.len();
                }
                None => {
                    out.push(bytes[at]);
                    at += 1;
                }
            }
        }
        at
    }
}

/// Makes room for one more log file.
fn remove_oldest(dir: &Path) -> io::Result<()> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        if facts.is_file() {
            logs.push((facts.modified()?, entry.path()));
        }
    }
    logs.sort();
    let excess = (logs.len() + 1).saturating_sub(LOG_FILES_MAX);
    logs.iter().take(excess).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(secrets: &[&str]) -> (tempfile::TempDir, std::path::PathBuf, Capture) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("logs/x.log");
        let secrets: Vec<String> = secrets.iter().map(|s| (*s).to_owned()).collect();
        let capture = Capture::open(&path, &secrets).expect("open");
        (dir, path, capture)
    }

    #[test]
    fn secrets_vanish_also_when_they_come_in_pieces() {
        let (_dir, path, mut c) = capture(&["hunter2", "hunter2-long"]);
        for byte in b"a=hunter2 b=hunter2-long c=hunter" {
            c.push(&[*byte]);
        }
        let (tail, printed) = c.finish();
        assert_eq!(tail, "a=[redacted] b=[redacted] c=hunter");
        assert_eq!(fs::read_to_string(path).expect("log"), tail);
        assert_eq!(printed, 33);
    }

    #[test]
    fn a_secret_that_the_tail_cuts_in_two_is_not_shown() {
        let secret = "S".repeat(20);
        for pad in 0..40 {
            let (_dir, _, mut c) = capture(&[&secret]);
            c.push(format!("{secret}{}", "x".repeat(LOG_TAIL_BYTES_MAX - pad)).as_bytes());
            let (tail, _) = c.finish();
            assert!(!tail.contains('S'), "pad {pad}: {}", &tail[..40]);
            assert!(tail.len() <= LOG_TAIL_BYTES_MAX);
        }
    }

    #[test]
    fn file_and_tail_are_bounded_and_the_rest_is_counted() {
        let (_dir, path, mut c) = capture(&[]);
        let line = [b'y'; 999];
        for _ in 0..3000 {
            c.push(&line);
            c.push(b"\n");
        }
        c.push(b"the end");
        let (tail, printed) = c.finish();
        assert_eq!(printed, 3_000_007);
        assert!(tail.ends_with("\nthe end") && tail.len() == LOG_TAIL_BYTES_MAX);
        let log = fs::read_to_string(path).expect("log");
        assert!(log.len() < HOOK_LOG_BYTES_MAX + LOG_TAIL_BYTES_MAX + 100, "{}", log.len());
        assert!(log.contains("3000007 bytes were printed") && log.ends_with("the end"));
    }

    #[test]
    fn bytes_that_are_no_text_stay_within_the_limit() {
        let (_dir, _, mut c) = capture(&[]);
        c.push(&vec![0xff; LOG_TAIL_BYTES_MAX * 2]);
        let (tail, _) = c.finish();
        assert!(tail.len() <= LOG_TAIL_BYTES_MAX && tail.contains('\u{fffd}'));
    }

    #[test]
    fn old_logs_go() {
        let dir = tempfile::tempdir().expect("dir");
        for i in 0..LOG_FILES_MAX + 5 {
            Capture::open(&dir.path().join(format!("{i}.log")), &[]).expect("open");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), LOG_FILES_MAX);
    }
}
