//! Traits that the parts own, made of each other's handles.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use symbolon_kit::net::{PeerIdentity, Standing};
use symbolon_kit::spiffe::bundle::{Bundle, BundleError};
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use tokio_stream::wrappers::WatchStream;

use crate::api::node::{LoadRefused, LoadSink};
use crate::federation::{BundleBook, BundleRefused};
use crate::identity::Identity;
use crate::identity::audit::{Kind, Record};
use crate::identity::bundles::{Bundles, Refused, Source};
use crate::model::{LoadSample, NodeName, PeerState};
use crate::sources::nodes::Entitlements;
use crate::trust::{Linked, NotTaken, Relationship};
use crate::{federation, rollout, trust, xds};

/// What a node may run, by the registration entries.
#[derive(Clone, Debug)]
pub(super) struct ByEntries(pub(super) Identity);

/// How long a connection without a tenure lasts.
const TO_BE_TOLD: Duration = Duration::from_secs(1);

/// A node's connections last as long as its tenure.
#[derive(Clone, Debug)]
pub(super) struct Tenures(pub(super) Identity);

impl Entitlements for ByEntries {
    fn may_run(&self, node: &NodeName, identity: &SpiffeId) -> bool {
        self.0.entries.may_run(node, identity)
    }
}

impl xds::Admission for ByEntries {
    fn node_of(&self, id: &SpiffeId, serial: &str) -> Option<NodeName> {
        self.0.node_of(id).filter(|node| self.0.nodes.check(node, serial).is_ok())
    }

    fn may_run(&self, node: &NodeName, identity: &SpiffeId) -> bool {
        self.0.entries.may_run(node, identity)
    }
}

impl Standing for Tenures {
    fn lost(&self, peer: &PeerIdentity) -> BoxFuture<'static, ()> {
        let Some(node) = peer.id.as_ref().and_then(|id| self.0.node_of(id)) else {
            return std::future::pending().boxed(); // no node: nothing of what ends a node's tenure concerns it
        };
        match self.0.nodes.tenure(&node, &peer.serial) {
            Some(tenure) => async move { tenure.ended().await }.boxed(),
            // Its calls are refused, and so it is told why. Then it must come anew, with the certificate that it has by then.
            None => tokio::time::sleep(TO_BE_TOLD).boxed(),
        }
    }
}

/// The link's book of bundles.
#[derive(Clone, Debug)]
pub(super) struct Book(pub(super) Bundles);

impl BundleBook for Book {
    fn own(&self) -> Option<Arc<Bundle>> {
        self.0.own()
    }

    fn of(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.all().get(trust_domain).cloned()
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::new(self.0.watch()).map(|_| ()).boxed()
    }

    fn offer<'a>(&'a self, trust_domain: &'a TrustDomain, jwks: &'a [u8]) -> BoxFuture<'a, Result<(), BundleRefused>> {
        async move {
            self.0.offer(trust_domain, jwks, Source::Link).await.map_err(|refused| {
                let text = refused.to_string();
                match refused {
                    Refused::Store(_) => BundleRefused::Unavailable(text),
                    Refused::Bundle(BundleError::Older { .. } | BundleError::SameSequence(_)) => {
                        BundleRefused::Sequence(text)
                    }
                    _ => BundleRefused::Content(text),
                }
            })
        }
        .boxed()
    }
}

/// What the relationships with other trust domains act upon: the bundles, and the link.
#[derive(Clone, Debug)]
pub(super) struct Trusted {
    pub(super) identity: Identity,
    pub(super) link: federation::Handle,
}

fn not_taken(refused: Refused) -> NotTaken {
    NotTaken { label: refused.label(), why: refused.to_string(), ours: refused.is_ours() }
}

impl trust::Book for Trusted {
    fn of(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.identity.bundles.all().get(trust_domain).cloned()
    }

    fn held(&self) -> BTreeSet<TrustDomain> {
        self.identity.bundles.all().keys().filter(|held| **held != self.identity.trust_domain).cloned().collect()
    }

