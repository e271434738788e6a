//! Keeps the log of one peer in step with the mesh. A change is in the log in the same turn in which it is seen: nothing here waits
//! for more to come, since the log itself lets newer statements overtake older ones.

use std::sync::Arc;

use futures::StreamExt as _;

use super::Context;
use super::offer::Offer;
use super::peer::Peer;

pub(super) async fn run(context: Arc<Context>, peer: Arc<Peer>) {
    let (mut view, mut synced) = (context.view.clone(), context.config.synced.clone());
    let mut bundles = context.book.changes();
    let mut offer = Offer::default();
    tokio::select! {
        // A half-loaded mesh must not look like one that lost its other half.
        outcome = synced.wait_for(|synced| *synced) => if outcome.is_err() { return },
        () = context.drain.cancelled() => return,
    }
    loop {
        let mesh = view.borrow_and_update().clone();
        let changes = offer.update(&mesh, &peer.config.name, context.book.own().as_ref());
        peer.facts().exported_services = offer.services();
        let now = context.clock.now();
        let head = {
            let mut log = peer.log();
            changes.into_iter().for_each(|(key, said)| log.record(&key, said, now));
            log.head()
        };
        peer.head.send_if_modified(|known| known.replace(head) != Some(head));
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            Some(()) = bundles.next() => {}
            () = context.drain.cancelled() => return,
        }
    }
}
