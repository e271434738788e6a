//! x509-limbo's certificate path cases, all of them, and our own cases in the same form.
//!
//! None of limbo's leaves is an X509-SVID, so the verifier as a whole refuses them all. That alone would prove little: each case is also
//! put to the path search, as if its leaf were one. Where that differs from what limbo expects, [`DIFFERENCES`] says why, and every
//! verdict stands in `tests/data/x509-limbo-verdicts.md`. `SYMBOLON_BLESS=1` writes that file, and our own cases, again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::spiffe::svid::certificates_pem;

/// Why the path search says other than limbo expects; each case once, and no case that it says alike.
const DIFFERENCES: [(&str, &[&str]); 11] = [
    (
        "X-13, in the leaf's layer: it judges the leaf's usages and names, and refuses",
        &[
            "rfc5280::leaf-ku-keycertsign",
            "rfc5280::nc::not-allowed-in-ee-noncritical",
            "rfc5280::san::noncritical-with-empty-subject",
        ],
    ),
    (
        "X-5 and X-6, stricter: an authority is never a leaf",
        &["pathlen::validation-ignores-pathlen-in-leaf", "rfc5280::ca-as-leaf"],
    ),
    (
        "X-12, stricter: webpki gives self-issued certificates no exemption from constraints",
        &["pathlen::self-issued-certs-pathlen", "rfc5280::nc::permitted-self-issued"],
    ),
    (
        "X-12, stricter: a constraint on a kind of name that webpki does not compare is refused",
        &[
            "rfc5280::nc::nc-permits-email-domain",
            "rfc5280::nc::nc-permits-email-exact",
            "rfc5280::nc::nc-permits-email-literal-asterisk-exact-match",
            "rfc5280::nc::nc-permits-email-literal-double-asterisk",
            "rfc5280::nc::nc-permits-email-literal-mid-asterisk",
            "rfc5280::nc::permitted-dn-match",
        ],
    ),
    (
        "I6: no CRLs; SVIDs live for an hour, and an authority is withdrawn by its bundle",
        &[
            "crl::crlnumber-critical",
            "crl::crlnumber-missing",
            "crl::issuer-missing-crlsign",
            "crl::revoked-certificate-with-crl",
        ],
    ),
    (
        "BAD-80: the length of a chain is bounded by 16 certificates and not by the caller",
        &["pathlen::max-chain-depth-0-exhausted", "pathlen::max-chain-depth-1-exhausted"],
    ),
    (
        "BAD-96: valid, as limbo says itself; the comparisons are bounded, and these are within the bound",
        &["pathological::nc-dos-3"],
    ),
    (
        "X-14: an SVID proves its SPIFFE ID only; no other name is compared with anything",
        &[
            "rfc5280::san::ip-in-dns",
            "rfc5280::san::underscore-dns",
            "webpki::san::mismatch-apex-subdomain-san",
            "webpki::san::mismatch-domain-san",
            "webpki::san::mismatch-subdomain-apex-san",
            "webpki::san::mismatch-subdomain-san",
            "webpki::san::no-san",
            "webpki::san::public-suffix-multi-label-wildcard-san",
            "webpki::san::public-suffix-private-namespace-wildcard-san",
            "webpki::san::public-suffix-wildcard-san",
            "webpki::san::san-wildcard-only",
            "webpki::san::san-wildcard-only-tld",
            "webpki::san::unicode-emoji-san",
            "webpki::san::wildcard-embedded-leftmost-san",
            "webpki::san::wildcard-embedded-ulabel-san",
            "webpki::san::wildcard-match-across-labels-san",
            "webpki::san::wildcard-not-in-leftmost-san",
        ],
    ),
    (
        "X-12: a duty of authorities when they issue (RFC 5280 §4), and no part of validation (§6)",
        &[
            "rfc5280::aki::cross-signed-root-missing-aki",
            "rfc5280::aki::intermediate-missing-aki",
            "rfc5280::aki::leaf-missing-aki",
            "rfc5280::ca-empty-subject",
            "rfc5280::nc::permitted-dns-match-noncritical",
            "rfc5280::pc::ica-noncritical-pc",
            "rfc5280::root-non-critical-basic-constraints",
            "rfc5280::ski::intermediate-missing-ski",
            "rfc5280::ski::root-missing-ski",
        ],
    ),
    (
        "X-12: webpki takes a leading dot in a constraint on DNS names, as its users' authorities write it",
        &["rfc5280::nc::invalid-dnsname-leading-period"],
    ),
    (
        "X-12: rules of the CA/Browser Forum for public web authorities, not of RFC 5280",
        &[
            "webpki::aki::root-with-aki-all-fields",
            "webpki::aki::root-with-aki-authoritycertissuer",
            "webpki::aki::root-with-aki-authoritycertserialnumber",
            "webpki::aki::root-with-aki-missing-keyidentifier",
            "webpki::aki::root-with-aki-ski-mismatch",
            "webpki::cn::case-mismatch",
            "webpki::cn::ipv4-hex-mismatch",
            "webpki::cn::ipv4-leading-zeros-mismatch",
            "webpki::cn::ipv6-non-rfc5952-mismatch",
            "webpki::cn::ipv6-uncompressed-mismatch",
            "webpki::cn::ipv6-uppercase-mismatch",
            "webpki::cn::not-in-san",
            "webpki::cn::punycode-not-in-san",
            "webpki::cn::utf8-vs-punycode-mismatch",
            "webpki::eku::ee-anyeku",
            "webpki::eku::ee-critical-eku",
            "webpki::eku::ee-without-eku",
            "webpki::eku::root-has-eku",
            "webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf",
            "webpki::forbidden-rsa-not-divisible-by-8-in-root",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences",
            "webpki::nc::intermediate-permitted-excluded-subtrees-both-null",
            "webpki::san::san-critical-with-nonempty-subject",
        ],
    ),
];

