//! The relationships as the operator's edge and the registration see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use symbolon_kit::clock::unix_secs;
use symbolon_kit::spiffe::svid::validity;
use symbolon_kit::supervise::OnExit;
use symbolon_proto::ids::TrustDomain;
use tokio::sync::watch;
use tracing::{info, warn};

use super::machine::Standing;
use super::poll::{self, Live};
use super::relationship::{Origin, Profile, Relationship};
use super::{Config, Context, Error, NotTaken, persist};
use crate::model::Relationships;
use crate::store;

/// How much longer than one fetch a refresh may take.
const SLACK: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Core>);

#[derive(Debug)]
struct Core {
    context: Arc<Context>,
    /// A std mutex: nothing awaits while it is held.
    table: Mutex<BTreeMap<TrustDomain, Entry>>,
    known: watch::Sender<Arc<Relationships>>,
    /// One change of the relationships at a time; an end waits for nobody.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Entry {
    one: Relationship,
    origin: Origin,
    /// The task that polls; `None`: nothing is polled, or trust was ended.
    live: Option<Live>,
}

/// One relationship, as `federation list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub relationship: Relationship,
    pub origin: Origin,
    pub standing: Standing,
    /// Of the bundle that is held.
    pub sequence: Option<u64>,
    pub fetched_at: Option<SystemTime>,
    pub next_at: Option<SystemTime>,
    /// When its last X.509 authority expires.
    pub trusted_until: Option<SystemTime>,
    pub last_error: String,
    /// Where the bundle came from, in a word; empty without one.
    pub source: &'static str,
    pub failures: u32,
}

