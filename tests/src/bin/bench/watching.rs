//! When which record was written, as a watcher sees it: both ends of a measured stretch arrive the same way.

use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use anyhow::{Context as _, Result};
use coord_proto::desired::Desired;
use coord_proto::ids::{NodeName, Revision, Seq};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::report::{Status, Step};
use coord_proto::rollout::RolloutState;
use coord_proto::store::{Change, Entry, Store as _, WatchEvent};
use coord_tests::fleet::Fleet;

/// A record that was written.
pub enum Seen {
    Desired(Desired),
    Status(Box<Status>),
    State(Box<RolloutState>),
}

/// Everything that is written from now on, each with the time of its arrival here.
pub fn records(fleet: &Fleet) -> Result<Receiver<(Instant, Seen)>> {
    let (sender, receiver) = mpsc::channel();
    let keys = KeySpace::default();
    let store = fleet.store().clone();
    let mut watch = fleet.runtime().block_on(async {
        let now = store.identity().await?.revision;
        store.watch(&keys.all(), Revision(now.0 + 1)).await
    })?;
    fleet.runtime().spawn(async move {
        while let Some(event) = watch.recv().await {
            let WatchEvent::Changes { changes, .. } = event else { continue };
            for change in changes {
                let Change::Put(entry) = change else { continue };
                if let Some(seen) = read(&keys, &entry)
                    && sender.send((Instant::now(), seen)).is_err()
                {
                    return;
                }
            }
        }
    });
    Ok(receiver)
}

fn read(keys: &KeySpace, entry: &Entry) -> Option<Seen> {
    match keys.parse(&entry.key)? {
        Key::Desired(..) => entry.record().ok().map(Seen::Desired),
        Key::Status(..) => entry.record().ok().map(|status| Seen::Status(Box::new(status))),
        Key::RolloutState(..) => entry.record().ok().map(|state| Seen::State(Box::new(state))),
        _ => None,
    }
}

/// Seconds from the record that tells `node` to run `seq` to its report that it does, and rests.
pub fn run_times(records: &Receiver<(Instant, Seen)>, seq: Seq, nodes: &[NodeName]) -> Result<Vec<f64>> {
    let mut told = std::collections::BTreeMap::new();
    let mut times = Vec::new();
    while times.len() < nodes.len() {
        let (at, seen) = records.recv_timeout(std::time::Duration::from_secs(120)).context("no server reports any more")?;
        match seen {
            Seen::Desired(d) if d.run == seq && nodes.contains(&d.node) => _ = told.entry(d.node).or_insert(at),
            Seen::Status(s) if s.running.as_ref().is_some_and(|r| r.seq == seq) && s.step == Step::Idle => {
                if let Some(start) = told.remove(&s.node) {
                    times.push(at.duration_since(start).as_secs_f64());
                }
            }
            _ => {}
        }
    }
    Ok(times)
}
