//! `node cordon|uncordon|forget`: marks for the coordinator. None is needed for them.

use coord_proto::coordinator::CordonRecord;
use coord_proto::event::AuditEvent;
use coord_proto::ids::{AppName, NodeName};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::rollout::Actor;
use coord_proto::store::{Store, Transaction};

use super::{Judged, OperateError, Sight, because};
use crate::commit::{TRIES_MAX, audited};
use crate::view::Node;

/// What is to be done with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeVerb {
    /// It takes part in no rollout, and keeps what it runs.
    Cordon,
    Uncordon,
    /// Everything that is known of it goes: it is not coming back.
    Forget,
}

impl NodeVerb {
    /// Past tense.
    pub fn past(self) -> &'static str {
        match self {
            Self::Cordon => "cordoned",
            Self::Uncordon => "uncordoned",
            Self::Forget => "forgot",
        }
    }

    fn event(self, node: &NodeName) -> String {
        format!("{} {node}", self.past())
    }
}

/// Does it.
///
/// # Errors
/// There is no such server, it is there and cannot be forgotten, and the store's.
pub async fn mark(store: &dyn Store, keys: &KeySpace, node: &NodeName, verb: NodeVerb, by: &Actor) -> Result<Judged<()>, OperateError> {
    for _ in 0..TRIES_MAX {
        let sight = Sight::look(store, keys).await?;
        let transaction = match judge(&sight, keys, node, verb, by)? {
            Judged::Do(transaction) => transaction,
            Judged::Already(words) => return Ok(Judged::Already(words)),
        };
        let event = AuditEvent { app: None, what: verb.event(node), by: by.clone() };
        if audited(store, keys, transaction, &event).await?.is_some() {
            return Ok(Judged::Do(()));
        }
    }
    Err(OperateError::Restless)
}

/// What a verb comes to. Pure.
pub(super) fn judge(
    sight: &Sight,
    keys: &KeySpace,
    name: &NodeName,
    verb: NodeVerb,
    by: &Actor,
) -> Result<Judged<Transaction>, OperateError> {
    let Some(node) = sight.fleet.nodes.get(name) else { return unknown(sight, keys, name, verb) };
    let key = Key::NodeCordon(name.clone());
    match (verb, node.cordoned) {
        (NodeVerb::Cordon, true) => Ok(Judged::Already(format!("{name} is cordoned already{}", cordoned_by(sight, keys, name)))),
        (NodeVerb::Uncordon, false) => Ok(Judged::Already(format!("{name} is not cordoned"))),
        (NodeVerb::Cordon, false) => {
            let mark = CordonRecord { by: by.clone() };
            // With its registration compared, a server that is being forgotten leaves no mark behind.
            let transaction = sight.unchanged(keys, &[key.clone(), Key::NodeInfo(name.clone())]);
            Ok(Judged::Do(transaction.put_record(keys.key(&key), &mark)))
        }
        (NodeVerb::Uncordon, true) => Ok(Judged::Do(sight.unchanged(keys, std::slice::from_ref(&key)).delete(keys.key(&key)))),
        (NodeVerb::Forget, _) => forget(sight, keys, name, node).map(Judged::Do),
    }
}

fn cordoned_by(sight: &Sight, keys: &KeySpace, name: &NodeName) -> String {
    let entry = sight.mirror.entries.get(&keys.key(&Key::NodeCordon(name.clone())));
    let record = entry.and_then(|e| e.record::<CordonRecord>().ok());
    record.map_or_else(String::new, |r| format!(" by {}{}", r.by, because(&r.by)))
}

/// A server that nobody knows was forgotten before, or never was.
fn unknown(sight: &Sight, keys: &KeySpace, name: &NodeName, verb: NodeVerb) -> Result<Judged<Transaction>, OperateError> {
    let forgot = NodeVerb::Forget.event(name);
    let events = sight.mirror.entries.range(keys.events()..).take_while(|(key, _)| key.starts_with(&keys.events()));
    let last = events.filter_map(|(_, e)| e.record::<AuditEvent>().ok()).filter(|e| e.what == forgot).last();
    match last {
        Some(event) if verb == NodeVerb::Forget => {
            Ok(Judged::Already(format!("{name} was forgotten already by {}{}", event.by, because(&event.by))))
        }
        _ => Err(OperateError::refused(format!("there is no server {name}"), "`coordctl node list` lists them")),
    }
}

fn forget(sight: &Sight, keys: &KeySpace, name: &NodeName, node: &Node) -> Result<Transaction, OperateError> {
    if node.present {
        let words = format!("{name} is there: its agent would only register it again");
        let hint = format!("stop it on that server first (systemctl stop coord-agent), or `coordctl node cordon {name}`");
        return Err(OperateError::refused(words, hint));
    }
    let apps = node.apps.keys();
    let of_app = |app: &AppName| [Key::Desired(name.clone(), app.clone()), Key::Status(name.clone(), app.clone())];
    let mut gone = vec![Key::NodeInfo(name.clone()), Key::NodeCordon(name.clone())];
    gone.extend(apps.flat_map(of_app));
    // Compared with all that goes: an agent that comes back this very moment keeps what it has written.
    let mut transaction = sight.unchanged(keys, &[Key::NodeAlive(name.clone()), Key::NodeInfo(name.clone())]);
    for key in gone {
        transaction = transaction.delete(keys.key(&key));
    }
    Ok(transaction)
}
