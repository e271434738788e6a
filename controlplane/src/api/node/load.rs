//! Load reports: parsed at the edge, and acknowledged only once they are counted durably, so that a report is neither lost nor
//! counted twice.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use symbolon_kit::metrics::Counter;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::ids::SpiffeId;
use symbolon_proto::node as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::info;

use super::{OUTBOX, Parts, Refused, malformed};
use crate::model::{ArmCount, ClusterLoad, LoadSample, NodeName, ProxyKey};

/// Bounds of one batch.
const MAX_CLUSTERS: usize = 10_000;
const MAX_LOCALITIES: usize = 256;
const MAX_BOOT_BYTES: usize = 64;
const MAX_INTERVAL: Duration = Duration::from_hours(24);

/// Where load goes; `app` makes it the rollout engine.
pub trait LoadSink: Send + Sync + fmt::Debug {
    /// Returns when the sample is counted durably, now or before.
    fn count(&self, sample: LoadSample) -> BoxFuture<'_, Result<(), LoadRefused>>;
}

/// Why a sample could not be counted; the node sends it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadRefused(pub String);

pub(super) fn start(
    parts: &Parts,
    refusals: &Counter,
    node: NodeName,
    mut batches: Streaming<wire::LoadBatch>,
) -> ReceiverStream<Result<wire::LoadAck, Status>> {
    let (outbox, acks) = mpsc::channel(OUTBOX);
    let (parts, refusals) = (parts.clone(), refusals.clone());
    let tasks = parts.tasks.clone();
    tasks.spawn("node load", OnExit::Log, async move {
        loop {
            let batch = tokio::select! {
                batch = batches.message() => batch,
                () = parts.drain.cancelled() => return drop(outbox.try_send(Err(Refused::Draining.status()))),
                () = outbox.closed() => return,
            };
            let taken = match batch {
                Ok(Some(batch)) => take(&parts, &node, batch).await,
                Ok(None) => return,
                Err(broken) => match malformed(&broken) {
                    Some(refused) => Err(refused),
                    None => return,
                },
            };
            let answer = match taken {
                Ok(ack) => Ok(ack),
                Err(refused) => {
                    refusals.inc(&[("reason", refused.label())]);
                    info!(%node, reason = refused.label(), %refused, "load report refused");
                    Err(refused.status())
                }
            };
            let failed = answer.is_err();
            if outbox.send(answer).await.is_err() || failed {
                return;
            }
        }
    });
    ReceiverStream::new(acks)
}

async fn take(parts: &Parts, node: &NodeName, batch: wire::LoadBatch) -> Result<wire::LoadAck, Refused> {
    let sample = parse(parts, node, &batch)?;
    parts.loads.count(sample).await?;
    let report_every_ms = u64::try_from(parts.report_every.as_millis()).unwrap_or(u64::MAX);
    Ok(wire::LoadAck { proxy: batch.proxy, sequence: batch.sequence, report_every_ms })
}

fn parse(parts: &Parts, node: &NodeName, batch: &wire::LoadBatch) -> Result<LoadSample, Refused> {
    let malformed = |what: &str| Refused::Malformed(what.to_owned());
    let identity = SpiffeId::workload(&batch.proxy).map_err(|e| Refused::Malformed(format!("proxy: {e}")))?;
    if batch.boot.is_empty() || batch.boot.len() > MAX_BOOT_BYTES {
        return Err(malformed("boot: must be 1 to 64 bytes"));
    }
    if batch.clusters.len() > MAX_CLUSTERS {
        return Err(malformed("more than 10,000 clusters"));
    }
    let interval = Duration::from_millis(batch.interval_ms);
    if interval > MAX_INTERVAL {
        return Err(malformed("interval_ms: longer than a day"));
    }
    if !parts.identity.entries.may_run(node, &identity) {
        return Err(Refused::NotYourProxy(identity));
    }
    // Envoy reports all its clusters; those that are no services, such as the application's own, are nobody's arm.
    let clusters = batch.clusters.iter().filter_map(|load| cluster(load).transpose()).collect::<Result<_, _>>()?;
    Ok(LoadSample {
        proxy: ProxyKey { node: node.clone(), identity },
        boot: batch.boot.to_vec().into(),
        sequence: batch.sequence,
        received: parts.clock.now(),
        interval,
        gap: batch.gap,
        clusters,
    })
}

fn cluster(load: &wire::ClusterLoad) -> Result<Option<ClusterLoad>, Refused> {
    if load.localities.len() > MAX_LOCALITIES {
        return Err(Refused::Malformed("more than 256 localities of one cluster".into()));
    }
    let Ok(cluster) = load.cluster.parse() else { return Ok(None) };
    let mut by_priority = BTreeMap::<u32, ArmCount>::new();
    for locality in &load.localities {
        let count = ArmCount {
            success: locality.success,
            error: locality.error,
            issued: locality.issued,
            in_progress: locality.in_progress,
        };
        let sum = by_priority.entry(locality.priority).or_default();
        *sum = *sum + count;
    }
    Ok(Some(ClusterLoad { cluster, by_priority, dropped: load.dropped }))
}
