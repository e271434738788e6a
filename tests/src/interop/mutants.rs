//! X.509-SVIDs that are wrong in one respect each, and some that are right: at least one per line of X509-SVID.md that a chain can
//! break. Each is signed properly, so that nothing but its fault can be why it is refused.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use symbolon_kit::octets;

use super::cases::{Case, Expect, Input};

pub const DOMAIN: &str = "a.example";
const ID: &str = "spiffe://a.example/ns/shop/sa/payments";
const HOUR: Duration = Duration::from_secs(3600);

/// Object identifiers, as rcgen's own extensions want them.
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

/// An authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

type Change<'a> = &'a dyn Fn(&mut CertificateParams);

impl Ca {
    /// # Panics
    /// If rcgen cannot sign: then nothing here can be tested.
    pub fn new(domain: &str, change: Change<'_>) -> Self {
        let (params, key) = (authority(domain, change), KeyPair::generate().expect("a key"));
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn below(&self, domain: &str, change: Change<'_>) -> Self {
        let (params, key) = (authority(domain, change), KeyPair::generate().expect("a key"));
        Self(CertifiedIssuer::signed_by(params, key, &self.0).expect("an intermediate"))
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Chain and key.
    fn leaf(&self, change: Change<'_>) -> Input {
        let key = KeyPair::generate().expect("a key");
        let params = leaf(change);
        let leaf = params.signed_by(&key, &self.0).expect("a leaf").der().clone();
        Input::X509 { chain: vec![leaf], key: key.serialize_der() }
    }

    /// A JWK of the authority, by its certificate.
    ///
    /// # Panics
    /// Never: its key is P-256.
    pub fn jwk(&self) -> Value {
        let (x, y) = self.0.key().der_bytes()[1..].split_at(32);
        json!({
            "use": "x509-svid", "kty": "EC", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            "x5c": [STANDARD.encode(self.certificate())],
        })
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ca")
    }
}

/// A bundle with these keys.
pub fn bundle(keys: &[Value]) -> Value {
    json!({ "keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 60 })
}

fn authority(domain: &str, change: Change<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{domain} {}", octets::hex(&octets::random::<4>())));
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, HOUR, 23 * HOUR);
    change(&mut params);
    params
}

fn leaf(change: Change<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, Duration::from_secs(60), HOUR);
    change(&mut params);
    params
}

/// From so long ago until so far ahead.
fn valid(params: &mut CertificateParams, ago: Duration, ahead: Duration) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(symbolon_kit::clock::unix_secs(now()).unsigned_abs());
    params.not_before = (now - ago).into();
    params.not_after = (now + ahead).into();
}

fn now() -> SystemTime {
    symbolon_kit::clock::Clock::system().now()
}

fn serial() -> SerialNumber {
    let mut bytes = octets::random::<16>();
    bytes[0] = bytes[0] & 0x7f | 0x40; // positive, and as long as it looks
    SerialNumber::from_slice(&bytes)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI is ASCII"))
}

/// A DER element of less than 128 bytes.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("short");
    [&[tag, length], content].concat()
}

/// Its alternative name not critical, although the subject is empty.
fn names_not_critical(params: &mut CertificateParams) {
    params.subject_alt_names.clear();
    let names = element(0x30, &element(0x86, ID.as_bytes()));
    params.custom_extensions.push(CustomExtension::from_oid_content(SUBJECT_ALT_NAME, names));
}

fn usage_not_critical(params: &mut CertificateParams) {
    params.key_usages.clear();
    let digital_signature = vec![0x03, 0x02, 0x07, 0x80];
    params.custom_extensions.push(CustomExtension::from_oid_content(KEY_USAGE, digital_signature));
}

