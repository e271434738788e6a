use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, GeneralSubtree, IsCa, NameConstraints, SanType};

use super::*;
use crate::spiffe::testing::cases::{self, Case};
use crate::spiffe::testing::{Ca, HOUR, noon, patched, table};

mod limbo;

const ID: &str = "spiffe://a.example/shop";

fn verify(trusted: &[&Ca], chain: &[CertificateDer<'static>], now: SystemTime) -> Result<SpiffeId, VerifyError> {
    let anchors = Anchors::new(&table(trusted));
    let as_server = anchors.verify(chain, Usage::Server, now);
    assert_eq!(as_server, anchors.verify(chain, Usage::Client, now), "both sides judge alike");
    as_server
}

fn leaf(ca: &Ca) -> CertificateDer<'static> {
    ca.leaf(ID, |_| {})
}

#[test]
fn x_12_a_good_chain_proves_its_id() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    assert_eq!(verify(&[&a, &b], &[leaf(&a)], noon()).unwrap().as_str(), ID);
    let below = a.intermediate(|_| {});
    assert_eq!(verify(&[&a, &b], &[leaf(&below), below.certificate()], noon()).unwrap().as_str(), ID);
    let unknown = VerifyError::UnknownIssuer("a.example".parse().unwrap());
    assert_eq!(verify(&[&a], &[leaf(&below)], noon()), Err(unknown), "its intermediate is missing");
}

#[test]
fn the_first_end_counts() {
    let root = Ca::with("a.example", |params| params.not_after = (noon() + 3 * HOUR).into());
    let below = root.intermediate(|params| params.not_after = (noon() + 2 * HOUR).into());
    let anchors = Anchors::new(&table(&[&root]));
    let until = |chain: &[CertificateDer<'static>]| anchors.check(chain, Usage::Server, noon()).unwrap().until;
    let long = |params: &mut CertificateParams| params.not_after = (noon() + 9 * HOUR).into();
    assert_eq!(until(&[leaf(&root)]), noon() + HOUR);
    assert_eq!(until(&[below.leaf(ID, long), below.certificate()]), noon() + 2 * HOUR);
    assert_eq!(until(&[root.leaf(ID, long)]), noon() + 3 * HOUR);
}

#[test]
fn bad_080_size() {
    let a = Ca::new("a.example");
    assert_eq!(verify(&[&a], &[], noon()), Err(VerifyError::Size));
    let chain = |certificates| std::iter::repeat_n(leaf(&a), certificates).collect::<Vec<_>>();
    assert!(verify(&[&a], &chain(16), noon()).is_ok());
    assert_eq!(verify(&[&a], &chain(17), noon()), Err(VerifyError::Size));
    assert_eq!(verify(&[&a], &chain(101), noon()), Err(VerifyError::Size));
    let padding = |bytes: usize| vec![leaf(&a), CertificateDer::from(vec![0; bytes])];
    let room = 64 * 1024 - leaf(&a).len();
    assert_eq!(verify(&[&a], &padding(64 * 1024), noon()), Err(VerifyError::Size));
    assert_eq!(verify(&[&a], &padding(room + 8), noon()), Err(VerifyError::Size), "all certificates count");
    assert!(verify(&[&a], &padding(room - 8), noon()).is_ok(), "what is on no path is not read");
}

/// Made once: it takes a good many keys.
static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| cases::cases(noon()));

/// What the verifier says of a case, on both sides of TLS.
fn verdict(case: &Case) -> Result<SpiffeId, VerifyError> {
    let domain: TrustDomain = cases::TRUST_DOMAIN.parse().unwrap();
    let bundle = Bundle::new(domain.clone(), 1, Duration::from_secs(300), case.trusted.clone());
    let anchors = Anchors::new(&[(domain, Arc::new(bundle))].into());
    let as_server = anchors.verify(&case.chain, Usage::Server, noon());
    assert_eq!(as_server, anchors.verify(&case.chain, Usage::Client, noon()), "{}: both sides judge alike", case.name);
    as_server
}

