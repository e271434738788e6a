//! What the Envoys of this node have acknowledged, per proxy and over all of its streams, passed up at each change: the control plane
//! counts what is in use, not what was sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use symbolon_proto::ids::SpiffeId;
use symbolon_proto::node as wire;

pub use super::secret::Detail;
use crate::upstream::Handle;

/// Where acknowledgements go; [`Handle`] in the product. Must not wait: it is told under a lock.
pub trait Sink: std::fmt::Debug + Send + Sync + 'static {
    fn acked(&self, ack: wire::SecretAck);
}

impl Sink for Handle {
    fn acked(&self, ack: wire::SecretAck) {
        self.secret_ack(ack);
    }
}

/// All proxies' acknowledgements; cheap to clone.
#[derive(Clone, Debug)]
pub struct Acks {
    sink: Arc<dyn Sink>,
    proxies: Arc<Mutex<HashMap<SpiffeId, Known>>>, // a std mutex: nothing awaits while it is held
}

#[derive(Debug, Default)]
struct Known {
    streams: usize,
    ack: wire::SecretAck,
}

/// One stream of a proxy; what it acknowledged is forgotten with its last stream.
#[derive(Debug)]
pub struct Proxy {
    id: SpiffeId,
    of: Acks,
}

impl Acks {
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink, proxies: Arc::default() }
    }

    /// One more stream of this proxy.
    pub(super) fn proxy(&self, id: &SpiffeId) -> Proxy {
        self.with(|proxies| proxies.entry(id.clone()).or_default().streams += 1);
        Proxy { id: id.clone(), of: self.clone() }
    }

    /// Folds what a stream has acknowledged.
    pub(super) fn record(&self, proxy: &Proxy, detail: &Detail) {
        self.with(|proxies| {
            let known = proxies.entry(proxy.id.clone()).or_default();
            known.ack.proxy = proxy.id.to_string();
            match detail {
                Detail::Svid { id, serial } if *id == proxy.id => known.ack.svid_serial.clone_from(serial),
                Detail::Svid { .. } => {} // another identity of the same process
                Detail::Bundles { all: true, sequences } => known.ack.bundle_sequences.clone_from(sequences),
                Detail::Bundles { all: false, sequences } => known.ack.bundle_sequences.append(&mut sequences.clone()),
            }
            self.sink.acked(known.ack.clone()); // under the lock, so that a newer state never arrives before an older
        });
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<SpiffeId, Known>) -> T) -> T {
        change(&mut self.proxies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.of.with(|proxies| {
            if let Some(known) = proxies.get_mut(&self.id) {
                known.streams = known.streams.saturating_sub(1);
                if known.streams == 0 {
                    proxies.remove(&self.id);
                }
            }
        });
    }
}
