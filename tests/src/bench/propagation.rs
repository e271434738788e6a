//! How long a change of a registration takes to its workload, among ten thousand others.

use super::{Row, Target};
use crate::mesh::propagation::entry_to_workload;

const ENTRIES: u32 = 10_000;
const CHANGES: u32 = 300;
/// SPIRE's: what its defaults give, and the fastest that it can be set to.
const SPIRE_FASTEST_MS: f64 = 420.0;

/// # Errors
/// If the mesh cannot be built, or a change does not arrive.
pub async fn rows() -> anyhow::Result<Vec<Row>> {
    let took = entry_to_workload(ENTRIES, CHANGES).await?;
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1_000.0;
    let row = |name, value, target| Row { name, value, unit: "ms", baseline: Some(SPIRE_FASTEST_MS), target };
    Ok(vec![
        row("identity.entry_change_to_workload_p50_ms", at(50), Target::None),
        row("identity.entry_change_to_workload_p99_ms", at(99), Target::Below(100.0)),
    ])
}
