//! Keys in a PKCS#11 token: an HSM, or SoftHSM. They are made in it, and never leave it.
//!
//! A key's label is `symbolon/<trust domain>/<name>`, so that several trust domains can share a token. The sessions belong to the
//! threads of a [`Pool`]; one that breaks is opened anew for the next question.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as P11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use symbolon_proto::ids::TrustDomain;
use zeroize::Zeroizing;

use super::pool::{Backend, Done, Job, Pool};
use super::{Algorithm, KeyError, der_of_fixed, disk};

/// Threads that talk to the token, each with a session.
const SESSIONS: usize = 4;
/// OID of P-256, in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The longest PIN file.
const MAX_PIN_BYTES: u64 = 4096;

/// Where the token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The vendor's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// Its user's PIN, in a file of mode 0600.
    pub pin_file: PathBuf,
    /// How long a signature may take.
    pub deadline: Duration,
}

/// A library is initialised once per process, and never finalised: others may use it too.
static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// Opens the token, and finds out whether it lets us in.
///
/// # Errors
/// If it does not.
pub(super) fn open(config: &Config, trust_domain: &TrustDomain) -> Result<Pool, KeyError> {
    let library = load(&config.module)?;
    let pin = read_pin(&config.pin_file)?;
    let thread = || Thread {
        library: library.clone(),
        token: config.token.clone(),
        pin: pin.clone(),
        prefix: format!("symbolon/{trust_domain}/"),
        open: None,
    };
    let mut first = thread();
    first.open()?;
    let threads = std::iter::once(first).chain((1..SESSIONS).map(|_| thread())).collect();
    Pool::start("pkcs11", threads, config.deadline)
}

fn load(module: &Path) -> Result<Pkcs11, KeyError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = loaded.get(module) {
        return Ok(known.clone());
    }
    let failed = |what: &str, e: P11Error| KeyError::Token(format!("library {} {what}: {e}", module.display()));
    let library = Pkcs11::new(module).map_err(|e| failed("cannot be loaded", e))?;
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(P11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(e) => return Err(failed("cannot be initialised", e)),
    }
    loaded.insert(module.to_owned(), library.clone());
    Ok(library)
}

fn read_pin(path: &Path) -> Result<AuthPin, KeyError> {
    let file = |what, why: &dyn std::fmt::Display| KeyError::File {
        path: path.display().to_string(),
        what,
        why: why.to_string(),
    };
    disk::check_private(path, MAX_PIN_BYTES)?;
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| file("cannot be read", &e))?);
    let pin = text.trim_end_matches(['\n', '\r']);
    if pin.is_empty() { Err(file("holds no PIN", &"it is empty")) } else { Ok(AuthPin::new(pin.into())) }
}

/// One thread's session.
struct Thread {
    library: Pkcs11,
    token: String,
    pin: AuthPin,
    prefix: String,
    open: Option<Open>,
}

struct Open {
    session: Session,
    /// By label.
    private: BTreeMap<String, ObjectHandle>,
}

impl Thread {
    fn open(&mut self) -> Result<&mut Open, KeyError> {
        if self.open.is_none() {
            let session = self.login()?;
            self.open = Some(Open { session, private: BTreeMap::new() });
        }
        self.open.as_mut().ok_or_else(|| KeyError::Token("has no session".into()))
    }

    fn login(&self) -> Result<Session, KeyError> {
        let failed = |what: &str, e: P11Error| KeyError::Token(format!("{:?} {what}: {e}", self.token));
        let slots = self.library.get_slots_with_token().map_err(|e| failed("cannot be looked for", e))?;
        let labelled = |slot: &_| self.library.get_token_info(*slot).is_ok_and(|info| info.label() == self.token);
        let slot = slots.into_iter().find(|slot| labelled(slot));
        let slot = slot.ok_or_else(|| KeyError::Token(format!("{:?} is not there", self.token)))?;
        let session = self.library.open_rw_session(slot).map_err(|e| failed("gives no session", e))?;
        match session.login(UserType::User, Some(&self.pin)) {
            Ok(()) | Err(P11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(e) => Err(failed("does not let us in", e)),
        }
    }

    fn label(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn generate(&mut self, name: &str) -> Result<Done, KeyError> {
        let label = self.label(name);
        let common = |class| {
            vec![
                Attribute::Class(class),
                Attribute::Token(true),
                Attribute::Label(label.clone().into()),
                Attribute::Id(label.clone().into()),
            ]
        };
        let public =
            [common(ObjectClass::PUBLIC_KEY), vec![Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)]];
        let private = [
            common(ObjectClass::PRIVATE_KEY),
            vec![
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Sign(true),
            ],
        ];
        let open = self.open()?;
        let made = open
            .session
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public.concat(), &private.concat())
            .map_err(token)?;
        open.private.insert(label, made.1);
        public_key(&open.session, made.0)
    }

