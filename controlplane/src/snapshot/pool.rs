//! Every resource that some proxy has, once. A resource is found by what it is made of, and encoded only if that is new; if the
//! bytes then turn out to be the same, the old one stays. What no snapshot holds any more is forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::{Message, Name};
use symbolon_proto::ids::{SpiffeId, TrustDomain};

use super::arm::{Accept, Arm, arms_of};
use super::builder::Config;
use super::clusters::{self, Speaks};
use super::need::Inbound;
use super::resource::Resource;
use super::routes::Target;
use super::{endpoints, listeners, routes};
use crate::model::{MeshView, ResourceType, ServiceName, ServiceRef};

#[derive(Debug)]
pub(super) struct Pool {
    config: Config,
    shapes: BTreeMap<ServiceRef, Shape>,
    clusters: HashMap<SpiffeId, HashMap<ServiceRef, Seen>>,
    /// Outbound routes, per outbound address.
    routes: HashMap<SocketAddr, ByTargets>,
    others: HashMap<Key, Arc<Resource>>,
}

/// Routes by where they go.
type ByTargets = HashMap<Vec<(ServiceRef, Target)>, Arc<Resource>>;

/// What the clusters of one arm have in common, whoever calls it.
#[derive(Debug)]
struct Shape {
    arms: Vec<(u32, Arm)>,
    accepts: Arc<[Accept]>,
    assignment: Arc<Resource>,
}

/// A cluster as one identity sees it.
#[derive(Debug)]
struct Seen {
    accepts: Arc<[Accept]>,
    /// Of its connections.
    lifetime: Duration,
    cluster: Arc<Resource>,
}

/// What a listener, inbound route or application's cluster is made of.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    InboundListener(SpiffeId, Arc<str>, SocketAddr, Duration),
    InboundRoute(Arc<str>, BTreeSet<TrustDomain>),
    App(Arc<str>, SocketAddr, Speaks),
    OutboundListener(SocketAddr),
}

impl Pool {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            shapes: BTreeMap::new(),
            clusters: HashMap::new(),
            routes: HashMap::new(),
            others: HashMap::new(),
        }
    }

    /// How long connections of `identity` may live.
    pub(super) fn lifetime(&self, view: &MeshView, identity: &SpiffeId) -> Duration {
        self.config.connection_lifetime(view, identity)
    }

    /// Takes in what `view` says of the arms in use; names the services of those that are different now.
    pub(super) fn refresh(&mut self, view: &MeshView) -> BTreeSet<ServiceName> {
        let mut touched = BTreeSet::new();
        for (of, shape) in &mut self.shapes {
            if shape.refresh(view, of) {
                touched.insert(of.service.clone());
            }
        }
        touched
    }

    /// Forgets what only this pool holds.
    pub(super) fn sweep(&mut self) {
        let used = |resource: &Arc<Resource>| Arc::strong_count(resource) > 1;
        self.shapes.retain(|_, shape| used(&shape.assignment));
        self.others.retain(|_, resource| used(resource));
        for seen in self.clusters.values_mut() {
            seen.retain(|_, seen| used(&seen.cluster));
        }
        self.clusters.retain(|_, seen| !seen.is_empty());
        for routes in self.routes.values_mut() {
            routes.retain(|_, route| used(route));
        }
        self.routes.retain(|_, routes| !routes.is_empty());
    }

    /// The name of a cluster, shared with the resource if there is one.
    pub(super) fn name(&self, of: &ServiceRef) -> Arc<str> {
        self.shapes.get(of).map_or_else(|| of.to_string().into(), |shape| shape.assignment.name.clone())
    }

    /// The cluster of an arm as `identity` sees it, and its endpoints.
    pub(super) fn arm(
        &mut self,
        view: &MeshView,
        identity: &SpiffeId,
        of: &ServiceRef,
    ) -> (Arc<Resource>, Arc<Resource>) {
        if !self.shapes.contains_key(of) {
            self.shapes.insert(of.clone(), Shape::new(view, of));
        }
        let shape = &self.shapes[of];
        let seen = self.clusters.entry(identity.clone()).or_default();
        let known = seen.get(of);
        let lifetime = self.config.connection_lifetime(view, identity);
        let same = |known: &&Seen| Arc::ptr_eq(&known.accepts, &shape.accepts) && known.lifetime == lifetime;
        if let Some(known) = known.filter(same) {
            return (known.cluster.clone(), shape.assignment.clone());
        }
        let name = &shape.assignment.name;
        let message = clusters::arm(&self.config.trust_domain, lifetime, identity, &shape.accepts);
        let fresh = Resource::encode(name, &message, vec![(ResourceType::Endpoint, name.clone())]);
        let cluster = kept(known.map(|known| &known.cluster), fresh);
        seen.insert(of.clone(), Seen { accepts: shape.accepts.clone(), lifetime, cluster: cluster.clone() });
        (cluster, shape.assignment.clone())
    }

    pub(super) fn inbound_listener(&mut self, view: &MeshView, identity: &SpiffeId, of: &Inbound) -> Arc<Resource> {
        let name = inbound_name(&of.workload);
        let lifetime = self.config.connection_lifetime(view, identity);
        let key = Key::InboundListener(identity.clone(), of.workload.clone(), of.inbound, lifetime);
        let make = || {
            let listener = listeners::inbound(lifetime, &name, of.inbound, identity);
            encode(&name, &listener, [(ResourceType::Route, &*name)])
        };
        self.others.entry(key).or_insert_with(make).clone()
    }

    pub(super) fn inbound_route(&mut self, workload: &Arc<str>, allowed: &BTreeSet<TrustDomain>) -> Arc<Resource> {
        let make = || {
            let (name, http, grpc) =
                (inbound_name(workload), app_name(workload, Speaks::Http1), app_name(workload, Speaks::Grpc));
            let message = routes::inbound(&name, &http, &grpc, allowed);
            encode(&name, &message, [&*http, &*grpc].map(|cluster| (ResourceType::Cluster, cluster)))
        };
        self.others.entry(Key::InboundRoute(workload.clone(), allowed.clone())).or_insert_with(make).clone()
    }

    /// The application's clusters, one for each way it may speak.
    pub(super) fn apps(&mut self, of: &Inbound) -> [Arc<Resource>; 2] {
        [Speaks::Http1, Speaks::Grpc].map(|speaks| {
            let make = || {
                let name = app_name(&of.workload, speaks);
                encode(&name, &clusters::app(&name, of.address, speaks), [])
            };
            self.others.entry(Key::App(of.workload.clone(), of.address, speaks)).or_insert_with(make).clone()
        })
    }

    pub(super) fn outbound_listener(&mut self, at: SocketAddr) -> Arc<Resource> {
        let make = || {
            let name = outbound_name(at);
            encode(&name, &listeners::outbound(&name, at), [(ResourceType::Route, &*name)])
        };
        self.others.entry(Key::OutboundListener(at)).or_insert_with(make).clone()
    }

    pub(super) fn outbound_route(&mut self, at: SocketAddr, targets: Vec<(ServiceRef, Target)>) -> Arc<Resource> {
        let routes = self.routes.entry(at).or_default();
        if let Some(known) = routes.get(&targets) {
            return known.clone();
        }
        let name = outbound_name(at);
        let clusters: BTreeSet<&str> = targets.iter().flat_map(|(_, target)| target.clusters()).collect();
        let needs = clusters.into_iter().map(|cluster| (ResourceType::Cluster, cluster));
        let route = encode(&name, &routes::outbound(&name, &targets), needs);
        routes.insert(targets, route.clone());
        route
    }
}

