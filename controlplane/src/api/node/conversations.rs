//! The standing stream that each node has open, for those who want something of a node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use symbolon_kit::drain::Drain;
use symbolon_proto::node as wire;
use tokio::sync::{mpsc, oneshot};

use crate::model::NodeName;

/// Questions that wait for a node's stream to take them.
const QUEUE: usize = 16;
/// How long a node may take to look at a process.
const PATIENCE: Duration = Duration::from_secs(5);

/// The streams, by node; cheap to clone. A new one replaces the old: after a cut connection the old one may linger here.
#[derive(Clone, Debug, Default)]
pub struct Conversations(Arc<Mutex<BTreeMap<NodeName, Line>>>); // a std mutex: nothing awaits while it is held

/// The way to one conversation.
#[derive(Debug)]
struct Line {
    end: Drain,
    questions: mpsc::Sender<Question>,
}

/// Who is the process with this pid?
#[derive(Debug)]
pub(super) struct Question {
    pub(super) pid: i32,
    pub(super) answer: oneshot::Sender<wire::Explained>,
}

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("node {0} is not connected")]
    NotConnected(NodeName),
    #[error("node {0} did not answer within 5 s")]
    Silent(NodeName),
    #[error("node {node}: {why}")]
    Refused { node: NodeName, why: String },
}

impl Conversations {
    /// Puts a node's new stream in the place of its old one, which is told by its drain.
    pub(super) fn replace(&self, node: &NodeName, end: Drain) -> mpsc::Receiver<Question> {
        let (questions, asked) = mpsc::channel(QUEUE);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = lines.insert(node.clone(), Line { end, questions }) {
            old.end.start();
        }
        lines.retain(|_, line| !line.questions.is_closed()); // those that ended since
        asked
    }

    /// Whether the node's stream is open.
    pub fn is_connected(&self, node: &NodeName) -> bool {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(node).is_some_and(|line| !line.questions.is_closed())
    }

    /// The selectors of the process with this pid, as the node's attestors see it now.
    ///
    /// # Errors
    /// [`Unanswered`], in words.
    pub async fn explain(&self, node: &NodeName, pid: i32) -> Result<Vec<String>, Unanswered> {
        let not_connected = || Unanswered::NotConnected(node.clone());
        let line = {
            let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.get(node).map(|line| line.questions.clone()).ok_or_else(not_connected)?
        };
        let (answer, answered) = oneshot::channel();
        let asking = async {
            line.send(Question { pid, answer }).await.map_err(|_| not_connected())?;
            answered.await.map_err(|_| not_connected())
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        let explained = asked.map_err(|_| Unanswered::Silent(node.clone()))??;
        if explained.error.is_empty() {
            return Ok(explained.selectors);
        }
        let why = symbolon_kit::text::shown(&explained.error, 200);
        Err(Unanswered::Refused { node: node.clone(), why })
    }
}
