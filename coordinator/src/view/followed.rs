//! One view after the other: what has not changed since the last one is not decoded again.

use std::collections::{BTreeMap, BTreeSet};

use coord_proto::ids::{AppName, Revision, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::store::Entry;
use coord_proto::store::mirror::Mirror;

use super::Fleet;

/// The last view of a mirror that is followed.
#[derive(Debug, Default)]
pub struct Followed {
    fleet: Fleet,
    /// How many entries that mirror had.
    entries: usize,
}

impl Followed {
    /// What [`Fleet::from_mirror`] gives, sooner.
    pub fn fleet(&mut self, mirror: &Mirror, keys: &KeySpace) -> &Fleet {
        let taken = self.news(mirror, keys).is_some_and(|news| self.take(news, mirror, keys));
        if !taken {
            self.fleet = Fleet::from_mirror(mirror, keys);
        }
        (self.fleet.revision, self.fleet.fresh, self.fleet.restored) = (mirror.revision, mirror.fresh, mirror.restored);
        self.entries = mirror.entries.len();
        &self.fleet
    }

    /// What was put since; none where the view must be made anew: something is gone, cannot be read, or is one of several.
    fn news<'a>(&self, mirror: &'a Mirror, keys: &KeySpace) -> Option<Vec<(Key, &'a Entry)>> {
        let seen = self.fleet.revision;
        if seen == Revision(0) || mirror.revision < seen || mirror.restored || !self.fleet.problems.is_empty() {
            return None;
        }
        let put = mirror.entries.values().filter(|entry| entry.modified > seen);
        // One that was deleted and put again counts on both sides.
        let new = put.clone().filter(|entry| entry.created > seen).count();
        if self.entries + new != mirror.entries.len() {
            return None;
        }
        let news: Vec<_> = put.filter_map(|entry| Some((keys.parse(&entry.key)?, entry))).collect();
        let replaces = |key: &Key| !matches!(key, Key::Manifest(..) | Key::Migration(..));
        news.iter().all(|(key, _)| replaces(key)).then_some(news)
    }

    /// False: something could not be read, and the view is half made.
    fn take(&mut self, news: Vec<(Key, &Entry)>, mirror: &Mirror, keys: &KeySpace) -> bool {
        news.into_iter().for_each(|(key, entry)| self.fleet.take(key, entry));
        let wanted: BTreeMap<AppName, BTreeSet<Seq>> =
            self.fleet.apps.keys().map(|app| (app.clone(), self.fleet.seqs_that_matter(app))).collect();
        for (name, seqs) in wanted {
            let Some(app) = self.fleet.apps.get_mut(&name) else { continue };
            app.manifests.retain(|seq, _| seqs.contains(seq));
            let missing: Vec<Seq> = seqs.into_iter().filter(|seq| !app.manifests.contains_key(seq)).collect();
            let stored = |seq| Some((name.clone(), seq, mirror.entries.get(&keys.key(&Key::Manifest(name.clone(), seq)))?));
            self.fleet.take_manifests(missing.into_iter().filter_map(stored));
        }
        self.fleet.problems.is_empty()
    }
}
