//! `symbolon-sidecar api fetch`: what a workload here would get, by the socket that it would use.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use symbolon_kit::clock::unix_secs;
use symbolon_kit::net;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid};
use symbolon_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use symbolon_proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use tonic::{Code, Request, Status};

use super::{Failure, FetchArgs, Output, What, print};
use crate::keep::Keep;

const DEFAULT_SOCKET: &str = "/run/symbolon/agent.sock";
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn fetch(args: &FetchArgs) -> Result<(), Failure> {
    let What::X509 = args.what;
    let socket = socket(args.socket.clone(), std::env::var("SPIFFE_ENDPOINT_SOCKET").ok())
        .map_err(|why| Failure::new(Failure::USAGE, why))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Failure::new(Failure::FAILED, why))?;
    let answer = runtime.block_on(ask(&socket)).map_err(|status| failure(&status, &socket))?;
    let fetched = read(answer).map_err(|why| Failure::new(Failure::FAILED, why))?;
    if let Some(folder) = &args.write {
        write(&fetched, folder).map_err(|why| Failure::new(Failure::FAILED, why))?;
    }
    print(&match args.output {
        Output::Table => table(&fetched),
        Output::Json => render_json(&fetched),
    })
}

/// By flag, by SPIFFE's variable (E-5: `unix:` and an absolute path, nothing else), or by default.
fn socket(flag: Option<PathBuf>, variable: Option<String>) -> anyhow::Result<PathBuf> {
    if let Some(path) = flag {
        return Ok(path);
    }
    let Some(uri) = variable else { return Ok(DEFAULT_SOCKET.into()) };
    let path = uri.strip_prefix("unix:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
    match path {
        Some(path) if path.starts_with('/') && !path.contains(['?', '#']) => Ok(path.into()),
        _ => Err(anyhow!("SPIFFE_ENDPOINT_SOCKET must be unix:///absolute/path, it is {uri:?}")),
    }
}

async fn ask(socket: &Path) -> Result<X509svidResponse, Status> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(net::unix_channel(socket)).max_decoding_message_size(32 << 20);
    let answer = async {
        let mut stream = client.fetch_x509svid(request).await?.into_inner();
        stream.message().await?.ok_or_else(|| Status::unavailable("the agent ended the stream without an answer"))
    };
    tokio::time::timeout(TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(Status::unavailable(format!("no answer within {TIMEOUT:?}"))))
}

fn failure(status: &Status, socket: &Path) -> Failure {
    let mut why = format!("{}: {:?}: {}", socket.display(), status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let _ = write!(why, ": {cause}"); // writing to a String cannot fail
        source = cause.source();
    }
    let code = if status.code() == Code::Unavailable { Failure::UNREACHABLE } else { Failure::FAILED };
    Failure::new(code, anyhow!(why))
}

/// An answer, checked.
struct Fetched {
    identities: Vec<Identity>,
    /// By the name of the trust domain.
    federated: Vec<(String, Vec<CertificateDer<'static>>)>,
}

struct Identity {
    svid: Svid,
    hint: String,
    bundle: Vec<CertificateDer<'static>>,
}

fn read(answer: X509svidResponse) -> anyhow::Result<Fetched> {
    let identity = |svid: X509svid| -> anyhow::Result<Identity> {
        let context = || format!("the SVID of {}", svid.spiffe_id);
        let chain = certificates(&svid.x509_svid).with_context(context)?;
        let key = PrivateKey::from_pkcs8(svid.x509_svid_key.to_vec());
        let bundle = certificates(&svid.bundle).with_context(context)?;
        Ok(Identity { svid: Svid::new(chain, key).with_context(context)?, hint: svid.hint.clone(), bundle })
    };
    let identities = answer.svids.into_iter().map(identity).collect::<Result<_, _>>()?;
    let federated = answer.federated_bundles.into_iter().map(|(id, der)| {
        let name = id.strip_prefix("spiffe://").unwrap_or(&id).to_owned();
        Ok((name, certificates(&der).with_context(|| format!("the bundle of {id}"))?))
    });
    Ok(Fetched { identities, federated: federated.collect::<anyhow::Result<_>>()? })
}

/// Certificates laid one after the other, as DER says their length.
fn certificates(der: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let mut rest = der;
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        let length = sequence_length(rest).filter(|length| *length <= rest.len());
        let (one, others) = rest.split_at(length.ok_or_else(|| anyhow!("is not a row of DER certificates"))?);
        certificates.push(CertificateDer::from(one.to_vec()));
        rest = others;
    }
    Ok(certificates)
}

