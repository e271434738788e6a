//! The audit log.

use symbolon_proto::admin as wire;
use tonic::{Request, Status};

use super::{Admin, Answer, AuditStream};

impl Admin {
    pub(super) async fn verify_audit(&self, _: Request<wire::VerifyAuditRequest>) -> Answer<wire::VerifyAuditResponse> {
        Err(Status::unimplemented("not built yet"))
    }

    pub(super) async fn tail_audit(&self, _: Request<wire::TailAuditRequest>) -> Answer<AuditStream> {
        Err(Status::unimplemented("not built yet"))
    }
}
