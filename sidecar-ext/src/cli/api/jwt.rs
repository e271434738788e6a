//! JWT-SVIDs as they come from the socket: asked for, written as files, printed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use symbolon_proto::ids::TrustDomain;
use symbolon_proto::workload::{Jwtsvid, JwtsvidRequest};
use tonic::Status;
use zeroize::Zeroizing;

use super::client::{Client, with_header};
use super::folder::Files;
use super::x509::{columns, rfc3339};

/// A token, and what it says of its time.
pub(super) struct Fetched {
    svid: Jwtsvid,
    pub(super) issued_at: Option<SystemTime>,
    pub(super) expires_at: SystemTime,
}

/// Tokens for this audience, of one identity or of all.
pub(super) async fn ask(client: &mut Client, audience: &[String], id: Option<&str>) -> Result<Vec<Jwtsvid>, Status> {
    let request = JwtsvidRequest { audience: audience.to_vec(), spiffe_id: id.unwrap_or_default().to_owned() };
    Ok(client.fetch_jwtsvid(with_header(request)).await?.into_inner().svids)
}

/// # Errors
/// If what the agent sent is not what the API says.
pub(super) fn read(svids: Vec<Jwtsvid>) -> anyhow::Result<Vec<Fetched>> {
    if svids.is_empty() {
        return Err(anyhow!("the agent sent no JWT-SVID"));
    }
    svids.into_iter().map(|svid| read_one(svid).context("a JWT-SVID")).collect()
}

/// The token is not verified here: whoever it is presented to does that.
fn read_one(svid: Jwtsvid) -> anyhow::Result<Fetched> {
    let payload = svid.svid.split('.').nth(1).context("is not a compact JWS")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let date = |name: &str| {
        let since = Duration::from_secs(claims.get(name)?.as_u64()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    let expires_at = date("exp").context("does not say when it expires")?;
    Ok(Fetched { issued_at: date("iat"), expires_at, svid })
}

/// `jwt_svid.N.token` per identity.
pub(super) fn token_files(fetched: &[Fetched]) -> Files {
    let file = |(at, one): (usize, &Fetched)| {
        (format!("jwt_svid.{at}.token"), Zeroizing::new(one.svid.svid.as_bytes().to_vec()))
    };
    fetched.iter().enumerate().map(file).collect()
}

/// `jwt_bundle.DOMAIN.json` per trust domain.
///
/// # Errors
/// If a trust domain's name is none.
pub(super) fn bundle_files(bundles: &BTreeMap<String, bytes::Bytes>) -> anyhow::Result<Files> {
    let file = |(id, jwks): (&String, &bytes::Bytes)| {
        let name: TrustDomain = id.strip_prefix("spiffe://").unwrap_or(id).parse()?; // a name that is a file name too
        Ok((format!("jwt_bundle.{name}.json"), Zeroizing::new(jwks.to_vec())))
    };
    bundles.iter().map(file).collect()
}

/// Whether a file of this name is one of [`token_files`] or [`bundle_files`].
pub(super) fn is_ours(name: &str) -> bool {
    (name.starts_with("jwt_svid.") && name.ends_with(".token"))
        || (name.starts_with("jwt_bundle.") && name.ends_with(".json"))
}

/// Without the tokens: a terminal keeps what it shows.
pub(super) fn table(fetched: &[Fetched]) -> String {
    let mut rows = vec![["SPIFFE ID", "EXPIRES", "HINT"].map(str::to_owned)];
    for Fetched { svid, expires_at, .. } in fetched {
        let hint = if svid.hint.is_empty() { "-".into() } else { svid.hint.escape_debug().to_string() };
        rows.push([svid.spiffe_id.clone(), rfc3339(*expires_at), hint]);
    }
    columns(&rows)
}

pub(super) fn render_json(fetched: &[Fetched]) -> String {
    let one = |Fetched { svid, issued_at, expires_at }: &Fetched| {
        json!({
            "spiffeId": svid.spiffe_id, "hint": svid.hint, "token": svid.svid,
            "issuedAt": issued_at.map(rfc3339), "expiresAt": rfc3339(*expires_at),
        })
    };
    format!("{:#}\n", json!({ "svids": fetched.iter().map(one).collect::<Vec<_>>() }))
}

/// The first token and nothing else, for scripts.
pub(super) fn token(fetched: &[Fetched]) -> String {
    fetched.first().map(|first| format!("{}\n", first.svid.svid)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched() -> Vec<Fetched> {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"spiffe://a.example/w","iat":1790000000,"exp":1790000300}"#);
        let svid = format!("eyJh.{payload}.c2ln");
        read(vec![Jwtsvid { spiffe_id: "spiffe://a.example/w".into(), svid, hint: String::new() }]).unwrap()
    }

    #[test]
    fn what_is_printed_and_written_of_a_token() {
        let fetched = fetched();
        let table = table(&fetched);
        assert!(table.contains("spiffe://a.example/w") && table.contains("2026-09-21T14:18:20Z"), "{table}");
        assert!(!table.contains("eyJh"), "{table}");
        let json: Value = serde_json::from_str(&render_json(&fetched)).unwrap();
        assert!(json["svids"][0]["token"].as_str().unwrap().starts_with("eyJh."));
        let files = token_files(&fetched);
        assert_eq!(files["jwt_svid.0.token"].as_slice(), fetched[0].svid.svid.as_bytes());
        assert!(files.keys().all(|name| is_ours(name)));
        let bundles = BTreeMap::from([("spiffe://b.example".to_owned(), bytes::Bytes::from_static(b"{}"))]);
        let files = bundle_files(&bundles).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["jwt_bundle.b.example.json"]);
        assert!(bundle_files(&BTreeMap::from([("spiffe://../x".to_owned(), bytes::Bytes::new())])).is_err());
        assert!(!is_ours("svid.0.pem"));
    }

    /// It goes into a header as it is: no line break but the one that ends the output, nothing that would need quoting.
    #[test]
    fn j_9_a_printed_token_is_what_follows_bearer_in_an_authorization_header() {
        let token = token(&fetched());
        let value = format!("Bearer {}", token.strip_suffix('\n').unwrap());
        assert!(http::HeaderValue::from_str(&value).is_ok());
        assert!(value["Bearer ".len()..].bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{value}");
    }

    #[test]
    fn w_4_what_is_no_token_is_refused() {
        assert!(read(vec![]).is_err());
        for svid in ["", "a.b", "a.e30.c", "a.!!.c"] {
            assert!(read(vec![Jwtsvid { svid: svid.into(), ..Default::default() }]).is_err(), "{svid}");
        }
    }
}
