//! What the control plane knows, as plain values: services, endpoints, workloads, peers, weights. Nothing here does IO, knows a
//! wire format, or can be invalid. [`Change`] is how the outside is told apart from what is known; [`MeshView`] is what is known.

pub mod change;
pub mod endpoint;
pub mod load;
pub mod name;
pub mod programmed;
pub mod relationship;
pub mod view;
pub mod weight;
pub mod workload;

pub use change::{Change, FederatedDefinition, ServiceDefinition};
pub use endpoint::{Endpoint, Health};
pub use load::{ArmCount, ClusterLoad, LoadSample};
pub use name::{NameError, NodeName, PeerName, ServiceName, ServiceRef};
pub use programmed::{AckTable, ProxyAck, ResourceType};
pub use relationship::{Labels, Relationships};
pub use view::{ImportedService, LocalService, MeshView, PeerState, PeerView};
pub use weight::{Split, TOTAL, Weight, WeightError};
pub use workload::{ProxyKey, Workload};
