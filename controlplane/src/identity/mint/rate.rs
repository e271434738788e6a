//! How many signatures one node may have: a purse that fills with time, deep enough for a node that starts with all its workloads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use symbolon_kit::purse::{Flow, Purse};
use tokio::time::Instant;

use crate::identity::entries::MAX_PER_PARENT;
use crate::model::NodeName;

/// Nodes that are remembered before those with a full purse are forgotten.
const MANY: usize = 4_096;

/// Cheap to clone. A std mutex: nothing awaits while it is held. Only nodes that have attested get here, so the table is as large as
/// the mesh at most.
#[derive(Clone, Debug)]
pub(in crate::identity) struct Rate {
    flow: Flow,
    purses: Arc<Mutex<HashMap<NodeName, Purse>>>,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    pub(in crate::identity) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { flow: Flow { full: per_second.max(MAX_PER_PARENT as f64), per_second }, purses: Arc::default() }
    }

    /// Takes `signatures` from the node's purse.
    ///
    /// # Errors
    /// How long to wait until there are as many.
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    pub(super) fn spend(&self, node: &NodeName, signatures: usize) -> Result<(), Duration> {
        let (now, flow) = (Instant::now(), self.flow);
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        if purses.len() >= MANY && !purses.contains_key(node) {
            purses.retain(|_, purse| !flow.is_full(*purse, now));
        }
        let purse = purses.entry(node.clone()).or_insert_with(|| flow.purse(now));
        flow.take(purse, signatures as f64, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_may_start_with_all_its_workloads_and_then_has_its_rate() {
        let rate = Rate::new(1_000);
        let (greedy, other) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        for _ in 0..MAX_PER_PARENT / 500 {
            assert_eq!(rate.spend(&greedy, 500), Ok(()));
        }
        assert_eq!(rate.spend(&greedy, 500), Err(Duration::from_millis(500)));
        assert_eq!(rate.spend(&other, 500), Ok(()), "others are not concerned");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(rate.spend(&greedy, 500), Ok(()));
        assert_eq!(rate.spend(&greedy, 1), Err(Duration::from_millis(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_rest_are_forgotten() {
        let rate = Rate::new(1_000);
        for n in 0..2 * MANY {
            rate.spend(&format!("n{n}").parse().unwrap(), 1).unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(rate.purses.lock().unwrap().len() <= MANY);
    }
}
