//! `symbolon-sidecar api validate`: would a workload here trust this?

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::verify::{Anchors, BundleTable, Usage};
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::workload::{ValidateJwtsvidRequest, X509BundlesRequest};
use tonic::{Code, Status};
use zeroize::Zeroizing;

use super::client::{Client, failure, with_header, within};
use super::x509;
use crate::cli::Failure;
use crate::workload_api::claims;

/// The largest thing that is read to be validated.
const MAX_BYTES: u64 = 128 << 10;

/// What was found valid.
#[derive(Debug)]
pub(super) struct Valid {
    pub spiffe_id: String,
    /// Of a token.
    pub claims: Option<serde_json::Value>,
}

/// The argument: a file, `-` for standard input, or for tokens the token itself.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read(argument: &str, inline: bool) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    if argument == "-" {
        std::io::stdin().take(MAX_BYTES).read_to_end(&mut content).context("standard input")?;
    } else if inline {
        content.extend_from_slice(argument.as_bytes());
    } else {
        let file = std::fs::File::open(Path::new(argument)).with_context(|| argument.to_owned())?;
        file.take(MAX_BYTES).read_to_end(&mut content).with_context(|| argument.to_owned())?;
    }
    Ok(content)
}

/// Asks the agent, which knows the bundles.
pub(super) async fn jwt(client: &mut Client, socket: &Path, token: &[u8], audience: &str) -> Result<Valid, Failure> {
    let svid = std::str::from_utf8(token).unwrap_or_default().trim().to_owned();
    let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid };
    let answer = within(client.validate_jwtsvid(with_header(request))).await;
    let answer = answer.map_err(|status| refusal(&status, socket))?.into_inner();
    let claims = answer.claims.as_ref().map(claims::to_json);
    Ok(Valid { spiffe_id: answer.spiffe_id, claims })
}

/// Verifies a chain by the bundles that the agent gives to this process.
pub(super) async fn x509(client: &mut Client, socket: &Path, pem: &[u8], now: SystemTime) -> Result<Valid, Failure> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|why| Failure::new(Failure::DATA, anyhow!("not a chain in PEM: {why}")))?;
    let bundles = within(first_bundles(client)).await.map_err(|status| failure(&status, socket))?;
    let table = table(bundles).map_err(|why| Failure::new(Failure::FAILED, why))?;
    match Anchors::new(&table).verify(&chain, Usage::Server, now) {
        Ok(id) => Ok(Valid { spiffe_id: id.to_string(), claims: None }),
        Err(why) => Err(Failure::new(Failure::FAILED, anyhow!("not valid: {why}"))),
    }
}

async fn first_bundles(client: &mut Client) -> Result<BTreeMap<String, bytes::Bytes>, Status> {
    let mut stream = client.fetch_x509_bundles(with_header(X509BundlesRequest {})).await?.into_inner();
    let answer = stream.message().await?.ok_or_else(|| Status::unavailable("the agent ended the stream"))?;
    Ok(answer.bundles)
}

fn table(bundles: BTreeMap<String, bytes::Bytes>) -> anyhow::Result<BundleTable> {
    let bundle = |(id, der): (String, bytes::Bytes)| {
        let name: TrustDomain = id.strip_prefix("spiffe://").unwrap_or(&id).parse()?;
        let authorities = x509::certificates(&der).with_context(|| format!("the bundle of {name}"))?;
        Ok((name.clone(), Arc::new(Bundle::new(name, 0, Duration::ZERO, authorities))))
    };
    bundles.into_iter().map(bundle).collect()
}

fn refusal(status: &Status, socket: &Path) -> Failure {
    match status.code() {
        Code::InvalidArgument => Failure::new(Failure::FAILED, anyhow!("not valid: {}", status.message())),
        _ => failure(status, socket),
    }
}

pub(super) fn render(valid: &Valid, json: bool) -> String {
    match (&valid.claims, json) {
        (claims, true) => format!("{:#}\n", json!({ "spiffeId": valid.spiffe_id, "claims": claims })),
        (Some(claims), false) => format!("valid: {}\n{claims:#}\n", valid.spiffe_id),
        (None, false) => format!("valid: {}\n", valid.spiffe_id),
    }
}
