//! The implementations that are asked: ours, the `spiffe` crate, go-spiffe, py-spiffe with spiffe-tls, and OpenSSL.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::jwt;
use symbolon_kit::spiffe::svid::certificates_pem;
use symbolon_kit::spiffe::verify::{Anchors, Usage};
use symbolon_proto::ids::TrustDomain;

use super::cases::{Case, Input};
use crate::{repository, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// What an implementation makes of a case; `Err` has its words.
pub type Verdict = Result<(), String>;

/// By the case's name. Cases that an implementation has no notion of are left out.
pub type Verdicts = BTreeMap<String, Verdict>;

/// What our own verifiers say.
pub fn ours(cases: &[Case]) -> Verdicts {
    let now = Clock::system().now();
    let judge = |case: &Case| -> Verdict {
        let domain: TrustDomain = case.trust_domain.parse().map_err(|e| format!("{e}"))?;
        let json = case.bundle.to_string();
        let parsed = Bundle::parse_jwks(&domain, json.as_bytes(), now).map_err(|e| e.to_string())?;
        let bundle = Arc::new(parsed.bundle);
        match &case.input {
            Input::X509 { chain, .. } => {
                let anchors = Anchors::new(&[(domain, bundle)].into());
                anchors.check(chain, Usage::Server, now).map(drop).map_err(|e| e.to_string())?;
                anchors.check(chain, Usage::Client, now).map(drop).map_err(|e| e.to_string())
            }
            Input::Jwt { token, audience } => {
                let find = |asked: &TrustDomain| (*asked == domain).then(|| bundle.clone());
                jwt::verify(token, audience, find, now).map(drop).map_err(|e| e.to_string())
            }
            Input::Bundle => Ok(()),
        }
    };
    cases.iter().map(|case| (case.name.clone(), judge(case))).collect()
}

/// What the `spiffe` crate says: it parses SVIDs and verifies tokens; it does not verify chains.
pub fn crate_spiffe(cases: &[Case]) -> Verdicts {
    let judge = |case: &Case| -> Option<Verdict> {
        match &case.input {
            Input::X509 { chain, key } => {
                let der = chain.iter().flat_map(|one| one.to_vec()).collect::<Vec<_>>();
                Some(spiffe::X509Svid::parse_from_der(&der, key).map(drop).map_err(|e| e.to_string()))
            }
            Input::Jwt { token, audience } => Some(crate_token(case, token, audience)),
            Input::Bundle => None,
        }
    };
    cases.iter().filter_map(|case| Some((case.name.clone(), judge(case)?))).collect()
}

fn crate_token(case: &Case, token: &str, audience: &str) -> Verdict {
    let domain: spiffe::TrustDomain = case.trust_domain.as_str().try_into().map_err(|e| format!("{e}"))?;
    let mut bundle = spiffe::JwtBundle::new(domain);
    // It has no type for a SPIFFE bundle: as its own client does, give it what is meant for tokens.
    let keys = case.bundle["keys"].as_array().into_iter().flatten().filter(|key| key["use"] == "jwt-svid");
    for key in keys {
        bundle.add_jwk_authority_json(key.to_string().as_bytes()).map_err(|e| e.to_string())?;
    }
    let mut bundles = spiffe::JwtBundleSet::new();
    bundles.add_bundle(bundle);
    spiffe::JwtSvid::parse_and_validate(token, &bundles, &[audience]).map(drop).map_err(|e| e.to_string())
}

/// What go-spiffe says.
///
/// # Errors
/// If the program cannot be run: `make tools` first.
pub async fn go(file: &Path) -> anyhow::Result<Verdicts> {
    let program = repository().join("target/tools/go/peer");
    let lines = lines(&program, &["judge", &file.to_string_lossy()]).await?;
    Ok(lines.iter().filter_map(|line| Some((line["name"].as_str()?.to_owned(), verdict(line)?))).collect())
}

/// What py-spiffe and spiffe-tls say.
///
/// # Errors
/// If the program cannot be run: `make tools` first.
pub async fn python(file: &Path) -> anyhow::Result<(Verdicts, Verdicts)> {
    let script = repository().join("tests/peers/judge.py");
    let lines = lines(Path::new("python3"), &[&script.to_string_lossy(), &file.to_string_lossy()]).await?;
    let of = |peer: &str| -> Verdicts {
        let one = |line: &Value| Some((line["name"].as_str()?.to_owned(), verdict(&line[peer])?));
        lines.iter().filter_map(one).collect()
    };
    Ok((of("spiffe"), of("spiffe-tls")))
}

/// What OpenSSL says: it verifies paths, and knows nothing of SPIFFE.
///
/// # Errors
/// If the program cannot be run.
pub async fn openssl(cases: &[Case], folder: &Path) -> anyhow::Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for case in cases {
        let Input::X509 { chain, .. } = &case.input else { continue };
        let file = |what: &str| folder.join(format!("{}.{what}.pem", case.name));
        let (roots, rest, leaf) = (file("roots"), file("rest"), file("leaf"));
        std::fs::write(&roots, certificates_pem(&authorities(&case.bundle)))?;
        std::fs::write(&leaf, certificates_pem(&chain[..1]))?;
        std::fs::write(&rest, certificates_pem(&chain[1..]))?;
        let [roots, rest, leaf] = [roots, rest, leaf].map(|path| path.to_string_lossy().into_owned());
        let mut args = vec!["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", &roots];
        if chain.len() > 1 {
            args.extend(["-untrusted", &rest]);
        }
        args.push(&leaf);
        let (code, out, err) = run(Path::new("openssl"), &args, PATIENCE).await?;
        let words = || format!("{out}{err}").lines().find(|line| line.contains("error")).unwrap_or(&err).to_owned();
        verdicts.insert(case.name.clone(), if code == 0 { Ok(()) } else { Err(words()) });
    }
    Ok(verdicts)
}

/// The certificates of a bundle.
pub(super) fn authorities(bundle: &Value) -> Vec<CertificateDer<'static>> {
    let keys = bundle["keys"].as_array().into_iter().flatten();
    let der = |key: &Value| STANDARD.decode(key["x5c"][0].as_str()?).ok().map(CertificateDer::from);
    keys.filter_map(der).collect()
}

async fn lines(program: &Path, args: &[&str]) -> anyhow::Result<Vec<Value>> {
    let (code, out, err) = run(program, args, PATIENCE).await?;
    ensure!(code == 0, "{} exits with {code}: {err}", program.display());
    out.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn verdict(said: &Value) -> Option<Verdict> {
    match said["verdict"].as_str()? {
        "accept" => Some(Ok(())),
        _ => Some(Err(said["why"].as_str().unwrap_or_default().to_owned())),
    }
}
