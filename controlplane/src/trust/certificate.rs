//! The Web certificate of our bundle endpoint (`https_web`): two PEM files that somebody else renews. They are looked at every few
//! seconds; what cannot be used leaves the pair before in force, and is said.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use symbolon_kit::clock::unix_secs;
use symbolon_kit::drain::Drain;
use symbolon_kit::files::open_to_others;
use symbolon_kit::metrics::Gauge;
use symbolon_kit::octets::sha256;
use symbolon_kit::spiffe::svid::validity;
use tracing::{info, warn};
use zeroize::Zeroizing;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);
const MAX_BYTES: u64 = 256 * 1024;

/// Where the pair is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM; only its owner may read it.
    pub key: PathBuf,
}

/// Why a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{path} cannot be read: {why}")]
    Unreadable { path: String, why: String },
    #[error("{path} has mode {mode:04o}: only its owner may read it. Run: chmod 600 {path}")]
    Mode { path: String, mode: u32 },
    #[error("{0} holds no certificate")]
    NoCertificate(String),
    #[error("{path} holds no key that can be used: {why}")]
    NoKey { path: String, why: String },
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    Mismatch { certificate: String, key: String },
}

/// The pair in force, as TLS asks for it.
#[derive(Debug)]
pub(super) struct Certificate {
    files: Files,
    current: ArcSwap<CertifiedKey>,
    /// Of the files' content, so that a rewrite of the same is none.
    seen: std::sync::Mutex<[u8; 32]>,
    expires: Gauge,
}

impl Certificate {
    /// # Errors
    /// If the pair cannot be used as it is (bad input 136).
    pub(super) fn load(files: Files, expires: Gauge) -> Result<Arc<Self>, Unusable> {
        let read = Read::from(&files)?;
        let (pair, seen) = (read.pair(&files)?, read.digest());
        let certificate =
            Self { files, current: ArcSwap::from_pointee(pair), seen: std::sync::Mutex::new(seen), expires };
        certificate.tell_end();
        Ok(Arc::new(certificate))
    }

    /// Follows the files until drained.
    pub(super) async fn follow(self: Arc<Self>, drain: Drain) {
        let mut said = String::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = drain.cancelled() => return,
            }
            let looking = self.clone();
            // A network file system may take its time.
            match tokio::task::spawn_blocking(move || looking.look()).await {
                Ok(Ok(true)) => {
                    info!(certificate = %self.files.certificate.display(), "the bundle endpoint has a new certificate");
                    said.clear();
                }
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(why)) => {
                    let why = why.to_string();
                    if said != why {
                        warn!(%why, "the bundle endpoint's new certificate cannot be used; the one before serves on");
                        said = why;
                    }
                }
            }
        }
    }

    /// Whether there is another pair.
    fn look(&self) -> Result<bool, Unusable> {
        let read = Read::from(&self.files)?;
        let digest = read.digest();
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen == digest {
            return Ok(false);
        }
        self.current.store(Arc::new(read.pair(&self.files)?));
        *seen = digest;
        self.tell_end();
        Ok(true)
    }

    fn tell_end(&self) {
        let pair = self.current.load();
        let end = pair.cert.first().and_then(|leaf| validity(leaf).ok()).map_or(SystemTime::UNIX_EPOCH, |(_, end)| end);
        self.expires.set(&[], unix_secs(end));
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The content of both files.
struct Read {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Read {
    fn from(files: &Files) -> Result<Self, Unusable> {
        let (certificate, _) = content(&files.certificate)?;
        let (key, about) = content(&files.key)?;
        let key = Zeroizing::new(key);
        match open_to_others(&about) {
            Some(mode) => Err(Unusable::Mode { path: files.key.display().to_string(), mode }),
            None => Ok(Self { certificate, key }),
        }
    }

    fn digest(&self) -> [u8; 32] {
        sha256(&[sha256(&self.certificate), sha256(&self.key)].concat())
    }

    fn pair(&self, files: &Files) -> Result<CertifiedKey, Unusable> {
        let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| unreadable(&files.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(Unusable::NoCertificate(certificate));
        }
        let no_key = |why: String| Unusable::NoKey { path: key.clone(), why };
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| no_key(error.to_string()))?;
        let signer = aws_lc_rs::sign::any_supported_type(&private).map_err(|error| no_key(error.to_string()))?;
        let pair = CertifiedKey::new(chain, signer);
        pair.keys_match().map_err(|_| Unusable::Mismatch { certificate, key: key.clone() })?;
        Ok(pair)
    }
}

fn content(path: &Path) -> Result<(Vec<u8>, Metadata), Unusable> {
    let about = std::fs::metadata(path).map_err(|error| unreadable(path, error.to_string()))?;
    if about.len() > MAX_BYTES {
        return Err(unreadable(path, format!("larger than {MAX_BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, error.to_string()))?;
    Ok((bytes, about))
}

fn unreadable(path: &Path, why: String) -> Unusable {
    Unusable::Unreadable { path: path.display().to_string(), why }
}
