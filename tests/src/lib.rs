//! What the tests share: real programs on this machine, started, waited for, and ended by process id.
//!
//! In reading order:

pub mod etcd;
pub mod mount;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod screen;
pub mod snapshot;
pub mod sqlite;
pub mod visitor;
pub mod wait;

pub mod mootube;
pub mod trees;

pub mod attack;
pub mod bucket;
pub mod faulty;
pub mod fleet;
pub mod hostile;
pub mod links;
pub mod replicas;

pub mod sim;
