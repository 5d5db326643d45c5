//! The fleet, followed: mirror in, [`Fleet`] out, for the status page and for commands that watch.

use std::sync::Arc;

use coord_proto::keys::KeySpace;
use coord_proto::store::SharedStore;
use coord_proto::store::mirror;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::view::Fleet;

/// Follows everything below the prefix until `stop`; `None` until the first read succeeded.
pub fn fleets(store: SharedStore, keys: KeySpace, stop: CancellationToken) -> watch::Receiver<Option<Arc<Fleet>>> {
    let mut mirrors = mirror::follow(store, keys.all(), stop);
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let mirror = Arc::clone(&mirrors.borrow_and_update());
            if mirror.ready {
                sender.send_replace(Some(Arc::new(Fleet::from_mirror(&mirror, &keys))));
            }
            tokio::select! {
                changed = mirrors.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    receiver
}