    fn load(&mut self, name: &str) -> Result<Done, KeyError> {
        let (label, place) = (self.label(name), format!("the PKCS#11 token {:?} has no such key", self.token));
        let missing = || KeyError::Missing { name: name.to_owned(), place };
        let open = self.open()?;
        let Some(private) = find(&open.session, ObjectClass::PRIVATE_KEY, &label)? else { return Err(missing()) };
        let Some(public) = find(&open.session, ObjectClass::PUBLIC_KEY, &label)? else { return Err(missing()) };
        open.private.insert(label, private);
        public_key(&open.session, public)
    }

    fn sign(&mut self, name: &str, message: &[u8]) -> Result<Done, KeyError> {
        let label = self.label(name);
        let open = self.open()?;
        let key = match open.private.get(&label) {
            Some(known) => *known,
            None => {
                let found = find(&open.session, ObjectClass::PRIVATE_KEY, &label)?;
                let key = found.ok_or_else(|| KeyError::Token(format!("has no key {label:?} any more")))?;
                open.private.insert(label, key);
                key
            }
        };
        let fixed = open.session.sign(&Mechanism::Ecdsa, key, digest(&SHA256, message).as_ref()).map_err(token)?;
        Ok(Done::Signature(der_of_fixed(&fixed).ok_or(KeyError::Signature)?))
    }

    fn remove(&mut self, name: &str) -> Result<Done, KeyError> {
        let label = self.label(name);
        let open = self.open()?;
        open.private.remove(&label);
        for object in open.session.find_objects(&[Attribute::Label(label.into())]).map_err(token)? {
            open.session.destroy_object(object).map_err(token)?;
        }
        Ok(Done::Removed)
    }

    fn names(&mut self) -> Result<Done, KeyError> {
        let prefix = self.prefix.clone();
        let open = self.open()?;
        let private = [Attribute::Class(ObjectClass::PRIVATE_KEY)];
        let mut names = Vec::new();
        for object in open.session.find_objects(&private).map_err(token)? {
            for attribute in open.session.get_attributes(object, &[AttributeType::Label]).map_err(token)? {
                let Attribute::Label(label) = attribute else { continue };
                let label = String::from_utf8_lossy(&label).into_owned();
                names.extend(label.strip_prefix(&prefix).map(str::to_owned));
            }
        }
        names.sort();
        Ok(Done::Names(names))
    }
}

impl Backend for Thread {
    fn perform(&mut self, job: &Job) -> Result<Done, KeyError> {
        let done = match job {
            Job::Generate(name) => self.generate(name),
            Job::Load(name) => self.load(name),
            Job::Sign { name, message } => self.sign(name, message),
            Job::Remove(name) => self.remove(name),
            Job::Names => self.names(),
        };
        if matches!(done, Err(KeyError::Token(_))) {
            self.open = None; // it may have been restarted, or taken out: the next question opens a session of its own
        }
        done
    }
}

fn find(session: &Session, class: ObjectClass, label: &str) -> Result<Option<ObjectHandle>, KeyError> {
    let template = [Attribute::Class(class), Attribute::Label(label.into())];
    Ok(session.find_objects(&template).map_err(token)?.into_iter().next())
}

/// The token gives the point in a DER OCTET STRING.
fn public_key(session: &Session, object: ObjectHandle) -> Result<Done, KeyError> {
    let point = session.get_attributes(object, &[AttributeType::EcPoint]).map_err(token)?.into_iter().next();
    let Some(Attribute::EcPoint(point)) = point else {
        return Err(KeyError::Unusable("it is no elliptic curve key".into()));
    };
    let bare = point.strip_prefix(&[0x04, 65]).unwrap_or(&point); // some give it bare
    if bare.len() != 65 || bare[0] != 0x04 {
        return Err(KeyError::Unusable("its point is not one of P-256".into()));
    }
    Ok(Done::Key { algorithm: Algorithm::EcdsaP256, public_key: bare.to_vec() })
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn token(error: P11Error) -> KeyError {
    KeyError::Token(format!("refuses: {error}"))
}

#[cfg(test)]
pub(in crate::identity) mod tests;
