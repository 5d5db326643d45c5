//! When is the fleet up? When this coordinator leads and each of these agents is present.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coord_proto::store::SharedStore;
use coord_proto::store::etcd::EtcdStore;
use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::files::Fleet;
use crate::cli_config::Context;
use crate::exit::Exit;
use crate::observe;
use crate::ui::Failure;
use crate::view;

/// Waits for it; `begun` is a time (Unix seconds) before any program was started.
///
/// # Errors
/// A program ended, or the time is over: what is missing is said.
pub async fn wait(fleet: &Fleet, children: &mut Children, begun: i64, most: Duration) -> Result<(), Failure> {
    let context = Context::load(&fleet.operator_config(), None)?;
    let store: SharedStore = Arc::new(EtcdStore::new(context.etcd())?);
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let mut fleets = observe::fleets(store, context.keys.clone(), stop);
    let deadline = tokio::time::sleep(most);
    tokio::pin!(deadline);
    loop {
        let seen = fleets.borrow_and_update().clone();
        let missing = missing(fleet, children, seen.as_deref(), begun);
        if missing.is_empty() {
            return Ok(());
        }
        tokio::select! {
            ended = children.first_to_end() => ended.map(drop)?,
            () = &mut deadline => {
                let words = format!("the fleet is not up after {}: no sign of {}", humantime::format_duration(most), missing.join(", "));
                return Err(Failure::new(Exit::Error, words).hint(format!("see the logs in {}", fleet.dir.join("log").display())));
            }
            changed = fleets.changed() => changed.map_err(|_| Failure::new(Exit::Error, "the view of the fleet ended"))?,
        }
    }
}

/// Keys of an earlier run may still be there until their leases end: a leader counts by its process id, an agent by when it came.
fn missing(fleet: &Fleet, children: &Children, seen: Option<&view::Fleet>, begun: i64) -> Vec<String> {
    let Some(seen) = seen else { return vec!["etcd".to_owned()] };
    let mut missing = Vec::new();
    if seen.leader.as_ref().is_none_or(|leader| Some(leader.pid) != children.pid("coordinator")) || seen.stores.is_empty() {
        missing.push("the coordinator".to_owned());
    }
    let here =
        |node: &super::files::Node| seen.nodes.get(&node.name).and_then(|n| n.alive.as_ref()).is_some_and(|alive| alive.since >= begun);
    missing.extend(fleet.nodes.iter().filter(|node| !here(node)).map(|node| node.name.to_string()));
    missing
}

/// Writes the file for scripts: complete, or not there.
///
/// # Errors
/// It cannot be written.
pub fn announce(fleet: &Fleet, file: &Path) -> Result<(), Failure> {
    let nodes: Vec<_> = fleet
        .nodes
        .iter()
        .map(|node| serde_json::json!({ "name": node.name, "apps": node.apps(), "dir": node.dir, "http": node.http }))
        .collect();
    let ready = serde_json::json!({
        "config": fleet.operator_config(),
        "status_page": fleet.status_page(),
        "etcd": format!("https://{}", fleet.etcd),
        "artifacts": format!("https://{}", fleet.artifacts),
        "nodes": nodes,
    });
    let beside = file.with_extension("new");
    std::fs::write(&beside, format!("{ready:#}\n"))?;
    std::fs::rename(&beside, file)?;
    Ok(())
}
