use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;
use symbolon_proto::node::{ClusterLoad, LoadBatch, LocalityLoad};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::super::*;
use super::rig::*;

fn opening(id: &str) -> LoadStatsRequest {
    LoadStatsRequest { node: node(id), cluster_stats: vec![] }
}

/// A report as Envoy sends it, its node repeated.
fn report(success: u64) -> LoadStatsRequest {
    let locality = UpstreamLocalityStats {
        locality: Some(Locality { region: "eu".into(), ..Default::default() }),
        total_successful_requests: success,
        total_error_requests: 2,
        total_requests_in_progress: 1,
        total_issued_requests: success + 2,
        priority: 1,
        ..Default::default()
    };
    let cluster = ClusterStats {
        cluster_name: "payments.shop.b".into(),
        upstream_locality_stats: vec![locality],
        load_report_interval: Some(ProtoDuration { seconds: 1, nanos: 0 }),
        total_dropped_requests: 3,
        ..Default::default()
    };
    LoadStatsRequest { cluster_stats: vec![cluster], ..opening(OURS) }
}

struct Envoy {
    to: mpsc::Sender<LoadStatsRequest>,
    from: Streaming<LoadStatsResponse>,
}

impl Envoy {
    async fn open(rig: &Rig, id: &str) -> Self {
        let (to, requests) = mpsc::channel(64);
        to.send(opening(id)).await.unwrap();
        let call = async { rig.lrs().await.stream_load_stats(ReceiverStream::new(requests)).await };
        Self { to, from: soon("headers", call).await.unwrap().into_inner() }
    }

    async fn report(&self, success: u64) {
        soon("room to report", self.to.send(report(success))).await.unwrap();
    }

    async fn asked(&mut self) -> LoadStatsResponse {
        soon("a request for reports", self.from.message()).await.unwrap().unwrap()
    }
}

fn every(seconds: i64, nanos: i32) -> LoadStatsResponse {
    LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: Some(ProtoDuration { seconds, nanos }),
        ..Default::default()
    }
}

fn success(batch: &LoadBatch) -> u64 {
    batch.clusters.iter().flat_map(|cluster| &cluster.localities).map(|locality| locality.success).sum()
}

#[tokio::test]
async fn reports_arrive_whole_and_the_control_plane_sets_the_pace() {
    let mut rig = Rig::new().await;
    let mut envoy = Envoy::open(&rig, OURS).await;
    assert_eq!(envoy.asked().await, every(1, 0));
    envoy.report(10).await;
    let mut load = rig.control.load().await;
    let batch = load.batch().await;
    assert_eq!(batch.boot.len(), 16);
    let locality = LocalityLoad { priority: 1, region: "eu".into(), success: 10, error: 2, in_progress: 1, issued: 12 };
    let cluster = ClusterLoad { cluster: "payments.shop.b".into(), localities: vec![locality], dropped: 3 };
    let boot = batch.boot.clone();
    let expected = LoadBatch {
        proxy: OURS.into(),
        boot: boot.clone(),
        sequence: 1,
        clusters: vec![cluster],
        interval_ms: 1000,
        gap: false,
    };
    assert_eq!(batch, expected);
    load.ack(&batch, 2500).await;
    assert_eq!(envoy.asked().await, every(2, 500_000_000), "said again when it changes");
    envoy.report(20).await;
    let batch = load.batch().await;
    assert_eq!((batch.sequence, success(&batch), &batch.boot), (2, 20, &boot));
    load.ack(&batch, 2500).await;
    envoy.report(30).await;
    let batch = load.batch().await;
    load.ack(&batch, 1).await;
    assert_eq!(envoy.asked().await, every(0, 100_000_000), "no faster than is sane; and nothing was said in between");
}

