//! The lock guard: every write made under a lease compares the lease's key (I5).
//!
//! A key put under a lease vanishes with it, and its create revision is never used again. So "the key still has the
//! create revision that my put gave it" holds exactly while the lease lives, whatever the holder's clock says.

use crate::ids::Revision;
use crate::store::{Compare, LeaseId};

/// A lease-bound key that this process put; its create revision is the guard and the fencing token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub key: String,
    pub lease: LeaseId,
    pub created: Revision,
}

impl Guard {
    /// The comparison that every write under the lease carries.
    pub fn compare(&self) -> Compare {
        Compare::CreateRevision { key: self.key.clone(), revision: self.created }
    }
}
