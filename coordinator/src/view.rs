//! One fold over the records: terminal, JSON, status page and planner all see the same fleet.
//!
//! A record that cannot be read is a named problem and never absent data (I6): what hangs on it is marked, so that the
//! planner leaves it alone.

use std::collections::{BTreeMap, BTreeSet};

use coord_proto::chain;
use coord_proto::coordinator::{HistoryRecord, LeaderRecord, StoresRecord};
use coord_proto::desired::Desired;
use coord_proto::ids::{AppName, NodeName, ReleaseId, Revision, RolloutId, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::labels::Labels;
use coord_proto::migration::{self, Head, LockRecord, TaskRecord};
use coord_proto::record::Record;
use coord_proto::report::{Alive, NodeInfo, Running, Status};
use coord_proto::rollout::{ReleaseRecord, RolloutSpec, RolloutState, SeqRecord, StableRecord, Verdict, Wish};
use coord_proto::store::Entry;
use coord_proto::store::mirror::Mirror;
use serde::Serialize;

mod drift;
pub mod facts;
mod followed;

pub use drift::{Drift, drift};
pub use facts::{ManifestFacts, TaskFacts};
pub use followed::Followed;

/// Everything below one prefix, as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Fleet {
    pub revision: Revision,
    /// Does the store answer? If not, this is the last good view (I6).
    pub fresh: bool,
    /// Was it restored from a backup while it was followed? Then nothing is decided by it, and this coordinator does not lead.
    pub restored: bool,
    pub leader: Option<LeaderRecord>,
    /// Base URLs of the artifact stores.
    pub stores: Vec<String>,
    pub nodes: BTreeMap<NodeName, Node>,
    pub apps: BTreeMap<AppName, App>,
    pub problems: Vec<Problem>,
}

/// A key whose value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub key: String,
    pub error: String,
}

/// One server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Node {
    pub info: Option<NodeInfo>,
    /// Is its presence there? Its lease lives, whatever the record says.
    pub present: bool,
    /// What its presence says.
    pub alive: Option<Alive>,
    pub cordoned: bool,
    pub apps: BTreeMap<AppName, NodeApp>,
    /// Its `info` cannot be read: what it is, nobody knows.
    pub unreadable: bool,
}

/// One app on one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NodeApp {
    pub desired: Option<Desired>,
    pub status: Option<Status>,
    /// One of the two cannot be read: the server counts as unreachable for this app, and nothing is written for it.
    pub unreadable: bool,
}

impl NodeApp {
    /// What `current` points to, as the server reported it last.
    pub fn running(&self) -> Option<&Running> {
        self.status.as_ref()?.running.as_ref()
    }

    /// Does it run this one?
    pub fn runs(&self, seq: Seq) -> bool {
        self.running().is_some_and(|r| r.seq == seq)
    }
}

/// One app.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct App {
    pub seq: Option<SeqRecord>,
    pub stable: Option<StableRecord>,
    pub spec: Option<RolloutSpec>,
    pub state: Option<RolloutState>,
    pub wish: Option<Wish>,
    /// Revision of the wish's last put; 0 when there is none.
    pub wish_revision: Revision,
    pub releases: BTreeMap<ReleaseId, ReleaseRecord>,
    /// Of the sequence numbers that matter (rolled out, stable, running or wanted somewhere), or of all in a [`Fleet::whole`].
    pub manifests: BTreeMap<Seq, ManifestFacts>,
    pub tasks: Vec<TaskRecord>,
    pub head: Option<Head>,
    pub lock: Option<LockRecord>,
    pub history: BTreeMap<RolloutId, HistoryRecord>,
    /// A record that rollouts hang on cannot be read: nothing is planned for this app.
    pub unreadable: bool,
}

