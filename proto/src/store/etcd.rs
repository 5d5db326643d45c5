//! The store in etcd.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StoreError;

/// How to reach etcd: the `[etcd]` table's keys that concern the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    /// `https://host:2379`; `http://` only for loopback addresses.
    pub endpoints: Vec<String>,
    /// The authority that signed etcd's certificates.
    pub ca: Option<PathBuf>,
    /// This program's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A client of an etcd cluster: one connection at a time.
#[derive(Clone)]
pub struct EtcdStore {}

impl EtcdStore {
    /// A client; etcd need not be there.
    ///
    /// # Errors
    /// [`StoreError::Setup`]: no endpoint, a malformed one, `http://` to another host, unreadable certificate files.
    pub fn new(config: EtcdConfig) -> Result<Self, StoreError> {
        let _ = config;
        Ok(Self {})
    }
}

#[async_trait::async_trait]
impl super::Store for EtcdStore {
    async fn read(&self, key: &str) -> Result<super::Reading, StoreError> {
        Err(StoreError::Unavailable { doing: format!("reading {key}"), source: None })
    }
    async fn list(&self, prefix: &str) -> Result<super::Listing, StoreError> {
        Err(StoreError::Unavailable { doing: format!("listing {prefix}"), source: None })
    }
    async fn watch(&self, prefix: &str, _: crate::ids::Revision) -> Result<super::Watch, StoreError> {
        Err(StoreError::Unavailable { doing: format!("watching {prefix}"), source: None })
    }
    async fn commit(&self, _: super::Transaction) -> Result<super::Outcome, StoreError> {
        Err(StoreError::Unavailable { doing: "committing".into(), source: None })
    }
    async fn grant(&self, _: std::time::Duration) -> Result<super::LeaseId, StoreError> {
        Err(StoreError::Unavailable { doing: "granting a lease".into(), source: None })
    }
    async fn renew(&self, _: super::LeaseId) -> Result<std::time::Duration, StoreError> {
        Err(StoreError::Unavailable { doing: "renewing a lease".into(), source: None })
    }
    async fn revoke(&self, _: super::LeaseId) -> Result<(), StoreError> {
        Err(StoreError::Unavailable { doing: "revoking a lease".into(), source: None })
    }
    async fn identity(&self) -> Result<super::Identity, StoreError> {
        Err(StoreError::Unavailable { doing: "asking who the store is".into(), source: None })
    }
}
