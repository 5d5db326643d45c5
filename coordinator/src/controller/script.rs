//! The transactions of one decision: each compares the spec and what it replaces; the guard is added where it is sent.

use coord_proto::coordinator::StoresRecord;
use coord_proto::ids::AppName;
use coord_proto::keys::{Key, KeySpace};
use coord_proto::limits::RECORD_BYTES_MAX;
use coord_proto::migration::{self, Resolution, View};
use coord_proto::record::Record;
use coord_proto::store::mirror::Mirror;
use coord_proto::store::{Compare, Transaction, Write};

use super::audit::{Audit, unix_now};
use crate::rollout::{Decision, Duty};
use crate::view::Fleet;

/// Desired records in one transaction; etcd allows 128 operations and as many comparisons (`--max-txn-ops`).
pub const DESIRED_PER_TRANSACTION: usize = 80;

/// What to send, in order.
pub struct Script {
    /// The state with all that belongs to it, and the first desired records.
    pub first: Transaction,
    /// Compared by the rest, at the revision that `first` gave it.
    pub state_key: String,
    pub rest: Vec<Transaction>,
    /// Each stands alone.
    pub duties: Vec<Transaction>,
}

struct Writer<'a> {
    keys: &'a KeySpace,
    mirror: &'a Mirror,
    app: &'a AppName,
}

impl Script {
    /// The transactions for `decision`, which was made by this very view.
    pub fn of(keys: &KeySpace, mirror: &Mirror, fleet: &Fleet, app: &AppName, decision: &Decision, audit: &Audit) -> Self {
        let writer = Writer { keys, mirror, app };
        let state_key = keys.key(&Key::RolloutState(app.clone()));
        let mut chunks = decision.desired.chunks(DESIRED_PER_TRANSACTION);
        let mut first = writer.compare(Transaction::new(), &state_key);
        if let Some(state) = &decision.state {
            first = first.put_record(state_key.clone(), state);
        }
        first = writer.records(first, fleet, decision);
        for desired in chunks.next().unwrap_or_default() {
            first = writer.replace(first, &Key::Desired(desired.node.clone(), app.clone()), desired);
        }
        let rest = chunks.map(|chunk| {
            let base =
                if decision.state.is_some() { writer.spec(Transaction::new()) } else { writer.compare(Transaction::new(), &state_key) };
            chunk.iter().fold(base, |t, desired| writer.replace(t, &Key::Desired(desired.node.clone(), app.clone()), desired))
        });
        let rest = rest.collect();
        let duties = decision.duties.iter().filter_map(|duty| writer.duty(duty, audit)).collect();
        Self { first, state_key, rest, duties }
    }
}

impl Script {
    /// The key of a record that could be written and never be read again.
    pub fn too_large(&self) -> Option<&str> {
        self.rest.iter().chain([&self.first]).flat_map(|t| &t.writes).find_map(|write| match write {
            Write::Put { key, value, .. } if value.len() > RECORD_BYTES_MAX => Some(key.as_str()),
            _ => None,
        })
    }
}

impl Writer<'_> {
    fn spec(&self, transaction: Transaction) -> Transaction {
        let key = self.keys.key(&Key::RolloutSpec(self.app.clone()));
        let entry = self.mirror.entries.get(&key);
        transaction.when(Compare::unchanged(key, entry))
    }

    fn compare(&self, transaction: Transaction, state_key: &str) -> Transaction {
        self.spec(transaction).when(Compare::unchanged(state_key, self.mirror.entries.get(state_key)))
    }

    /// A put that compares the revision of what it replaces.
    fn replace<R: Record>(&self, transaction: Transaction, key: &Key, record: &R) -> Transaction {
        let key = self.keys.key(key);
        let entry = self.mirror.entries.get(&key);
        transaction.when(Compare::unchanged(key.clone(), entry)).put_record(key, record)
    }

    fn records(&self, mut transaction: Transaction, fleet: &Fleet, decision: &Decision) -> Transaction {
        if let Some(stable) = &decision.stable {
            transaction = self.replace(transaction, &Key::Stable(self.app.clone()), stable);
        }
        if let Some((release, verdict)) = &decision.verdict
            && let Some(record) = fleet.apps.get(self.app).and_then(|a| a.releases.get(release))
            && record.verdict != *verdict
        {
            let mut judged = record.clone();
            judged.verdict = *verdict;
            transaction = self.replace(transaction, &Key::Release(self.app.clone(), release.clone()), &judged);
        }
        for (id, entry) in &decision.history {
            transaction = self.replace(transaction, &Key::History(self.app.clone(), id.clone()), entry);
        }
        for id in decision.forgotten.iter().take(DESIRED_PER_TRANSACTION / 4) {
            transaction = transaction.delete(self.keys.key(&Key::History(self.app.clone(), id.clone())));
        }
        transaction
    }

    fn duty(&self, duty: &Duty, audit: &Audit) -> Option<Transaction> {
        let (Duty::MarkUnknown(task) | Duty::Retry(task)) = duty;
        let entry = |key: String| self.mirror.entries.get(&key).cloned();
        let record = entry(task.record_key(self.keys)).and_then(|e| Some((e.record().ok()?, e)));
        let head = entry(task.head_key(self.keys)).and_then(|e| Some((e.record().ok()?, e)));
        let lock = entry(task.lock_key(self.keys));
        let view = View { record, head, lock, spec: entry(self.keys.key(&Key::RolloutSpec(self.app.clone()))) };
        match duty {
            Duty::MarkUnknown(_) => migration::mark_unknown(self.keys, task, &view),
            Duty::Retry(_) => {
                let words = format!("tried again by {} as its manifest allows", audit.actor().host);
                migration::resolve(self.keys, task, &view, Resolution::Retry, &words, unix_now())
            }
        }
    }
}

/// The base URLs of the artifact stores, if what is stored differs.
pub fn publish_stores(keys: &KeySpace, mirror: &Mirror, urls: &[String]) -> Option<Transaction> {
    let key = keys.key(&Key::Stores);
    let entry = mirror.entries.get(&key);
    let stored = entry.and_then(|e| e.record::<StoresRecord>().ok());
    let differs = !urls.is_empty() && stored.is_none_or(|s| s.urls != urls);
    differs.then(|| Transaction::new().when(Compare::unchanged(key.clone(), entry)).put_record(key, &StoresRecord { urls: urls.to_vec() }))
}
