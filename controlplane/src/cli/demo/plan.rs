//! What the demo consists of, purely: two clusters, their nodes, and the configuration files of every process. Every duration of
//! the demo stands in these files and nowhere else.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use serde_json::{Value, json};

/// Where Envoys accept mTLS.
pub const INBOUND: u16 = 15006;
/// Where Envoys accept their application's requests.
pub const OUTBOUND: u16 = 15001;

/// One of the two clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    A,
    B,
}

/// The addresses and folders of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First two bytes of every address, e.g. 127.77; A lives in `.1.0/24`, B in `.2.0/24`.
    pub network: [u8; 2],
    pub dir: PathBuf,
    /// Lifetime of workload SVIDs.
    pub svid_ttl: &'static str,
    /// Percent of the fair share, and for how long; of A's ramp.
    pub steps: &'static [(u32, &'static str)],
}

/// The ramp of the demo.
pub const STEPS: &[(u32, &str)] = &[(5, "12s"), (25, "9s"), (100, "9s")];

/// A node: one sidecar, one Envoy, at most one application.
#[derive(Clone, Debug)]
pub struct Node {
    pub side: Side,
    /// Unique in its cluster, e.g. `payments-1`.
    pub name: &'static str,
    /// The last byte of its address.
    pub host: u8,
    /// `<svc>` of `<svc>.shop`; `None` for a pure client.
    pub service: Option<&'static str>,
    /// `<name>` of `spiffe://<td>/ns/shop/sa/<name>`.
    pub account: &'static str,
    pub upstreams: &'static [&'static str],
}

/// The client whose requests are counted.
pub const CHECKOUT: Node = Node {
    side: Side::A,
    name: "checkout",
    host: 10,
    service: None,
    account: "checkout",
    upstreams: &["payments.shop", "ledger.shop.b"],
};
/// A's own payments.
pub const PAYMENTS_A: [Node; 2] = [payments(Side::A, "payments-1", 11), payments(Side::A, "payments-2", 12)];
/// B's payments, which scale out later.
pub const PAYMENTS_B: [Node; 2] = [payments(Side::B, "payments-1", 11), payments(Side::B, "payments-2", 12)];
/// A second exported service of B, outside any rollout.
pub const LEDGER: Node =
    Node { side: Side::B, name: "ledger", host: 21, service: Some("ledger"), account: "ledger", upstreams: &[] };
/// The last byte of the inbound address of the ledger workload that comes and goes.
pub const SECOND_LEDGER_HOST: u8 = 22;

const fn payments(side: Side, name: &'static str, host: u8) -> Node {
    Node { side, name, host, service: Some("payments"), account: "payments", upstreams: &[] }
}

// === impl Side ===

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub fn trust_domain(self) -> &'static str {
        match self {
            Self::A => "a.example",
            Self::B => "b.example",
        }
    }

    fn subnet(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }
}

// === impl Node ===

impl Node {
    /// The SPIFFE ID of its workload.
    pub fn identity(&self) -> String {
        format!("spiffe://{}/ns/shop/sa/{}", self.side.trust_domain(), self.account)
    }

    /// What its application says of itself, and what its processes are called.
    pub fn label(&self) -> String {
        format!("{}-{}", self.side.name(), self.name)
    }

    fn workload(&self, plan: &Plan, name: &str, inbound: SocketAddr) -> Value {
        let mut workload = json!({
            "name": name,
            "identity": self.identity(),
            "upstreams": self.upstreams,
        });
        if let Some(service) = self.service {
            workload["service"] = json!(format!("{service}.shop"));
            workload["address"] = json!(plan.app(self).to_string());
            workload["health"] = json!({"http": "/healthz"});
            workload["inbound"] = json!(inbound.to_string());
        }
        if !self.upstreams.is_empty() {
            workload["outbound"] = json!(plan.outbound(self).to_string());
        }
        workload
    }
}

// === impl Plan ===

impl Plan {
    pub fn address(&self, side: Side, host: u8, port: u16) -> SocketAddr {
        let ip = Ipv4Addr::new(self.network[0], self.network[1], side.subnet(), host);
        SocketAddr::V4(SocketAddrV4::new(ip, port))
    }