impl Shape {
    fn new(view: &MeshView, of: &ServiceRef) -> Self {
        let arms = arms_of(view, of);
        let name = of.to_string();
        let assignment = encode(&name, &endpoints::assignment(&name, &arms), []);
        Self { accepts: arms.iter().map(|(_, arm)| arm.accept()).collect(), arms, assignment }
    }

    /// Whether anything is different afterwards.
    fn refresh(&mut self, view: &MeshView, of: &ServiceRef) -> bool {
        let arms = arms_of(view, of);
        let same = |(one, two): (&(u32, Arm), &(u32, Arm))| one.0 == two.0 && one.1.is_same(&two.1);
        if arms.len() == self.arms.len() && arms.iter().zip(&self.arms).all(same) {
            return false;
        }
        self.arms = arms;
        let name = self.assignment.name.clone();
        let fresh = Resource::encode(&name, &endpoints::assignment(&name, &self.arms), Vec::new());
        let assignment = kept(Some(&self.assignment), fresh);
        let accepts: Arc<[Accept]> = self.arms.iter().map(|(_, arm)| arm.accept()).collect();
        let mut changed = !Arc::ptr_eq(&assignment, &self.assignment);
        self.assignment = assignment;
        if accepts != self.accepts {
            self.accepts = accepts;
            changed = true;
        }
        changed
    }
}

fn inbound_name(workload: &str) -> String {
    format!("inbound|{workload}")
}

fn outbound_name(at: SocketAddr) -> String {
    format!("outbound|{at}")
}

fn app_name(workload: &str, speaks: Speaks) -> String {
    match speaks {
        Speaks::Http1 => format!("app|{workload}"),
        Speaks::Grpc => format!("app|{workload}|grpc"),
    }
}

fn encode<'a, T: Message + Name>(
    name: &str,
    message: &T,
    needs: impl IntoIterator<Item = (ResourceType, &'a str)>,
) -> Arc<Resource> {
    Arc::new(Resource::encode(name, message, needs.into_iter().map(|(kind, name)| (kind, name.into())).collect()))
}

/// The resource from before if the fresh one says the same.
fn kept(before: Option<&Arc<Resource>>, fresh: Resource) -> Arc<Resource> {
    match before {
        Some(before) if before.version == fresh.version && before.needs == fresh.needs => before.clone(),
        _ => Arc::new(fresh),
    }
}