/// The length of the DER SEQUENCE at the beginning, header included.
fn sequence_length(der: &[u8]) -> Option<usize> {
    let [0x30, first, rest @ ..] = der else { return None };
    match first {
        short @ 0..=0x7f => Some(2 + usize::from(*short)),
        0x81..=0x84 => {
            let bytes = usize::from(first & 0x7f);
            let content = rest.get(..bytes)?.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            (2 + bytes).checked_add(content)
        }
        _ => None,
    }
}

fn write(fetched: &Fetched, folder: &Path) -> anyhow::Result<()> {
    let keep = Keep::open(folder)?;
    for (at, identity) in fetched.identities.iter().enumerate() {
        keep.save(&format!("svid.{at}.pem"), identity.svid.chain_pem().as_bytes())?;
        keep.save(&format!("svid.{at}.key"), identity.svid.key_pem().as_bytes())?;
        keep.save(&format!("bundle.{at}.pem"), pem(&identity.bundle).as_bytes())?;
    }
    for (name, bundle) in &fetched.federated {
        let name: symbolon_proto::ids::TrustDomain = name.parse()?; // a name that is a file name too
        keep.save(&format!("federated_bundle.{name}.pem"), pem(bundle).as_bytes())?;
    }
    Ok(())
}

fn pem(certificates: &[CertificateDer<'_>]) -> String {
    use base64::Engine as _;
    let mut text = String::new();
    for der in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (line, others) = rest.split_at(rest.len().min(64));
            let _ = writeln!(text, "{line}"); // writing to a String cannot fail
            rest = others;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn table(fetched: &Fetched) -> String {
    let mut rows = vec![["SPIFFE ID", "EXPIRES", "SERIAL", "HINT"].map(str::to_owned)];
    for Identity { svid, hint, .. } in &fetched.identities {
        let hint = if hint.is_empty() { "-".into() } else { hint.escape_debug().to_string() };
        rows.push([svid.id.to_string(), rfc3339(svid.not_after), svid.serial.clone(), hint]);
    }
    let widths: Vec<usize> =
        (0..4).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end()); // writing to a String cannot fail
    }
    let federated: Vec<_> = fetched.federated.iter().map(|(name, _)| name.as_str()).collect();
    let federated = if federated.is_empty() { "none".into() } else { federated.join(", ") };
    let _ = writeln!(text, "\nfederated trust domains: {federated}");
    text
}

fn render_json(fetched: &Fetched) -> String {
    let identities: Vec<_> = fetched
        .identities
        .iter()
        .map(|Identity { svid, hint, bundle }| {
            json!({
                "spiffeId": svid.id.as_str(), "serial": svid.serial, "hint": hint,
                "notBefore": rfc3339(svid.not_before), "expiresAt": rfc3339(svid.not_after),
                "chain": svid.chain_pem(), "bundle": pem(bundle),
            })
        })
        .collect();
    let federated: serde_json::Map<_, _> =
        fetched.federated.iter().map(|(name, bundle)| (name.clone(), pem(bundle).into())).collect();
    format!("{:#}\n", json!({ "svids": identities, "federatedBundles": federated }))
}

fn rfc3339(at: SystemTime) -> String {
    match time::OffsetDateTime::from_unix_timestamp(unix_secs(at)) {
        Ok(at) => {
            let (year, month, day) = at.to_calendar_date();
            let (hour, minute, second) = at.to_hms();
            format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
        }
        Err(_) => "beyond reckoning".into(),
    }
}

#[cfg(test)]
mod tests;