/// Which line refuses a leaf that is no X509-SVID.
const LEAF_LINES: [(&str, &str); 5] = [
    ("it has no URI name", "X-1"),
    ("a certificate authority cannot be a leaf (CA:TRUE)", "X-6"),
    ("it has no key usage", "X-8"),
    ("its key usage is not critical", "X-8"),
    ("its extended key usage must name both serverAuth and clientAuth", "X-11"),
];

/// A file of cases: what we read of its schema.
#[derive(Deserialize)]
struct File {
    testcases: Vec<Limbo>,
}

#[derive(Deserialize)]
struct Limbo {
    id: String,
    description: String,
    validation_kind: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    validation_time: Option<String>,
    expected_result: String,
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

fn read(name: &str) -> Vec<Limbo> {
    let path = data(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice::<File>(&bytes).unwrap().testcases
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// `2024-03-01T00:00:00.999+00:00`, always in UTC.
fn time(text: &str) -> SystemTime {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    at.into()
}

impl Limbo {
    fn accepted(&self) -> bool {
        self.expected_result == "SUCCESS"
    }

    fn now(&self) -> SystemTime {
        self.validation_time.as_deref().map_or_else(noon, time)
    }

    fn usage(&self) -> Usage {
        if self.validation_kind == "CLIENT" { Usage::Client } else { Usage::Server }
    }

    fn bundle(&self) -> Bundle {
        let roots = self.trusted_certs.iter().map(|pem| certificate(pem)).collect();
        Bundle::new(cases::TRUST_DOMAIN.parse().unwrap(), 1, Duration::from_secs(300), roots)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        [&self.peer_certificate].into_iter().chain(&self.untrusted_intermediates).map(|pem| certificate(pem)).collect()
    }

    fn whole(&self) -> Result<SpiffeId, VerifyError> {
        let bundle = self.bundle();
        let anchors = Anchors::new(&[(bundle.trust_domain.clone(), Arc::new(bundle))].into());
        anchors.verify(&self.chain(), self.usage(), self.now())
    }

    /// The path search alone, and the form that any leaf must have, whatever it is for.
    fn path(&self) -> Result<(), VerifyError> {
        let (bundle, chain) = (self.bundle(), self.chain());
        let (leaf, intermediates) = sized(&chain)?;
        svid::check_leaf_form(leaf)?;
        let roots = Roots::of(&bundle);
        let (usage, now) = (self.usage(), self.now());
        roots.path(&bundle.trust_domain, leaf, intermediates, usage, now, ALGORITHMS.all).map(drop)
    }
}

fn blessing() -> bool {
    std::env::var_os("SYMBOLON_BLESS").is_some()
}

fn word(accepted: bool) -> &'static str {
    if accepted { "accepted" } else { "refused" }
}

/// The line that keeps the whole verifier from accepting what limbo expects to be accepted.
fn leaf_line(id: &str, verdict: &Result<SpiffeId, VerifyError>) -> &'static str {
    let Err(VerifyError::Leaf(error)) = verdict else { panic!("{id}: not the leaf's layer: {verdict:?}") };
    let why = error.to_string();
    let known = LEAF_LINES.iter().find(|(text, _)| *text == why);
    known.unwrap_or_else(|| panic!("{id}: an unexplained difference: {why}")).1
}

#[test]
fn every_case_of_limbo_gets_its_verdict_or_a_reason() {
    let mut reasons: BTreeMap<&str, &str> = BTreeMap::new();
    for (reason, ids) in DIFFERENCES {
        for id in ids {
            assert!(reasons.insert(id, reason).is_none(), "{id} is explained twice");
        }
    }
    let all = read("x509-limbo.json");
    assert_eq!(all.len(), 208);
    let mut table = String::from(
        "# x509-limbo: every case, and what our verifier says\n\nWritten by the verifier's test. *Expected*: what limbo says. *SVID*: the \
         whole verifier, and the line that a leaf breaks which limbo\nexpects to be accepted. *Path*: the search for a path, as if the \
         leaf were an SVID, and why it differs.\n\n| Case | Expected | SVID | Path |\n|---|---|---|---|\n",
    );
    for case in all {
        let (whole, path, want) = (case.whole(), case.path(), case.accepted());
        let svid = match &whole {
            Ok(id) => panic!("{}: no leaf of limbo's is an SVID, and this one proves {id}", case.id),
            Err(_) if want => format!("refused: {}", leaf_line(&case.id, &whole)),
            Err(_) => "refused".to_owned(),
        };
        let mut found = word(path.is_ok()).to_owned();
        match reasons.remove(case.id.as_str()) {
            Some(reason) if path.is_ok() != want => write!(found, ": {reason}").unwrap(),
            Some(_) => panic!("{}: explained, and there is no difference", case.id),
            None => assert_eq!(path.is_ok(), want, "{}: an unexplained difference: {path:?}", case.id),
        }
        writeln!(table, "| {} | {} | {svid} | {found} |", case.id, word(want)).unwrap();
    }
    assert!(reasons.is_empty(), "explained, and not among limbo's cases: {reasons:?}");
    let file = data("x509-limbo-verdicts.md");
    if blessing() {
        std::fs::write(&file, &table).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(stored == table, "{} is stale: run the test with SYMBOLON_BLESS=1", file.display());
}

/// A case in limbo's form. Its schema knows no URI among the names of a peer; whatever else it demands is there.
fn in_limbos_form(case: &Case) -> Value {
    let moment = time::OffsetDateTime::from(noon()).format(&time::format_description::well_known::Rfc3339).unwrap();
    let pems = |certificates: &[CertificateDer<'_>]| certificates.chunks(1).map(certificates_pem).collect::<Vec<_>>();
    let id = case.accepted.then(|| verdict(case).unwrap().to_string());
    json!({
        "id": format!("spiffe::{}", case.name), "description": format!("{}: {}", case.line(), case.what),
        "conflicts_with": [], "features": [], "importance": "high", "validation_kind": "SERVER",
        "trusted_certs": pems(&case.trusted), "untrusted_intermediates": pems(&case.chain[1..]),
        "peer_certificate": certificates_pem(&case.chain[..1]), "peer_certificate_key": null, "validation_time": moment,
        "signature_algorithms": [], "key_usage": [], "extended_key_usage": [], "max_chain_depth": null, "crls": [],
        "expected_result": if case.accepted { "SUCCESS" } else { "FAILURE" },
        "expected_peer_name": id.map(|id| json!({"kind": "URI", "value": id})), "expected_peer_names": [],
    })
}

#[test]
fn our_own_cases_in_limbos_form_get_their_verdicts() {
    let made = &*CASES;
    if blessing() {
        let cases: Vec<_> = made.iter().map(in_limbos_form).collect();
        let file = json!({"version": 1, "testcases": cases});
        std::fs::write(data("svid-limbo.json"), serde_json::to_string_pretty(&file).unwrap() + "\n").unwrap();
    }
    let stored = read("svid-limbo.json");
    assert!(stored.len() >= 60, "{}", stored.len());
    for case in &stored {
        let verdict = case.whole();
        assert_eq!(verdict.is_ok(), case.accepted(), "{}: {verdict:?}", case.id);
    }
    // Keys differ each time they are made; what they are about must not.
    let stored: Vec<_> =
        stored.iter().map(|case| (case.id.clone(), case.description.clone(), case.accepted())).collect();
    let made: Vec<_> = made
        .iter()
        .map(|case| (format!("spiffe::{}", case.name), format!("{}: {}", case.line(), case.what), case.accepted))
        .collect();
    assert!(stored == made, "svid-limbo.json is stale: run the test with SYMBOLON_BLESS=1");
}
