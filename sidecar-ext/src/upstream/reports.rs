//! What goes up the standing stream: state, not events. A value that was replaced before it was sent is not sent; after a reconnect
//! everything is sent again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use symbolon_proto::node as wire;
use tokio::sync::Notify;

/// Proxies whose acknowledgements are kept.
const MAX_PROXIES: usize = 4096;
/// Answers about processes that wait to be sent; who asked has given up on older ones.
const MAX_EXPLAINED: usize = 16;

/// Where other parts leave what they have to say; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>, // a std mutex: nothing awaits while it is held
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    workloads: Latest<wire::Workloads>,
    acks: BTreeMap<String, Latest<wire::SecretAck>>,
    /// Of the stream that asked; not said again on another.
    explained: VecDeque<wire::Explained>,
}

/// A value, and whether this stream has carried it.
#[derive(Debug)]
struct Latest<T> {
    value: Option<T>,
    sent: bool,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { value: None, sent: false }
    }
}

impl<T: Clone + PartialEq> Latest<T> {
    /// Whether it is news.
    fn set(&mut self, value: T) -> bool {
        let news = self.value.as_ref() != Some(&value);
        if news {
            *self = Self { value: Some(value), sent: false };
        }
        news
    }

    fn take_unsent(&mut self) -> Option<T> {
        if std::mem::replace(&mut self.sent, true) { None } else { self.value.clone() }
    }
}

impl Reports {
    pub(super) fn workloads(&self, workloads: wire::Workloads) {
        self.update(|state| state.workloads.set(workloads));
    }

    pub(super) fn secret_ack(&self, ack: wire::SecretAck) {
        self.update(|state| {
            let known = state.acks.contains_key(&ack.proxy);
            (known || state.acks.len() < MAX_PROXIES) && state.acks.entry(ack.proxy.clone()).or_default().set(ack)
        });
    }

    pub(super) fn explained(&self, answer: wire::Explained) {
        self.update(|state| {
            if state.explained.len() == MAX_EXPLAINED {
                state.explained.pop_front();
            }
            state.explained.push_back(answer);
            true
        });
    }

    /// From here on everything counts as unsent: a new stream has begun.
    pub(super) fn restart(&self) {
        self.update(|state| {
            state.workloads.sent = false;
            state.acks.values_mut().for_each(|ack| ack.sent = false);
            state.explained.clear();
            true
        });
    }

    /// The next report that this stream has not carried; waits for one.
    pub(super) async fn next(&self) -> wire::NodeReport {
        loop {
            let changed = self.0.changed.notified();
            if let Some(report) = self.unsent() {
                return wire::NodeReport { report: Some(report) };
            }
            changed.await;
        }
    }

    fn unsent(&self) -> Option<wire::node_report::Report> {
        use wire::node_report::Report;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = state.explained.pop_front() {
            return Some(Report::Explained(answer));
        }
        if let Some(workloads) = state.workloads.take_unsent() {
            return Some(Report::Workloads(workloads));
        }
        state.acks.values_mut().find_map(Latest::take_unsent).map(Report::SecretAck)
    }

    fn update(&self, change: impl FnOnce(&mut State) -> bool) {
        if change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.0.changed.notify_one(); // one stream reads; a stored permit covers a change before it waits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::node_report::Report;

    fn ack(proxy: &str, serial: &str) -> wire::SecretAck {
        wire::SecretAck { proxy: proxy.into(), svid_serial: serial.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn only_the_last_of_a_kind_travels_and_a_new_stream_hears_all_again() {
        let reports = Reports::default();
        reports.workloads(wire::Workloads { revision: 1, ..Default::default() });
        reports.workloads(wire::Workloads { revision: 2, ..Default::default() });
        reports.secret_ack(ack("a", "1"));
        reports.secret_ack(ack("a", "2"));
        for stream in 0..2 {
            let Some(Report::Workloads(first)) = reports.next().await.report else { panic!("stream {stream}") };
            assert_eq!(first.revision, 2);
            assert_eq!(reports.next().await.report, Some(Report::SecretAck(ack("a", "2"))));
            assert_eq!(reports.unsent(), None);
            reports.secret_ack(ack("a", "2")); // no news
            assert_eq!(reports.unsent(), None);
            reports.restart();
        }
    }

    #[tokio::test]
    async fn answers_about_processes_are_for_the_stream_that_asked() {
        let reports = Reports::default();
        let answer = |id| wire::Explained { id, ..Default::default() };
        reports.explained(answer(1));
        assert_eq!(reports.next().await.report, Some(Report::Explained(answer(1))));
        (0..20).for_each(|id| reports.explained(answer(id)));
        assert_eq!(reports.unsent(), Some(Report::Explained(answer(4))), "only so many wait");
        reports.restart();
        assert_eq!(reports.unsent(), None);
    }
}
