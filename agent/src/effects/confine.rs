//! A thread that may write below one directory and nowhere else, where the kernel has Landlock (landlock(7), Linux 5.13).
//!
//! The second wall around the unpacking: the first one is that [`super::tree::Tree`] never leaves its root. Only writing is confined. The
//! thread ends with its work, because what is given up is given up for good; threads that it starts are confined with it.

use std::io;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::sync::Once;
use std::thread;

use landlock::{ABI, AccessFs, PathBeneath, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus};

/// The newest kind of writing that is confined: truncating, from Linux 6.2 on. Older kernels confine what they know.
const NEWEST: ABI = ABI::V3;

/// Is the thread confined?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    Yes,
    /// The kernel, or the unit's system call filter, has no Landlock.
    No,
}

/// Runs `work` in a thread of its own that can write below the directory `root` alone.
///
/// # Errors
/// No thread can be started.
pub fn confined<T: Send>(root: impl AsFd, work: impl FnOnce(Confined) -> T + Send) -> io::Result<T> {
    let root = root.as_fd();
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("unpack".into()).spawn_scoped(scope, move || {
            let confined = confine_this_thread(root);
            if confined == Confined::No {
                say_once();
            }
            work(confined)
        })?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn confine_this_thread(root: impl AsFd) -> Confined {
    match restrict(root) {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Confined::Yes,
        Ok(RulesetStatus::NotEnforced) => Confined::No,
        Err(error) => {
            tracing::debug!(error = coord_proto::chain::inline(&error), "no Landlock");
            Confined::No
        }
    }
}

fn restrict(root: impl AsFd) -> Result<RulesetStatus, RulesetError> {
    let writing = AccessFs::from_write(NEWEST);
    let rules = Ruleset::default().handle_access(writing)?.create()?;
    Ok(rules.add_rule(PathBeneath::new(root, writing))?.restrict_self()?.ruleset)
}

fn say_once() {
    static SAID: Once = Once::new();
    SAID.call_once(|| tracing::info!("this system has no Landlock; releases are unpacked without that second wall"));
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// Every way to change what is at or below `dir`, and how it ended.
    fn tries(dir: &Path) -> Vec<(&'static str, io::Result<()>)> {
        vec![
            ("create", File::create_new(dir.join("new")).map(drop)),
            ("make a directory", fs::create_dir(dir.join("d"))),
            ("link", symlink("x", dir.join("l"))),
            ("open for writing", OpenOptions::new().write(true).open(dir.join("there")).map(drop)),
            ("truncate", OpenOptions::new().write(true).truncate(true).open(dir.join("there")).map(drop)),
            ("rename", fs::rename(dir.join("there"), dir.join("moved"))),
            ("remove", fs::remove_file(dir.join("there"))),
        ]
    }

    #[test]
    fn only_below_the_root_can_anything_be_written() {
        let temp = tempfile::tempdir().expect("temp dir");
        let (inside, outside) = (temp.path().join("inside"), temp.path().join("outside"));
        for dir in [&inside, &outside] {
            fs::create_dir(dir).expect("made");
            fs::write(dir.join("there"), "precious").expect("written");
        }
        let root = File::open(&inside).expect("opened");
        let found = confined(&root, |confined| {
            let by_a_child = thread::scope(|s| s.spawn(|| tries(&outside)).join().expect("joined"));
            (confined, tries(&outside), by_a_child, tries(&inside))
        });
        let (confined, own, by_a_child, within) = found.expect("a thread");
        if confined == Confined::No {
            println!("skipped: this kernel has no Landlock");
            return;
        }
        for (what, result) in own.into_iter().chain(by_a_child) {
            assert_eq!(result.expect_err(what).kind(), ErrorKind::PermissionDenied, "{what}");
        }
        assert_eq!(fs::read_to_string(outside.join("there")).expect("read"), "precious");
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 1);
        for (what, result) in within.into_iter().filter(|(what, _)| *what != "remove") {
            result.expect(what);
        }
        File::create_new(outside.join("later")).expect("the thread that asked is as free as before");
    }
}
