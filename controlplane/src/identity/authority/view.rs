//! What others see of the authorities, and how they ask for a step.

use std::collections::BTreeSet;

use symbolon_kit::clock::unix_secs;

use super::*;

/// Orders that wait for the task.
const ORDERS: usize = 8;

/// The handle; cheap to clone.
#[derive(Clone, Debug)]
pub struct Authorities {
    orders: mpsc::Sender<Request>,
    listing: watch::Receiver<Arc<Vec<View>>>,
    taints: watch::Receiver<Arc<Taints>>,
}

/// What is not to be used any more, though it has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taints {
    /// Subject key identifiers, lower-case hex.
    pub x509: BTreeSet<Id>,
    /// `kid`s of JWT and WIT authorities.
    pub jwt: BTreeSet<Id>,
}

/// One authority, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub word: Word,
    pub id: Id,
    pub state: &'static str,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub key_manager: &'static str,
    /// Its issuer's subject; empty: self-signed.
    pub issuer: String,
    /// What happens to it by itself, and when.
    pub next: &'static str,
    pub next_at: Option<SystemTime>,
    pub note: String,
}

/// What operators call a kind of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    X509,
    Jwt,
    Wit,
    /// All X.509 ones below an upstream root.
    Upstream,
}

/// What operators can have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Activate,
    Taint,
    Revoke,
}

/// An operator's word.
#[derive(Clone, Debug)]
pub struct Order {
    pub word: Word,
    pub step: Step,
    /// The beginning of an id, of as many characters as name only one.
    pub id: String,
    pub force: bool,
}

/// Why it was not followed, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Refused(Refused),
    /// What was written down is tried again by itself.
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) answer: oneshot::Sender<Result<(), ChangeError>>,
}

/// The task's ends of what the handle has.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) orders: mpsc::Receiver<Request>,
    pub(super) listing: watch::Sender<Arc<Vec<View>>>,
    pub(super) taints: watch::Sender<Arc<Taints>>,
}

// === impl Authorities ===

impl Authorities {
    pub(super) fn new() -> (Self, Ends) {
        let (orders, taken) = mpsc::channel(ORDERS);
        let (listing, taints) = (watch::Sender::default(), watch::Sender::default());
        let handle = Self { orders, listing: listing.subscribe(), taints: taints.subscribe() };
        (handle, Ends { orders: taken, listing, taints })
    }

    /// Every authority, in the order in which they were made.
    pub fn list(&self) -> Arc<Vec<View>> {
        self.listing.borrow().clone()
    }

    /// Whether there are authorities of this kind.
    pub fn has(&self, word: Word) -> bool {
        self.listing.borrow().iter().any(|view| view.word == word)
    }

    /// What is tainted, now and after each change.
    pub fn taints(&self) -> watch::Receiver<Arc<Taints>> {
        self.taints.clone()
    }