#[tokio::test]
async fn reports_of_an_absence_arrive_once_afterwards() {
    let mut rig = Rig::with(Config::default()).await;
    let mut envoy = Envoy::open(&rig, OURS).await;
    assert_eq!(envoy.asked().await, every(1, 0), "asked without a control plane");
    for _ in 0..30 {
        envoy.report(1).await;
    }
    let merged = || rig.metrics.counter("symbolon_sidecar_load_reports", "").value(&[("result", "merged")]);
    let queued = async {
        while merged() < 22 {
            tokio::task::yield_now().await;
        }
    };
    soon("30 reports", queued).await;
    rig.connect();
    let mut load = rig.control.load().await;
    let (mut requests, mut time) = (0, 0);
    for sequence in 1..=8 {
        let batch = load.batch().await;
        assert_eq!((batch.sequence, batch.gap), (sequence, false));
        requests += success(&batch);
        time += batch.interval_ms;
        load.ack(&batch, 0).await;
    }
    assert_eq!((requests, time), (30, 30_000));
}

#[tokio::test]
async fn a_batch_without_acknowledgement_is_sent_again_as_it_was() {
    let config = Config { ack_within: Duration::from_millis(200), ..Config::default() };
    let mut rig = Rig::with(config).await;
    rig.connect();
    let envoy = Envoy::open(&rig, OURS).await;
    envoy.report(10).await;
    let mut load = rig.control.load().await;
    let first = load.batch().await;
    load.fail(Status::unavailable("restart")).await; // the stream breaks
    let mut load = rig.control.load().await;
    assert_eq!(load.batch().await, first);
    envoy.report(20).await;
    let mut again = rig.control.load().await; // no acknowledgement in time
    assert_eq!(again.batch().await, first);
    again.ack(&first, 0).await;
    let second = again.batch().await;
    assert_eq!((second.sequence, success(&second), second.gap), (2, 20, false));
}

#[tokio::test]
async fn a_batch_refused_for_ever_is_given_up() {
    let mut rig = Rig::new().await;
    let envoy = Envoy::open(&rig, OURS).await;
    envoy.report(10).await;
    for _ in 0..5 {
        let mut load = rig.control.load().await;
        assert_eq!(load.batch().await.sequence, 1);
        load.fail(Status::invalid_argument("cannot be counted")).await;
    }
    let mut load = rig.control.load().await;
    envoy.report(20).await;
    let batch = load.batch().await;
    assert_eq!(
        (batch.sequence, success(&batch), batch.gap),
        (2, 20, true),
        "what follows says that something is missing"
    );
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_gap_if_the_next_does_not_tell_the_time_between() {
    let mut rig = Rig::new().await;
    let envoy = Envoy::open(&rig, OURS).await;
    envoy.report(1).await;
    let mut load = rig.control.load().await;
    let batch = load.batch().await;
    assert!(!batch.gap);
    load.ack(&batch, 0).await;
    drop(envoy);
    let streams = || rig.metrics.counter("symbolon_sidecar_load_reports", "").value(&[("result", "stream_ended")]);
    let ended = async {
        while streams() < 1 {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the stream", ended).await;
    // Only time makes a gap, and only a restarted Envoy that reports less of it than has passed.
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(300)).await;
    tokio::time::resume();
    let envoy = Envoy::open(&rig, OURS).await;
    let mut short = report(2);
    short.cluster_stats[0].load_report_interval = Some(ProtoDuration { seconds: 0, nanos: 1_000_000 });
    envoy.to.send(short).await.unwrap();
    let batch = load.batch().await;
    assert_eq!((batch.sequence, batch.gap), (2, true));
}

#[tokio::test]
async fn bad_load_of_somebody_else_or_of_nobody_is_refused() {
    let rig = Rig::with(Config { from_client: 10_000, ..Config::default() }).await;
    for (id, code, reason) in [
        ("spiffe://a.example/other", Code::PermissionDenied, "not_yours"),
        ("payments", Code::InvalidArgument, "bad_id"),
        ("", Code::InvalidArgument, "no_node"),
    ] {
        let mut envoy = Envoy::open(&rig, id).await;
        let status = soon("the end", envoy.from.message()).await.unwrap_err();
        assert_eq!((status.code(), rig.refused(reason)), (code, 1), "{status}");
    }
    let mut envoy = Envoy::open(&rig, OURS).await;
    envoy.asked().await;
    let huge = LoadStatsRequest { cluster_stats: vec![ClusterStats::default(); 10_000], node: None };
    envoy.to.send(huge).await.unwrap();
    let status = soon("the end", envoy.from.message()).await.unwrap_err();
    assert_eq!((status.code(), rig.refused("too_long")), (Code::ResourceExhausted, 1));
}
