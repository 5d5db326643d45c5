//! Which store is asked next, and when.

use std::time::Duration;

use coord_proto::ids::Digest;
use coord_proto::retry::Backoff;
use tokio::time::Instant;
use url::Url;

use super::{FetchError, TransferError, allowed};

/// Failures in a row without one new piece, per store.
const TRIES_MAX: u32 = 6;
/// Times in a row that stores said "busy, come back": a whole fleet that waits its turn needs some patience.
const BUSY_MAX: u32 = 100;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Longest wait that a store may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// One store's address of the artifact.
#[derive(Debug, Clone)]
pub(super) struct Source {
    index: usize,
    pub url: Url,
}

impl Source {
    /// The address for people: without credentials and query, which may hold a signature.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        // Fails only for addresses that cannot have a user, which have nothing to hide.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        url.into()
    }
}

/// All stores, in the order of preference.
pub(super) struct Sources {
    stores: Vec<Store>,
    tries: u32,
    busy: u32,
    last: Option<TransferError>,
}

struct Store {
    /// None: sent wrong bytes, or has no usable address.
    source: Option<Source>,
    ready: Instant,
    backoff: Backoff,
}

impl Sources {
    pub fn new(bases: &[String], digest: &Digest) -> Self {
        let mut last = None;
        let mut store = |(index, base): (usize, &String)| {
            let url = format!("{}/{digest}", base.trim_end_matches('/'));
            let source = Url::parse(&url).ok().filter(allowed).map(|url| Source { index, url });
            if source.is_none() {
                last = Some(TransferError::Address { base: base.split('?').next().unwrap_or_default().to_owned() });
            }
            Store { source, ready: Instant::now(), backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT) }
        };
        let stores = bases.iter().enumerate().map(&mut store).collect();
        Self { stores, tries: 0, busy: 0, last }
    }

    /// The first store that may be asked; waits until one may.
    pub async fn pick(&mut self) -> Result<Source, FetchError> {
        let usable = || self.stores.iter().filter_map(|s| Some((s.ready, s.source.as_ref()?)));
        let now = Instant::now();
        // min_by_key keeps the first of equals: the order of preference.
        match usable().min_by_key(|(ready, _)| (*ready).max(now)) {
            Some((ready, source)) => {
                let source = source.clone();
                tokio::time::sleep_until(ready).await;
                Ok(source)
            }
            None => Err(self.last.take().map_or(FetchError::NoStores, FetchError::NoHonestStore)),
        }
    }

    /// A new piece arrived: everybody's patience begins anew.
    pub fn progressed(&mut self) {
        (self.tries, self.busy) = (0, 0);
        self.stores.iter_mut().for_each(|s| s.backoff.reset());
    }

    /// A request did not reach the end.
    pub fn failed(&mut self, source: &Source, error: TransferError) -> Result<(), FetchError> {
        let live = self.stores.len() as u32;
        let store = &mut self.stores[source.index];
        let wait = store.backoff.next();
        store.ready = Instant::now() + error.retry_after().map_or(wait, |asked| asked.clamp(wait, RETRY_AFTER_MAX));
        match &error {
            TransferError::WrongPiece { .. } => store.source = None,
            e if e.busy() => self.busy += 1,
            _ => self.tries += 1,
        }
        tracing::warn!(error = coord_proto::chain::inline(&error), "download interrupted");
        if self.tries >= TRIES_MAX * live || self.busy >= BUSY_MAX {
            return Err(FetchError::GaveUp { tries: self.tries + self.busy, stores: self.stores.len(), last: error });
        }
        self.last = Some(error);
        Ok(())
    }
}
