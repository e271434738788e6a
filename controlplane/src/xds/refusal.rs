//! Why a stream or a request is refused.

use symbolon_proto::ids::{IdError, SpiffeId};
use tonic::{Code, Status};

use crate::model::NodeName;

use super::{FIRST_MESSAGE, MAX_NAME_BYTES, MAX_NAMES};

/// What is told to whoever was refused; every reason is safe to show. All but [`Refusal::UnknownType`] end the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the connection came without an SVID: a node proves itself by spiffe://<trust domain>/symbolon/node/<name>"
    )]
    Anonymous,
    #[error("{0} is not a node of this mesh")]
    NotANode(SpiffeId),
    #[error("no first message within {} s", FIRST_MESSAGE.as_secs())]
    Silent,
    #[error("the first message carries no node")]
    NoNode,
    #[error("node.id is not the SPIFFE ID of a workload: {0}")]
    NodeId(#[from] IdError),
    #[error("node {node} may not run {identity}")]
    NotItsWorkload { node: NodeName, identity: SpiffeId },
    #[error("node.id changed on the stream: one stream serves one proxy")]
    NodeChanged,
    #[error("type_url is empty: an aggregated stream needs it")]
    NoType,
    #[error("unknown type_url")]
    UnknownType,
    #[error("more than {MAX_NAMES} names of one type")]
    TooManyNames,
    #[error("a resource name or version is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    #[error("not a discovery request: {0}")]
    Malformed(String),
}

impl Refusal {
    /// A fixed word per reason, for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::NotANode(_) => "not_a_node",
            Self::Silent => "silent",
            Self::NoNode => "no_node",
            Self::NodeId(_) => "node_id",
            Self::NotItsWorkload { .. } => "not_its_workload",
            Self::NodeChanged => "node_changed",
            Self::NoType => "no_type",
            Self::UnknownType => "unknown_type",
            Self::TooManyNames => "too_many_names",
            Self::NameTooLong => "name_too_long",
            Self::Malformed(_) => "malformed",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Anonymous => Code::Unauthenticated,
            Self::NotANode(_) | Self::NotItsWorkload { .. } => Code::PermissionDenied,
            Self::Silent => Code::DeadlineExceeded,
            Self::NoNode
            | Self::NodeId(_)
            | Self::NodeChanged
            | Self::NoType
            | Self::UnknownType
            | Self::TooManyNames
            | Self::NameTooLong
            | Self::Malformed(_) => Code::InvalidArgument,
        }
    }
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        Status::new(refusal.code(), refusal.to_string())
    }
}
