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
/// The largest answer: all registrations of a mesh.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A client of one control plane; connects at the first call.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    admin: AdminClient<Channel>,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            admin: AdminClient::new(net::unix_channel(socket)).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// What the control plane says against it, or that there is none.
    pub async fn call<T, F>(&self, call: impl FnOnce(AdminClient<Channel>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.try_call(call).await.map_err(|status| self.failed(&status))
    }

    /// Makes one call whose refusal says more than words.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn try_call<T, F>(&self, call: impl FnOnce(AdminClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        match tokio::time::timeout(PATIENCE, call(self.admin.clone())).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::unavailable("no answer within 30 s")),
        }
    }

    /// The failure behind a call that was refused, or a stream that broke.
    pub fn failed(&self, status: &Status) -> Failure {
        Failure::of(status, &self.socket)
    }
}