/// Refuses every case with this beginning, and there is one, for a reason with this label that says `why`.
fn refused(beginning: &str, label: &str, why: &str) {
    let cases: Vec<_> = CASES.iter().filter(|case| case.name.starts_with(beginning)).collect();
    assert!(!cases.is_empty(), "no case is about {beginning}");
    for case in cases {
        let error = verdict(case).unwrap_err();
        assert_eq!(error.label(), label, "{}: {error}", case.name);
        assert!(error.to_string().contains(why), "{}: {error:?} does not say {why:?}", case.name);
    }
}

#[test]
fn every_case_gets_the_verdict_it_deserves() {
    for case in CASES.iter() {
        let verdict = verdict(case);
        assert_eq!(verdict.is_ok(), case.accepted, "{} ({}): {verdict:?}", case.name, case.what);
        if let Ok(id) = verdict {
            assert!(id.as_str().starts_with(ID), "{}: {id}", case.name);
        }
    }
    let names: std::collections::BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), CASES.len(), "names are unique");
    let lines: std::collections::BTreeSet<_> = CASES.iter().map(Case::line).collect();
    for line in (1..=14).map(|number| format!("X-{number}")) {
        assert!(lines.contains(&line), "no mutant breaks {line}");
    }
}

#[test]
fn x_1_one_uri_of_leaf_and_authority() {
    refused("x_1_no", "leaf", "no URI name");
    refused("x_1_only", "leaf", "no URI name");
    refused("x_1_two", "leaf", "more than one URI");
    refused("x_1_one_id_twice", "leaf", "more than one URI");
    refused("x_1_id_and", "leaf", "more than one URI");
    refused("x_1_second", "leaf", "cannot be read");
    refused("x_1_authority", "authority", "more than one URI");
}

#[test]
fn x_4_an_authoritys_id_has_no_path_and_is_of_its_domain() {
    refused("x_4_authority_with_a_path", "authority", "has a path");
    refused("x_4_authority_of_another", "authority", "another trust domain");
    let a = Ca::new("a.example");
    let elsewhere = a.intermediate(|params| {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        params.subject_alt_names = vec![uri("https://pki.example/a"), uri("https://pki.example/b")];
    });
    let chain = [leaf(&elsewhere), elsewhere.certificate()];
    assert!(
        verify(&[&a], &chain, noon()).is_ok(),
        "an authority whose URIs are no SPIFFE IDs has none, and needs none"
    );
}

#[test]
fn x_5_an_authority_never_authenticates() {
    refused("x_5_", "leaf", "CA:TRUE");
}

#[test]
fn x_6_authorities_and_leaves_are_told_apart() {
    refused("x_6_leaf", "leaf", "CA:TRUE");
    refused("x_6_intermediate", "chain", "");
    refused("x_6_root", "unknown_issuer", "not signed by an authority");
}

