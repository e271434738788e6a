//! How a sidecar with many workloads comes back after a restart, and how long a taint takes to all of its Envoys.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use symbolon_kit::net::unix_channel;
use symbolon_proto::admin as api;
use symbolon_proto::admin::change_authority_request::Step;
use symbolon_proto::workload::X509svidRequest;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::Streaming;
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::plane::Plane;
use super::propagation::identity;
use super::sidecar::{Sidecar, with_header};
use super::{Mesh, soon, until};

/// Streams of one connection.
const PER_CONNECTION: usize = 100;

/// From the start of a sidecar that was killed to the answer with all of its workloads' SVIDs; checks that each key is the one from
/// before, and that none was minted again.
///
/// # Errors
/// If the mesh cannot be built, or the sidecar does not come back as it was.
pub async fn sidecar_restart(workloads: u32) -> anyhow::Result<Duration> {
    let (_mesh, mut sidecar) = with_workloads(workloads).await?;
    let before = keys(&sidecar).await?;
    ensure!(before.len() == workloads as usize, "{} SVIDs", before.len());
    sidecar.kill().await;
    let began = Instant::now();
    sidecar.start_again().await?;
    let after = keys(&sidecar).await?;
    let took = began.elapsed();
    ensure!(after == before, "other keys");
    sidecar.ready().await?;
    ensure!(sidecar.counted("symbolon_sidecar_svids_minted", &[]) == 0, "minted again");
    Ok(took)
}

/// From the taint of the authority that signed all certificates to the new one at each of as many SDS streams; sorted.
///
/// # Errors
/// If the mesh cannot be built, or a stream ends.
pub async fn sds_after_taint(streams: u32) -> anyhow::Result<Vec<Duration>> {
    let (mesh, sidecar) = with_workloads(streams).await?;
    let mut open = Vec::new();
    let mut channel = unix_channel(sidecar.agent());
    for at in 0..streams {
        if (at as usize).is_multiple_of(PER_CONNECTION) {
            channel = unix_channel(sidecar.agent());
        }
        let mut stream = subscribe(channel.clone(), &name(&mesh.a, at)).await?;
        certificate(&mut stream).await?;
        open.push(stream);
    }
    let (new, old) = mesh.a.next_authority().await?;
    let began = Instant::now();
    mesh.a.change_authority(Step::Taint, &old).await?;
    let hearing: Vec<_> = open
        .into_iter()
        .map(|mut stream| {
            let new = new.clone();
            tokio::spawn(async move {
                while issuer_of(&certificate(&mut stream).await?)? != new {}
                anyhow::Ok(began.elapsed())
            })
        })
        .collect();
    let mut took = Vec::new();
    for one in hearing {
        took.push(one.await??);
    }
    took.sort();
    Ok(took)
}

/// Who signed a certificate: its authority key identifier, in hex.
///
/// # Errors
/// If it is no certificate.
pub fn issuer_of(der: &[u8]) -> anyhow::Result<String> {
    let (_, leaf) = X509Certificate::from_der(der)?;
    let id = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => Some(symbolon_kit::octets::hex(id.key_identifier.as_ref()?.0)),
        _ => None,
    });
    Ok(id.unwrap_or_default())
}

fn name(plane: &Plane, at: u32) -> String {
    plane.settings.id(&format!("w{at}"))
}

/// A mesh with a sidecar whose every workload is this process.
async fn with_workloads(count: u32) -> anyhow::Result<(Mesh, Sidecar)> {
    let mesh = Mesh::builder().start().await?;
    let identities = (0..count).map(|at| identity(&mesh.a, &format!("w{at}"), &mesh.a.own_uid())).collect();
    let asked = api::ApplyIdentitiesRequest { identities, ..api::ApplyIdentitiesRequest::default() };
    mesh.a.admin().apply_identities(asked).await?;
    let sidecar = mesh.a.sidecar("n1", json!([])).await?;
    Ok((mesh, sidecar))
}

/// The keys of all SVIDs, once they are there.
async fn keys(sidecar: &Sidecar) -> anyhow::Result<BTreeSet<bytes::Bytes>> {
    until("the SVIDs", async || {
        let mut api = sidecar.workload_api().max_decoding_message_size(32 << 20);
        let mut answers = api.fetch_x509svid(with_header(X509svidRequest {})).await.ok()?.into_inner();
        let answer = answers.message().await.ok()??;
        Some(answer.svids.into_iter().map(|svid| svid.x509_svid_key).collect())
    })
    .await
}

async fn subscribe(channel: Channel, name: &str) -> anyhow::Result<Streaming<DeltaDiscoveryResponse>> {
    let first = DeltaDiscoveryRequest {
        node: Some(Node { id: name.into(), ..Node::default() }),
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into(),
        resource_names_subscribe: vec![name.into()],
        ..DeltaDiscoveryRequest::default()
    };
    let requests = tokio_stream::iter([first]).chain(tokio_stream::pending());
    Ok(SecretDiscoveryServiceClient::new(channel).delta_secrets(with_header(requests)).await?.into_inner())
}

/// The next leaf that the stream brings, in DER.
async fn certificate(stream: &mut Streaming<DeltaDiscoveryResponse>) -> anyhow::Result<Vec<u8>> {
    let response = soon("a secret", stream.message()).await??.context("the stream ended")?;
    let resource = response.resources.first().and_then(|one| one.resource.as_ref()).context("no secret")?;
    let Some(Type::TlsCertificate(certificate)) = Secret::decode(resource.value.as_slice())?.r#type else {
        anyhow::bail!("not a certificate");
    };
    let chain = certificate.certificate_chain.and_then(|chain| chain.specifier);
    let Some(Specifier::InlineBytes(pem)) = chain else { anyhow::bail!("not inline") };
    Ok(CertificateDer::from_pem_slice(&pem)?.to_vec())
}
