//! Between the store's words and etcd's, and what an error of etcd's proves.

use std::error::Error;

use etcd_client::{CompareOp, Event, EventType, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp, TxnResponse};
use tonic::{Code, ConnectError};

use crate::ids::Revision;
use crate::store::{Change, Compare, Entry, LeaseId, Outcome, StoreError, Transaction, Write};

type Source = Box<dyn Error + Send + Sync>;

/// What a failed call proves.
#[derive(Debug)]
pub(super) enum Failure {
    /// It did not happen: it was never sent, or etcd turned it away before looking at it. Another member may take it.
    NotSent(Source),
    /// It may have happened.
    Unclear(Source),
    /// etcd's answer is no, and will stay so.
    Refused(Source),
    /// It did not happen, as the lease is gone.
    LeaseNotFound,
    /// The revision asked for is gone.
    Compacted,
}

impl Failure {
    /// What an error of the client's proves.
    pub(super) fn of(error: etcd_client::Error) -> Self {
        let (code, message) = match &error {
            etcd_client::Error::GRpcStatus(status) => (status.code(), status.message()),
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => return Self::LeaseNotFound,
            etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => return Self::NotSent(error.into()),
            _ => return Self::Unclear(error.into()),
        };
        match (code, message.strip_prefix("etcdserver: ")) {
            (_, Some("requested lease not found")) => Self::LeaseNotFound,
            (Code::OutOfRange, Some("mvcc: required revision has been compacted")) => Self::Compacted,
            // Turned away before it was proposed to the other members.
            (_, Some("no leader" | "too many requests")) => Self::NotSent(error.into()),
            (Code::ResourceExhausted, Some(_)) => Self::Refused(error.into()),
            (Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition | Code::NotFound, _)
            | (Code::Unauthenticated | Code::OutOfRange | Code::Unimplemented, _) => Self::Refused(error.into()),
            _ if never_connected(&error) => Self::NotSent(error.into()),
            _ => Self::Unclear(error.into()),
        }
    }

    /// No answer within the deadline.
    pub(super) fn silence() -> Self {
        Self::Unclear("no answer in time".into())
    }

    /// Is another try, at another member, of use?
    pub(super) fn passing(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Unclear(_))
    }

    /// The error of a call that changes nothing, or whose repetition is harmless.
    pub(super) fn unchanged(self, doing: &str) -> StoreError {
        let doing = doing.to_owned();
        match self {
            Self::NotSent(source) | Self::Unclear(source) => StoreError::Unavailable { doing, source: Some(source) },
            Self::Refused(source) => StoreError::Refused { doing, source: Some(source) },
            Self::LeaseNotFound => StoreError::Refused { doing, source: Some("the lease is gone".into()) },
            Self::Compacted => StoreError::Unavailable { doing, source: Some("its revision was compacted meanwhile".into()) },
        }
    }

    /// The error of a transaction with puts under these leases.
    pub(super) fn of_transaction(self, doing: &str, leases: &[LeaseId]) -> StoreError {
        match (self, leases) {
            (Self::Unclear(source), _) => StoreError::Indeterminate { doing: doing.to_owned(), source: Some(source) },
            (Self::LeaseNotFound, [lease, ..]) => StoreError::LeaseEnded(*lease),
            (failure, _) => failure.unchanged(doing),
        }
    }
}

/// tonic keeps the connector's error in the chain: the request had no connection to go out on.
fn never_connected(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    let mut next = status.source();
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// A stream that ended instead of answering.
pub(super) fn stream_ended() -> etcd_client::Error {
    etcd_client::Error::LeaseKeepAliveError("the stream ended".to_owned())
}

/// The header's revision; etcd always sends one.
pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, ResponseHeader::revision))
}

/// All entries whose key is text; others are not ours.
pub(super) fn entries(pairs: &[KeyValue]) -> Vec<Entry> {
    pairs.iter().filter_map(entry).collect()
}

fn entry(pair: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: pair.key_str().ok()?.to_owned(),
        value: pair.value().to_vec(),
        created: Revision(pair.create_revision()),
        modified: Revision(pair.mod_revision()),
        lease: (pair.lease() != 0).then(|| LeaseId(pair.lease())),
    })
}

/// The changes in a watch's events, in order.
pub(super) fn changes(events: &[Event]) -> Vec<Change> {
    events.iter().filter_map(change).collect()
}

