//! The resource types of xDS: those we serve, and those we know of and have none of.

use crate::model::ResourceType;

/// A type of resource, in the order in which upserts go out: clusters → endpoints → listeners → routes (xDS checklist 34).
/// Known types that no snapshot holds are answered as any other, with nothing: a question without an answer would hold Envoy
/// back for 15 s (25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Cluster,
    Endpoint,
    Listener,
    Route,
    Runtime,
    Secret,
    ScopedRoute,
    VirtualHost,
    LocalityEndpoint,
    Extension,
}

const URLS: [(Kind, &str); 10] = [
    (Kind::Cluster, "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    (Kind::Endpoint, "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"),
    (Kind::Listener, "type.googleapis.com/envoy.config.listener.v3.Listener"),
    (Kind::Route, "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
    (Kind::Runtime, "type.googleapis.com/envoy.service.runtime.v3.Runtime"),
    (Kind::Secret, "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"),
    (Kind::ScopedRoute, "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"),
    (Kind::VirtualHost, "type.googleapis.com/envoy.config.route.v3.VirtualHost"),
    (Kind::LocalityEndpoint, "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint"),
    (Kind::Extension, "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"),
];

impl Kind {
    /// Every type, in sending order.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        URLS.iter().map(|(kind, _)| *kind)
    }

    pub(super) fn of(type_url: &str) -> Option<Self> {
        URLS.iter().find(|(_, url)| *url == type_url).map(|(kind, _)| *kind)
    }

    pub(super) fn type_url(self) -> &'static str {
        URLS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, url)| url)
    }

    /// Where snapshots keep it; `None`: they never hold it.
    pub(super) fn model(self) -> Option<ResourceType> {
        match self {
            Self::Cluster => Some(ResourceType::Cluster),
            Self::Endpoint => Some(ResourceType::Endpoint),
            Self::Listener => Some(ResourceType::Listener),
            Self::Route => Some(ResourceType::Route),
            Self::Runtime => Some(ResourceType::Runtime),
            Self::Secret | Self::ScopedRoute | Self::VirtualHost | Self::LocalityEndpoint | Self::Extension => None,
        }
    }

    /// As operators call it; a metric label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::Runtime => "RTDS",
            Self::Secret => "SDS",
            Self::ScopedRoute => "SRDS",
            Self::VirtualHost => "VHDS",
            Self::LocalityEndpoint => "LEDS",
            Self::Extension => "ECDS",
        }
    }

    /// Root types: a first request without names asks for all (legacy wildcard), and a SotW answer is the full state (14–16).
    pub(super) fn is_root(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The types whose resources name resources of this one.
    pub(super) fn parents(self) -> &'static [Self] {
        match self {
            Self::Cluster => &[Self::Listener, Self::Route],
            Self::Endpoint => &[Self::Cluster],
            Self::Route => &[Self::Listener],
            _ => &[],
        }
    }
}

impl From<ResourceType> for Kind {
    fn from(of: ResourceType) -> Self {
        match of {
            ResourceType::Cluster => Self::Cluster,
            ResourceType::Endpoint => Self::Endpoint,
            ResourceType::Listener => Self::Listener,
            ResourceType::Route => Self::Route,
            ResourceType::Runtime => Self::Runtime,
        }
    }
}
