//! The stream of WIT-SVIDs (incubating): tokens with their keys, renewed at half their life.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use symbolon_proto::workload as wire;
use tokio::sync::watch;
use tonic::Status;

use super::{Setup, answer};
use crate::attest::Caller;
use crate::guard::Share;
use crate::identity::View;
use crate::tokens::Audience;

/// Between looks at what is due, at least: a renewal that fails is tried again, and not at once.
const SHORTEST_WAIT: Duration = Duration::from_secs(5);

/// One open stream.
pub(super) struct Streaming {
    pub of: Setup,
    pub view: watch::Receiver<Arc<View>>,
    pub caller: Caller,
    pub spiffe_id: String,
    pub sent: Option<wire::WitsvidResponse>,
    pub due: SystemTime,
    #[expect(dead_code, reason = "held for as long as the stream")]
    pub share: Share,
}

type Answer = Result<wire::WitsvidResponse, Status>;

impl Streaming {
    /// The next answer; after an error, which is the last, nothing.
    pub(super) async fn next(state: Option<Self>) -> Option<(Answer, Option<Self>)> {
        let mut state = state?;
        loop {
            match state.current().await {
                Ok(message) if state.sent.as_ref() != Some(&message) => {
                    state.sent = Some(message.clone());
                    return Some((Ok(message), Some(state)));
                }
                Ok(_) => {}
                Err(why) => return Some((Err(why), None)),
            }
            let wait = state.due.duration_since(state.of.clock.now()).unwrap_or_default().max(SHORTEST_WAIT);
            let ended = tokio::select! {
                () = state.of.drain.cancelled() => true,
                changed = state.view.changed() => changed.is_err(),
                () = tokio::time::sleep(wait) => false,
            };
            if ended {
                return Some((Err(Status::unavailable("the sidecar is stopping")), None));
            }
        }
    }

    async fn current(&mut self) -> Answer {
        let entries = {
            let view = self.view.borrow_and_update();
            answer::check_incubating(&view)?;
            answer::entries(&view, &self.caller, &self.spiffe_id)?
        };
        let tokens = self.of.wits.renew(&entries, &Audience::nobody()).await;
        self.due = tokens.iter().flatten().map(|token| token.half_life()).min().unwrap_or(self.due);
        answer::wit_svids(&entries, tokens)
    }
}
