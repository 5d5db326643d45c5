//! The agent: converges one server on its desired release.

pub mod config;
pub mod durable;
pub mod effects;
pub mod goal;
pub mod journal;
pub mod layout;
pub mod machine;
pub mod presence;
pub mod reporter;
pub mod source;
pub mod failure;
pub mod accept;
pub mod manifests;