/// Why a relationship stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("there is no relationship with {0}")]
    Unknown(TrustDomain),
    #[error("the configuration file says how its bundle is had; change it there, and restart")]
    ByFile,
    #[error("a link is made by naming the peer under `peers` in the configuration file, and by `symbolon peer invite`")]
    Link,
    #[error("its endpoint is verified by its own bundle, so that the first one is needed: give --bundle")]
    NeedsBundle,
    #[error("its endpoint is verified by the bundle of {0}, with which there is no relationship; make that one first")]
    NeedsRelationship(TrustDomain),
    #[error("its first bundle is refused: {0}")]
    Bundle(NotTaken),
    #[error("nothing is polled there: its bundle comes by {0}")]
    NotPolled(&'static str),
    #[error("the endpoint has not answered in time; look again with `symbolon federation show`")]
    Slow,
    #[error("{0}")]
    NotStored(NotTaken),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Handle {
    pub(super) async fn start(context: Arc<Context>, config: Config) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        for one in persist::all(&context.store, &context.own).await? {
            entries.insert(one.trust_domain.clone(), (one, Origin::Operator));
        }
        // The file overrides what operators made.
        for one in config.relationships {
            entries.insert(one.trust_domain.clone(), (one, Origin::File));
        }
        let ended = context.book.ended();
        // Whoever is in neither is a former partner: a peer taken out of the file, say (F-18).
        for trust_domain in context.book.held().into_iter().filter(|held| !entries.contains_key(held)) {
            warn!(%trust_domain, "no relationship names this trust domain any more: its bundle is forgotten");
            context.book.forget(&trust_domain).await.map_err(|why| Error::Bootstrap(trust_domain.clone(), why))?;
        }
        for (trust_domain, jwks) in config.bootstrap {
            // Only the first bundle: what was fetched since is newer, and ended trust stays ended (F-16).
            if context.book.of(&trust_domain).is_none() && !ended.contains(&trust_domain) {
                let set = context.book.set(&trust_domain, &jwks, false).await;
                set.map_err(|why| Error::Bootstrap(trust_domain.clone(), why))?;
            }
        }
        let begin = |(trust_domain, (one, origin)): (TrustDomain, (Relationship, Origin))| {
            let live = if ended.contains(&trust_domain) { None } else { poll::begin(&context, &one) };
            (trust_domain, Entry { one, origin, live })
        };
        let table: BTreeMap<_, _> = entries.into_iter().map(begin).collect();
        let core = Arc::new(Core {
            context,
            table: Mutex::new(table),
            known: watch::Sender::default(),
            changing: tokio::sync::Mutex::default(),
        });
        core.tell();
        core.context.tasks.spawn("trusted until", OnExit::Log, tell_ends(core.clone()));
        Ok(Self(core))
    }

    /// Every relationship that is in force, with its labels.
    pub fn known(&self) -> watch::Receiver<Arc<Relationships>> {
        self.0.known.subscribe()
    }

    /// Every relationship, the ended ones too.
    pub fn list(&self) -> Vec<Status> {
        let (table, ended) = (self.0.table().clone(), self.0.context.book.ended());
        table.values().map(|entry| self.0.status(entry, &ended)).collect()
    }

    /// # Errors
    /// If there is none.
    pub fn get(&self, trust_domain: &TrustDomain) -> Result<Status, Refused> {
        let entry = self.0.table().get(trust_domain).cloned();
        let entry = entry.ok_or_else(|| Refused::Unknown(trust_domain.clone()))?;
        Ok(self.0.status(&entry, &self.0.context.book.ended()))
    }

    /// Makes or changes a relationship; with one that was ended, trust begins anew. `first`: its first bundle.
    ///
    /// # Errors
    /// Why it is refused; nothing is changed then.
    pub async fn set(&self, one: Relationship, first: Option<&[u8]>) -> Result<Status, Refused> {
        let _changing = self.0.changing.lock().await;
        let (context, trust_domain) = (&self.0.context, one.trust_domain.clone());
        let ended = context.book.ended().contains(&trust_domain);
        let before = self.0.table().get(&trust_domain).cloned();
        let by_file = before.as_ref().filter(|entry| entry.origin == Origin::File).map(|entry| entry.one.clone());
        let one = match by_file {
            // Trust that was ended begins anew in the file's words.
            Some(of_file) if ended && one.profile == of_file.profile => of_file,
            Some(_) => return Err(Refused::ByFile),
            None if one.profile == Profile::Link => return Err(Refused::Link),
            None => one,
        };
        self.0.can_verify(&one, first.is_some(), ended)?;
        let stored = |why: NotTaken| Refused::NotStored(why);
        context.book.relate(&one, ended || before.is_none()).await.map_err(stored)?;
        if ended {
            context.book.allow(&trust_domain).await.map_err(stored)?;
        }
        if let Some(jwks) = first {
            let set = context.book.set(&trust_domain, jwks, false).await;
            if let Err(why) = set {
                if ended {
                    context.book.end(&trust_domain).await.map_err(stored)?;
                }
                return Err(Refused::Bundle(why));
            }
        }
        let origin = before.map_or(Origin::Operator, |entry| entry.origin);
        if origin == Origin::Operator {
            context.store.commit(persist::put(&one)?).await?;
        }
        info!(%trust_domain, profile = one.profile.label(), url = ?one.profile.url().map(ToString::to_string), "relationship");
        let live = poll::begin(context, &one);
        let replaced = self.0.table().insert(trust_domain.clone(), Entry { one, origin, live });
        if let Some(live) = replaced.and_then(|entry| entry.live) {
            live.stop.start();
        }
        self.0.tell();
        self.get(&trust_domain)
    }

    /// Looks at its endpoint now, and returns when that has ended.
    ///
    /// # Errors
    /// If there is nothing to look at, or it does not answer in time.
    pub async fn refresh(&self, trust_domain: &TrustDomain) -> Result<Status, Refused> {
        let entry = self.0.table().get(trust_domain).cloned();
        let entry = entry.ok_or_else(|| Refused::Unknown(trust_domain.clone()))?;
        let Some(mut live) = entry.live else { return Err(Refused::NotPolled(entry.one.profile.label())) };
        let before = live.state.borrow_and_update().looks;
        live.refresh.notify_one();
        let patience = self.0.context.fetcher.deadline() + SLACK;
        match tokio::time::timeout(patience, live.state.wait_for(|state| state.looks > before)).await {
            Ok(Ok(_)) => self.get(trust_domain),
            _ => Err(Refused::Slow),
        }
    }

    /// Ends trust in a domain, at once and everywhere; the relationship stays in the list as TERMINATED. Once more takes one that
    /// the file does not name out of the list, too.
    ///
    /// # Errors
    /// If there is none, or the end cannot be stored (it has ended nevertheless).
    pub async fn delete(&self, trust_domain: &TrustDomain) -> Result<Status, Refused> {
        let context = &self.0.context;
        let entry = self.0.table().get_mut(trust_domain).map(|entry| {
            let live = entry.live.take();
            (entry.clone(), live)
        });
        let (entry, live) = entry.ok_or_else(|| Refused::Unknown(trust_domain.clone()))?;
        let again = context.book.ended().contains(trust_domain);
        if let Some(live) = live {
            live.stop.start();
        }
        // Before anything that could wait: for the disk, or for another change.
        if !again {
            context.book.end(trust_domain).await.map_err(Refused::NotStored)?;
        }
        let _changing = self.0.changing.lock().await;
        let status = self.0.status(&entry, &context.book.ended());
        if again && entry.origin == Origin::Operator {
            context.store.commit(persist::delete(trust_domain)).await?;
            context.book.allow(trust_domain).await.map_err(Refused::NotStored)?;
            self.0.table().remove(trust_domain);
        }
        self.0.tell();
        Ok(status)
    }
}

