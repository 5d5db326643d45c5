//! The transactions of one decision: each compares the spec and what it replaces; the guard is added where it is sent.

use std::collections::BTreeSet;

use coord_proto::coordinator::{MemberRecord, StoresRecord};
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

/// The base URLs of the artifact stores, this coordinator's and those of all that run beside it, if what is stored differs.
pub fn publish_stores(keys: &KeySpace, mirror: &Mirror, own: &[String]) -> Option<Transaction> {
    let members = mirror.entries.range(keys.members()..).take_while(|(key, _)| key.starts_with(&keys.members()));
    // One with a directory of its own is about to be refused.
    let shared = members.filter_map(|(_, entry)| entry.record::<MemberRecord>().ok()).filter(MemberRecord::shares);
    let beside = shared.map(|member| member.url);
    // Sorted: another leader writes the same.
    let urls: BTreeSet<String> = own.iter().cloned().chain(beside.filter(|_| !own.is_empty())).collect();
    let urls = Vec::from_iter(urls);
    let key = keys.key(&Key::Stores);
    let entry = mirror.entries.get(&key);
    let stored = entry.and_then(|e| e.record::<StoresRecord>().ok());
    let differs = !urls.is_empty() && stored.is_none_or(|s| s.urls != urls);
    differs.then(|| Transaction::new().when(Compare::unchanged(key.clone(), entry)).put_record(key, &StoresRecord { urls }))
}

#[cfg(test)]
mod tests {
    use coord_proto::ids::Revision;
    use coord_proto::record::encode;
    use coord_proto::store::{Entry, Write};

    use super::*;

    fn mirror(records: &[(Key, Vec<u8>)]) -> Mirror {
        let entry = |(key, value): &(Key, Vec<u8>)| {
            let key = KeySpace::default().key(key);
            let entry = Entry { key: key.clone(), value: value.clone(), created: Revision(1), modified: Revision(1), lease: None };
            (key, entry)
        };
        Mirror { entries: records.iter().map(entry).collect(), ..Mirror::default() }
    }

    fn member(instance: &str) -> (Key, Vec<u8>) {
        let url = format!("https://{instance}");
        let record = MemberRecord { host: instance.into(), url, artifacts: "s3://b/x".into(), since: 0 };
        (Key::Member(instance.into()), encode(&record))
    }

    fn published(mirror: &Mirror, own: &[&str]) -> Option<Vec<String>> {
        let own: Vec<String> = own.iter().map(|url| (*url).to_owned()).collect();
        let writes = publish_stores(&KeySpace::default(), mirror, &own)?.writes;
        let Some(Write::Put { value, .. }) = writes.into_iter().next() else { return None };
        coord_proto::record::decode::<StoresRecord>(&value).ok().map(|record| record.urls)
    }

    #[test]
    fn a_leader_publishes_the_stores_of_all_that_run() {
        let both = mirror(&[member("c2"), member("c1")]);
        assert_eq!(published(&both, &["https://c2"]), Some(vec!["https://c1".into(), "https://c2".into()]));
        assert_eq!(published(&both, &[]), None, "what is published stays");
        let stores = StoresRecord { urls: vec!["https://c1".into(), "https://c2".into()] };
        let there = mirror(&[member("c1"), member("c2"), (Key::Stores, encode(&stores))]);
        assert_eq!(published(&there, &["https://c1"]), None, "the next leader writes nothing else");
        let alone = mirror(&[member("c1"), (Key::Stores, encode(&stores))]);
        assert_eq!(published(&alone, &["https://c1"]), Some(vec!["https://c1".into()]), "the other one is gone");
    }
}