#[test]
fn x_7_uri_name_constraints_are_found_and_refused() {
    refused("x_7_", "uri_name_constraint", "URI name constraint");
    let a = Ca::new("a.example");
    assert!(!uri_name_constraints(&a.certificate()));
    let dns = a.intermediate(|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("a.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    assert!(!uri_name_constraints(&dns.certificate()), "a constraint on DNS names is none on URIs");
    assert!(!uri_name_constraints(&CertificateDer::from(vec![1, 2, 3])));
    for case in CASES.iter().filter(|case| case.name.starts_with("x_7_")) {
        assert!(case.chain.iter().chain(&case.trusted).any(uri_name_constraints), "{}", case.name);
    }
}

#[test]
fn x_8_an_authoritys_key_usage_is_critical_if_it_is_an_svid() {
    refused("x_8_intermediate", "authority", "not critical");
    let a = Ca::new("a.example");
    let plain = a.intermediate(|params| {
        params.subject_alt_names.clear();
        params.key_usages.clear();
    });
    assert!(
        verify(&[&a], &[leaf(&plain), plain.certificate()], noon()).is_ok(),
        "it is no SVID: RFC 5280 asks for none"
    );
}

#[test]
fn x_9_an_authority_may_sign_certificates() {
    refused("x_9_intermediate", "authority", "lacks keyCertSign");
    refused("x_9_root", "unknown_issuer", "");
}

#[test]
fn bad_081_a_leaf_that_is_an_authority() {
    refused("x_6_leaf", "leaf", "CA:TRUE");
}

#[test]
fn bad_082_a_leaf_that_may_sign() {
    refused("x_10_leaf_signs", "leaf", "keyCertSign or cRLSign");
}

#[test]
fn bad_083_a_leaf_that_may_not_authenticate() {
    refused("x_10_no_digital_signature", "leaf", "lacks digitalSignature");
    refused("x_8_no_key_usage", "leaf", "no key usage");
}

#[test]
fn bad_084_half_of_the_extended_usages() {
    refused("x_11_", "leaf", "both serverAuth and clientAuth");
}

#[test]
fn bad_085_no_uri_and_two() {
    refused("x_1_no", "leaf", "no URI name");
    refused("x_1_two", "leaf", "more than one URI");
}

#[test]
fn x_13_what_is_no_workloads_id() {
    refused("x_13_", "leaf", "does not begin with spiffe://");
    refused("x_2_", "leaf", "path is empty");
    refused("id_", "leaf", "its SPIFFE ID");
}

/// The ID and the public key lie inside what is signed: no byte of a leaf can change, and it still proves something.
#[test]
fn id_10_every_byte_of_a_leaf_is_signed() {
    let a = Ca::new("a.example");
    let (anchors, good) = (Anchors::new(&table(&[&a])), leaf(&a));
    for at in 0..good.len() {
        let mut changed = good.to_vec();
        changed[at] ^= 0x20; // a letter of the ID becomes another letter, a valid one
        let verdict = anchors.verify(&[changed.into()], Usage::Server, noon());
        assert!(verdict.is_err(), "byte {at}: {verdict:?}");
    }
}

/// An extended key usage of an authority binds what is below it: one for servers vouches for no client.
#[test]
fn x_12_an_authority_for_one_side_of_tls() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let a = Ca::new("a.example");
    let anchors = Anchors::new(&table(&[&a]));
    for (its, good, bad) in [(ServerAuth, Usage::Server, Usage::Client), (ClientAuth, Usage::Client, Usage::Server)] {
        let below = a.intermediate(|params| params.extended_key_usages = vec![its.clone()]);
        let chain = [leaf(&below), below.certificate()];
        assert_eq!(anchors.verify(&chain, good, noon()).unwrap().as_str(), ID, "{its:?}");
        let error = anchors.verify(&chain, bad, noon()).unwrap_err();
        assert!(matches!(error, VerifyError::Chain(_)), "{its:?}: {error}");
    }
}

/// A path that does not hold hides none that does: here by an authority that was certified twice, once as it should not be.
#[test]
fn x_12_the_good_one_of_two_paths_is_found() {
    let root = Ca::new("a.example");
    let expired = Ca::with("a.example", |params| params.not_after = (noon() - HOUR / 2).into());
    let anchors = Anchors::new(&table(&[&root]));
    let key = rcgen::KeyPair::generate().unwrap();
    let twice = |issuer: &Ca, change: fn(&mut CertificateParams)| issuer.intermediate_for(&key, change);
    let good = twice(&root, |_| {});
    let with_path = twice(&root, |params| params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())]);
    let leaf = good.leaf(ID, |_| {});
    for chain in [
        [leaf.clone(), with_path.certificate(), good.certificate()],
        [leaf.clone(), good.certificate(), with_path.certificate()],
    ] {
        assert_eq!(anchors.verify(&chain, Usage::Server, noon()).unwrap().as_str(), ID);
    }
    let mut bundle = root.bundle();
    bundle.x509.insert(0, expired.certificate());
    let anchors = Anchors::new(&[(root.trust_domain, Arc::new(bundle))].into());
    assert!(anchors.verify(&[leaf.clone(), good.certificate()], Usage::Server, noon()).is_ok());
    assert_eq!(anchors.verify(&[expired.leaf(ID, |_| {})], Usage::Server, noon()), Err(VerifyError::Validity));
}

