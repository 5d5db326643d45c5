//! The coordinator and `coordctl`.
//!
//! ```text
//!  coordctl release publish ./app
//!     deploy_file ─▶ pack ─▶ upload ──────────────▶ artifacts (under the digest, over HTTPS)
//!                      └──▶ publish (sign) ─▶ etcd: one transaction
//!                                               │
//!  coordinator run                              ▼
//!     election ─▶ controller: observe ─▶ view ─▶ rollout (pure) ─▶ desired/<node>/<app>
//!                                        │
//!                                        └─▶ terminal, JSON and status page: one fold for all
//! ```
//!
//! In reading order; what both programs know:

pub mod counts;
pub mod pki;
pub mod view;

// `coordinator`

pub mod artifacts;
pub mod config;
pub mod controller;
pub mod election;
pub mod managed_etcd;
pub mod members;
pub mod observe;
pub mod rollout;
pub mod serve;
pub mod web;

// `coordctl`

pub mod cli;
pub mod cli_config;
pub mod commit;
pub mod deploy_file;
pub mod exit;
mod new_file;
pub mod operate;
pub mod pack;
pub mod plan;
pub mod ports;
pub mod publish;
pub mod sign;
pub mod ui;
pub mod upload;