    fn source(&self, trust_domain: &TrustDomain) -> &'static str {
        self.identity.bundles.source(trust_domain).label()
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::new(self.identity.bundles.watch()).map(|_| ()).boxed()
    }

    fn offer<'a>(&'a self, trust_domain: &'a TrustDomain, jwks: &'a [u8]) -> BoxFuture<'a, Result<(), NotTaken>> {
        async move { self.identity.bundles.offer(trust_domain, jwks, Source::Endpoint).await.map_err(not_taken) }
            .boxed()
    }

    fn set<'a>(
        &'a self,
        trust_domain: &'a TrustDomain,
        jwks: &'a [u8],
        force: bool,
    ) -> BoxFuture<'a, Result<(), NotTaken>> {
        async move { self.identity.set_bundle(trust_domain, jwks, force).await.map_err(not_taken) }.boxed()
    }

    fn ended(&self) -> BTreeSet<TrustDomain> {
        self.identity.bundles.ended()
    }

    /// Side by side: none waits for what another writes. This one thing is recorded when it has happened, and not before: a full disk
    /// must not keep trust alive.
    fn end<'a>(&'a self, trust_domain: &'a TrustDomain) -> BoxFuture<'a, Result<(), NotTaken>> {
        async move {
            let record = Record::new(Kind::RelationshipDeleted).with("trust_domain", trust_domain.as_str());
            let (ended, (), recorded) = tokio::join!(
                self.identity.bundles.end(trust_domain),
                self.link.end(trust_domain),
                self.identity.audit.append(record),
            );
            ended.map_err(|error| not_taken(error.into()))?;
            recorded.map_err(|error| not_taken(error.into()))
        }
        .boxed()
    }

    fn allow<'a>(&'a self, trust_domain: &'a TrustDomain) -> BoxFuture<'a, Result<(), NotTaken>> {
        async move { self.identity.bundles.allow(trust_domain).await.map_err(|error| not_taken(error.into())) }.boxed()
    }

    fn forget<'a>(&'a self, trust_domain: &'a TrustDomain) -> BoxFuture<'a, Result<(), NotTaken>> {
        async move {
            let record = Record::new(Kind::BundleForgotten).with("trust_domain", trust_domain.as_str());
            self.identity.audit.append(record).await.map_err(|error| not_taken(error.into()))?;
            self.identity.bundles.forget(trust_domain).await.map_err(|error| not_taken(error.into()))
        }
        .boxed()
    }

    fn relate<'a>(&'a self, one: &'a Relationship, is_new: bool) -> BoxFuture<'a, Result<(), NotTaken>> {
        let kind = if is_new { Kind::RelationshipCreated } else { Kind::RelationshipUpdated };
        let text = |part: Option<String>| part.unwrap_or_default();
        let labels: Vec<_> = one.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let record = Record::new(kind)
            .with("trust_domain", one.trust_domain.as_str())
            .with("profile", one.profile.label())
            .with("url", text(one.profile.url().map(ToString::to_string)))
            .with("endpoint_spiffe_id", text(one.profile.endpoint_id().map(ToString::to_string)))
            .with("labels", labels);
        async move { self.identity.audit.append(record).await.map_err(|error| not_taken(error.into())) }.boxed()
    }

    fn link(&self, trust_domain: &TrustDomain) -> Option<Linked> {
        let peer = self.link.list().into_iter().find(|peer| peer.trust_domain == *trust_domain)?;
        let fresh = matches!(peer.state, PeerState::Live | PeerState::Suspect | PeerState::Connecting);
        Some(Linked { established: peer.role.is_some(), fresh, last_error: peer.last_error })
    }
}

/// Load goes to the rollouts' judge.
#[derive(Clone, Debug)]
pub(super) struct ToRollouts(pub(super) rollout::Handle);

impl LoadSink for ToRollouts {
    fn count(&self, sample: LoadSample) -> BoxFuture<'_, Result<(), LoadRefused>> {
        async move {
            let counted = self.0.load(sample).await;
            counted.map(|_| ()).map_err(|error| LoadRefused(error.to_string()))
        }
        .boxed()
    }
}