#[test]
fn errors_have_the_labels_that_the_page_lists() {
    let domain: TrustDomain = "a.example".parse().unwrap();
    for (error, label) in [
        (VerifyError::Size, "chain_size"),
        (VerifyError::Leaf(SvidError::Malformed), "leaf"),
        (VerifyError::UnknownTrustDomain(domain.clone()), "unknown_trust_domain"),
        (VerifyError::UnknownIssuer(domain), "unknown_issuer"),
        (VerifyError::Validity, "validity"),
        (VerifyError::Authority(SvidError::Malformed), "authority"),
        (VerifyError::UriNameConstraint, "uri_name_constraint"),
        (VerifyError::Chain(String::new()), "chain"),
    ] {
        assert_eq!(error.label(), label);
    }
}

#[test]
fn x_14_only_the_leafs_own_domains_authorities() {
    refused("x_14_impostor", "unknown_issuer", "a.example");
    refused("x_14_foreign_id", "unknown_trust_domain", "b.example");
    refused("x_14_foreign_root", "unknown_issuer", "a.example");
    refused("x_14_self_signed", "unknown_issuer", "a.example");
}

#[test]
fn bad_086_another_domains_root() {
    let (a, b, impostor) = (Ca::new("a.example"), Ca::new("b.example"), Ca::new("a.example"));
    let unknown = Err(VerifyError::UnknownIssuer("a.example".parse().unwrap()));
    assert_eq!(verify(&[&a, &b], &[leaf(&b)], noon()), unknown, "B's authority signed an ID of A");
    assert_eq!(verify(&[&a, &b], &[leaf(&impostor)], noon()), unknown);
    let unheld = Err(VerifyError::UnknownTrustDomain("a.example".parse().unwrap()));
    assert_eq!(verify(&[&b], &[leaf(&a)], noon()), unheld);
}

#[test]
fn bad_087_our_root_cannot_sign_foreign_ids() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let foreign = a.leaf("spiffe://b.example/shop", |_| {});
    let unknown = Err(VerifyError::UnknownIssuer("b.example".parse().unwrap()));
    assert_eq!(verify(&[&a, &b], std::slice::from_ref(&foreign), noon()), unknown);
    // Nor does the root help as part of the chain.
    assert_eq!(verify(&[&a, &b], &[foreign, a.certificate()], noon()), unknown);
}

#[test]
fn bad_088_validity_of_leaf_and_intermediate() {
    let a = Ca::new("a.example");
    let chain = [leaf(&a)];
    assert_eq!(verify(&[&a], &chain, noon() - Duration::from_secs(11)), Err(VerifyError::Validity));
    assert_eq!(verify(&[&a], &chain, noon() + HOUR + Duration::from_secs(1)), Err(VerifyError::Validity));
    let short = a.intermediate(|params| params.not_after = (noon() + HOUR / 2).into());
    let chain = [leaf(&short), short.certificate()];
    assert!(verify(&[&a], &chain, noon()).is_ok());
    assert_eq!(verify(&[&a], &chain, noon() + HOUR / 2 + Duration::from_secs(1)), Err(VerifyError::Validity));
}

