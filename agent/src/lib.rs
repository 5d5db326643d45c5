//! The agent: converges one server on its desired release, and reports.
//!
//! ```text
//!  desired/<node>/ ─▶ source ─▶ goal ─▶ Event ─▶ machine (pure) ─▶ Action ─▶ perform ─▶ effects/* ─▶ Event
//!                                          run: the one loop; journal, then act, then report
//!  presence (lease) ───────────────────▶ guards every write        reporter ─▶ status/<node>/
//! ```
//!
//! In reading order:

pub mod goal;
pub mod machine;
pub mod run;
pub mod slot;

pub mod accept;
pub mod effects;
pub mod failure;
pub mod manifests;
pub mod perform;

pub mod presence;
pub mod reporter;
pub mod source;
pub mod unled;

pub mod durable;
pub mod identity;
pub mod journal;
pub mod layout;
pub mod memory;

pub mod config;
pub mod http;
pub mod systemd;

pub mod cli;
pub mod service;