    /// The folder in which a cluster's control plane runs.
    pub fn control_plane_dir(&self, side: Side) -> PathBuf {
        self.dir.join(side.name()).join("controlplane")
    }

    /// The folder in which a node's processes run.
    pub fn node_dir(&self, node: &Node) -> PathBuf {
        self.dir.join(node.side.name()).join(node.name)
    }

    pub fn admin_socket(&self, side: Side) -> PathBuf {
        self.control_plane_dir(side).join("admin/admin.sock")
    }

    pub fn app(&self, node: &Node) -> SocketAddr {
        self.address(node.side, node.host, 8000)
    }

    pub fn app_control(&self, node: &Node) -> SocketAddr {
        self.address(node.side, node.host, 8001)
    }

    pub fn envoy_admin(&self, node: &Node) -> SocketAddr {
        self.address(node.side, node.host, 9901)
    }

    pub fn sidecar_http(&self, node: &Node) -> SocketAddr {
        self.address(node.side, node.host, 9902)
    }

    pub fn inbound(&self, node: &Node) -> SocketAddr {
        self.address(node.side, node.host, INBOUND)
    }

    pub fn outbound(&self, node: &Node) -> SocketAddr {
        self.address(node.side, node.host, OUTBOUND)
    }

    /// Where the second ledger workload accepts mTLS.
    pub fn second_ledger(&self) -> SocketAddr {
        self.address(Side::B, SECOND_LEDGER_HOST, INBOUND)
    }

    /// The control plane's file. YAML is a superset of JSON, and JSON needs no second writer.
    pub fn control_plane_file(&self, side: Side) -> Value {
        let (own, peer) = (side, side.other());
        let peer_net = Ipv4Addr::new(self.network[0], self.network[1], peer.subnet(), 0);
        let services = match side {
            Side::A => json!([{"name": "payments.shop"}]),
            Side::B => json!([
                {"name": "payments.shop", "exportTo": ["a"]},
                {"name": "ledger.shop", "exportTo": ["a"]},
            ]),
        };
        let federated = match side {
            Side::A => json!([{"name": "payments.shop", "peers": ["b"]}]),
            Side::B => json!([]),
        };
        let steps = self
            .steps
            .iter()
            .map(|(weight, lasts)| json!({"weight": weight, "minDuration": lasts, "minRequests": 300}));
        json!({
            "trustDomain": own.trust_domain(),
            "dataDir": "data",
            "listen": {
                "node": self.address(side, 1, 8081).to_string(),
                "federation": self.address(side, 1, 8443).to_string(),
                "http": self.address(side, 1, 8080).to_string(),
                "admin": "admin/admin.sock",
            },
            "identity": {"caTtl": "24h", "svidTtl": self.svid_ttl, "refreshHint": "1m"},
            "loadReportInterval": "1s",
            "services": services,
            "federatedServices": federated,
            "rolloutPolicy": {
                "steps": steps.collect::<Vec<_>>(),
                "initialDelay": "1s",
                "interval": "1s",
                "backoff": "5s",
            },
            "peers": [{
                "name": peer.name(),
                "trustDomain": peer.trust_domain(),
                "grants": {
                    "identities": [format!("spiffe://{}/ns/shop/**", peer.trust_domain())],
                    "names": ["*.shop"],
                    "addresses": [format!("{peer_net}/24")],
                },
            }],
        })
    }

    /// The sidecar's file: the node's workload once for each of these inbound addresses.
    pub fn sidecar_file(&self, node: &Node, inbound: &[SocketAddr]) -> Value {
        let workloads = inbound.iter().enumerate().map(|(index, address)| {
            let name = if index == 0 { node.name.to_owned() } else { format!("{}-{}", node.name, index + 1) };
            node.workload(self, &name, *address)
        });
        json!({
            "trustDomain": node.side.trust_domain(),
            "controlPlane": [self.address(node.side, 1, 8081).to_string()],
            "bootstrapBundle": "bundle.json",
            "joinTokenFile": "join-token",
            "dataDir": "data",
            "sockets": {"agent": "agent.sock", "xds": "xds.sock"},
            "http": self.sidecar_http(node).to_string(),
            "healthInterval": "1s",
            "workloads": workloads.collect::<Vec<_>>(),
        })
    }
}
