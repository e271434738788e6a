//! Evidence by certificate: what is taken, and what each lie is told.

use std::io::Write as _;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
};
use symbolon_kit::clock::Clock;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = ((now() - DAY).into(), (now() + DAY).into());
    change(&mut params);
    params
}

impl Ca {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(authority("factory", change), key).unwrap())
    }

    fn below(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(authority("line 1", |_| {}), key, &self.0).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn leaf(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "web-1");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(vec![0x0a, 0xff].into());
        (params.not_before, params.not_after) = ((now() - DAY).into(), (now() + DAY).into());
        change(&mut params);
        params.signed_by(key, &self.0).unwrap().der().clone()
    }
}

fn attestor(cas: &[&Ca], name: &str) -> X509Pop {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for ca in cas {
        write!(file, "{}", ca.0.pem()).unwrap();
    }
    X509Pop::load(file.path(), name.parse().unwrap(), Clock::manual(now())).unwrap()
}

fn key_of(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn bound() -> Bound {
    Bound { csr: Bytes::from_static(b"the CSR"), key: [7; 32] }
}

/// As the node does.
fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    let schemes = [
        rustls::SignatureScheme::ECDSA_NISTP256_SHA256,
        rustls::SignatureScheme::ECDSA_NISTP384_SHA384,
        rustls::SignatureScheme::ED25519,
        rustls::SignatureScheme::RSA_PSS_SHA256,
    ];
    key.choose_scheme(&schemes).unwrap().sign(message).unwrap()
}

async fn begin(attestor: &X509Pop, chain: Vec<CertificateDer<'static>>) -> Result<Box<dyn Challenge>, String> {
    match attestor.begin(Evidence::X509Pop(chain), &bound()).await {
        Ok(Step::Challenge(challenge)) => Ok(challenge),
        Ok(Step::Proven(_)) => panic!("a certificate alone proves nothing"),
        Err(refusal) => {
            assert_eq!(refusal.label(), "bad_evidence");
            Err(refusal.to_string())
        }
    }
}

