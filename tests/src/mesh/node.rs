//! A node as its sidecar would be, on the node port: for what a real sidecar never does.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rustls_pki_types::CertificateDer;
use symbolon_kit::clock::Clock;
use symbolon_kit::net;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, new_key};
use symbolon_kit::tls::{Expect, Identity};
use symbolon_proto::attest::attest_once;
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::node as wire;
use symbolon_proto::node::node_client::NodeClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::plane::Plane;

/// A node; anonymous until it is attested.
#[derive(Clone, Debug)]
pub struct Node {
    pub identity: Identity,
    pub channel: Channel,
    address: String,
    trust_domain: TrustDomain,
}

/// Its standing conversation.
#[derive(Debug)]
pub struct Talk {
    up: mpsc::Sender<wire::NodeReport>,
    down: Streaming<wire::NodeUpdate>,
}

impl Node {
    /// Trusts this control plane and comes without a certificate.
    ///
    /// # Errors
    /// If the control plane has no bundle.
    pub async fn anonymous(plane: &Plane) -> anyhow::Result<Self> {
        Self::anonymous_at(plane, plane.addresses().node.to_string()).await
    }

    /// The same, to another of its ports.
    ///
    /// # Errors
    /// If the control plane has no bundle.
    pub async fn anonymous_at(plane: &Plane, address: String) -> anyhow::Result<Self> {
        let trust_domain: TrustDomain = format!("{}.example", plane.settings.name).parse()?;
        let clock = Clock::system();
        let jwks = plane.bundle("").await?.jwks;
        let bundle = Bundle::parse_jwks(&trust_domain, &jwks, clock.now())?.bundle;
        let identity = Identity::new(clock);
        identity.set_bundles(&[(trust_domain.clone(), Arc::new(bundle))].into());
        let channel = connect(&address, &identity, &trust_domain);
        Ok(Self { identity, channel, address, trust_domain })
    }

    pub(super) async fn attested(plane: &Plane, name: &str) -> anyhow::Result<Self> {
        let token = plane.token(name).await?;
        let mut node = Self::anonymous(plane).await?;
        let (key, csr) = new_key()?;
        let attested = attest_once(&mut node.api(), wire::AttestRequest::join_token(token, csr)).await?;
        node.identity.set_svid(&svid(&attested.chain, key)?);
        // The anonymous connection ends now, with whatever would be asked over it.
        node.channel = connect(&node.address, &node.identity, &node.trust_domain);
        Ok(node)
    }

    pub fn api(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    pub fn ads(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel.clone())
    }

    /// Has one CSR answered, with this key or a new one.
    ///
    /// # Errors
    /// If the call fails; a refusal is an answer.
    pub async fn mint(&self, entry: &str, csr: Vec<u8>) -> anyhow::Result<wire::minted::Outcome> {
        let csrs = vec![wire::Csr { entry_id: entry.into(), csr: csr.into() }];
        let mut results = self.api().mint(wire::MintRequest { csrs }).await?.into_inner().results;
        let outcome = results.pop().and_then(|minted| minted.outcome);
        anyhow::Context::context(outcome, "no outcome")
    }

    /// # Errors
    /// If it is refused.
    pub async fn talk(&self) -> anyhow::Result<Talk> {
        let (up, reports) = mpsc::channel(16);
        let down = self.api().sync(ReceiverStream::new(reports)).await?.into_inner();
        Ok(Talk { up, down })
    }
}

impl Talk {
    /// Registers these workloads, and no other; the answer.
    ///
    /// # Errors
    /// If the conversation ends.
    pub async fn register(
        &mut self,
        revision: u64,
        workloads: Vec<wire::Workload>,
    ) -> anyhow::Result<wire::WorkloadsAck> {
        let report = wire::node_report::Report::Workloads(wire::Workloads { revision, workloads });
        self.up.send(wire::NodeReport { report: Some(report) }).await?;
        loop {
            let update = super::soon("an acknowledgement", self.down.message()).await??;
            match update.and_then(|update| update.update) {
                Some(wire::node_update::Update::WorkloadsAck(ack)) if ack.revision == revision => return Ok(ack),
                Some(_) => {}
                None => anyhow::bail!("the conversation ended"),
            }
        }
    }
}

impl Talk {
    /// Returns when it has ended, whatever the reason.
    pub async fn ended(&mut self) {
        while let Ok(Some(_)) = self.down.message().await {}
    }
}

/// A workload that offers `service` at `inbound`, healthy.
pub fn workload(name: &str, service: &str, identity: &str, inbound: &str) -> wire::Workload {
    wire::Workload {
        name: name.into(),
        service: service.into(),
        identity: identity.into(),
        address: "127.0.0.1:8000".into(),
        inbound: inbound.into(),
        health: wire::workload::Health::Healthy.into(),
        ..wire::Workload::default()
    }
}

/// What was minted, with its key.
///
/// # Errors
/// If it does not keep the profile, or is for another key.
pub fn svid(chain: &[bytes::Bytes], key: PrivateKey) -> anyhow::Result<Svid> {
    let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    Ok(Svid::new(chain, key)?)
}

fn connect(address: &str, identity: &Identity, trust_domain: &TrustDomain) -> Channel {
    let expect = Expect::Pattern(format!("spiffe://{trust_domain}/symbolon/controlplane/*").into());
    net::channel(vec![address.to_owned()], identity, expect)
}