#[test]
fn bad_089_an_expired_root_verifies_nothing() {
    let a = Ca::with("a.example", |params| params.not_after = (noon() + HOUR / 2).into());
    let anchors = Anchors::new(&table(&[&a]));
    let chain = [leaf(&a)];
    assert!(anchors.verify(&chain, Usage::Server, noon()).is_ok());
    // The same anchors, later: it is looked at in each verification.
    let second = Duration::from_secs(1);
    assert!(anchors.verify(&chain, Usage::Server, noon() + HOUR / 2).is_ok(), "notAfter itself is included");
    assert_eq!(anchors.verify(&chain, Usage::Server, noon() + HOUR / 2 + second), Err(VerifyError::Validity));
    assert_eq!(anchors.verify(&chain, Usage::Server, noon() - 2 * HOUR), Err(VerifyError::Validity));
}

#[test]
fn bad_090_path_length() {
    let a = Ca::new("a.example");
    let last = a.intermediate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert!(verify(&[&a], &[leaf(&last), last.certificate()], noon()).is_ok());
    let beyond = last.intermediate(|params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "beyond");
    });
    let error = verify(&[&a], &[leaf(&beyond), beyond.certificate(), last.certificate()], noon()).unwrap_err();
    assert!(matches!(error, VerifyError::Chain(_)), "{error}");
}

