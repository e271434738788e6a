//! One task folds changes into the mesh and publishes it: sources send [`Change`]s, everybody else reads the newest
//! [`MeshView`]. The fold itself is [`fold::apply`], pure.

mod fold;

use std::sync::Arc;

use symbolon_kit::drain::Drain;
use symbolon_kit::supervise::{OnExit, Tasks};
use symbolon_proto::ids::TrustDomain;
use tokio::sync::{mpsc, watch};

use crate::model::{Change, MeshView};

pub use fold::apply;

/// How many changes may wait before their senders do.
const QUEUE: usize = 1024;

/// The state's two ends: where changes go in and where the mesh comes out.
#[derive(Clone, Debug)]
pub struct Handle {
    pub changes: mpsc::Sender<Change>,
    pub view: watch::Receiver<Arc<MeshView>>,
}

/// Starts the state task with a mesh of which nothing is known.
pub fn spawn(trust_domain: TrustDomain, tasks: &Tasks, drain: Drain) -> Handle {
    let (changes, inbox) = mpsc::channel(QUEUE);
    let (publish, view) = watch::channel(Arc::new(MeshView::empty(trust_domain)));
    tasks.spawn("state", OnExit::Shutdown, run(inbox, publish, drain));
    Handle { changes, view }
}

/// Folds whatever has arrived in one go, so that a burst costs one publication and a single change waits for nothing.
async fn run(mut inbox: mpsc::Receiver<Change>, publish: watch::Sender<Arc<MeshView>>, drain: Drain) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = inbox.recv_many(&mut batch, QUEUE) => received,
            () = drain.cancelled() => return,
        };
        if received == 0 {
            return;
        }
        let before = publish.borrow().clone();
        let mut view = MeshView::clone(&before);
        for change in batch.drain(..) {
            apply(&mut view, change);
        }
        if view.generation != before.generation {
            publish.send_replace(Arc::new(view));
        }
    }
}

#[cfg(test)]
mod tests;
