//! Does a server run what it should?

use coord_proto::ids::Seq;

use super::{App, NodeApp};

/// Does a server run what it should?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// Yes.
    None,
    /// It should run this one.
    Wants(Seq),
    /// Nobody knows.
    Unknown,
}

/// What a server runs against what it should run: `desired.run`, else the app's stable release.
pub fn drift(app: &App, slot: &NodeApp) -> Drift {
    if slot.unreadable {
        return Drift::Unknown;
    }
    let wanted = slot.desired.as_ref().map(|d| d.run).or(app.stable.as_ref().map(|s| s.seq));
    let running = slot.running().map(|r| r.seq);
    match (wanted, running) {
        (Some(wanted), Some(running)) if wanted == running => Drift::None,
        (Some(wanted), _) => Drift::Wants(wanted),
        (None, _) => Drift::None,
    }
}
