//! X.509-SVIDs as they come from the socket: checked, written as PEM files, printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use symbolon_kit::clock::unix_secs;
use symbolon_kit::spiffe::svid::{PrivateKey, Svid, certificates_pem};
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use tonic::Status;
use zeroize::Zeroizing;

use super::client::{Client, with_header};
use super::folder::Files;

/// The first answer.
pub(super) async fn ask(client: &mut Client) -> Result<X509svidResponse, Status> {
    let mut stream = client.fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    stream.message().await?.ok_or_else(|| Status::unavailable("the agent ended the stream without an answer"))
}

/// An answer, checked.
pub(super) struct Fetched {
    identities: Vec<Identity>,
    /// By the name of the trust domain.
    federated: Vec<(String, Vec<CertificateDer<'static>>)>,
}

struct Identity {
    svid: Svid,
    hint: String,
    bundle: Vec<CertificateDer<'static>>,
}

/// # Errors
/// If what the agent sent is not what the API says.
pub(super) fn read(answer: X509svidResponse) -> anyhow::Result<Fetched> {
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
///
/// # Errors
/// If they are not.
pub(super) fn certificates(der: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
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

/// `svid.N.pem`, `svid.N.key` and `bundle.N.pem` per identity, `federated_bundle.DOMAIN.pem` per federated trust domain.
///
/// # Errors
/// If a trust domain's name is none.
pub(super) fn files(fetched: &Fetched) -> anyhow::Result<Files> {
    let mut files = BTreeMap::new();
    let text = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    for (at, identity) in fetched.identities.iter().enumerate() {
        files.insert(format!("svid.{at}.pem"), text(&identity.svid.chain_pem()));
        files.insert(format!("svid.{at}.key"), text(&identity.svid.key_pem()));
        files.insert(format!("bundle.{at}.pem"), text(&certificates_pem(&identity.bundle)));
    }
    for (name, bundle) in &fetched.federated {
        let name: TrustDomain = name.parse()?; // a name that is a file name too
        files.insert(format!("federated_bundle.{name}.pem"), text(&certificates_pem(bundle)));
    }
    Ok(files)
}

/// Whether a file of this name is one of [`files`].
pub(super) fn is_ours(name: &str) -> bool {
    let numbered = |prefix: &str, ends: &[&str]| {
        let rest = name.strip_prefix(prefix).and_then(|rest| rest.split_once('.'));
        rest.is_some_and(|(number, end)| number.parse::<usize>().is_ok() && ends.contains(&end))
    };
    numbered("svid.", &["pem", "key"])
        || numbered("bundle.", &["pem"])
        || (name.starts_with("federated_bundle.") && name.ends_with(".pem"))
}

pub(super) fn table(fetched: &Fetched) -> String {
    let mut rows = vec![["SPIFFE ID", "EXPIRES", "SERIAL", "HINT"].map(str::to_owned)];
    for Identity { svid, hint, .. } in &fetched.identities {
        let hint = if hint.is_empty() { "-".into() } else { hint.escape_debug().to_string() };
        rows.push([svid.id.to_string(), rfc3339(svid.not_after), svid.serial.clone(), hint]);
    }
    let mut text = columns(&rows);
    let federated: Vec<_> = fetched.federated.iter().map(|(name, _)| name.as_str()).collect();
    let federated = if federated.is_empty() { "none".into() } else { federated.join(", ") };
    let _ = writeln!(text, "\nfederated trust domains: {federated}");
    text
}

/// Rows of equal length, each column as wide as its widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end()); // writing to a String cannot fail
    }
    text
}

pub(super) fn render_json(fetched: &Fetched) -> String {
    let identities: Vec<_> = fetched
        .identities
        .iter()
        .map(|Identity { svid, hint, bundle }| {
            json!({
                "spiffeId": svid.id.as_str(), "serial": svid.serial, "hint": hint,
                "notBefore": rfc3339(svid.not_before), "expiresAt": rfc3339(svid.not_after),
                "chain": svid.chain_pem(), "bundle": certificates_pem(bundle),
            })
        })
        .collect();
    let federated: serde_json::Map<_, _> =
        fetched.federated.iter().map(|(name, bundle)| (name.clone(), certificates_pem(bundle).into())).collect();
    format!("{:#}\n", json!({ "svids": identities, "federatedBundles": federated }))
}

pub(super) fn rfc3339(at: SystemTime) -> String {
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
