//! What the agent does to its server: each effect is one file, may be repeated, and says what failed on which path.
//!
//! ```text
//!  stage ─ preflight ─ fetch ▶ verify ▶ pieces ▶ unpack (tree) ─ link ─ sync, rename   nothing that the app can see
//!  switch                                                                          current, one rename
//!  prune                                                                           off the critical path
//! ```

pub mod command;
pub mod confine;
pub mod environment;
pub mod fetch;
pub mod health;
pub mod hook;
pub mod link;
pub mod migrate;
pub mod pieces;
pub mod preflight;
pub mod prune;
pub mod stage;
pub mod switch;
pub mod tree;
pub mod unpack;
pub mod verify;

#[cfg(test)]
mod fixture;