impl Core {
    fn table(&self) -> MutexGuard<'_, BTreeMap<TrustDomain, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// F-14: an endpoint that proves a SPIFFE ID is verified by a bundle that we have, or are about to.
    fn can_verify(&self, one: &Relationship, has_first: bool, ended: bool) -> Result<(), Refused> {
        let Some(id) = one.profile.endpoint_id() else { return Ok(()) };
        let of = id.trust_domain();
        if *of == one.trust_domain {
            let holds = has_first || !ended && self.context.book.of(of).is_some();
            return if holds { Ok(()) } else { Err(Refused::NeedsBundle) };
        }
        let related = *of == self.context.own || self.table().contains_key(of);
        if related { Ok(()) } else { Err(Refused::NeedsRelationship(of.clone())) }
    }

    fn tell(&self) {
        let ended = self.context.book.ended();
        let in_force = |(domain, entry): (&TrustDomain, &Entry)| {
            (!ended.contains(domain)).then(|| (domain.clone(), entry.one.labels.clone()))
        };
        let known: Relationships = self.table().iter().filter_map(in_force).collect();
        self.known.send_if_modified(|told| {
            let changed = **told != known;
            if changed {
                *told = Arc::new(known);
            }
            changed
        });
    }

    fn status(&self, entry: &Entry, ended: &BTreeSet<TrustDomain>) -> Status {
        let (context, trust_domain) = (&self.context, &entry.one.trust_domain);
        let bundle = context.book.of(trust_domain);
        let trusted_until = trusted_until(context, trust_domain);
        let mut status = Status {
            relationship: entry.one.clone(),
            origin: entry.origin,
            standing: Standing::Terminated,
            sequence: bundle.as_ref().map(|bundle| bundle.sequence),
            fetched_at: None,
            next_at: None,
            trusted_until,
            last_error: String::new(),
            source: if bundle.is_some() { context.book.source(trust_domain) } else { "" },
            failures: 0,
        };
        if ended.contains(trust_domain) {
            return status;
        }
        let now = context.clock.now();
        if let Some(live) = &entry.live {
            let state = live.state.borrow().clone();
            status.standing = state.standing(&context.patience(), context.now());
            status.fetched_at = state.fetched_at;
            status.next_at = state.due().map(|due| now + due.saturating_sub(context.now()));
            status.failures = state.failures;
            status.last_error = state.last_error;
            return status;
        }
        let linked = context.book.link(trust_domain).filter(|_| entry.one.profile == Profile::Link);
        let expired = trusted_until.is_none_or(|end| end <= now);
        status.standing = match (&linked, &bundle) {
            (Some(linked), _) if !linked.established => Standing::Pending,
            (_, None) => Standing::Pending,
            (Some(linked), Some(_)) if !linked.fresh => Standing::Stale,
            (_, Some(_)) if expired => Standing::Stale,
            _ => Standing::Fresh,
        };
        status.last_error = linked.map(|linked| linked.last_error).unwrap_or_default();
        status
    }
}

fn trusted_until(context: &Context, trust_domain: &TrustDomain) -> Option<SystemTime> {
    let bundle = context.book.of(trust_domain)?;
    bundle.x509.iter().filter_map(|root| validity(root).ok()).map(|(_, end)| end).max()
}

/// Keeps the countdown of every foreign trust domain where operators can be warned of it (fault 48).
async fn tell_ends(core: Arc<Core>) {
    let context = &core.context;
    let mut changes = context.book.changes();
    let mut told = BTreeSet::new();
    loop {
        let held = context.book.held();
        for trust_domain in &held {
            let end = trusted_until(context, trust_domain).map_or(0, unix_secs);
            context.counters.trusted_until.set(&[("trust_domain", trust_domain.as_str())], end);
        }
        for gone in told.difference(&held) {
            context.counters.trusted_until.set(&[("trust_domain", TrustDomain::as_str(gone))], 0);
        }
        told = held;
        tokio::select! {
            change = changes.next() => if change.is_none() { return },
            () = context.drain.cancelled() => return,
        }
    }
}
