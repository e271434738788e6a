//! An authority above ours: its certificate and key lie in files. Each of ours is then an intermediate below it, and the bundle
//! holds its roots. The files are read again for each new authority, so that replacing them takes a `symbolon authority prepare`
//! and no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use symbolon_kit::octets;
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::svid::{key_id, validity};
use symbolon_kit::spiffe::verify::{Anchors, Usage, uri_name_constraints};
use symbolon_proto::ids::TrustDomain;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

use super::keys::soft::SoftKey;
use super::keys::{KeyError, RcgenKey, SigningKey as _, disk};
use super::profile;

/// The largest file of certificates read.
const MAX_BYTES: u64 = 1024 * 1024;
/// The most certificates between our authority and its root, and the most roots.
const MAX_CERTIFICATES: usize = 8;

/// Where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// PEM: the certificate that signs ours, then those between it and its root.
    pub certificate: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
    /// PEM: the roots; none if the certificate is one itself.
    pub roots: Option<PathBuf>,
}

/// An upstream authority that was found fit.
#[derive(Debug)]
pub struct Upstream {
    issuer: rcgen::Issuer<'static, RcgenKey>,
    /// From the one that signs ours up to below the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub roots: Vec<CertificateDer<'static>>,
    /// Names it: the subject key identifier of the root that its chain ends at, or a hash of it.
    pub root: Arc<str>,
    pub subject: String,
    /// The first end of all certificates above ours.
    pub not_after: SystemTime,
    pub not_before: SystemTime,
}

/// Why it cannot be used. Nothing is signed by it then; what was signed before stays.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("identity.upstream: {path} cannot be read: {why}")]
    File { path: String, why: String },
    #[error("identity.upstream.key: {0}")]
    Key(KeyError),
    #[error("identity.upstream: the key does not belong to the first certificate of {0}")]
    KeyMismatch(String),
    #[error("identity.upstream: {subject} {why}")]
    Certificate { subject: String, why: &'static str },
    #[error(
        "identity.upstream: {subject} has a name constraint on URIs. Common verifiers, ours among them, refuse every SPIFFE ID below \
         such a certificate. Ask for one without"
    )]
    UriConstraints { subject: String },
    #[error("identity.upstream: {subject} ended at {}", moment(.end))]
    Expired { subject: String, end: SystemTime },
    #[error("identity.upstream: no root for it: {0} is issued by {1}, which identity.upstream.roots does not hold")]
    NoRoot(String, String),
    #[error("identity.upstream: what it signs is refused: {0}")]
    Refused(String),
}

impl Upstream {
    /// Reads the files, and finds out by signing a certificate that is thrown away whether what it signs is accepted. Blocks.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(config: &Config, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, UpstreamError> {
        let key = disk::read(&config.key).map_err(UpstreamError::Key)?;
        let mut chain = certificates(&config.certificate)?;
        let mut roots = config.roots.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let signer = chain.first().cloned().ok_or_else(|| file_error(&config.certificate, "no certificate in it"))?;
        let last = chain.last().cloned().unwrap_or_else(|| signer.clone());
        if is_self_signed(&last) && (roots.is_empty() || roots.contains(&last)) {
            if roots.is_empty() {
                roots.push(last.clone());
            }
            chain.pop(); // the bundle holds it
        }
        let root = root_of(&last, &roots)?;
        for (depth, certificate) in chain.iter().chain([&root]).enumerate() {
            check(certificate, depth, now)?;
        }
        if parsed(&signer).ok().is_none_or(|read| read.public_key().subject_public_key.data != key.public_key()) {
            return Err(UpstreamError::KeyMismatch(config.certificate.display().to_string()));
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&signer, RcgenKey(Arc::new(key)));
        let lives = chain.iter().chain([&root]).filter_map(|one| validity(one).ok());
        let (not_before, not_after) =
            lives.reduce(|all, one| (all.0.max(one.0), all.1.min(one.1))).unwrap_or((now, now));
        let upstream = Self {
            issuer: issuer.map_err(|e| UpstreamError::Refused(e.to_string()))?,
            root: key_id(&root).unwrap_or_else(|| octets::hex(&octets::sha256(&root)[..20])).into(),
            subject: subject(&root),
            chain,
            roots,
            not_before,
            not_after,
        };
        upstream.prove(trust_domain, now)?;
        Ok(upstream)
    }

    /// Signs an authority's certificate: it may sign leaves and nothing else, and ends no later than what is above it.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn issue(
        &self,
        mut params: CertificateParams,
        key: &RcgenKey,
    ) -> Result<CertificateDer<'static>, UpstreamError> {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        params.not_after = params.not_after.min(whole_seconds(self.not_after));
        params.not_before = params.not_before.max(OffsetDateTime::from(self.not_before));
        let signed = params.signed_by(key, &self.issuer);
        Ok(signed.map_err(|e| UpstreamError::Refused(e.to_string()))?.der().clone())
    }

    /// Whatever else may be wrong with it (weak signatures, usages, constraints on names) shows when a chain below it is verified.
    fn prove(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), UpstreamError> {
        let refused = |why: &dyn std::fmt::Display| UpstreamError::Refused(why.to_string());
        let key = || SoftKey::generate().map(|(key, _)| RcgenKey(Arc::new(key))).map_err(UpstreamError::Key);
        let (below, leaf) = (key()?, key()?);
        let params = profile::authority(trust_domain, "a trial, thrown away", now, Duration::from_secs(60));
        let below_der = self.issue(params, &below)?;
        let id = trust_domain.with_path("/symbolon/trial").map_err(|e| refused(&e))?;
        let params = profile::svid(&id, &[], now, Duration::from_secs(60), self.not_after).map_err(|e| refused(&e))?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&below_der, below).map_err(|e| refused(&e))?;
        let leaf = params.signed_by(&leaf, &issuer).map_err(|e| refused(&e))?;
        let mut chain = vec![leaf.der().clone(), below_der];
        chain.extend(self.chain.iter().cloned());
        let bundle = Bundle::new(trust_domain.clone(), 1, Duration::from_secs(60), self.roots.clone());
        let anchors = Anchors::new(&[(trust_domain.clone(), Arc::new(bundle))].into());
        for usage in [Usage::Client, Usage::Server] {
            anchors.verify(&chain, usage, now).map_err(|e| refused(&e))?;
        }
        Ok(())
    }
}

