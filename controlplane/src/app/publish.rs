//! From the mesh to what the proxies are to have: each new mesh is built into a snapshot set and published whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::Gauge;
use tokio::sync::watch;
use tracing::warn;

use crate::model::{MeshView, ProxyKey};
use crate::snapshot::{Builder, SnapshotSet};

/// Builds snapshots; its builder keeps what did not change.
#[derive(Debug)]
pub(super) struct Publisher {
    builder: Builder,
    publish: watch::Sender<Arc<SnapshotSet>>,
    held: BTreeSet<ProxyKey>,
    held_back: Gauge,
}

impl Publisher {
    pub(super) fn new(builder: Builder, held_back: Gauge) -> (Self, watch::Receiver<Arc<SnapshotSet>>) {
        let (publish, snapshots) = watch::channel(Arc::default());
        (Self { builder, publish, held: BTreeSet::new(), held_back }, snapshots)
    }

    /// Publishes what `view` comes to. A proxy whose part would be inconsistent keeps the part it has, which is told once.
    pub(super) fn publish(&mut self, view: &MeshView) {
        let set = self.builder.build(view);
        let held = self.builder.held();
        for (proxy, why) in held.iter().filter(|(proxy, _)| !self.held.contains(proxy)) {
            warn!(?proxy, %why, "an inconsistent snapshot is held back; the proxy keeps the one before");
        }
        self.held = held.keys().cloned().collect();
        self.held_back.set(&[], i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        self.publish.send_replace(Arc::new(set));
    }

    pub(super) async fn run(mut self, mut views: watch::Receiver<Arc<MeshView>>, drain: Drain) {
        loop {
            let view = views.borrow_and_update().clone();
            if view.generation != self.publish.borrow().generation {
                self.publish(&view);
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = drain.cancelled() => return,
            }
        }
    }
}