/// Only URIs of this host may be named below.
fn only_uris_of(params: &mut CertificateParams, host: &str) {
    let subtree = element(0x30, &element(0x86, host.as_bytes()));
    let mut extension = CustomExtension::from_oid_content(NAME_CONSTRAINTS, element(0x30, &element(0xa0, &subtree)));
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

/// Every case about chains.
///
/// # Panics
/// If rcgen cannot sign.
pub fn x509() -> Vec<Case> {
    let root = Ca::new(DOMAIN, &|_| {});
    let foreign = Ca::new("b.example", &|_| {});
    let mut cases = Vec::new();
    let mut add = |name: &str, expect: Expect, roots: &[&Ca], input: Input| {
        let bundle = bundle(&roots.iter().map(|root| root.jwk()).collect::<Vec<_>>());
        cases.push(Case { name: name.into(), expect, trust_domain: DOMAIN.into(), bundle, input });
    };
    use Expect::{Accept, Refuse};
    add("x_0_plain", Accept, &[&root], root.leaf(&|_| {}));
    leaves(&root, &mut |name, expect, input| add(name, expect, &[&root], input));

    let signs_for_b = root.leaf(&|params| params.subject_alt_names = vec![uri("spiffe://b.example/web")]);
    add("x_14_id_of_another_trust_domain", Refuse, &[&root], signs_for_b);
    add("x_14_root_of_another_trust_domain", Refuse, &[&root], foreign.leaf(&|_| {}));

    let with_path = Ca::new(DOMAIN, &|params| params.subject_alt_names = vec![uri("spiffe://a.example/authority")]);
    add("x_4_authority_with_a_path", Refuse, &[&with_path], with_path.leaf(&|_| {}));
    let (itself, key) = (root.certificate(), root.0.key().serialize_der());
    add("x_5_authority_presents_itself", Refuse, &[&root], Input::X509 { chain: vec![itself], key });
    let crl_only = Ca::new(DOMAIN, &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    add("x_9_authority_without_key_cert_sign", Refuse, &[&crl_only], crl_only.leaf(&|_| {}));
    let expired = Ca::new(DOMAIN, &|params| {
        valid(params, 2 * HOUR, Duration::ZERO);
        params.not_after = (now() - HOUR).into();
    });
    add("x_12_expired_authority", Refuse, &[&expired], expired.leaf(&|_| {}));
    intermediates(&root, &mut |name, expect, input| add(name, expect, &[&root], input));
    cases
}

/// Leaves of a good root.
fn leaves(root: &Ca, add: &mut dyn FnMut(&str, Expect, Input)) {
    use Expect::{Accept, Refuse};
    let mut leaf = |name: &str, expect, change: Change<'_>| add(name, expect, root.leaf(change));
    leaf("x_1_with_dns_names", Accept, &|params| {
        params.subject_alt_names.push(SanType::DnsName("payments.shop".try_into().expect("ASCII")));
    });
    leaf("x_1_no_uri_name", Refuse, &|params| {
        params.subject_alt_names = vec![SanType::DnsName("payments.shop".try_into().expect("ASCII"))];
    });
    leaf("x_1_two_uri_names", Refuse, &|params| params.subject_alt_names.push(uri("https://a.example/also")));
    leaf("x_2_root_path", Refuse, &|params| params.subject_alt_names = vec![uri("spiffe://a.example")]);
    leaf("x_3_names_not_critical", Refuse, &names_not_critical);
    leaf("x_6_leaf_is_an_authority", Refuse, &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    leaf("x_8_key_usage_not_critical", Refuse, &usage_not_critical);
    leaf("x_8_no_key_usage", Refuse, &|params| params.key_usages.clear());
    leaf("x_10_no_digital_signature", Refuse, &|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    leaf("x_10_key_cert_sign", Refuse, &|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    leaf("x_10_key_agreement_too", Accept, &|params| {
        params.key_usages.extend([KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]);
    });
    leaf("x_11_no_extended_key_usage", Accept, &|params| params.extended_key_usages.clear());
    leaf("x_11_client_auth_only", Refuse, &|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    leaf("x_12_expired", Refuse, &|params| params.not_after = (now() - Duration::from_secs(30)).into());
    leaf("x_12_not_yet_valid", Refuse, &|params| params.not_before = (now() + HOUR / 2).into());
    leaf("x_13_crl_sign", Refuse, &|params| params.key_usages.push(KeyUsagePurpose::CrlSign));
    leaf("x_13_not_spiffe", Refuse, &|params| params.subject_alt_names = vec![uri("https://a.example/ns/shop")]);
}

/// Chains of three.
fn intermediates(root: &Ca, add: &mut dyn FnMut(&str, Expect, Input)) {
    use Expect::{Accept, Refuse};
    let mut through = |name: &str, expect, change: Change<'_>| {
        let middle = root.below(DOMAIN, change);
        let Input::X509 { mut chain, key } = middle.leaf(&|_| {}) else { return };
        chain.push(middle.certificate());
        add(name, expect, Input::X509 { chain, key });
    };
    through("x_12_intermediate", Accept, &|_| {});
    through("x_7_uri_constraint_that_forbids_it", Refuse, &|params| only_uris_of(params, "b.example"));
    through("x_6_intermediate_is_no_authority", Refuse, &|params| params.is_ca = IsCa::ExplicitNoCa);
    through("x_9_intermediate_without_key_cert_sign", Refuse, &|params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    let narrow = root.below(DOMAIN, &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = narrow.below(DOMAIN, &|_| {});
    let Input::X509 { mut chain, key } = below.leaf(&|_| {}) else { return };
    chain.extend([below.certificate(), narrow.certificate()]);
    add("x_6_path_length_exceeded", Refuse, Input::X509 { chain, key });
    let missing = root.below(DOMAIN, &|_| {}).leaf(&|_| {});
    add("x_12_intermediate_missing", Refuse, missing);
}

/// Bundles whose strange elements must be ignored, and some that must be refused whole.
///
/// # Panics
/// If rcgen cannot sign.
pub fn bundles() -> Vec<Case> {
    use Expect::{Accept, Refuse};
    let (root, other) = (Ca::new(DOMAIN, &|_| {}), Ca::new(DOMAIN, &|_| {}));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut key = other.jwk();
        change(&mut key);
        bundle(&[root.jwk(), key])
    };
    let table: [(&str, Expect, Value); 9] = [
        ("b_1_without_a_sequence", Accept, json!({ "keys": [root.jwk()], "spiffe_refresh_hint": 60 })),
        ("b_3_no_keys_member", Refuse, json!({ "spiffe_sequence": 1 })),
        ("b_4_unknown_kty", Accept, with(&|key| key["kty"] = "XX".into())),
        ("b_5_unknown_use", Accept, with(&|key| key["use"] = "tls-svid".into())),
        ("b_5_no_use", Accept, with(&|key| drop(key.as_object_mut().and_then(|key| key.remove("use"))))),
        (
            "b_5_wit_svid",
            Accept,
            with(&|key| {
                key["use"] = "wit-svid".into();
                key["kid"] = "w".into();
                key.as_object_mut().and_then(|key| key.remove("x5c"));
            }),
        ),
        (
            "x_16_two_x5c",
            Accept,
            with(&|key| {
                let one = key["x5c"][0].clone();
                key["x5c"] = json!([one, STANDARD.encode(root.certificate())]);
            }),
        ),
        ("x_16_no_x5c", Accept, with(&|key| drop(key.as_object_mut().and_then(|key| key.remove("x5c"))))),
        ("b_6_unknown_members", Accept, with(&|key| key["example"] = json!({ "deep": [1, 2] }))),
    ];
    let case = |(name, expect, bundle): (&str, Expect, Value)| Case {
        name: name.into(),
        expect,
        trust_domain: DOMAIN.into(),
        bundle,
        input: Input::Bundle,
    };
    table.into_iter().map(case).collect()
}
