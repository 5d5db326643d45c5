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
    #[cfg(test)]
    pub fn at(url: Url) -> Self {
        Self { index: 0, url }
    }

    /// The address for people.
    pub fn shown(&self) -> String {
        shown(self.url.clone())
    }
}

/// An address without credentials, query and fragment, which may hold a signature.
fn shown(mut url: Url) -> String {
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for addresses that cannot have a user, which have nothing to hide.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
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
            let url = format!("{}/artifacts/{digest}", base.trim_end_matches('/'));
            let source = Url::parse(&url).ok().filter(allowed).map(|url| Source { index, url });
            if source.is_none() {
                // What is no address at all may hold anything.
                let base = Url::parse(base).map_or_else(|_| format!("store {}", index + 1), shown);
                last = Some(TransferError::Address { base });
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

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    fn sources(stores: usize) -> Sources {
        let bases: Vec<String> = (0..stores).map(|i| format!("https://store-{i}/")).collect();
        Sources::new(&bases, &Digest::of(b""))
    }

    fn status(code: u16, retry_after: Option<u64>) -> TransferError {
        let status = StatusCode::from_u16(code).expect("a status");
        TransferError::Status { url: String::new(), status, retry_after: retry_after.map(Duration::from_secs) }
    }

    /// Fails until patience ends: how many times, and in how much time.
    async fn endure(mut sources: Sources, error: impl Fn() -> TransferError) -> (u32, Duration) {
        let began = Instant::now();
        for tries in 1.. {
            let source = sources.pick().await.expect("a store is left");
            if let Err(e) = sources.failed(&source, error()) {
                assert!(matches!(e, FetchError::GaveUp { tries: told, .. } if told == tries), "{e:?}");
                return (tries, began.elapsed());
            }
        }
        unreachable!("the loop has no other end")
    }

    #[tokio::test(start_paused = true)]
    async fn patience_has_an_end() {
        let (tries, took) = endure(sources(1), || status(404, None)).await;
        assert_eq!(tries, TRIES_MAX);
        assert!(took < LONGEST_WAIT * TRIES_MAX, "{took:?}");
        assert_eq!(endure(sources(3), || status(500, None)).await.0, 3 * TRIES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_store_gets_more_patience_and_the_time_it_asked_for() {
        let (tries, took) = endure(sources(1), || status(503, Some(5))).await;
        assert_eq!(tries, BUSY_MAX);
        assert!(took >= Duration::from_secs(5) * (BUSY_MAX - 1), "{took:?}");
        let (_, took) = endure(sources(1), || status(429, Some(u64::MAX))).await;
        assert!(took <= RETRY_AFTER_MAX * BUSY_MAX, "a store may not ask for more than a minute: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_renews_patience() {
        let mut sources = sources(1);
        for _ in 0..3 * TRIES_MAX {
            let source = sources.pick().await.expect("a store");
            sources.progressed();
            sources.failed(&source, status(500, None)).expect("goes on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_store_rests_the_next_is_asked_at_once() {
        let mut sources = sources(2);
        let began = Instant::now();
        let first = sources.pick().await.expect("a store");
        sources.failed(&first, status(503, Some(30))).expect("goes on");
        let second = sources.pick().await.expect("a store");
        assert_eq!((first.index, second.index, began.elapsed()), (0, 1, Duration::ZERO));
        assert_eq!(second.shown(), format!("https://store-1/artifacts/{}", Digest::of(b"")));
    }
}
