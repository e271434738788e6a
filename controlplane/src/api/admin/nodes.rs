//! Attested nodes: list, evict, ban.

use symbolon_proto::admin as wire;
use tonic::{Request, Status};

use super::{Admin, Answer};

impl Admin {
    pub(super) async fn list_nodes(&self, _: Request<wire::ListNodesRequest>) -> Answer<wire::ListNodesResponse> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn change_node(&self, _: Request<wire::ChangeNodeRequest>) -> Answer<wire::Node> {
        Err(Status::unimplemented("not built yet"))
    }
}
