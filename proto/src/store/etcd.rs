//! The store in etcd: the only importer of etcd-client.
//!
//! etcd-client leaves to its user what a long-lived program needs: noticing a frozen member, going on at another one,
//! rebuilding watches and lease streams. Here:
//!
//! ```text
//!  read, list, identity,   ──▶ retried at the next member until the call's deadline
//!  grant, renew, revoke
//!  commit                  ──▶ sent once: retried only when it provably was not sent, else `Indeterminate`
//!  watch                   ──▶ a task that goes on from the last revision + 1 (watch.rs)
//!                 all on one connection at a time (connection.rs)
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use connection::{Connection, Live};
use convert::Failure;
use etcd_client::{Client, GetOptions, LeaseKeepAliveStream, LeaseKeeper, Txn};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::{Identity, LeaseId, Listing, Outcome, Reading, Store, StoreError, Transaction, Watch};
use crate::ids::Revision;
use crate::keys::DEFAULT_PREFIX;
use crate::retry::Backoff;

mod connection;
mod convert;
mod watch;

/// A call, all retries included.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// One try of a call that may be repeated: short enough for a second member within the deadline.
const TRY_DEADLINE: Duration = Duration::from_secs(2);
/// Entries of one page: at most 128 MiB, as records have at most 512 KiB.
const PAGE_ENTRIES: i64 = 256;
/// Largest answer accepted: one page.
const ANSWER_BYTES_MAX: usize = 160 * 1024 * 1024;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_millis(500);
/// Listings begun, when their revision is compacted between two pages.
const LISTING_TRIES_MAX: u32 = 3;
/// Watch events kept for a slow reader; etcd keeps the rest.
const WATCH_QUEUE_MAX: usize = 16;

/// How to reach etcd: the keys of `[etcd]` that concern the connection.
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

/// A client of an etcd cluster: one connection at a time, however many clones.
#[derive(Clone)]
pub struct EtcdStore {
    connection: Arc<Connection>,
    renewals: Arc<Mutex<HashMap<LeaseId, Renewals>>>,
}

/// A kept lease stream: one message each way per renewal.
struct Renewals {
    live: Live,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl EtcdStore {
    /// A client; etcd need not be there.
    ///
    /// # Errors
    /// [`StoreError::Setup`]: no endpoint, a malformed one, `http://` to another host, unreadable certificate files.
    pub fn new(config: EtcdConfig) -> Result<Self, StoreError> {
        Ok(Self { connection: Arc::new(Connection::new(config)?), renewals: Arc::default() })
    }

    /// A call that may be repeated, until it is answered or its deadline has passed.
    async fn ask<T, F>(&self, call: impl Fn(Live) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let failure = match tokio::time::timeout_at(deadline, self.connection.get()).await {
                Err(_) => return Err(Failure::silence()),
                Ok(Err(failure)) => failure,
                Ok(Ok(live)) => {
                    let until = deadline.min(Instant::now() + TRY_DEADLINE);
                    match tried(&live, call(live.clone()), until).await {
                        Ok(answer) => return Ok(answer),
                        Err(failure) => failure,
                    }
                }
            };
            let wait = backoff.next();
            if !failure.passing() || Instant::now() + wait >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// All pages as of the first one's revision: a listing is one state that the store was in.
    async fn pages(&self, prefix: &str) -> Result<Listing, Failure> {
        let end = convert::range_end(prefix);
        let (mut listing, mut more) = self.page(prefix.as_bytes(), &end, Revision(0)).await?;
        while more {
            let after = convert::after(listing.entries.last().map_or(prefix, |entry| &entry.key));
            let (page, further) = self.page(&after, &end, listing.revision).await?;
            more = further && !page.entries.is_empty();
            listing.entries.extend(page.entries);
        }
        Ok(listing)
    }

    /// One page, at `revision` (0: now), and whether there are more.
    async fn page(&self, start: &[u8], end: &[u8], revision: Revision) -> Result<(Listing, bool), Failure> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE_ENTRIES).with_revision(revision.0);
        let answer = self.ask(|live| get(live.client, start.to_vec(), options.clone())).await?;
        Ok((Listing { entries: convert::entries(answer.kvs()), revision: convert::revision(answer.header()) }, answer.more()))
    }