/// One certificate above ours; `depth` of them are between it and ours.
fn check(certificate: &CertificateDer<'static>, depth: usize, now: SystemTime) -> Result<(), UpstreamError> {
    let read = parsed(certificate)?;
    let subject = || read.subject().to_string();
    let unfit = |why| Err(UpstreamError::Certificate { subject: subject(), why });
    let constraints = read.basic_constraints().ok().flatten();
    let Some(constraints) = constraints.filter(|constraints| constraints.value.ca) else {
        return unfit("may not sign certificates: it is not CA:TRUE");
    };
    if read.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
        return unfit("may not sign certificates: its key usage lacks keyCertSign");
    }
    let below = u32::try_from(depth + 1).unwrap_or(u32::MAX); // ours, and those between
    if constraints.value.path_len_constraint.is_some_and(|most| most < below) {
        return unfit("allows no authority below it: its path length is too short. One more is needed");
    }
    if uri_name_constraints(certificate) {
        return Err(UpstreamError::UriConstraints { subject: subject() });
    }
    let (start, end) = validity(certificate).unwrap_or((now, now));
    if end <= now {
        return Err(UpstreamError::Expired { subject: subject(), end });
    }
    if start > now { unfit("is not valid yet") } else { Ok(()) }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    parsed(certificate).is_ok_and(|read| read.subject() == read.issuer() && read.verify_signature(None).is_ok())
}

/// The root that signed `last`, or is it.
fn root_of(
    last: &CertificateDer<'static>,
    roots: &[CertificateDer<'static>],
) -> Result<CertificateDer<'static>, UpstreamError> {
    if roots.contains(last) {
        return Ok(last.clone());
    }
    let read = parsed(last)?;
    let signed = |root: &&CertificateDer<'static>| {
        parsed(root)
            .is_ok_and(|root| root.subject() == read.issuer() && read.verify_signature(Some(root.public_key())).is_ok())
    };
    let found = roots.iter().find(signed).cloned();
    found.ok_or_else(|| UpstreamError::NoRoot(read.subject().to_string(), read.issuer().to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let failed = |why: &dyn std::fmt::Display| file_error(path, why);
    let metadata = std::fs::metadata(path).map_err(|e| failed(&e))?;
    if metadata.len() > MAX_BYTES {
        return Err(failed(&"longer than 1 MiB"));
    }
    let pem = std::fs::read(path).map_err(|e| failed(&e))?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .take(MAX_CERTIFICATES + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| failed(&"not PEM"))?;
    if all.is_empty() || all.len() > MAX_CERTIFICATES {
        return Err(failed(&format!("{} certificates in it; 1 to {MAX_CERTIFICATES} are meant", all.len())));
    }
    Ok(all)
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, UpstreamError> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], read)) => Ok(read),
        _ => Err(UpstreamError::Refused("a certificate is not X.509 in DER".into())),
    }
}

fn subject(certificate: &CertificateDer<'_>) -> String {
    parsed(certificate).map_or_else(|_| String::new(), |read| read.subject().to_string())
}

fn file_error(path: &Path, why: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::File { path: path.display().to_string(), why: why.to_string() }
}

fn whole_seconds(at: SystemTime) -> OffsetDateTime {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at)
}

fn moment(at: &SystemTime) -> String {
    jiff::Timestamp::try_from(*at).map_or_else(|_| "an unknown time".into(), |at| at.to_string())
}

impl UpstreamError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::File { .. } => "upstream_file",
            Self::Key(_) => "upstream_key",
            Self::KeyMismatch(_) => "upstream_key_mismatch",
            Self::Certificate { .. } => "upstream_certificate",
            Self::UriConstraints { .. } => "upstream_uri_constraints",
            Self::Expired { .. } => "upstream_expired",
            Self::NoRoot(..) => "upstream_no_root",
            Self::Refused(_) => "upstream_refused",
        }
    }
}
