//! A directory as it was: what is where, what is in it, its mode and its time. Compared later, it says what changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use coord_proto::ids::Digest;

/// Path and description of everything at and below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    root: PathBuf,
    seen: BTreeMap<PathBuf, String>,
}

impl Snapshot {
    /// Looks at everything but the names that `left_out` tells.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn of(root: &Path, left_out: impl Fn(&Path) -> bool) -> Result<Self> {
        let mut seen = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
            if meta.is_dir() {
                for entry in fs::read_dir(&path)? {
                    open.push(entry?.path());
                }
            }
            if !left_out(&path) {
                seen.insert(path.clone(), describe(&path, &meta)?);
            }
        }
        seen.retain(|path, _| !path.ancestors().any(&left_out));
        Ok(Self { root: root.to_owned(), seen })
    }

    /// Fails unless the directory is as it was.
    ///
    /// # Errors
    /// What changed.
    pub fn expect_unchanged(&self, left_out: impl Fn(&Path) -> bool) -> Result<()> {
        let now = Self::of(&self.root, left_out)?;
        let of = |one: &Self, other: &Self| -> Vec<String> {
            one.seen.iter().filter(|(p, d)| other.seen.get(*p) != Some(d)).map(|(p, d)| format!("{} {d}", p.display())).collect()
        };
        ensure!(now == *self, "changed: it was {:#?}, it is {:#?}", of(self, &now), of(&now, self));
        Ok(())
    }
}

fn describe(path: &Path, meta: &fs::Metadata) -> Result<String> {
    let what = if meta.is_symlink() {
        format!("-> {}", fs::read_link(path)?.display())
    } else if meta.is_file() {
        Digest::of(&fs::read(path)?).to_string()
    } else {
        String::new()
    };
    let (time, nanos) = (meta.mtime(), meta.mtime_nsec());
    Ok(format!("{:o} {}:{} {time}.{nanos:09} links {} {what}", meta.mode(), meta.uid(), meta.gid(), meta.nlink()))
}