    /// A transaction sent once: again only if it provably was not sent.
    async fn send(&self, request: Txn) -> Result<Outcome, Failure> {
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            // Connected first, by an answered question: only then is the transaction sent.
            let failure = match tokio::time::timeout_at(deadline, self.connection.get()).await {
                Err(_) => return Err(Failure::NotSent("no connection in time".into())),
                Ok(Err(failure)) => failure,
                Ok(Ok(live)) => {
                    let call = async { live.client.kv_client().txn(request.clone()).await };
                    match tried(&live, call, deadline).await {
                        Ok(answer) => return Ok(convert::outcome(&answer)),
                        Err(failure) => failure,
                    }
                }
            };
            let wait = backoff.next();
            if !matches!(failure, Failure::NotSent(_)) || Instant::now() + wait >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Renews on the lease's kept stream; the stream is not kept after a failure, so that a late answer to an old request is
    /// never taken for the answer to a new one.
    async fn renew_once(&self, live: Live, lease: LeaseId) -> Result<i64, etcd_client::Error> {
        let kept = self.renewals.lock().await.remove(&lease).filter(|kept| !kept.live.is_broken());
        let mut kept = match kept {
            Some(kept) => kept,
            None => {
                let (keeper, answers) = live.client.lease_client().keep_alive(lease.0).await?;
                Renewals { live, keeper, answers }
            }
        };
        kept.keeper.keep_alive().await?;
        let ttl = kept.answers.message().await?.map_or(Err(convert::stream_ended()), |answer| Ok(answer.ttl()))?;
        if ttl > 0 {
            self.renewals.lock().await.insert(lease, kept);
        }
        Ok(ttl)
    }
}

/// One try; the connection is given up unless it answers.
async fn tried<T>(live: &Live, call: impl Future<Output = Result<T, etcd_client::Error>>, until: Instant) -> Result<T, Failure> {
    match tokio::time::timeout_at(until, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(live.broken_if(Failure::of(error))),
        Err(_) => Err(live.broken_if(Failure::silence())),
    }
}

async fn get(client: Client, key: Vec<u8>, options: GetOptions) -> Result<etcd_client::GetResponse, etcd_client::Error> {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX).get(key, Some(options)).await
}

#[async_trait]
impl Store for EtcdStore {
    async fn read(&self, key: &str) -> Result<Reading, StoreError> {
        let answer = self.ask(|live| get(live.client, key.into(), GetOptions::new())).await;
        let answer = answer.map_err(|failure| failure.unchanged(&format!("reading {key}")))?;
        Ok(Reading { entry: convert::entries(answer.kvs()).pop(), revision: convert::revision(answer.header()) })
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut tries = 1;
        loop {
            match self.pages(prefix).await {
                Ok(listing) => return Ok(listing),
                Err(Failure::Compacted) if tries < LISTING_TRIES_MAX => tries += 1,
                Err(failure) => return Err(failure.unchanged(&format!("listing {prefix}"))),
            }
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        tokio::spawn(watch::run(self.connection.clone(), prefix.to_owned(), from, sender));
        Ok(receiver)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let doing = convert::describe(&transaction);
        let leases = convert::leases(&transaction);
        let sent = self.send(convert::request(transaction)).await;
        sent.map_err(|failure| failure.of_transaction(&doing, &leases))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = i64::try_from(super::ttl_seconds(ttl)).unwrap_or(i64::MAX);
        // Asked twice for lack of an answer, a lease is left over; it ends by itself.
        let granted = self.ask(async |live: Live| live.client.lease_client().grant(ttl, None).await).await;
        granted.map(|answer| LeaseId(answer.id())).map_err(|failure| failure.unchanged("granting a lease"))
    }

    async fn renew(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        match self.ask(|live| self.renew_once(live, lease)).await {
            Ok(ttl) if ttl > 0 => Ok(Duration::from_secs(ttl.unsigned_abs())),
            Ok(_) | Err(Failure::LeaseNotFound) => Err(StoreError::LeaseEnded(lease)),
            Err(failure) => Err(failure.unchanged("renewing a lease")),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.renewals.lock().await.remove(&lease);
        match self.ask(async |live: Live| live.client.lease_client().revoke(lease.0).await).await {
            Ok(_) | Err(Failure::LeaseNotFound) => Ok(()),
            Err(failure) => Err(failure.unchanged("revoking a lease")),
        }
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        self.identity_at(DEFAULT_PREFIX).await
    }

    async fn identity_at(&self, key: &str) -> Result<Identity, StoreError> {
        let answer = self.ask(|live| get(live.client, key.into(), GetOptions::new().with_keys_only())).await;
        let answer = answer.map_err(|failure| failure.unchanged("asking who the store is"))?;
        let cluster = answer.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        Ok(Identity { cluster, revision: convert::revision(answer.header()) })
    }
}
