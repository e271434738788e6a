//! Federation of trust as SPIFFE has it (SPIFFE_Federation.md): relationships with other trust domains, whose bundles are fetched
//! from their bundle endpoints, and our own bundle, served at ours.
//!
//! ```text
//!   configuration ─┐                     ┌── poll ── fetch ──► a foreign bundle endpoint     (one task per trust domain)
//!                  ├─► relationships ────┤
//!   operator ──────┘    (handle)         └── what the link and `bundle set` bring is only looked at
//!                                             │ offers, ends
//!                                             ▼
//!                          Book: every bundle, kept by somebody else ──► endpoint: our own, served
//! ```
//!
//! Pure: [`relationship`], [`url`], [`machine`]. Nothing of a relationship is ever inferred or taken from the wire (F-7): trust
//! domain, URL and profile are the operator's words. No relationship waits for another: each has its task, its deadline and its word
//! to stop, so that one that hangs can be ended in no time.

mod certificate;
pub mod endpoint;
pub mod fetch;
pub mod handle;
pub mod machine;
mod persist;
mod poll;
pub mod relationship;
mod tls;
pub mod url;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use symbolon_kit::clock::Clock;
use symbolon_kit::drain::Drain;
use symbolon_kit::metrics::{Counter, Gauge, Metrics};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::supervise::Tasks;
use symbolon_proto::ids::TrustDomain;

use crate::store::{self, SharedStore};

pub use fetch::{Fetcher, Limits};
pub use handle::{Handle, Refused, Status};
pub use relationship::{Origin, Profile, Relationship};

/// Every trust domain's bundle, and the link to its control plane if there is one; kept by others.
pub trait Book: Send + Sync + std::fmt::Debug {
    fn of(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>>;
    /// All foreign trust domains of which a bundle is held.
    fn held(&self) -> BTreeSet<TrustDomain>;
    /// Where the bundle came from, in a word.
    fn source(&self, trust_domain: &TrustDomain) -> &'static str;
    /// Yields whenever any bundle may have changed.
    fn changes(&self) -> BoxStream<'static, ()>;
    /// Takes a fetched document, if it is newer and well formed. Durable when it returns.
    fn offer<'a>(&'a self, trust_domain: &'a TrustDomain, jwks: &'a [u8]) -> BoxFuture<'a, Result<(), NotTaken>>;
    /// Takes the operator's own word.
    fn set<'a>(
        &'a self,
        trust_domain: &'a TrustDomain,
        jwks: &'a [u8],
        force: bool,
    ) -> BoxFuture<'a, Result<(), NotTaken>>;
    /// The trust domains in which trust was ended.
    fn ended(&self) -> BTreeSet<TrustDomain>;
    /// Ends trust: from now on nothing that names this trust domain verifies anywhere, and no offer brings it back.
    fn end<'a>(&'a self, trust_domain: &'a TrustDomain) -> BoxFuture<'a, Result<(), NotTaken>>;
    /// Lets bundles in again after an end.
    fn allow<'a>(&'a self, trust_domain: &'a TrustDomain) -> BoxFuture<'a, Result<(), NotTaken>>;
    /// Drops what is held of a trust domain with which there is no relationship.
    fn forget<'a>(&'a self, trust_domain: &'a TrustDomain) -> BoxFuture<'a, Result<(), NotTaken>>;
    /// Writes down that an operator makes or changes a relationship; only then may it be.
    fn relate<'a>(&'a self, one: &'a Relationship, is_new: bool) -> BoxFuture<'a, Result<(), NotTaken>>;
    /// How the link to this trust domain's control plane is.
    fn link(&self, trust_domain: &TrustDomain) -> Option<Linked>;
}

/// What is known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Trust was exchanged.
    pub established: bool,
    /// The peer is heard as often as it should be.
    pub fresh: bool,
    /// In words; empty when all is well.
    pub last_error: String,
}

/// Why the book keeps what it has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotTaken {
    pub label: &'static str,
    pub why: String,
    /// Our own trouble, and not the document's.
    pub ours: bool,
}

/// What the relationships need to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub trust_domain: TrustDomain,
    /// Of the configuration file, those of the link's peers among them.
    pub relationships: Vec<Relationship>,
    /// First bundles of theirs, from files.
    pub bootstrap: BTreeMap<TrustDomain, Vec<u8>>,
    pub timing: Timing,
}

/// How patient polling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long after a document that withdraws everything the second look follows.
    pub confirm: Duration,
    /// What is taken as the refresh hint where a test cannot wait for the shortest that a bundle may say.
    pub longest_interval: Duration,
}

/// Why the relationships could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("relationships: the bootstrap bundle of {0} is refused: {1}")]
    Bootstrap(TrustDomain, NotTaken),
}

#[derive(Clone, Debug)]
struct Counters {
    /// By result: ok, unchanged, or why not.
    fetches: Counter,
    /// What an operator should look at.
    alarms: Counter,
    /// Unix time at which the last authority of a trust domain expires.
    trusted_until: Gauge,
}

/// What every task of the relationships shares.
#[derive(Debug)]
struct Context {
    own: TrustDomain,
    book: Arc<dyn Book>,
    store: SharedStore,
    clock: Clock,
    fetcher: Fetcher,
    timing: Timing,
    tasks: Tasks,
    drain: Drain,
    counters: Counters,
    began: tokio::time::Instant,
}

/// Restores what operators made, and begins to poll.
///
/// # Errors
/// If the store cannot be read, or a bootstrap bundle is no bundle.
#[expect(clippy::too_many_arguments, reason = "each is a part that only `app` can hand over")]
pub async fn start(
    config: Config,
    fetcher: Fetcher,
    book: Arc<dyn Book>,
    store: SharedStore,
    clock: Clock,
    tasks: &Tasks,
    drain: Drain,
    metrics: &Metrics,
) -> Result<Handle, Error> {
    let counters = Counters::new(metrics);
    let context = Arc::new(Context {
        own: config.trust_domain.clone(),
        book,
        store,
        clock,
        fetcher,
        timing: config.timing,
        tasks: tasks.clone(),
        drain,
        counters,
        began: tokio::time::Instant::now(),
    });
    Handle::start(context, config).await
}

impl Default for Timing {
    fn default() -> Self {
        Self { confirm: Duration::from_secs(10), longest_interval: Duration::MAX }
    }
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        Self {
            fetches: metrics.counter("symbolon_bundle_fetches", "Fetches from foreign bundle endpoints, by result"),
            alarms: metrics.counter("symbolon_bundle_alarms", "What an operator should look at in foreign bundles"),
            trusted_until: metrics.gauge(
                "symbolon_bundle_trusted_until_seconds",
                "Unix time at which the last X.509 authority held of a trust domain expires",
            ),
        }
    }
}