    /// Takes a step in an authority's life.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn change(&self, order: Order) -> Result<(), ChangeError> {
        let (answer, answered) = oneshot::channel();
        let stopping = || ChangeError::Failed("the control plane is stopping".into());
        self.orders.send(Request { order, answer }).await.map_err(|_| stopping())?;
        answered.await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Authority {
    /// Tells everybody what is so now.
    pub(super) fn announce(&self) {
        let mut taints = Taints::default();
        for (kind, lane) in &self.lanes {
            let ids = lane.slots.tainted().map(|slot| slot.id.clone());
            if *kind == Kind::X509 { taints.x509.extend(ids) } else { taints.jwt.extend(ids) }
        }
        self.ends.taints.send_if_modified(|known| {
            let changed = **known != taints;
            if changed {
                *known = Arc::new(taints);
            }
            changed
        });
        let views = self.views();
        for (word, end) in ends(&views) {
            self.meters.expires.set(&[("kind", word.word())], unix_secs(end));
        }
        self.ends.listing.send_replace(Arc::new(views));
    }

    fn views(&self) -> Vec<View> {
        let mut views = Vec::new();
        for (kind, lane) in &self.lanes {
            for slot in &lane.slots.slots {
                let (next, next_at) = lane.slots.outlook(slot, &lane.policy);
                let issuer = match (&slot.root, &slot.material) {
                    (Some(_), Material::X509 { certificate, .. }) => kind::issuer(certificate),
                    _ => String::new(),
                };
                views.push(View {
                    word: Word::of(*kind),
                    id: slot.id.clone(),
                    state: slot.state.word(),
                    not_before: slot.life.not_before,
                    not_after: slot.life.not_after,
                    key_manager: if slot.key.is_some() { self.keys.kind() } else { "" },
                    issuer,
                    next,
                    next_at,
                    note: if slot.key.is_some() { String::new() } else { "its key is gone".into() },
                });
            }
        }
        views.extend(self.upstream_views());
        views
    }

    /// One per upstream root: as far as what is below it has come.
    fn upstream_views(&self) -> Vec<View> {
        let Some(lane) = self.lanes.get(&Kind::X509) else { return Vec::new() };
        let mut roots = BTreeSet::new();
        roots.extend(lane.slots.slots.iter().filter_map(|slot| slot.root.clone()));
        roots.extend(self.above.iter().map(|above| above.root.clone()));
        let view = |root: Id| {
            let below: Vec<_> = lane.slots.slots.iter().filter(|slot| slot.root.as_ref() == Some(&root)).collect();
            let furthest = |state: &str| below.iter().any(|slot| slot.state.word() == state);
            let order = ["active", "published", "prepared", "old", "tainted", "revoked"];
            let above = self.above.as_ref().filter(|above| above.root == root);
            let lives = below.iter().map(|slot| (slot.life.not_before, slot.life.not_after));
            let lives = lives.chain(above.map(|above| (above.not_before, above.not_after)));
            let life = lives.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)));
            let (not_before, not_after) = life.unwrap_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH));
            View {
                word: Word::Upstream,
                state: order.into_iter().find(|state| furthest(state)).unwrap_or("unused"),
                id: root,
                not_before,
                not_after,
                key_manager: if above.is_some() { "disk" } else { "" },
                issuer: above.map_or_else(String::new, |above| above.subject.clone()),
                next: if above.is_some() {
                    "ends, unless its files are replaced"
                } else {
                    "is not in the files any more"
                },
                next_at: above.map(|above| above.not_after),
                note: String::new(),
            }
        };
        let mut views: Vec<_> = roots.into_iter().map(view).collect();
        if let (Some(why), Some(first)) = (&self.above_fails, views.first_mut()) {
            first.note.clone_from(why);
        }
        views
    }
}

/// When what signs ends, by kind.
fn ends(views: &[View]) -> impl Iterator<Item = (Word, SystemTime)> {
    let signs = |view: &&View| view.state == "active";
    views
        .iter()
        .filter(signs)
        .map(|view| (view.word, view.next_at.filter(|_| view.word == Word::Upstream).unwrap_or(view.not_after)))
}

// === impl Word ===

impl Word {
    pub const ALL: [Self; 4] = [Self::X509, Self::Jwt, Self::Wit, Self::Upstream];

    pub fn word(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
            Self::Upstream => "upstream",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::X509 | Self::Upstream => Kind::X509,
            Self::Jwt => Kind::Jwt,
            Self::Wit => Kind::Wit,
        }
    }

    fn of(kind: Kind) -> Self {
        match kind {
            Kind::X509 => Self::X509,
            Kind::Jwt => Self::Jwt,
            Kind::Wit => Self::Wit,
        }
    }
}

impl Step {
    pub fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Taint => "taint",
            Self::Revoke => "revoke",
        }
    }
}

impl From<Stop> for ChangeError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(refused) => Self::Refused(refused),
            Stop::Failed(error) => Self::Failed(error.to_string()),
        }
    }
}
