//! Chain verification against the leaf's own trust domain's authorities only (X-12 to X-14; invariant I2).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::extensions::GeneralName;

use super::bundle::Bundle;
use super::svid::{self, SvidError};

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
    Leaf(#[from] SvidError),
    #[error("we hold no bundle of trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    #[error("not signed by an authority of {0}")]
    UnknownIssuer(TrustDomain),
    #[error("expired or not yet valid")]
    Validity,
    #[error("an authority in the chain: {0}")]
    Authority(SvidError),
    #[error("an authority of the chain carries a URI name constraint; these cannot be checked and are refused")]
    UriNameConstraint,
    #[error("{0}")]
    Chain(String),
}

/// What a chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub id: SpiffeId,
    /// When it stops proving it: the first end of the certificates on the path and of the authority that vouches for it.
    pub until: SystemTime,
}

/// Trust anchors, parsed once per change of the bundles and not per handshake.
#[derive(Clone, Debug, Default)]
pub struct Anchors(BTreeMap<TrustDomain, Roots>);

/// The authorities of one trust domain. webpki's anchors know no validity, so it stands beside them, in the same order.
#[derive(Clone, Debug, Default)]
struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    validity: Vec<(SystemTime, SystemTime)>,
    constrain_uris: bool,
}

/// Whether an authority carries a name constraint on URIs. No verifier that we know of checks these for SPIFFE IDs, and webpki
/// refuses every URI below them: such an authority can vouch for no SVID (X-7, bad input 91).
pub fn uri_name_constraints(certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = svid::parse(certificate) else { return false };
    let Ok(Some(constraints)) = parsed.name_constraints() else { return false };
    let trees = [&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees];
    trees.into_iter().flatten().flatten().any(|tree| matches!(tree.base, GeneralName::URI(_)))
}

impl Anchors {
    /// Authorities that break the profile are left out. Expired ones are not: that is looked at in each verification.
    pub fn new(bundles: &BundleTable) -> Self {
        Self(bundles.iter().map(|(domain, bundle)| (domain.clone(), Roots::of(bundle))).collect())
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
        let (leaf, intermediates) = sized(chain)?;
        let id = svid::spiffe_id(leaf)?;
        let domain = id.trust_domain();
        let roots = self.0.get(domain).ok_or_else(|| VerifyError::UnknownTrustDomain(domain.clone()))?;
        let (_, leaf_end) = svid::validity(leaf)?;
        let path_end = roots.path(domain, leaf, intermediates, usage, now, ALGORITHMS.all)?;
        Ok(Verified { until: leaf_end.min(path_end), id })
    }
}

/// The chain as leaf and intermediates, if it is small enough to be looked at.
fn sized<'a, 'c>(
    chain: &'a [CertificateDer<'c>],
) -> Result<(&'a CertificateDer<'c>, &'a [CertificateDer<'c>]), VerifyError> {
    if chain.len() > MAX_CERTIFICATES || chain.iter().map(|der| der.len()).sum::<usize>() > MAX_CHAIN_BYTES {
        return Err(VerifyError::Size);
    }
    chain.split_first().ok_or(VerifyError::Size)
}

// === impl Roots ===

impl Roots {
    fn of(bundle: &Bundle) -> Self {
        let mut roots = Self::default();
        for der in &bundle.x509 {
            let Ok((not_before, not_after)) = svid::check_authority(der, &bundle.trust_domain) else { continue };
            let Ok(anchor) = webpki::anchor_from_trusted_cert(der) else { continue };
            roots.anchors.push(anchor.to_owned());
            roots.validity.push((not_before, not_after));
            roots.constrain_uris |= uri_name_constraints(der);
        }
        roots
    }

    /// Searches a path from the leaf to one of these authorities, and gives the first end of the authorities on it. webpki
    /// bounds the search: 100 signatures, whatever the names of the certificates (bad input 96).
    fn path(
        &self,
        domain: &TrustDomain,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<SystemTime, VerifyError> {
        let purpose = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let (end, objection) = (Cell::new(None), Cell::new(None));
        let judge = |path: &VerifiedPath<'_>| match self.judge(domain, path, now) {
            Ok(first) => {
                end.set(Some(first));
                Ok(())
            }
            Err(error) => {
                objection.set(Some(error)); // for the answer, unless another path is better
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let at = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
        let found = EndEntityCert::try_from(leaf).and_then(|leaf| {
            leaf.verify_for_usage(algorithms, &self.anchors, intermediates, at, purpose, None, Some(&judge)).map(drop)
        });
        match (found, end.take(), objection.take()) {
            (Ok(()), Some(end), _) => Ok(end),
            (_, _, Some(objection)) => Err(objection),
            (Err(error), ..) => Err(self.refusal(&error, intermediates, domain)),
            (Ok(()), None, None) => Err(VerifyError::UnknownIssuer(domain.clone())),
        }
    }

    /// What webpki does not look at: the authority's validity, and what the intermediates are allowed to do.
    fn judge(&self, domain: &TrustDomain, path: &VerifiedPath<'_>, now: SystemTime) -> Result<SystemTime, VerifyError> {
        let same = self.anchors.iter().zip(&self.validity).filter(|(anchor, _)| *anchor == path.anchor());
        // To the second, and notAfter included, as for the other certificates.
        let lives = |(start, end): &(SystemTime, SystemTime)| *start <= now && now < *end + Duration::from_secs(1);
        let living = same.map(|(_, validity)| *validity).filter(lives);
        let mut end = living.map(|(_, end)| end).max().ok_or(VerifyError::Validity)?;
        for certificate in path.intermediate_certificates() {
            let (_, its_end) = svid::check_intermediate(&certificate.der(), domain).map_err(VerifyError::Authority)?;
            end = end.min(its_end);
        }
        Ok(end)
    }

    fn refusal(
        &self,
        error: &webpki::Error,
        intermediates: &[CertificateDer<'_>],
        domain: &TrustDomain,
    ) -> VerifyError {
        match error {
            // An issuer with a known name and another key is no less unknown.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                VerifyError::UnknownIssuer(domain.clone())
            }
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => VerifyError::Validity,
            webpki::Error::NameConstraintViolation
                if self.constrain_uris || intermediates.iter().any(uri_name_constraints) =>
            {
                VerifyError::UriNameConstraint
            }
            other => VerifyError::Chain(format!("the chain does not verify: {other}")),
        }
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
            Self::Authority(_) => "authority",
            Self::UriNameConstraint => "uri_name_constraint",
            Self::Chain(_) => "chain",
        }
    }
}

#[cfg(test)]
mod tests;
