//! A banned node offers nothing: what it registered is taken out of the mesh, so that nobody is sent there. An eviction withdraws
//! nothing, since the node may be back in a moment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_proto::node::Workloads;
use tokio::sync::watch;
use tracing::warn;

use crate::identity::nodes::{Standing, Table};
use crate::model::NodeName;
use crate::sources::nodes;

/// After what could not be kept.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the bans until drained.
pub(super) async fn follow(mut nodes: watch::Receiver<Arc<Table>>, registrations: nodes::Handle, drain: Drain) {
    let mut done = BTreeSet::new();
    loop {
        let banned = banned(&nodes.borrow_and_update());
        done.retain(|node| banned.contains(node));
        for node in banned {
            if !done.contains(&node) && withdraw(&registrations, &node).await {
                done.insert(node);
            }
        }
        let all = done.len() == self::banned(&nodes.borrow()).len();
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !all => {}
            () = drain.cancelled() => return,
        }
    }
}

fn banned(table: &Table) -> BTreeSet<NodeName> {
    let banned = table.values().filter(|node| matches!(node.standing, Standing::Banned { .. }));
    banned.map(|node| node.name.clone()).collect()
}

/// Whether nothing of the node is left in the mesh.
async fn withdraw(registrations: &nodes::Handle, node: &NodeName) -> bool {
    let nothing = registrations.report(node, &Workloads::default()).await;
    nothing.inspect_err(|error| warn!(%node, %error, "a banned node's workloads are still in the mesh")).is_ok()
}
