//! What the coordinator, the agent and `coordctl` agree on.
//!
//! ```text
//!  ids ── keys ── records (manifest, rollout, desired, report, migration)      values, no I/O
//!                    │
//!                  trust   signature over exact bytes, checked before they are parsed (I3)
//!                    │
//!                  store   trait Store: read, list, watch, guarded transaction, lease
//!                    ├── store::etcd     the only importer of etcd-client
//!                    ├── store::memory   the same semantics, in this process
//!                    ├── store::mirror   a live copy of a prefix, level not edge
//!                    └── store::session  a lease kept alive, and the guard it gives (I5)
//! ```
//!
//! In reading order:

pub mod ids;
pub mod limits;
pub mod labels;
pub mod keys;
pub mod record;
pub mod manifest;
pub mod rollout;
pub mod desired;
pub mod report;
pub mod migration;
pub mod event;
pub mod trust;
pub mod lock;
pub mod store;
pub mod retry;
pub mod tls;
pub mod chain;
