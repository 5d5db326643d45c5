//! The agent: converges one server on its desired release.

pub mod durable;
pub mod effects;
pub mod layout;
