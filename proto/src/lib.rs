//! What the coordinator, the agent and `coordctl` agree on.
//!
//! ```text
//!  ids ── keys ── records (manifest, rollout, desired, report, migration)      values, no I/O
//!                    │
//!                  signature   public keys and what they signed: minisign, OpenSSH
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

pub mod archive;
pub mod chain;
pub mod clock;
pub mod coordinator;
pub mod desired;
pub mod event;
pub mod ids;
pub mod keys;
pub mod labels;
pub mod limits;
pub mod lock;
pub mod log;
pub mod manifest;
pub mod migration;
pub mod record;
pub mod report;
pub mod retry;
pub mod rollout;
pub mod room;
pub mod signature;
pub mod store;
pub mod tls;
pub mod trust;