async fn attest(attestor: &X509Pop, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Attested, String> {
    let challenge = begin(attestor, chain).await?;
    let message = pop_message(&challenge.question(), &bound().csr);
    match challenge.answer(&sign(key, &message)).await {
        Ok(Step::Proven(attested)) => Ok(attested),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_node_that_has_the_key_is_named_and_described_by_its_certificate() {
    let root = Ca::new();
    let line = root.below();
    let attestor = attestor(&[&root], "edge-{commonName}");
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = key_of(algorithm);
        let chain = vec![line.leaf(&key, |_| {}), line.der()];
        let attested = attest(&attestor, chain, &key).await.unwrap();
        assert_eq!((attested.name.as_str(), attested.can_reattest), ("edge-web-1", true));
        let mut expected = vec![
            format!("x509pop:ca:fingerprint:{}", fingerprint(&line.der())),
            format!("x509pop:ca:fingerprint:{}", fingerprint(&root.der())),
            "x509pop:serialnumber:0aff".to_owned(),
            "x509pop:subject:cn:web-1".to_owned(),
        ];
        expected.sort();
        assert_eq!(attested.selectors.iter().map(Selector::to_string).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn an_answer_by_another_key_or_for_another_csr_or_challenge_proves_nothing() {
    let root = Ca::new();
    let attestor = attestor(&[&root], "{commonName}");
    let key = KeyPair::generate().unwrap();
    let chain = || vec![root.leaf(&key, |_| {})];
    let challenge = async || begin(&attestor, chain()).await.unwrap();
    let refuses = async |challenge: Box<dyn Challenge>, answer: Vec<u8>| {
        matches!(challenge.answer(&answer).await, Err(Refusal::BadEvidence(_)))
    };
    let (one, other) = (challenge().await, challenge().await);
    assert_ne!(one.question(), other.question());
    let replayed = sign(&key, &pop_message(&other.question(), b"the CSR"));
    assert!(refuses(one, replayed).await);
    let one = challenge().await;
    let elsewhere = sign(&key, &pop_message(&one.question(), b"another CSR"));
    assert!(refuses(one, elsewhere).await);
    let one = challenge().await;
    let stranger = sign(&KeyPair::generate().unwrap(), &pop_message(&one.question(), b"the CSR"));
    assert!(refuses(one, stranger).await);
    for nothing in [Vec::new(), vec![0; 64], vec![0x30; 1 << 20]] {
        assert!(refuses(challenge().await, nothing).await);
    }
}

#[tokio::test]
async fn each_certificate_that_is_no_good_is_told_why() {
    let (root, stranger) = (Ca::new(), Ca::new());
    let attestor = attestor(&[&root], "{commonName}");
    let key = KeyPair::generate().unwrap();
    let leaf = |change: fn(&mut CertificateParams)| root.leaf(&key, change);
    let good = leaf(|_| {});
    let named = |name: &'static str| {
        root.leaf(&key, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        })
    };
    for (chain, says) in [
        (vec![], "no certificate"),
        (vec![good.clone(); 9], "more than 8 certificates"),
        (vec![vec![0x30; 40_000].into()], "32 KiB"),
        (vec![b"garbage".to_vec().into()], "cannot be read"),
        (vec![[&*good, &[0]].concat().into()], "bytes after"),
        (vec![stranger.leaf(&key, |_| {})], "does not verify"),
        (vec![root.der()], "an authority's"),
        (vec![leaf(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment])], "may not sign"),
        (vec![leaf(|params| params.not_after = (now() - Duration::from_secs(1)).into())], "does not verify"),
        (vec![leaf(|params| params.not_before = (now() + Duration::from_secs(1)).into())], "does not verify"),
        // Bad input 34: what a template makes of an attacker's name is checked after it was put in.
        (vec![named("../x")], "no node's name"),
        (vec![named("{fingerprint}")], "no node's name"),
        (vec![named("")], "no node's name"),
        (vec![named("web-1/../controlplane")], "no node's name"),
        (vec![named("WEB")], "no node's name"),
    ] {
        let refused = attest(&attestor, chain, &key).await.unwrap_err();
        assert!(refused.contains(says), "{says}: {refused}");
    }
}

#[tokio::test]
async fn bad_034_a_template_makes_no_name_of_an_attackers_words() {
    let root = Ca::new();
    let attestor = attestor(&[&root], "{commonName}-{serialNumber}");
    let key = KeyPair::generate().unwrap();
    let named = |name: &'static str| {
        vec![root.leaf(&key, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        })]
    };
    assert_eq!(attest(&attestor, named("a"), &key).await.unwrap().name.as_str(), "a-0aff");
    for words in ["../x", "a/b", "a\u{0}", "{serialNumber}", "", "-"] {
        assert!(attest(&attestor, named(words), &key).await.unwrap_err().contains("no node's name"), "{words:?}");
    }
}

#[tokio::test]
async fn an_authority_that_has_expired_vouches_for_nobody() {
    let old = Ca::with(|params| params.not_after = (now() - Duration::from_secs(1)).into());
    let attestor = attestor(&[&old, &Ca::new()], "{fingerprint}");
    let key = KeyPair::generate().unwrap();
    assert!(attest(&attestor, vec![old.leaf(&key, |_| {})], &key).await.unwrap_err().contains("does not verify"));
}

#[tokio::test]
async fn by_default_a_node_is_named_by_its_fingerprint() {
    let root = Ca::new();
    let attestor = attestor(&[&root], NameTemplate::default().0.as_ref());
    let key = KeyPair::generate().unwrap();
    let leaf = root.leaf(&key, |_| {});
    let attested = attest(&attestor, vec![leaf.clone()], &key).await.unwrap();
    assert_eq!(attested.name.as_str(), format!("x509pop-{}", &fingerprint(&leaf)[..40]));
}

#[test]
fn a_name_that_is_the_same_for_all_is_no_template() {
    assert!("node".parse::<NameTemplate>().is_err());
    assert!("{CommonName}".parse::<NameTemplate>().is_err());
    assert!("a-{serialNumber}".parse::<NameTemplate>().is_ok());
}

#[test]
fn a_bundle_that_is_no_good_is_told_why() {
    let load = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        X509Pop::load(file.path(), NameTemplate::default(), Clock::manual(now())).unwrap_err().to_string()
    };
    assert!(load("").contains("no certificate"));
    assert!(load("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").contains("certificate 1"));
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().self_signed(&key).unwrap();
    assert!(load(&leaf.pem()).contains("no authority"));
    let missing = X509Pop::load(Path::new("/nowhere"), NameTemplate::default(), Clock::manual(now()));
    assert!(missing.unwrap_err().to_string().contains("/nowhere"));
}
