//! Relationships with foreign trust domains.

use symbolon_proto::admin as wire;
use tonic::{Request, Status};

use super::{Admin, Answer};

impl Admin {
    pub(super) async fn list_relationships(
        &self,
        _: Request<wire::ListRelationshipsRequest>,
    ) -> Answer<wire::ListRelationshipsResponse> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn set_relationship(
        &self,
        _: Request<wire::SetRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn refresh_relationship(
        &self,
        _: Request<wire::RefreshRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn delete_relationship(
        &self,
        _: Request<wire::DeleteRelationshipRequest>,
    ) -> Answer<wire::Relationship> {
        Err(Status::unimplemented("not built yet"))
    }
}
