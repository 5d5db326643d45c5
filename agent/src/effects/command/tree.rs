//! The processes of one command: found in /proc by parent, process group, session, and a mark in their environment.
//!
//! The mark finds what forked twice and left for another session; parent, group and session find what cleared its
//! environment. A process that did both escapes. Deliberately absent:
//! PR_SET_CHILD_SUBREAPER, which would make the agent the parent of every daemon that a hook starts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;

use coord_proto::ids::Nonce;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

/// The environment variable that marks the processes of one command.
pub const MARK: &str = "COORD_RUN";
/// As much of a process's environment as is looked at.
const ENVIRON_BYTES_MAX: u64 = 256 * 1024;

/// The processes of one command. Dropped before [`Tree::disarm`], it kills them.
#[derive(Debug)]
pub struct Tree {
    leader: i32,
    /// `COORD_RUN=…` as it stands in an environment.
    mark: Vec<u8>,
    /// Who was asked to end.
    asked: BTreeSet<i32>,
    armed: bool,
}

/// A live process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
}

impl Tree {
    /// Of a child just started, in a process group of its own.
    pub fn new(leader: Option<u32>, mark: Nonce) -> Self {
        let leader = leader.and_then(|id| i32::try_from(id).ok()).unwrap_or(i32::MAX);
        Self { leader, mark: format!("{MARK}={mark}").into_bytes(), asked: BTreeSet::new(), armed: true }
    }

    /// Asks each to end that was not asked before; how many there are.
    pub fn terminate(&mut self) -> usize {
        let members = self.members();
        let fresh: Vec<Process> = members.iter().filter(|p| self.asked.insert(p.pid)).copied().collect();
        signal(&fresh, Signal::SIGTERM);
        members.len()
    }

    /// Kills all; how many there were.
    pub fn kill(&self) -> usize {
        let members = self.members();
        signal(&members, Signal::SIGKILL);
        members.len()
    }

    /// Kills those that did not leave for a session of their own; how many there were.
    pub fn kill_in_session(&self) -> usize {
        let members = self.in_session();
        signal(&members, Signal::SIGKILL);
        members.len()
    }

    /// Are there some that did not leave for a session of their own?
    pub fn any_in_session(&self) -> bool {
        !self.in_session().is_empty()
    }

    /// The command's session is the agent's, for it got a process group of its own and no more.
    fn in_session(&self) -> Vec<Process> {
        let own = getsid(None).map_or(0, Pid::as_raw);
        self.members().into_iter().filter(|p| p.session == own).collect()
    }

    /// What is left now may stay.
    pub fn disarm(&mut self) {
        self.armed = false;
    }

    /// Is there something left that should not be?
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    fn members(&self) -> Vec<Process> {
        let all = live_processes();
        let mut found: BTreeSet<i32> =
            all.iter().filter(|p| p.pid == self.leader || p.group == self.leader || self.is_marked(p.pid)).map(|p| p.pid).collect();
        // Children of children, and whole groups and sessions that members opened, until nothing new is found.
        loop {
            let before = found.len();
            for p in &all {
                if [p.parent, p.group, p.session].iter().any(|id| found.contains(id)) {
                    found.insert(p.pid);
                }
            }
            if found.len() == before {
                break;
            }
        }
        let this = Pid::this().as_raw();
        all.into_iter().filter(|p| found.contains(&p.pid) && p.pid != this).collect()
    }

    fn is_marked(&self, pid: i32) -> bool {
        let mut environ = Vec::new();
        // Unreadable: another user's, or it has just ended.
        let read = File::open(format!("/proc/{pid}/environ")).and_then(|f| f.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ));
        read.is_ok() && environ.split(|b| *b == 0).any(|var| var == self.mark)
    }
}

/// The future that ran the command was dropped: nobody will wait, so nothing may stay.
impl Drop for Tree {
    fn drop(&mut self) {
        // Again for what was forked meanwhile; a bound, because this cannot wait.
        for _ in 0..5 {
            if !self.armed || self.kill() == 0 {
                return;
            }
        }
    }
}

fn signal(processes: &[Process], signal: Signal) {
    for p in processes {
        // It may have ended since it was seen.
        let _ = kill(Pid::from_raw(p.pid), signal);
    }
}

fn live_processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |name: std::ffi::OsString| name.to_str()?.parse::<i32>().ok();
    let pids = entries.filter_map(|e| pid(e.ok()?.file_name()));
    pids.filter_map(|pid| parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// proc_pid_stat(5): `pid (name) state parent group session …`; the name may hold blanks and parentheses. None: it is dead.
fn parse_stat(pid: i32, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let mut number = || fields.next()?.parse::<i32>().ok();
    Some(Process { pid, parent: number()?, group: number()?, session: number()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let process = Process { pid: 7, parent: 1, group: 7, session: 3 };
        assert_eq!(parse_stat(7, "7 (a) b (c)) S 1 7 3 0 -1"), Some(process));
        assert_eq!(parse_stat(7, "7 (a) Z 1 7 3 0 -1"), None);
        assert_eq!(parse_stat(7, "7 (a"), None);
    }
}
