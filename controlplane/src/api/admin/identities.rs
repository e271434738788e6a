//! Registration entries beyond making and listing them.

use symbolon_proto::admin as wire;
use tonic::{Request, Status};

use super::{Admin, Answer};

impl Admin {
    pub(super) async fn delete_identity(&self, _: Request<wire::DeleteIdentityRequest>) -> Answer<wire::Identity> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn apply_identities(
        &self,
        _: Request<wire::ApplyIdentitiesRequest>,
    ) -> Answer<wire::ApplyIdentitiesResponse> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn explain_identity(
        &self,
        _: Request<wire::ExplainIdentityRequest>,
    ) -> Answer<wire::ExplainIdentityResponse> {
        Err(Status::unimplemented("not built yet"))
    }
}
