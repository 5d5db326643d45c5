//! Free ports on 127.0.0.1, handed to one process at a time: for `coordctl dev up` and for tests.
//!
//! A port found free by binding to 0 comes from the range that outgoing connections take theirs from, so it may be gone
//! before its program listens. These come from below that range, and a locked file keeps others off them.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::Rng as _;

/// Below Linux's range for outgoing connections (net.ipv4.ip_local_port_range), above what services use.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// A port that is this process's until dropped; its program may be started and stopped meanwhile.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _lock: File,
}

impl Port {
    /// The port on 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

/// Takes a free port.
///
/// # Panics
/// When none is free.
pub fn free() -> Port {
    find().expect("a free port on 127.0.0.1")
}

/// Takes a free port, if there is one.
pub fn find() -> Option<Port> {
    let span = LAST - FIRST;
    let start = rand::rng().random_range(0..span);
    (0..span).find_map(|i| take(FIRST + (start + i) % span))
}

fn take(number: u16) -> Option<Port> {
    // One directory per user: nobody may lock what another one made.
    let dir = std::env::temp_dir().join(format!("coord-ports-{}", nix::unistd::getuid()));
    std::fs::create_dir_all(&dir).ok()?;
    let lock = OpenOptions::new().create(true).append(true).open(dir.join(number.to_string())).ok()?;
    lock.try_lock().ok()?;
    TcpListener::bind(("127.0.0.1", number)).ok()?;
    Some(Port { number, _lock: lock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let first = free();
        assert!(take(first.number).is_none());
        let number = first.number;
        drop(first);
        assert!(take(number).is_some());
    }
}