fn change(event: &Event) -> Option<Change> {
    let pair = event.kv()?;
    match event.event_type() {
        EventType::Put => entry(pair).map(Change::Put),
        EventType::Delete => Some(Change::Deleted { key: pair.key_str().ok()?.to_owned(), revision: Revision(pair.mod_revision()) }),
    }
}

/// The end of the range of all keys that start with `prefix`: its last byte, one up (bytes of text are never 0xff).
pub(super) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        // etcd's own sign for "to the end of all keys".
        None => end.push(0),
    }
    end
}

/// The key that comes first after `key`.
pub(super) fn after(key: &str) -> Vec<u8> {
    [key.as_bytes(), &[0]].concat()
}

/// What is done, for errors: the first key names it.
pub(super) fn describe(transaction: &Transaction) -> String {
    let key = match transaction.writes.first() {
        Some(Write::Put { key, .. } | Write::Delete { key }) => key,
        None => return "committing an empty transaction".to_owned(),
    };
    match transaction.writes.len() {
        1 => format!("writing {key}"),
        n => format!("writing {key} and {} more", n - 1),
    }
}

/// The leases that a transaction puts keys under.
pub(super) fn leases(transaction: &Transaction) -> Vec<LeaseId> {
    let lease = |write: &Write| if let Write::Put { lease, .. } = write { *lease } else { None };
    transaction.writes.iter().filter_map(lease).collect()
}

/// The transaction as etcd takes it.
pub(super) fn request(transaction: Transaction) -> Txn {
    let compares: Vec<_> = transaction.when.into_iter().map(compare).collect();
    let writes: Vec<_> = transaction.writes.into_iter().map(operation).collect();
    Txn::new().when(compares).and_then(writes)
}

fn compare(compare: Compare) -> etcd_client::Compare {
    match compare {
        Compare::ModRevision { key, revision } => etcd_client::Compare::mod_revision(key, CompareOp::Equal, revision.0),
        Compare::CreateRevision { key, revision } => etcd_client::Compare::create_revision(key, CompareOp::Equal, revision.0),
    }
}

fn operation(write: Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease.0))),
        Write::Delete { key } => TxnOp::delete(key, None),
    }
}

/// What became of it.
pub(super) fn outcome(answer: &TxnResponse) -> Outcome {
    let revision = revision(answer.header());
    if answer.succeeded() { Outcome::Committed(revision) } else { Outcome::Refused(revision) }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn of(code: Code, message: &str) -> Failure {
        Failure::of(etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn only_what_provably_did_not_happen_counts_as_not_sent() {
        let mut refused = Status::unavailable("tcp connect error");
        refused.set_source(std::sync::Arc::new(ConnectError("connection refused".into())));
        assert!(matches!(Failure::of(etcd_client::Error::GRpcStatus(refused)), Failure::NotSent(_)));
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Failure::NotSent(_)));
        for message in ["etcdserver: leader changed", "etcdserver: request timed out", "transport error", "connection closed"] {
            assert!(matches!(of(Code::Unavailable, message), Failure::Unclear(_)), "{message}");
        }
        assert!(matches!(of(Code::Unknown, "h2 protocol error"), Failure::Unclear(_)));
        assert!(matches!(of(Code::Cancelled, "operation was canceled"), Failure::Unclear(_)));
    }

    #[test]
    fn answers_are_final() {
        assert!(matches!(of(Code::NotFound, "etcdserver: requested lease not found"), Failure::LeaseNotFound));
        assert!(matches!(of(Code::PermissionDenied, "etcdserver: permission denied"), Failure::Refused(_)));
        assert!(matches!(of(Code::InvalidArgument, "etcdserver: request is too large"), Failure::Refused(_)));
        assert!(matches!(of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Failure::Refused(_)));
        assert!(matches!(of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"), Failure::Compacted));
    }

    #[test]
    fn a_lost_reply_to_a_transaction_is_indeterminate_and_to_a_question_is_not() {
        assert!(matches!(Failure::silence().of_transaction("x", &[]), StoreError::Indeterminate { .. }));
        assert!(matches!(Failure::silence().unchanged("x"), StoreError::Unavailable { .. }));
        assert!(matches!(Failure::LeaseNotFound.of_transaction("x", &[LeaseId(7)]), StoreError::LeaseEnded(LeaseId(7))));
    }

    #[test]
    fn the_range_of_a_prefix_ends_before_its_sibling() {
        assert_eq!(range_end("/a/"), b"/a0");
        assert_eq!(range_end(""), [0]);
        assert_eq!(after("/a"), b"/a\0");
    }
}