impl Fleet {
    /// The fleet in a mirror of the whole key space.
    pub fn from_mirror(mirror: &Mirror, keys: &KeySpace) -> Self {
        let (mut fleet, manifests) = Self::fold(mirror, keys);
        let wanted: BTreeMap<AppName, BTreeSet<Seq>> = fleet.apps.keys().map(|app| (app.clone(), fleet.seqs_that_matter(app))).collect();
        fleet.take_manifests(manifests.into_iter().filter(|(app, seq, _)| wanted.get(app).is_some_and(|seqs| seqs.contains(seq))));
        fleet
    }

    /// The same with every manifest that is stored.
    pub fn whole(mirror: &Mirror, keys: &KeySpace) -> Self {
        let (mut fleet, manifests) = Self::fold(mirror, keys);
        fleet.take_manifests(manifests.into_iter());
        fleet
    }

    /// Everything but the manifests, which are large.
    fn fold<'a>(mirror: &'a Mirror, keys: &KeySpace) -> (Self, Vec<(AppName, Seq, &'a Entry)>) {
        let mut fleet = Self { revision: mirror.revision, fresh: mirror.fresh, restored: mirror.restored, ..Self::default() };
        let mut manifests = Vec::new();
        for entry in mirror.entries.values() {
            match keys.parse(&entry.key) {
                Some(Key::Manifest(app, seq)) => manifests.push((app, seq, entry)),
                Some(key) => fleet.take(key, entry),
                None => {}
            }
        }
        (fleet, manifests)
    }

    /// One server's part of one app.
    pub fn node_app(&self, node: &NodeName, app: &AppName) -> Option<&NodeApp> {
        self.nodes.get(node)?.apps.get(app)
    }

    fn take(&mut self, key: Key, entry: &Entry) {
        match key {
            Key::Leader => self.leader = self.read(entry),
            Key::Stores => self.stores = self.read::<StoresRecord>(entry).map(|r| r.urls).unwrap_or_default(),
            Key::NodeInfo(node) => {
                let info = self.read(entry);
                let node = self.nodes.entry(node).or_default();
                node.unreadable = info.is_none();
                node.info = info;
            }
            Key::NodeAlive(node) => {
                let alive = self.read(entry);
                let node = self.nodes.entry(node).or_default();
                (node.present, node.alive) = (true, alive);
            }
            Key::NodeCordon(node) => self.nodes.entry(node).or_default().cordoned = true,
            Key::Desired(node, app) => {
                let desired = self.read(entry);
                let slot = self.slot(node, app);
                slot.unreadable |= desired.is_none();
                slot.desired = desired;
            }
            Key::Status(node, app) => {
                let status = self.read(entry);
                let slot = self.slot(node, app);
                slot.unreadable |= status.is_none();
                slot.status = status;
            }
            // Signatures are the servers' business, members the coordinators'; the audit trail is read where it is shown.
            Key::Event(_) | Key::Member(_) | Key::Manifest(..) | Key::ManifestSignature(..) => {}
            of_app => self.take_app(of_app, entry),
        }
    }

    fn take_app(&mut self, key: Key, entry: &Entry) {
        match key {
            Key::AppSeq(app) => self.set(app, entry, |a, r| a.seq = Some(r)),
            Key::Stable(app) => self.set(app, entry, |a, r| a.stable = Some(r)),
            Key::RolloutSpec(app) => self.set(app, entry, |a, r| a.spec = Some(r)),
            Key::RolloutState(app) => self.set(app, entry, |a, r| a.state = Some(r)),
            Key::RolloutWish(app) => self.set(app, entry, |a, r| (a.wish, a.wish_revision) = (Some(r), entry.modified)),
            Key::MigrationHead(app) => self.set(app, entry, |a, r| a.head = Some(r)),
            Key::Migration(app, ..) => self.set(app, entry, |a, r| a.tasks.push(r)),
            Key::MigrateLock(app) => self.set(app, entry, |a, r| a.lock = Some(r)),
            Key::Release(app, release) => {
                if let Some(record) = self.read(entry) {
                    self.apps.entry(app).or_default().releases.insert(release, record);
                }
            }
            Key::History(app, rollout) => {
                if let Some(record) = self.read(entry) {
                    self.apps.entry(app).or_default().history.insert(rollout, record);
                }
            }
            _ => {}
        }
    }

    /// Sets what a rollout hangs on, or marks the app.
    fn set<R: Record>(&mut self, app: AppName, entry: &Entry, put: impl FnOnce(&mut App, R)) {
        let record = self.read(entry);
        let app = self.apps.entry(app).or_default();
        match record {
            Some(record) => put(app, record),
            None => app.unreadable = true,
        }
    }

    fn slot(&mut self, node: NodeName, app: AppName) -> &mut NodeApp {
        self.nodes.entry(node).or_default().apps.entry(app).or_default()
    }

    fn read<R: Record>(&mut self, entry: &Entry) -> Option<R> {
        let result = entry.record();
        result.map_err(|e| self.problems.push(Problem { key: entry.key.clone(), error: chain::inline(&e) })).ok()
    }

    fn take_manifests<'a>(&mut self, manifests: impl Iterator<Item = (AppName, Seq, &'a Entry)>) {
        for (app, seq, entry) in manifests {
            match ManifestFacts::unverified(&entry.value) {
                Ok(facts) => drop(self.apps.entry(app).or_default().manifests.insert(seq, facts)),
                Err(e) => self.problems.push(Problem { key: entry.key.clone(), error: chain::inline(&e) }),
            }
        }
    }

    fn seqs_that_matter(&self, name: &AppName) -> BTreeSet<Seq> {
        let mut seqs = BTreeSet::new();
        if let Some(app) = self.apps.get(name) {
            seqs.extend(app.spec.as_ref().map(|s| s.seq));
            seqs.extend(app.stable.as_ref().map(|s| s.seq));
            seqs.extend(app.state.as_ref().map(|s| s.seq));
            seqs.extend(app.tasks.iter().filter(|t| t.settled_at.is_none()).map(|t| t.seq));
        }
        for slot in self.nodes.values().filter_map(|n| n.apps.get(name)) {
            seqs.extend(slot.desired.as_ref().map(|d| d.run));
            seqs.extend(slot.running().map(|r| r.seq));
        }
        seqs
    }
}

