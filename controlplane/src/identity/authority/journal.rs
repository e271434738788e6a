//! The journal of one kind of authority: its slots as they are stored. Whatever it does not say has not happened.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use symbolon_kit::clock::unix_ms;
use symbolon_kit::spiffe::svid::{key_id, validity};
use symbolon_proto::ids::TrustDomain;

use super::kind::{Kind, Material};
use super::slots::{Id, Life, Slot, Slots, State};
use crate::identity::Error;
use crate::identity::keys::Algorithm;
use crate::store::{self, codec};

#[derive(Serialize, Deserialize)]
struct Journal {
    trust_domain: String,
    slots: Vec<Record>,
    #[serde(default)]
    making: Option<Arc<str>>,
    #[serde(default)]
    doomed: Vec<Arc<str>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// The key's name; of version 1, where there was one kind only, without its kind.
    name: String,
    key: Option<Arc<str>>,
    state: String,
    /// Since when it is published or tainted; Unix milliseconds.
    at: i64,
    root: Option<Id>,
    certificate: Vec<u8>,
    above: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    kid: Option<Id>,
    spki: Vec<u8>,
    algorithm: Option<String>,
    not_before: i64,
    not_after: i64,
}

/// Of `kind`'s slots.
pub(super) fn encode(trust_domain: &TrustDomain, slots: &Slots<Material>) -> Result<Vec<u8>, store::Error> {
    let journal = Journal {
        trust_domain: trust_domain.to_string(),
        slots: slots.slots.iter().map(record).collect(),
        making: slots.making.clone(),
        doomed: slots.doomed.iter().cloned().collect(),
    };
    codec::encode("authority", 2, &journal)
}

/// As [`encode`] wrote it. `unpublished` and `hold` are not kept: a start assumes both.
///
/// # Errors
/// If it is damaged, or another trust domain's.
pub(super) fn decode(kind: Kind, trust_domain: &TrustDomain, bytes: &[u8]) -> Result<Slots<Material>, Error> {
    let journal: Journal = codec::decode("authority", bytes)?;
    let damaged = |why: &str| store::Error::Codec { kind: "authority", why: why.to_owned() };
    if journal.trust_domain != trust_domain.as_str() {
        let configured = trust_domain.clone();
        let stored = journal.trust_domain.parse().map_err(|_| damaged("its trust domain is none"))?;
        return Err(Error::OtherTrustDomain { stored, configured });
    }
    let slots = journal.slots.into_iter().map(|record| slot(kind, record).ok_or_else(|| damaged("a slot is none")));
    Ok(Slots {
        slots: slots.collect::<Result<_, _>>()?,
        making: journal.making,
        doomed: journal.doomed.into_iter().collect(),
        ..Slots::default()
    })
}

fn record(slot: &Slot<Material>) -> Record {
    let at = match slot.state {
        State::Published { at } | State::Tainted { at } => unix_ms(at),
        _ => 0,
    };
    let der = |certificates: &[CertificateDer<'static>]| certificates.iter().map(|one| one.to_vec()).collect();
    let common = Record {
        key: slot.key.clone(),
        state: slot.state.word().to_owned(),
        at,
        root: slot.root.clone(),
        ..Record::default()
    };
    match &slot.material {
        Material::X509 { certificate, above, roots } => {
            Record { certificate: certificate.to_vec(), above: der(above), roots: der(roots), ..common }
        }
        Material::Token { algorithm, spki } => Record {
            kid: Some(slot.id.clone()),
            spki: spki.clone(),
            algorithm: Some(algorithm.jws().to_owned()),
            not_before: unix_ms(slot.life.not_before),
            not_after: unix_ms(slot.life.not_after),
            ..common
        },
    }
}

fn slot(kind: Kind, record: Record) -> Option<Slot<Material>> {
    let at = moment(record.at);
    let state = match record.state.as_str() {
        "prepared" => State::Prepared,
        "published" => State::Published { at },
        "active" => State::Active,
        "old" | "retired" => State::Old,
        "tainted" => State::Tainted { at },
        "revoked" => State::Revoked,
        _ => return None,
    };
    let of_version_1 = (!record.name.is_empty()).then(|| format!("x509-{}", record.name).into());
    let (key, root) = (record.key.or(of_version_1), record.root);
    let (id, life, material) = if kind == Kind::X509 {
        let certificate = CertificateDer::from(record.certificate);
        let (not_before, not_after) = validity(&certificate).ok()?;
        let owned = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let mut roots = owned(record.roots);
        if roots.is_empty() {
            roots.push(certificate.clone());
        }
        let id = key_id(&certificate)?.into();
        (id, Life { not_before, not_after }, Material::X509 { certificate, above: owned(record.above), roots })
    } else {
        let algorithm = [Algorithm::EcdsaP256, Algorithm::EcdsaP384, Algorithm::Rsa]
            .into_iter()
            .find(|algorithm| Some(algorithm.jws()) == record.algorithm.as_deref())?;
        let life = Life { not_before: moment(record.not_before), not_after: moment(record.not_after) };
        (record.kid?, life, Material::Token { algorithm, spki: record.spki })
    };
    Some(Slot { id, key, state, life, root, material })
}

fn moment(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs())
}
