//! What an archive may hold: asked by servers for every entry before it is created, and by `coordctl release pack` before it is signed.
//!
//! The whole archive is refused for one bad entry, never a part of it skipped. Allowed are regular files, directories, relative symlinks
//! that stay inside the release, and absolute ones that the manifest allows. Owners, extended attributes and times of the archive are
//! ignored; of the mode only "executable" is kept.

use std::collections::HashMap;
use std::io;

use crate::limits::{ENTRIES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, UNPACKED_BYTES_MAX};
use crate::manifest::Artifact;

mod decompress;
mod reader;

pub use decompress::Decompressor;
pub use reader::{ArchiveReader, scan};

/// One component of a path, in bytes (NAME_MAX of every Linux file system).
const COMPONENT_BYTES_MAX: usize = 255;

/// Characters of a path in an error. A status record and a rollout's reason are cut after a few hundred.
const PATH_SHOWN_MAX: usize = 160;

/// What an archive is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveRules {
    pub strip_components: u32,
    /// Absolute link targets that are allowed; `*` matches within one path component.
    pub allow_symlinks_to: Vec<String>,
    pub entries_max: u64,
    pub unpacked_bytes_max: u64,
}

impl Default for ArchiveRules {
    fn default() -> Self {
        Self { strip_components: 0, allow_symlinks_to: vec![], entries_max: ENTRIES_MAX, unpacked_bytes_max: UNPACKED_BYTES_MAX }
    }
}

impl ArchiveRules {
    /// The rules that a signed manifest sets: nothing beyond its numbers is unpacked.
    pub fn of(artifact: &Artifact) -> Self {
        Self {
            strip_components: artifact.strip_components,
            allow_symlinks_to: artifact.allow_symlinks_to.clone(),
            entries_max: artifact.entries,
            unpacked_bytes_max: artifact.unpacked_size,
        }
    }
}

/// An entry as an archive or a directory tree has it; paths are bytes that nobody looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEntry<'a> {
    pub path: &'a [u8],
    pub kind: RawKind<'a>,
}

/// The kind of a raw entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawKind<'a> {
    File {
        size: u64,
        executable: bool,
    },
    Directory,
    Link {
        target: &'a [u8],
    },
    /// Anything else, by name: `a hard link`, `a fifo`.
    Other(&'static str),
}

/// An entry that may be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the release, after `strip_components`; no `.`, `..` or empty component.
    pub path: String,
    pub kind: Kind,
    /// Directories above it that had no entry of their own and are to be made first, outermost first.
    pub implied: Vec<String>,
}

/// The kind of an entry that may be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Mode 0755 if executable, else 0644.
    File {
        size: u64,
        executable: bool,
    },
    Directory,
    Link {
        target: String,
    },
}

/// What an archive came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files, links and directories, also the implied ones.
    pub entries: u64,
    /// Bytes of all files.
    pub unpacked_size: u64,
}

