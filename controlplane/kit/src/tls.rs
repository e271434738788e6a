//! Mutual TLS 1.3 with SPIFFE IDs on rustls: key and bundles are swapped while connections stay; no resumption, which would skip
//! the verifier (spec/identity.md, security lessons).

use std::sync::Arc;

use symbolon_proto::ids::SpiffeId;

use crate::clock::Clock;
use crate::spiffe::svid::Svid;
use crate::spiffe::verify::BundleTable;

/// What one program presents and trusts; cheap to clone, swapped while connections stay.
#[derive(Clone, Debug)]
pub struct Identity(#[expect(dead_code, reason = "contract")] Arc<()>);

/// Whom a client accepts.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Exactly this ID, verified by its trust domain's bundle.
    Id(SpiffeId),
    /// Any ID that matches this pattern (see `SpiffeId::matches`), e.g. `spiffe://a.example/symbolon/controlplane/*`.
    Pattern(Arc<str>),
    /// Any certificate: only for [`crate::net::connect_unverified`], whose caller checks the chain itself.
    Unverified,
}

impl Identity {
    pub fn new(_clock: Clock) -> Self {
        todo!()
    }

    /// From now on new handshakes present this SVID.
    pub fn set_svid(&self, _svid: &Svid) {
        todo!()
    }

    /// From now on new handshakes are verified by these bundles.
    pub fn set_bundles(&self, _bundles: &BundleTable) {
        todo!()
    }

    /// TLS 1.3, ALPN h2; a client may come without a certificate (it is then anonymous), but one that it shows must verify.
    pub fn server_config(&self) -> rustls::ServerConfig {
        todo!()
    }

    /// TLS 1.3, ALPN h2, no SNI.
    pub fn client_config(&self, _expect: Expect) -> rustls::ClientConfig {
        todo!()
    }
}
