//! A control plane's file, as a test writes it: quick by default.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use controlplane::app::Config;
use serde_json::{Value, json};

/// What differs from test to test. Everything is the operator's own file, but [`Settings::tweak`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// `a` of `a.example`.
    pub name: &'static str,
    /// `b`, which is peer `b` of `b.example`.
    pub peer: &'static str,
    /// The trust domain that the file pins for the peer.
    pub peer_domain: String,
    pub services: Value,
    pub federated: Value,
    pub policy: Value,
    pub grants: Value,
    pub federation: Value,
    pub svid_ttl: &'static str,
    /// `identity.x509pop`.
    pub x509pop: Option<Value>,
    pub report_every: &'static str,
    /// Changes what the file may not say, e.g. a TTL shorter than an operator may give.
    pub tweak: fn(&mut Config),
}

impl Settings {
    /// Exports payments and federates it with the peer; link and ramp run in fractions of a second.
    pub(super) fn new(name: &'static str, peer: &'static str) -> Self {
        let step = |weight: u32| json!({"weight": weight, "minDuration": "150ms", "minRequests": 200});
        Self {
            name,
            peer,
            peer_domain: format!("{peer}.example"),
            services: json!([{"name": "payments.shop", "exportTo": [peer]}, {"name": "ledger.shop", "exportTo": [peer]}]),
            federated: json!([{"name": "payments.shop", "peers": [peer]}]),
            policy: json!({
                "steps": [step(5), step(25), step(100)], "initialDelay": "0s", "interval": "20ms", "backoff": "300ms",
            }),
            grants: json!({
                "identities": [format!("spiffe://{peer}.example/ns/shop/**")], "names": ["*.shop"],
                "addresses": ["127.0.0.0/8"],
            }),
            federation: json!({"beat": "100ms", "suspectAfter": "2s", "staleAfter": "5s", "expiredAfter": "1h"}),
            svid_ttl: "1h",
            x509pop: None,
            report_every: "100ms",
            tweak: |_| {},
        }
    }

    /// The whole file; YAML is a superset of JSON.
    pub(super) fn file(&self, folder: &Path, ip: Ipv4Addr, ports: [u16; 3]) -> Value {
        let [node, federation, http] = ports.map(|port| format!("{ip}:{port}"));
        json!({
            "trustDomain": format!("{}.example", self.name),
            "dataDir": folder.join("data"),
            "listen": {"node": node, "federation": federation, "http": http, "admin": folder.join("admin/admin.sock")},
            "identity": {"caTtl": "24h", "svidTtl": self.svid_ttl, "x509pop": self.x509pop, "refreshHint": "60s"},
            "services": self.services,
            "federatedServices": self.federated,
            "rolloutPolicy": self.policy,
            "federation": self.federation,
            "loadReportInterval": self.report_every,
            "peers": [{"name": self.peer, "trustDomain": self.peer_domain, "grants": self.grants}],
        })
    }

    /// The SPIFFE ID of an account of this mesh.
    pub fn id(&self, account: &str) -> String {
        format!("spiffe://{}.example/ns/shop/sa/{account}", self.name)
    }
}

/// Steps of a ramp, each so long.
pub fn steps(weights: &[u32], lasts: Duration) -> Value {
    let step =
        |weight| json!({"weight": weight, "minDuration": format!("{}ms", lasts.as_millis()), "minRequests": 100});
    weights.iter().map(step).collect()
}
