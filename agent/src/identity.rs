//! Who this agent is: one instance per state directory, the same over restarts.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use coord_proto::ids::Nonce;
use coord_proto::report::Alive;
use nix::fcntl::{Flock, FlockArg};

use crate::durable::{DurableError, write_file_durably};
use crate::run::unix_now;

/// The state directory, locked: nobody else uses it while this lives.
#[derive(Debug)]
pub struct Identity {
    pub instance: Nonce,
    _lock: Flock<File>,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("another agent uses the state directory {}; stop it first", dir.display())]
    InUse { dir: PathBuf },
    #[error("cannot use the state directory {}", dir.display())]
    Io {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Write(#[from] DurableError),
}

impl Identity {
    /// Locks the state directory (flock(2)) and reads the instance id; the first start makes one.
    ///
    /// # Errors
    /// Another agent holds the lock, or the directory cannot be written.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { dir: dir.into(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(io)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| IdentityError::InUse { dir: dir.into() })?;
        let path = dir.join("instance");
        let instance = match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() == 32 => Nonce::fixed(text.trim()),
            _ => {
                let fresh = Nonce::random();
                write_file_durably(&path, fresh.as_str().as_bytes(), 0o600)?;
                fresh
            }
        };
        Ok(Self { instance, _lock: lock })
    }

    /// The presence record of this agent.
    pub fn alive(&self) -> Alive {
        let read = |path| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
        Alive {
            instance: self.instance.clone(),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            since: unix_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_survives_a_restart_and_a_second_agent_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let first = Identity::open(dir.path()).expect("first");
        assert!(matches!(Identity::open(dir.path()), Err(IdentityError::InUse { .. })));
        let instance = first.instance.clone();
        drop(first);
        assert_eq!(Identity::open(dir.path()).expect("again").instance, instance);
    }
}
