//! One task folds changes into the mesh and publishes it: sources send [`Change`]s, everybody else reads the newest
//! [`MeshView`]. The fold itself is [`fold::apply`], pure.

mod fold;

use std::sync::Arc;

use symbolon_kit::drain::Drain;
use symbolon_kit::supervise::{OnExit, Tasks};
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

/// The state before its task runs. The parts that restore what they stored need a sender to be made, and what they restore must
/// be in the first mesh that anybody sees: so the ends are made first, and the task starts with [`Unstarted::spawn`].
#[derive(Debug)]
pub struct Unstarted {
    inbox: mpsc::Receiver<Change>,
    publish: watch::Sender<Arc<MeshView>>,
}

/// The two ends of a state that starts with `view`.
pub fn new(view: MeshView) -> (Handle, Unstarted) {
    let (changes, inbox) = mpsc::channel(QUEUE);
    let (publish, view) = watch::channel(Arc::new(view));
    (Handle { changes, view }, Unstarted { inbox, publish })
}

impl Unstarted {
    /// Folds what a part has restored, so that the parts above it see it.
    pub fn fold(&self, restored: impl IntoIterator<Item = Change>) {
        fold_all(&self.publish, restored);
    }

    /// Starts the task: from now on changes are folded as they come.
    pub fn spawn(self, tasks: &Tasks, drain: Drain) {
        tasks.spawn("state", OnExit::Shutdown, run(self.inbox, self.publish, drain));
    }
}

/// Starts a state with nothing to restore.
pub fn spawn(view: MeshView, tasks: &Tasks, drain: Drain) -> Handle {
    let (handle, unstarted) = new(view);
    unstarted.spawn(tasks, drain);
    handle
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
        fold_all(&publish, batch.drain(..));
    }
}

fn fold_all(publish: &watch::Sender<Arc<MeshView>>, changes: impl IntoIterator<Item = Change>) {
    let before = publish.borrow().clone();
    let mut view = MeshView::clone(&before);
    for change in changes {
        apply(&mut view, change);
    }
    if view.generation != before.generation {
        publish.send_replace(Arc::new(view));
    }
}

#[cfg(test)]
mod tests;
