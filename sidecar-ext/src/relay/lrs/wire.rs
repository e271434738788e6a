//! Load reports on the wire. Only what is needed is decoded; Envoy repeats its node in every report, and it is stepped over.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsResponse;
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use prost::Message;

use super::super::accumulate::{Arm, Counts, Report};
use crate::bootstrap::{AGENT_CLUSTER, XDS_CLUSTER};

/// An interval longer than this is a mistake.
const LONGEST: Duration = Duration::from_secs(3600);

/// `LoadStatsRequest`, for who speaks.
#[derive(Clone, PartialEq, Eq, Message)]
struct Opening {
    #[prost(message, optional, tag = "1")]
    node: Option<NodeId>,
}

/// `Node`.
#[derive(Clone, PartialEq, Eq, Message)]
struct NodeId {
    #[prost(string, tag = "1")]
    id: String,
}

/// `LoadStatsRequest` without its node.
#[derive(Clone, PartialEq, Eq, Message)]
struct Stats {
    #[prost(message, repeated, tag = "2")]
    clusters: Vec<ClusterStats>,
}

/// `ClusterStats`.
#[derive(Clone, PartialEq, Eq, Message)]
struct ClusterStats {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    localities: Vec<LocalityStats>,
    #[prost(uint64, tag = "3")]
    dropped: u64,
    #[prost(message, optional, tag = "4")]
    interval: Option<prost_types::Duration>,
}

/// `UpstreamLocalityStats`.
#[derive(Clone, PartialEq, Eq, Message)]
struct LocalityStats {
    #[prost(message, optional, tag = "1")]
    locality: Option<Locality>,
    #[prost(uint64, tag = "2")]
    success: u64,
    #[prost(uint64, tag = "3")]
    in_progress: u64,
    #[prost(uint64, tag = "4")]
    error: u64,
    #[prost(uint32, tag = "6")]
    priority: u32,
    #[prost(uint64, tag = "8")]
    issued: u64,
}

/// `Locality`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Locality {
    #[prost(string, tag = "1")]
    region: String,
}

/// The `node.id` of a stream's first message, empty if there is none; `None` if it is no load report.
pub(super) fn node_id(message: &Bytes) -> Option<String> {
    Opening::decode(message.clone()).ok().map(|opening| opening.node.unwrap_or_default().id)
}

/// A report; `elapsed` since the last one stands in for an interval that Envoy does not give, as in a report of nothing.
pub(super) fn report(message: &Bytes, elapsed: Duration) -> Option<Report> {
    let stats = Stats::decode(message.clone()).ok()?;
    let mut report = Report::default();
    for cluster in stats.clusters {
        let interval = cluster.interval.map(duration).unwrap_or_default();
        report.interval = report.interval.max(interval.min(LONGEST));
        if matches!(cluster.name.as_str(), AGENT_CLUSTER | XDS_CLUSTER) {
            continue; // Envoy's own streams to this sidecar, which it counts like any traffic
        }
        if cluster.dropped > 0 {
            let dropped = report.dropped.entry(cluster.name.clone()).or_default();
            *dropped = dropped.saturating_add(cluster.dropped);
        }
        for of in cluster.localities {
            let region = of.locality.unwrap_or_default().region;
            let arm = Arm { cluster: cluster.name.clone(), priority: of.priority, region };
            let LocalityStats { success, error, in_progress, issued, .. } = of;
            // Zones of one region are one arm.
            report.arms.entry(arm).or_default().join(Counts { success, error, in_progress, issued });
        }
    }
    if report.interval.is_zero() {
        report.interval = elapsed.min(LONGEST);
    }
    Some(report)
}

/// By hand, since the conversion of `prost-types` negates what a client sent, and overflows. Nothing for a negative time.
fn duration(wire: prost_types::Duration) -> Duration {
    let nanos = u32::try_from(wire.nanos).unwrap_or_default().min(999_999_999);
    u64::try_from(wire.seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanos))
}

/// Asks Envoy for all its clusters, every `interval`.
pub(super) fn ask(interval: Duration) -> Bytes {
    let interval = ProtoDuration {
        seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(interval.subsec_nanos()).unwrap_or_default(),
    };
    let ask = LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: Some(interval),
        ..LoadStatsResponse::default()
    };
    ask.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
