//! The authorities: what there is, and the steps of their lives.

use symbolon_proto::admin as wire;
use tonic::{Request, Status};

use super::{Admin, Answer};

impl Admin {
    pub(super) async fn list_authorities(
        &self,
        _: Request<wire::ListAuthoritiesRequest>,
    ) -> Answer<wire::ListAuthoritiesResponse> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn change_authority(
        &self,
        _: Request<wire::ChangeAuthorityRequest>,
    ) -> Answer<wire::ListAuthoritiesResponse> {
        Err(Status::unimplemented("not built yet"))
    }
}
