//! A store with something around it, for tests: an implementation says what is different, and all other calls go through.

use std::time::Duration;

use async_trait::async_trait;

use super::memory::MemoryStore;
use super::{Identity, LeaseId, Listing, Outcome, Reading, Store, StoreError, Transaction, Watch};
use crate::ids::Revision;

/// The calls of [`Store`], each of which goes to the store inside unless it is said otherwise.
#[async_trait]
pub trait Around: Send + Sync + 'static {
    /// The store inside.
    fn inner(&self) -> &MemoryStore;

    async fn read(&self, key: &str) -> Result<Reading, StoreError> {
        Store::read(self.inner(), key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Store::list(self.inner(), prefix).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        Store::watch(self.inner(), prefix, from).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        Store::commit(self.inner(), transaction).await
    }
    async fn identity(&self) -> Result<Identity, StoreError> {
        Store::identity(self.inner()).await
    }
    async fn identity_at(&self, _key: &str) -> Result<Identity, StoreError> {
        Around::identity(self).await
    }
}

#[async_trait]
impl<T: Around> Store for T {
    async fn read(&self, key: &str) -> Result<Reading, StoreError> {
        Around::read(self, key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Around::list(self, prefix).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        Around::watch(self, prefix, from).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        Around::commit(self, transaction).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner().grant(ttl).await
    }
    async fn renew(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner().renew(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner().revoke(lease).await
    }
    async fn identity(&self) -> Result<Identity, StoreError> {
        Around::identity(self).await
    }
    async fn identity_at(&self, key: &str) -> Result<Identity, StoreError> {
        Around::identity_at(self, key).await
    }
}