impl Node {
    /// Its labels, and `node`, its own name.
    pub fn labels(&self) -> Labels {
        let Some(info) = &self.info else { return Labels::new() };
        let mut labels = info.labels.clone();
        labels.insert("node".to_owned(), info.node.to_string());
        labels
    }

    /// One of its labels, without a copy of them all.
    pub fn label(&self, name: &str) -> Option<&str> {
        let info = self.info.as_ref()?;
        if name == "node" { Some(info.node.as_str()) } else { info.labels.get(name).map(String::as_str) }
    }

    /// Does its configuration allow this app?
    pub fn allows(&self, app: &AppName) -> bool {
        self.info.as_ref().is_some_and(|i| i.apps.iter().any(|a| a == "*" || a == app.as_str()))
    }
}

impl App {
    /// The name of a release by its sequence number, where it is known.
    pub fn release_of(&self, seq: Seq) -> Option<&ReleaseId> {
        let by_manifest = self.manifests.get(&seq).map(|m| &m.release);
        by_manifest.or_else(|| self.releases.iter().find(|(_, r)| r.seq == seq).map(|(id, _)| id))
    }

    /// How the release with this sequence number fared.
    pub fn verdict_of(&self, seq: Seq) -> Verdict {
        self.release_of(seq).and_then(|id| self.releases.get(id)).map_or(Verdict::Untried, |r| r.verdict)
    }

    /// Has its migration no way back, or did what comes after it begin?
    pub fn bars_rollback(&self, facts: &ManifestFacts) -> bool {
        migration::bars_rollback(facts.reversible, self.tasks.iter().filter(|r| r.release == facts.release))
    }

    /// The state of one rollout, current or finished.
    pub fn state_of(&self, id: &RolloutId) -> Option<&RolloutState> {
        self.state.as_ref().filter(|s| s.id == *id).or_else(|| self.history.get(id).map(|h| &h.state))
    }
}

#[cfg(test)]
mod tests;
