//! Coordinators beside each other, as processes of their own, that keep their artifacts in one bucket.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use coord_proto::coordinator::{LeaderRecord, MemberRecord};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::store::Store as _;
use nix::sys::signal::Signal;

use crate::bucket::Bucket;
use crate::fleet::{Fleet, LEASE_TTL};
use crate::process::{Process, program};
use crate::wait::{until, until_some};

/// The shortest that is allowed: a leader that was killed is missed this long.
pub const REPLICA_LEASE_TTL: std::time::Duration = std::time::Duration::from_secs(2);

/// The coordinators of a fleet that has no other one. Dropped, they are ended.
pub struct Replicas {
    members: Vec<Replica>,
    _bucket: Bucket,
}

struct Replica {
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Replicas {
    /// Starts `size` of them, and waits until all are members and one leads.
    ///
    /// # Errors
    /// One does not start; its log is in the error.
    pub fn start(fleet: &mut Fleet, size: usize) -> Result<Self> {
        let bucket = Bucket::start()?;
        fleet.configure_coordinator(&bucket.table());
        let mut replicas = Self { members: Vec::new(), _bucket: bucket };
        for number in 0..size {
            let dir = fleet.dir().join(format!("coordinator-{number}"));
            let config = fleet.write_second_coordinator(&dir)?;
            let text = std::fs::read_to_string(&config)?;
            let (from, to) = (format!("lease_ttl = \"{LEASE_TTL}\""), format!("lease_ttl = \"{}s\"", REPLICA_LEASE_TTL.as_secs()));
            ensure!(text.contains(&from), "{text}");
            std::fs::write(&config, text.replace(&from, &to))?;
            replicas.members.push(Replica { config, log: dir.join("log"), process: None });
        }
        // Not before: each configuration issues the certificate that all of them have.
        (0..size).try_for_each(|number| replicas.restart(number))?;
        let members = KeySpace::default().members();
        until("all coordinators are members", || {
            let entries = fleet.runtime().block_on(fleet.store().list(&members))?.entries;
            Ok(entries.iter().filter(|e| e.record::<MemberRecord>().is_ok()).count() == size)
        })
        .with_context(|| replicas.logs())?;
        replicas.wait_leader(fleet)?;
        Ok(replicas)
    }

    /// Starts one that was ended.
    ///
    /// # Errors
    /// The program is missing.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        let replica = &mut self.members[number];
        let mut command = Command::new(program("coordinator")?);
        command.arg("run").arg("--config").arg(&replica.config).envs(Bucket::environment());
        replica.process = Some(Process::start(&mut command, &replica.log)?);
        Ok(())
    }

    /// Waits until one that runs leads; its number. The record of one that was killed stays until its lease ends.
    ///
    /// # Errors
    /// None does, in time; the logs are in the error.
    pub fn wait_leader(&self, fleet: &Fleet) -> Result<usize> {
        until_some("a coordinator leads", || {
            let leader = fleet.record::<LeaderRecord>(&Key::Leader)?;
            Ok(leader.and_then(|l| {
                self.members.iter().position(|m| m.process.as_ref().is_some_and(|p| p.pid().to_string() == l.pid.to_string()))
            }))
        })
        .with_context(|| self.logs())
    }

    /// The same, of any but this one, which may be frozen.
    ///
    /// # Errors
    /// As [`Replicas::wait_leader`].
    pub fn wait_leader_other_than(&self, fleet: &Fleet, number: usize) -> Result<usize> {
        until_some("another coordinator leads", || Ok(Some(self.wait_leader(fleet)?).filter(|n| *n != number)))
    }

    /// SIGKILL.
    pub fn crash(&mut self, number: usize) {
        if let Some(process) = self.members[number].process.take() {
            process.crash();
        }
    }

    /// SIGSTOP: its connections stay open, and its clock goes on.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGCONT)
    }

    fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        self.members[number].process.as_ref().context("it runs")?.signal(signal)
    }

    /// All that one ever logged.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log_of(&self, number: usize) -> Result<String> {
        Ok(std::fs::read_to_string(&self.members[number].log)?)
    }

    fn logs(&self) -> String {
        let tails = self.members.iter().filter_map(|m| Some(format!("{}:\n{}", m.log.display(), m.process.as_ref()?.log_tail())));
        tails.collect::<Vec<_>>().join("\n")
    }
}
