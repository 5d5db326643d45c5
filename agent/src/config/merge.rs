//! One configuration out of several files, remembering which file and line each key came from.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::ConfigError;
use super::file::File;

/// Largest configuration file that is read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The files as one.
#[derive(Debug)]
pub struct Merged {
    pub file: File,
    /// The main file: named where a key is missing.
    pub path: PathBuf,
    origins: BTreeMap<String, Origin>,
}

/// Which file and line set a key.
#[derive(Debug, Clone)]
struct Origin {
    path: PathBuf,
    line: usize,
}

impl Merged {
    /// A complaint about `key` (`etcd.lease_ttl`), at the place that set it or its nearest table.
    pub fn complain(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let mut at = Some(key);
        let origin = loop {
            match at {
                None => break None,
                Some(k) if self.origins.contains_key(k) => break self.origins.get(k),
                Some(k) => at = k.rsplit_once('.').map(|(parent, _)| parent),
            }
        };
        let place = match origin {
            Some(o) => format!("{}, line {}", o.path.display(), o.line),
            None => self.path.display().to_string(),
        };
        ConfigError::Value { place, key: key.to_owned(), problem: problem.into() }
    }
}

/// Reads the main file and its drop-ins: `x.toml`, then `x.d/*.toml` beside it in lexical order, merged key by key.
pub fn read(path: &Path) -> Result<Merged, ConfigError> {
    let mut layers = Vec::new();
    for path in std::iter::once(path.to_owned()).chain(drop_ins(path)?) {
        layers.push((read_text(&path)?, path));
    }
    merge(layers, path)
}

/// One text, named `path` in errors.
pub fn from_text(text: &str, path: &Path) -> Result<Merged, ConfigError> {
    merge(vec![(text.to_owned(), path.to_owned())], path)
}

fn merge(layers: Vec<(String, PathBuf)>, main: &Path) -> Result<Merged, ConfigError> {
    let mut table = Table::new();
    let mut origins = BTreeMap::new();
    for (text, path) in layers {
        let (parsed, lines) = parse(&text, &path)?;
        lay_over(&mut table, parsed);
        origins.extend(lines.into_iter().map(|(key, line)| (key, Origin { path: path.clone(), line })));
    }
    // Each file was valid for itself, and two valid files have tables in the same places.
    let file = Value::Table(table).try_into().map_err(|e: toml::de::Error| ConfigError::Value {
        place: main.display().to_string(),
        key: "with its drop-ins".into(),
        problem: format!("is not valid: {}", e.message()),
    })?;
    Ok(Merged { file, path: main.to_owned(), origins })
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = path.with_extension("d");
    let fail = |source| ConfigError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(fail)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read { path: path.to_owned(), source };
    let len = fs::metadata(path).map_err(fail)?.len();
    if len > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), len });
    }
    fs::read_to_string(path).map_err(fail)
}

/// One file's table, checked by itself so that errors have its lines, and the line of each key.
fn parse(text: &str, path: &Path) -> Result<(Table, BTreeMap<String, usize>), ConfigError> {
    let mut spans = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        collect(table.get_ref(), "", &mut spans);
    }
    toml::from_str::<File>(text).map_err(|e| syntax(text, path, &spans, &e))?;
    let table = toml::from_str::<Table>(text).map_err(|e| syntax(text, path, &spans, &e))?;
    Ok((table, spans.into_iter().map(|(key, span)| (key, line_of(text, span.start))).collect()))
}

/// Every key below `table` as `a.b.c`, with the bytes from its name to the end of its value.
fn collect(table: &DeTable<'_>, prefix: &str, spans: &mut Vec<(String, Range<usize>)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        spans.push((key.clone(), name.span().start..end_of(value)));
        if let DeValue::Table(inner) = value.get_ref() {
            collect(inner, &key, spans);
        }
    }
}

fn end_of(value: &Spanned<DeValue<'_>>) -> usize {
    value.span().end
}

fn syntax(text: &str, path: &Path, spans: &[(String, Range<usize>)], error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |s| s.start);
    // The innermost key around the error; the message of an unknown key names it already.
    let key = spans.iter().filter(|(_, s)| s.contains(&start)).min_by_key(|(_, s)| s.len()).map(|(k, _)| k.clone());
    let problem = error.message().lines().collect::<Vec<_>>().join(", ");
    ConfigError::Syntax { path: path.to_owned(), line: line_of(text, start), key, problem }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}

/// Tables are merged, everything else is replaced.
fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => _ = base.insert(key, value),
        }
    }
}
