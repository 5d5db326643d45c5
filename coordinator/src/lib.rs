//! The coordinator and `coordctl`.
//!
//! In reading order:

pub mod artifacts;
pub mod config;
pub mod controller;
pub mod managed_etcd;
pub mod observe;
pub mod pki;
pub mod serve;
pub mod view;
pub mod web;
