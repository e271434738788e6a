//! The way to the control plane: gRPC over its admin socket.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use symbolon_kit::net;
use symbolon_proto::admin::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::failure::Failure;

/// How long a call may take; a watch has no limit but its first answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one control plane; connects at the first call.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    admin: AdminClient<Channel>,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), admin: AdminClient::new(net::unix_channel(socket)) }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// What the control plane says against it, or that there is none.
    pub async fn call<T, F>(&self, call: impl FnOnce(AdminClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match tokio::time::timeout(PATIENCE, call(self.admin.clone())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failure::of(&status, &self.socket)),
            Err(_) => Err(Failure::of(&Status::unavailable("no answer within 30 s"), &self.socket)),
        }
    }

    /// The failure behind a stream that broke.
    pub fn broken(&self, status: &Status) -> Failure {
        Failure::of(status, &self.socket)
    }
}
