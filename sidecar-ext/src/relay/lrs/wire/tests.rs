use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;

use super::*;

const LAST: Duration = Duration::from_millis(700);

fn locality(priority: u32, region: &str, success: u64) -> endpoint::UpstreamLocalityStats {
    endpoint::UpstreamLocalityStats {
        locality: Some(core::Locality { region: region.into(), ..Default::default() }),
        total_successful_requests: success,
        total_error_requests: 2,
        total_requests_in_progress: 3,
        total_issued_requests: 4,
        priority,
        ..Default::default()
    }
}

fn request(clusters: Vec<endpoint::ClusterStats>) -> Bytes {
    let node = core::Node { id: "spiffe://a.example/payments".into(), ..Default::default() };
    LoadStatsRequest { node: Some(node), cluster_stats: clusters }.encode_to_vec().into()
}

#[test]
fn reads_what_envoy_counts() {
    let message = request(vec![endpoint::ClusterStats {
        cluster_name: "payments.shop".into(),
        upstream_locality_stats: vec![locality(0, "eu", 10), locality(1, "eu", 20), locality(0, "eu", 5)],
        total_dropped_requests: 9,
        load_report_interval: Some(ProtoDuration { seconds: 1, nanos: 2_000_000 }),
        ..Default::default()
    }]);
    assert_eq!(node_id(&message).unwrap(), "spiffe://a.example/payments");
    let report = report(&message, LAST).unwrap();
    assert_eq!(report.interval, Duration::from_millis(1002));
    let arm = |priority| Arm { cluster: "payments.shop".into(), priority, region: "eu".into() };
    assert_eq!(
        report.arms.into_iter().collect::<Vec<_>>(),
        [
            // Two zones of one region, at one time: one arm, its levels added.
            (arm(0), Counts { success: 15, error: 4, in_progress: 6, issued: 8 }),
            (arm(1), Counts { success: 20, error: 2, in_progress: 3, issued: 4 }),
        ]
    );
    assert_eq!(report.dropped, [("payments.shop".to_owned(), 9)].into());
}

#[test]
fn a_report_of_nothing_covers_the_time_since_the_last() {
    let report = report(&request(vec![]), LAST).unwrap();
    assert_eq!((report.interval, report.says_something()), (LAST, false));
}

#[test]
fn envoys_own_streams_are_no_load() {
    let own = |name: &str| endpoint::ClusterStats {
        cluster_name: name.into(),
        upstream_locality_stats: vec![locality(0, "", 1)],
        load_report_interval: Some(ProtoDuration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let report = report(&request(vec![own("symbolon_xds"), own("symbolon_agent")]), LAST).unwrap();
    assert_eq!((report.interval, report.says_something()), (Duration::from_secs(1), false), "but time has passed");
}

#[test]
fn bounds_what_a_client_claims() {
    let with = |seconds, nanos| endpoint::ClusterStats {
        cluster_name: "c".into(),
        upstream_locality_stats: vec![locality(0, "", u64::MAX), locality(0, "", u64::MAX)],
        load_report_interval: Some(ProtoDuration { seconds, nanos }),
        ..Default::default()
    };
    let interval = |seconds, nanos| report(&request(vec![with(seconds, nanos)]), LAST).unwrap().interval;
    assert_eq!(interval(i64::MAX, 0), LONGEST);
    assert_eq!(interval(-5, 0), LAST);
    assert_eq!(interval(i64::MIN, i32::MIN), LAST);
    let sums = report(&request(vec![with(1, 0)]), LAST).unwrap().arms.into_values().next().unwrap();
    assert_eq!(sums.success, u64::MAX, "no overflow");
}

#[test]
fn what_is_no_report_is_none() {
    assert_eq!(report(&Bytes::from_static(&[0x12, 0x7f]), LAST), None);
    assert_eq!(node_id(&Bytes::from_static(&[0xff; 9])), None);
    assert_eq!(node_id(&Bytes::new()).as_deref(), Some(""));
}

#[test]
fn asks_for_all_clusters() {
    let ask = LoadStatsResponse::decode(ask(Duration::from_millis(1500))).unwrap();
    assert!(ask.send_all_clusters && !ask.report_endpoint_granularity);
    assert_eq!(ask.load_reporting_interval, Some(ProtoDuration { seconds: 1, nanos: 500_000_000 }));
}
