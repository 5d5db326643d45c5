//! Guards left out on purpose: a simulator that does not miss them proves nothing.

use coord_proto::ids::{AppName, Revision};
use coord_proto::keys::{Key, KeySpace};
use coord_proto::store::{Compare, Transaction, Write};

/// A comparison that is taken out of every transaction before it is committed, or what a server leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The leader's key (I5, I10).
    LeaderGuard,
    /// The rollout's spec: what a superseded rollout told is written, and claimed.
    Spec,
    /// In a claim, the head of the migrations and the spec: an older task starts after a newer one (I4).
    Sequence,
    /// The migration's own record (I4).
    MigrationRecord,
    /// A server's presence, under which it reports (I5).
    Presence,
    /// `current` is switched before the journal says so (I9).
    Journal,
    /// The floor does not outlive a crash (I2).
    Floor,
    /// What runs is pruned like any other release (I1).
    Protected,
}

impl Mutant {
    pub const ALL: [Self; 8] =
        [Self::LeaderGuard, Self::Spec, Self::Sequence, Self::MigrationRecord, Self::Presence, Self::Journal, Self::Floor, Self::Protected];

    pub fn weaken(self, keys: &KeySpace, app: &AppName, transaction: &mut Transaction) {
        let (leader, spec) = (keys.key(&Key::Leader), keys.key(&Key::RolloutSpec(app.clone())));
        let (head, records) = (keys.key(&Key::MigrationHead(app.clone())), keys.migrations(app));
        let claims = writes(transaction, &keys.key(&Key::MigrateLock(app.clone())));
        transaction.when.retain(|compare| {
            // Whoever campaigns compares that nobody leads: that is another check.
            let absent = matches!(compare, Compare::CreateRevision { revision: Revision(0), .. });
            let key = compare.key();
            !match self {
                Self::LeaderGuard => key == leader && !absent,
                Self::Spec => key == spec,
                Self::Sequence => claims && (key == head || key == spec),
                Self::MigrationRecord => key.starts_with(&records) && key != head,
                Self::Presence => matches!(keys.parse(key), Some(Key::NodeAlive(_))),
                Self::Journal | Self::Floor | Self::Protected => false,
            }
        });
    }
}

fn writes(transaction: &Transaction, wanted: &str) -> bool {
    transaction.writes.iter().any(|write| matches!(write, Write::Put { key, .. } if key == wanted))
}