impl Totals {
    /// Are these exactly the signed numbers?
    ///
    /// # Errors
    /// Names the number that differs.
    pub fn expect(self, artifact: &Artifact) -> Result<(), ArchiveError> {
        let differ = |what, signed, found| if signed == found { Ok(()) } else { Err(ArchiveError::Totals { what, signed, found }) };
        differ("entries", artifact.entries, self.entries)?;
        differ("bytes unpacked", artifact.unpacked_size, self.unpacked_size)
    }
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive is refused: {path:?} {problem}")]
    Entry { path: String, problem: Problem },
    #[error("the archive is refused: it has more than {limit} {what}, at {path:?}")]
    TooMuch { what: &'static str, limit: u64, path: String },
    #[error("the archive is refused: it has {found} {what}, its manifest says {signed}")]
    Totals { what: &'static str, signed: u64, found: u64 },
    #[error("the archive is refused: the header at byte {at} {problem}")]
    Header { at: u64, problem: &'static str },
    #[error("the archive ends at byte {at} in the middle of something; it was cut off")]
    Truncated { at: u64 },
    #[error("the archive ends in the middle of a file; it was cut off")]
    CutInContent,
    #[error("the archive is refused: there is data after its end")]
    DataAfterEnd,
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("has an empty name")]
    EmptyName,
    #[error("has a name that is not UTF-8")]
    NotUtf8,
    #[error("has a NUL byte in its name or link target")]
    Nul,
    #[error("has a path from the root; paths must be relative")]
    Absolute,
    #[error("begins with a drive, as paths of Windows do")]
    Drive,
    #[error("has `..` in its path")]
    DotDot,
    #[error("has an empty or `.` component in the middle of its path")]
    DotInside,
    #[error("has a path or a component that is too long")]
    TooLong,
    #[error("lies deeper than {PATH_DEPTH_MAX} directories")]
    TooDeep,
    #[error("appears twice")]
    Duplicate,
    #[error("lies below {0:?}, which is not a directory")]
    BelowNonDirectory(String),
    #[error("has fewer directories above it than strip_components removes")]
    StrippedAway,
    #[error("is {0}; only files, directories and symlinks are allowed")]
    Kind(&'static str),
    #[error("is a link with an empty target")]
    LinkEmpty,
    #[error("links to {0:?}, outside the release; make it relative, or allow it with allow_symlinks_to")]
    LinkAbsolute(String),
    #[error("links to {0:?}, outside the release")]
    LinkEscapes(String),
    #[error("links to {0:?}; `..` may only be at the front of a target")]
    LinkDotDotInside(String),
    #[error("has {0} bytes of content, which its kind cannot have")]
    Content(u64),
    #[error("has two sizes: {header} in its header, {extended} in its extended header")]
    TwoSizes { header: u64, extended: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Implied,
    Directory,
    Other,
}

/// Sees every entry once, in the archive's order.
#[derive(Debug)]
pub struct ArchiveCheck {
    rules: ArchiveRules,
    seen: HashMap<String, Seen>,
    totals: Totals,
}

impl ArchiveCheck {
    /// Nothing seen yet.
    pub fn new(rules: ArchiveRules) -> Self {
        Self { rules, seen: HashMap::new(), totals: Totals::default() }
    }

    /// May this entry be created? `None`: it is the root, or a directory that `strip_components` removes.
    ///
    /// # Errors
    /// The archive is to be refused; the path is named.
    pub fn entry(&mut self, raw: RawEntry<'_>) -> Result<Option<Entry>, ArchiveError> {
        let refuse = |problem| ArchiveError::Entry { path: shown(raw.path), problem };
        let kind = kind_of(raw.kind).map_err(refuse)?;
        let Some(path) = self.path(raw.path, &kind).map_err(refuse)? else { return Ok(None) };
        if let Kind::Link { target } = &kind {
            self.check_target(&path, target).map_err(refuse)?;
        }
        let Some(implied) = self.note(&path, &kind).map_err(refuse)? else { return Ok(None) };
        self.count(&path, &kind, implied.len())?;
        Ok(Some(Entry { path, kind, implied }))
    }

    /// The sums so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn path(&self, raw: &[u8], kind: &Kind) -> Result<Option<String>, Problem> {
        let text = text_of(raw)?;
        match text.as_bytes().first() {
            None => return Err(Problem::EmptyName),
            Some(b'/') => return Err(Problem::Absolute),
            Some(_) if begins_with_drive(text) => return Err(Problem::Drive),
            Some(_) => {}
        }
        let text = if *kind == Kind::Directory { text.strip_suffix('/').unwrap_or(text) } else { text };
        let text = text.strip_prefix("./").unwrap_or(text);
        if text == "." && *kind == Kind::Directory {
            return Ok(None);
        }
        let components = components(text)?;
        let strip = self.rules.strip_components as usize;
        if components.len() <= strip {
            return if *kind == Kind::Directory { Ok(None) } else { Err(Problem::StrippedAway) };
        }
        let kept = &components[strip..];
        if kept.len() > PATH_DEPTH_MAX {
            return Err(Problem::TooDeep);
        }
        Ok(Some(kept.join("/")))
    }

    /// `..` is allowed only at the front: it then climbs real directories (an entry never lies below a link), and all further steps lead
    /// down, perhaps through another link that obeys the same rule. So no chain of links can leave the release.
    fn check_target(&self, path: &str, target: &str) -> Result<(), Problem> {
        if target.starts_with('/') {
            let climbs = target.split('/').any(|c| c == "..");
            let allowed = !climbs && self.rules.allow_symlinks_to.iter().any(|pattern| matches(pattern, target));
            return if allowed { Ok(()) } else { Err(Problem::LinkAbsolute(target.to_owned())) };
        }
        let steps = target.split('/').filter(|c| !matches!(*c, "" | "."));
        let climbs = steps.clone().take_while(|c| *c == "..").count();
        if steps.skip(climbs).any(|c| c == "..") {
            return Err(Problem::LinkDotDotInside(target.to_owned()));
        }
        let depth = path.split('/').count() - 1;
        if climbs > depth { Err(Problem::LinkEscapes(target.to_owned())) } else { Ok(()) }
    }

    /// Notes a path and the directories above it. `None`: a directory that an earlier entry implied, so it is there and counted.
    fn note(&mut self, path: &str, kind: &Kind) -> Result<Option<Vec<String>>, Problem> {
        let implied = self.implied_by(path)?;
        let new = if *kind == Kind::Directory { Seen::Directory } else { Seen::Other };
        match (self.seen.get(path), new) {
            (None, _) => {}
            (Some(Seen::Implied), Seen::Directory) => {
                self.seen.insert(path.to_owned(), Seen::Directory);
                return Ok(None);
            }
            (Some(_), _) => return Err(Problem::Duplicate),
        }
        for dir in &implied {
            self.seen.insert(dir.clone(), Seen::Implied);
        }
        self.seen.insert(path.to_owned(), new);
        Ok(Some(implied))
    }

    fn implied_by(&self, path: &str) -> Result<Vec<String>, Problem> {
        let mut implied = Vec::new();
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            match self.seen.get(parent) {
                Some(Seen::Other) => return Err(Problem::BelowNonDirectory(parent.to_owned())),
                Some(Seen::Directory | Seen::Implied) => break,
                None => implied.push(parent.to_owned()),
            }
            above = parent;
        }
        implied.reverse();
        Ok(implied)
    }

    fn count(&mut self, path: &str, kind: &Kind, implied: usize) -> Result<(), ArchiveError> {
        let too_much = |what, limit| ArchiveError::TooMuch { what, limit, path: path.to_owned() };
        self.totals.entries += 1 + implied as u64;
        if self.totals.entries > self.rules.entries_max {
            return Err(too_much("entries", self.rules.entries_max));
        }
        if let Kind::File { size, .. } = kind {
            self.totals.unpacked_size = self.totals.unpacked_size.saturating_add(*size);
        }
        if self.totals.unpacked_size > self.rules.unpacked_bytes_max {
            return Err(too_much("bytes unpacked", self.rules.unpacked_bytes_max));
        }
        Ok(())
    }
}

fn kind_of(raw: RawKind<'_>) -> Result<Kind, Problem> {
    match raw {
        RawKind::File { size, executable } => Ok(Kind::File { size, executable }),
        RawKind::Directory => Ok(Kind::Directory),
        RawKind::Link { target: b"" } => Err(Problem::LinkEmpty),
        RawKind::Link { target } => Ok(Kind::Link { target: text_of(target)?.to_owned() }),
        RawKind::Other(name) => Err(Problem::Kind(name)),
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, Problem> {
    if bytes.contains(&0) {
        return Err(Problem::Nul);
    }
    if bytes.len() > PATH_BYTES_MAX {
        return Err(Problem::TooLong);
    }
    std::str::from_utf8(bytes).map_err(|_| Problem::NotUtf8)
}

/// `C:\x`: a name like any other here, but whoever packed it meant a place.
fn begins_with_drive(path: &str) -> bool {
    matches!(path.as_bytes(), [letter, b':', b'\\', ..] if letter.is_ascii_alphabetic())
}

fn components(path: &str) -> Result<Vec<&str>, Problem> {
    let components: Vec<&str> = path.split('/').collect();
    for component in &components {
        match *component {
            ".." => return Err(Problem::DotDot),
            "" | "." => return Err(Problem::DotInside),
            long if long.len() > COMPONENT_BYTES_MAX => return Err(Problem::TooLong),
            _ => {}
        }
    }
    Ok(components)
}

/// A shell pattern with `*`, which does not match `/`.
fn matches(pattern: &str, text: &str) -> bool {
    let (patterns, texts) = (pattern.split('/'), text.split('/'));
    patterns.clone().count() == texts.clone().count() && patterns.zip(texts).all(|(p, t)| matches_component(p, t))
}

fn matches_component(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let Some((middles, last)) = rest.rsplit_once('*') else { return text.ends_with(rest) };
    for middle in middles.split('*') {
        let Some(at) = text.find(middle) else { return false };
        text = &text[at + middle.len()..];
    }
    text.ends_with(last)
}

/// A path for people: whatever bytes it has, there is room behind it for what is wrong.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(PATH_SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests;