#[test]
fn bad_091_uri_name_constraints() {
    refused("x_7_uris_permitted", "uri_name_constraint", "URI name constraint");
    // Even one that permits this very ID: nobody checks it alike, so nobody may rely on it.
    let a = Ca::new("a.example");
    let constrained = a.intermediate(|params| {
        let mut extension = CustomExtension::from_oid_content(
            &[2, 5, 29, 30],
            [&[0x30, 15, 0xa0, 13, 0x30, 11, 0x86, 9], b"a.example".as_slice()].concat(),
        );
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    let error = verify(&[&a], &[leaf(&constrained), constrained.certificate()], noon()).unwrap_err();
    assert_eq!(error, VerifyError::UriNameConstraint);
}

#[test]
fn bad_092_dns_names_and_constraints() {
    let a = Ca::new("a.example");
    let constrained = a.intermediate(|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("inside.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let named = |name: &str| {
        let name = SanType::DnsName(name.try_into().unwrap());
        let leaf = constrained.leaf(ID, |params| params.subject_alt_names.push(name));
        verify(&[&a], &[leaf, constrained.certificate()], noon())
    };
    assert!(named("shop.inside.example").is_ok());
    assert!(named("shop.outside.example").is_err());
    assert!(named("*.example").is_err());
}

#[test]
fn bad_093_an_intermediate_signed_with_sha1() {
    const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    const SHA1_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let root = Ca::at(noon(), "a.example", key, |_| {});
    let below = root.intermediate(|_| {});
    let weak = patched(&below.certificate(), &SHA256_WITH_RSA, &SHA1_WITH_RSA);
    assert!(verify(&[&root], &[leaf(&below), below.certificate()], noon()).is_ok());
    assert!(verify(&[&root], &[leaf(&below), weak], noon()).is_err());
}

#[test]
fn bad_093_weak_keys_and_algorithms() {
    refused("bad_093_p192", "leaf", "public key");
    let a = Ca::new("a.example");
    const P256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P192: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1];
    let below = a.intermediate(|_| {});
    let weak = a.signed_again(&below.certificate(), |signed| {
        let at = signed.windows(8).position(|window| window == P256).unwrap();
        signed[at..at + 8].copy_from_slice(&P192);
    });
    assert!(verify(&[&a], &[leaf(&below), weak], noon()).is_err(), "an intermediate on P-192");
    let root = Ca::new("a.example");
    let mut bundle = root.bundle();
    bundle.x509 = vec![patched(&root.certificate(), &P256, &P192)];
    let anchors = Anchors::new(&[(root.trust_domain.clone(), Arc::new(bundle))].into());
    let unknown = Err(VerifyError::UnknownIssuer(root.trust_domain.clone()));
    assert_eq!(anchors.verify(&[leaf(&root)], Usage::Server, noon()), unknown, "a root on P-192 is none");
}

#[test]
fn bad_094_serial_numbers_of_leaf_and_authority() {
    refused("bad_094_", "leaf", "serial number");
    let a = Ca::new("a.example");
    let below = a.intermediate(|params| params.serial_number = Some(vec![0].into()));
    let error = verify(&[&a], &[leaf(&below), below.certificate()], noon()).unwrap_err();
    assert_eq!(error.label(), "authority", "{error}");
}

#[test]
fn bad_095_unknown_critical_extensions_of_leaf_and_authority() {
    refused("bad_095_unknown_critical_above", "chain", "Critical");
    refused("bad_095_twice", "leaf", "twice");
}

#[test]
fn bad_097_only_der_gets_through() {
    refused("bad_097_", "leaf", "");
}

/// Counts what a real algorithm is asked for.
#[derive(Debug)]
struct Counted(&'static dyn SignatureVerificationAlgorithm, std::sync::atomic::AtomicUsize);

impl SignatureVerificationAlgorithm for Counted {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), rustls_pki_types::InvalidSignature> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> rustls_pki_types::AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> rustls_pki_types::AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

#[test]
fn bad_096_same_subjects_do_not_explode() {
    // Intermediates of one name, each of which may have signed each other, below as many roots of that name: each order of them could
    // be a path, and the search tries them before it knows that none of them leads anywhere.
    let strangers: Vec<_> = (0..15).map(|_| Ca::new("a.example")).collect();
    let roots: Vec<_> = (0..200).map(|_| Ca::new("a.example").certificate()).collect();
    let bundle = Bundle::new("a.example".parse().unwrap(), 1, Duration::from_secs(300), roots);
    let roots = Roots::of(&bundle);
    assert_eq!(roots.anchors.len(), 200);
    let algorithm = Counted(webpki::aws_lc_rs::ECDSA_P256_SHA256, std::sync::atomic::AtomicUsize::new(0));
    let intermediates: Vec<_> = strangers.iter().map(Ca::certificate).collect();
    let error = roots
        .path(&bundle.trust_domain, &leaf(&strangers[0]), &intermediates, Usage::Server, noon(), &[&algorithm])
        .unwrap_err();
    let checks = algorithm.1.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(checks, 100, "{error}");
    assert_eq!(error.label(), "chain", "{error}");
}

/// A chain of three, and the anchors that verify it.
static THREE: LazyLock<(Anchors, Vec<CertificateDer<'static>>)> = LazyLock::new(|| {
    let root = Ca::new("a.example");
    let upper = root.intermediate(|_| {});
    let lower = upper.intermediate(|params| params.distinguished_name.push(rcgen::DnType::CommonName, "lower"));
    (Anchors::new(&table(&[&root])), vec![leaf(&lower), lower.certificate(), upper.certificate()])
});

proptest! {
    /// Bytes changed, lost, doubled or put in, in any certificate of a chain: nothing panics, and nothing proves what it did not prove.
    #[test]
    fn bad_097_no_damage_makes_a_chain_prove_something_else(
        which in 0..3usize, at in 0..2048usize, length in 1..40usize, how in 0..4u8, noise in any::<[u8; 40]>()
    ) {
        let (anchors, good) = &*THREE;
        let mut chain = good.clone();
        let mut bytes = chain[which].to_vec();
        let from = at % bytes.len();
        let to = (from + length).min(bytes.len());
        match how {
            0 => bytes[from..to].copy_from_slice(&noise[..to - from]),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.extend_from_within(from..to),
            _ => drop(bytes.splice(from..from, noise)),
        }
        chain[which] = bytes.into();
        let verdict = anchors.verify(&chain, Usage::Server, noon());
        prop_assert!(verdict.is_err() || chain == *good, "{:?}", verdict);
    }

    #[test]
    fn bad_097_any_bytes_are_survived(first: Vec<u8>, second: Vec<u8>) {
        prop_assert!(THREE.0.verify(&[first.into(), second.into()], Usage::Client, noon()).is_err());
    }
}
