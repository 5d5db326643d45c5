//! What the tests share: real processes on this machine, and waiting for them.
//!
//! Each thing here ends what it started when it is dropped, by process id.

pub mod etcd;
pub mod ports;
pub mod postgres;
pub mod wait;
