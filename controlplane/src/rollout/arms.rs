//! From load samples to arms. An arm is (cluster, priority): each cluster carries the other arms' endpoints behind its own
//! (decision 15), so that failed-over requests count where they were served.
//!
//! ```text
//!              P0        P1                     P2
//! svc          local     the peers              -
//! svc.peer     peer      local                  the other peers
//! ```
//!
//! With one peer, P1 of `svc` is that peer's arm. With several it cannot be told whose it was: it counts for the total alone.

use crate::model::{ArmCount, ClusterLoad, LoadSample, PeerName, ServiceName};

use super::judge::{Count, Pair, Reading};

/// What `sample` says of the rollout of `service` towards `peer`, one of `peers`.
pub fn reading(
    sample: &LoadSample,
    service: &ServiceName,
    peer: &PeerName,
    peers: &[PeerName],
    received_ms: u64,
) -> Reading {
    let mut reading = Reading { received_ms, ..Reading::default() };
    for load in sample.clusters.iter().filter(|load| load.cluster.service == *service) {
        if load.cluster.peer.as_ref() == Some(peer) {
            reading.dropped = reading.dropped.saturating_add(load.dropped);
        }
        let known = load.cluster.peer.as_ref().is_none_or(|of| peers.contains(of));
        if known {
            add(&mut reading, load, peer, peers);
        }
    }
    reading
}

fn add(reading: &mut Reading, load: &ClusterLoad, peer: &PeerName, peers: &[PeerName]) {
    for (priority, count) in &load.by_priority {
        let count = completed(*count);
        reading.total = reading.total.saturating_add(count.completions);
        let arm = match (&load.cluster.peer, priority) {
            (None, 0) | (Some(_), 1) => Arm::Local,
            (Some(of), 0) if of == peer => Arm::Remote,
            (None, 1) if peers == [peer.clone()] => Arm::Remote,
            _ => Arm::Other,
        };
        let Pair { canary, baseline } = reading.pair;
        reading.pair = match arm {
            Arm::Local => Pair { canary, baseline: baseline + count },
            Arm::Remote => Pair { canary: canary + count, baseline },
            Arm::Other => reading.pair,
        };
    }
}

enum Arm {
    Local,
    Remote,
    Other,
}

/// Completions, never what was issued: a refused or empty arm issues nothing.
fn completed(count: ArmCount) -> Count {
    Count { completions: count.success.saturating_add(count.error), errors: count.error }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::model::ProxyKey;

    /// Priority, successes, errors.
    type Counts = (u32, u64, u64);

    fn sample(clusters: &[(&str, &[Counts])]) -> LoadSample {
        let clusters = clusters.iter().map(|(name, priorities)| ClusterLoad {
            cluster: name.parse().unwrap(),
            by_priority: priorities
                .iter()
                .map(|(p, success, error)| {
                    (*p, ArmCount { success: *success, error: *error, issued: 0, in_progress: 9 })
                })
                .collect::<BTreeMap<_, _>>(),
            dropped: 0,
        });
        LoadSample {
            proxy: ProxyKey {
                node: "n".parse().unwrap(),
                identity: "spiffe://a.example/ns/shop/sa/c".parse().unwrap(),
            },
            boot: b"x".as_slice().into(),
            sequence: 1,
            received: UNIX_EPOCH,
            interval: Duration::from_secs(1),
            gap: false,
            clusters: clusters.collect(),
        }
    }

    fn pair(canary: (u64, u64), baseline: (u64, u64)) -> Pair {
        let count = |(completions, errors)| Count { completions, errors };
        Pair { canary: count(canary), baseline: count(baseline) }
    }

    #[test]
    fn failed_over_requests_count_where_they_were_served() {
        let (service, b) = ("pay.shop".parse().unwrap(), "b".parse::<PeerName>().unwrap());
        let load = sample(&[
            ("pay.shop", &[(0, 90, 10), (1, 5, 1)]),
            ("pay.shop.b", &[(0, 40, 2), (1, 7, 3)]),
            ("other.shop", &[(0, 1_000, 1_000)]),
            ("pay.shop.unknown", &[(0, 1_000, 0)]),
        ]);
        let reading = reading(&load, &service, &b, std::slice::from_ref(&b), 7);
        assert_eq!(reading.pair, pair((48, 3), (110, 13)));
        assert_eq!((reading.total, reading.received_ms, reading.begun_ms), (158, 7, None));
    }

    #[test]
    fn with_several_peers_a_shared_priority_is_nobodys() {
        let service = "pay.shop".parse().unwrap();
        let peers: Vec<PeerName> = ["b", "c"].iter().map(|p| p.parse().unwrap()).collect();
        let load = sample(&[
            ("pay.shop", &[(0, 100, 0), (1, 9, 9)]),
            ("pay.shop.b", &[(0, 40, 2), (1, 7, 0), (2, 3, 3)]),
            ("pay.shop.c", &[(0, 30, 0)]),
        ]);
        let of = |peer| reading(&load, &service, peer, &peers, 0);
        assert_eq!(of(&peers[0]).pair, pair((42, 2), (107, 0)));
        assert_eq!(of(&peers[1]).pair, pair((30, 0), (107, 0)));
        assert_eq!(of(&peers[0]).total, 203);
    }
}
