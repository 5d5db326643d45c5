//! The coordinator and `coordctl`.
//!
//! In reading order:

pub mod artifacts;
pub mod config;
pub mod managed_etcd;
pub mod serve;
pub mod web;
