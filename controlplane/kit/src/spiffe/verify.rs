//! Chain verification against the leaf's own trust domain's authorities only (X-12 to X-14; invariant I2).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;

use super::bundle::Bundle;
use super::svid;

/// Bundles by trust domain; never merged.
pub type BundleTable = BTreeMap<TrustDomain, Arc<Bundle>>;

/// The longest chain looked at.
const MAX_CERTIFICATES: usize = 16;
/// The largest chain looked at.
const MAX_CHAIN_BYTES: usize = 64 * 1024;

/// Neither MD5 nor SHA-1 is among them.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);

/// Which side of TLS the leaf's owner is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// Why a chain is refused; `bad input` rows 80 to 97.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the chain is empty, or longer than 16 certificates or 64 KiB")]
    Size,
    #[error("the leaf: {0}")]
    Leaf(#[from] svid::SvidError),
    #[error("we hold no bundle of trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("not signed by an authority of {0}")]
    UnknownIssuer(TrustDomain),
    #[error("expired or not yet valid")]
    Validity,
    #[error("{0}")]
    Chain(String),
}

/// What a chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub id: SpiffeId,
    /// When it stops proving it: the first end of the chain's certificates and of the authority that vouches for it.
    pub until: SystemTime,
}

/// Trust anchors, parsed once per change of the bundles and not per handshake.
#[derive(Clone, Debug, Default)]
pub struct Anchors(BTreeMap<TrustDomain, Vec<Root>>);

/// webpki's anchor knows no validity, so we keep it beside.
#[derive(Clone, Debug)]
struct Root {
    anchor: TrustAnchor<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Anchors {
    /// Expired authorities are left out at each verification, not here: they may expire later.
    pub fn new(bundles: &BundleTable) -> Self {
        let root = |der: &CertificateDer<'static>| {
            let (not_before, not_after) = svid::validity(der).ok()?;
            Some(Root { anchor: webpki::anchor_from_trusted_cert(der).ok()?.to_owned(), not_before, not_after })
        };
        let roots = |bundle: &Bundle| bundle.x509.iter().filter_map(root).collect();
        Self(bundles.iter().map(|(domain, bundle)| (domain.clone(), roots(bundle))).collect())
    }

    /// The SPIFFE ID that the chain (leaf first) proves at `now`.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn verify(&self, chain: &[CertificateDer<'_>], usage: Usage, now: SystemTime) -> Result<SpiffeId, VerifyError> {
        Ok(self.check(chain, usage, now)?.id)
    }

    /// As [`Self::verify`], and until when.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn check(&self, chain: &[CertificateDer<'_>], usage: Usage, now: SystemTime) -> Result<Verified, VerifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Size)?;
        if chain.len() > MAX_CERTIFICATES || chain.iter().map(|der| der.len()).sum::<usize>() > MAX_CHAIN_BYTES {
            return Err(VerifyError::Size);
        }
        let id = svid::spiffe_id(leaf)?;
        let domain = id.trust_domain();
        let roots = self.0.get(domain).ok_or_else(|| VerifyError::UnknownTrustDomain(domain.clone()))?;
        let living: Vec<_> = roots.iter().filter(|root| root.lives(now)).collect();
        let root_end = match path(leaf, intermediates, &living, usage, now) {
            Err(ref error) if is_unknown_issuer(error) && living.len() < roots.len() => {
                // For the message only: was it signed by an authority that has expired?
                let all: Vec<_> = roots.iter().collect();
                let expired = path(leaf, intermediates, &all, usage, now).is_ok();
                return Err(if expired { VerifyError::Validity } else { VerifyError::UnknownIssuer(domain.clone()) });
            }
            other => other.map_err(|error| refusal(&error, intermediates, domain))?,
        };
        let ends = chain.iter().filter_map(|der| svid::validity(der).ok()).map(|(_, end)| end);
        let until = ends.chain([root_end]).min().unwrap_or(now);
        Ok(Verified { id, until })
    }
}

/// The end of the authority that vouches for the leaf.
fn path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[&Root],
    usage: Usage,
    now: SystemTime,
) -> Result<SystemTime, webpki::Error> {
    let anchors: Vec<_> = roots.iter().map(|root| root.anchor.clone()).collect();
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let purpose = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let leaf = EndEntityCert::try_from(leaf)?;
    let now = UnixTime::since_unix_epoch(since_epoch);
    let verified = leaf.verify_for_usage(ALGORITHMS.all, &anchors, intermediates, now, purpose, None, None)?;
    let vouching = roots.iter().filter(|root| root.anchor == *verified.anchor());
    Ok(vouching.map(|root| root.not_after).max().unwrap_or(SystemTime::UNIX_EPOCH))
}

fn refusal(error: &webpki::Error, intermediates: &[CertificateDer<'_>], domain: &TrustDomain) -> VerifyError {
    match error {
        error if is_unknown_issuer(error) => VerifyError::UnknownIssuer(domain.clone()),
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => VerifyError::Validity,
        webpki::Error::NameConstraintViolation => VerifyError::Chain(if intermediates.iter().any(constrains_uris) {
            "an authority in the chain carries a URI name constraint; these cannot be checked and are refused".into()
        } else {
            "a name constraint of an authority forbids this leaf, or constrains URIs, which cannot be checked".into()
        }),
        other => VerifyError::Chain(format!("the chain does not verify: {other}")),
    }
}

/// An issuer with a known name and another key is no less unknown.
fn is_unknown_issuer(error: &webpki::Error) -> bool {
    matches!(error, webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey)
}

fn constrains_uris(certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = svid::parse(certificate) else { return false };
    let Ok(Some(constraints)) = parsed.name_constraints() else { return false };
    let trees = [&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees];
    trees.into_iter().flatten().flatten().any(|tree| matches!(tree.base, GeneralName::URI(_)))
}

impl Root {
    fn lives(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

impl VerifyError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Size => "chain_size",
            Self::Leaf(_) => "leaf",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::UnknownIssuer(_) => "unknown_issuer",
            Self::Validity => "validity",
            Self::Chain(_) => "chain",
        }
    }
}

#[cfg(test)]
mod tests;
