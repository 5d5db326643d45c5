//! The coordinator and `coordctl`.
//!
//! In reading order:

pub mod artifacts;
pub mod config;
pub mod managed_etcd;
pub mod pki;
pub mod serve;
pub mod web;
