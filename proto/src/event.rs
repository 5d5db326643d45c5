//! `events/<id>`: the audit trail. Who did what, when, from where, and why.

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, Nonce};
use crate::record::record;
use crate::rollout::Actor;

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Past tense: `published release 7`.
    pub what: String,
    pub by: Actor,
}
record!(AuditEvent, "audit event", 1);

impl AuditEvent {
    /// A new id: sorted by time, then by the order within one transaction; unique by chance.
    pub fn id(&self, index: usize) -> String {
        let nonce = Nonce::random();
        format!("{:012}-{index:02}-{}", self.by.at.max(0), nonce.as_str().get(..8).unwrap_or_default())
    }
}
