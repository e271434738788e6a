//! The engine's other end.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Error, PATIENCE};
use crate::model::{LoadSample, PeerName, ServiceName};
use crate::rollout::decide::Command;
use crate::rollout::status::{Status, Statuses};

/// What became of a load sample. In each case it is done with: do not send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Counted,
    /// It had been counted before.
    Duplicate,
    /// No rollout concerns this proxy.
    NotACaller,
}

impl Outcome {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Duplicate => "duplicate",
            Self::NotACaller => "not_a_caller",
        }
    }
}

#[derive(Debug)]
pub(super) enum Request {
    Load {
        sample: LoadSample,
        reply: oneshot::Sender<Result<Outcome, Error>>,
    },
    Command {
        service: ServiceName,
        peer: PeerName,
        command: Command,
        reply: oneshot::Sender<Result<Arc<Status>, Error>>,
    },
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    statuses: watch::Receiver<Arc<Statuses>>,
}

impl Handle {
    pub(super) fn new(requests: mpsc::Sender<Request>, statuses: watch::Receiver<Arc<Statuses>>) -> Self {
        Self { requests, statuses }
    }

    /// Counts a load sample; returns when that is durable. After an error the sample is not counted: send it again.
    ///
    /// # Errors
    /// If the store cannot keep it, or the control plane is stopping.
    pub async fn load(&self, sample: LoadSample) -> Result<Outcome, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Load { sample, reply }, answer).await
    }

    /// Gives a command; returns the rollout after it, durable.
    ///
    /// # Errors
    /// If there is no such rollout, or the command does not fit its phase.
    pub async fn command(&self, service: ServiceName, peer: PeerName, command: Command) -> Result<Arc<Status>, Error> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Command { service, peer, command, reply }, answer).await
    }

    /// All rollouts now.
    pub fn list(&self) -> Vec<Arc<Status>> {
        self.statuses.borrow().values().cloned().collect()
    }

    /// All rollouts, at each change.
    pub fn watch(&self) -> watch::Receiver<Arc<Statuses>> {
        self.statuses.clone()
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        let asked = async {
            self.requests.send(request).await.map_err(|_| Error::Stopping)?;
            answer.await.map_err(|_| Error::Stopping)?
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(Error::Stopping))
    }
}
