//! How trust begins: a one-time token, carried from one operator to the other by hand.
//!
//! ```text
//!  inviter                                              accepter
//!  peer invite b ── token (by hand) ──────────────────► peer accept a TOKEN
//!                 ◄── Establish(), no secret ─────────  anonymous TLS
//!                 ─── bundle, ID ────────────────────►  hash = token's? server's chain verifies, with the token's ID?
//!                 ◄── Establish(secret, bundle, ID) ──  same connection
//!  spends the secret (compare and swap), admits the
//!  bundle for the trust domain that *its* configuration
//!  names, becomes the listener
//!                 ─── bundle, ID ────────────────────►  admits the bundle, becomes the dialler
//! ```
//!
//! The secret leaves the accepter only after the server has proved that it is the one that the token names: an impostor in between
//! would else redeem it with a bundle of its own.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use symbolon_kit::clock::unix_secs;
use symbolon_kit::net;
use symbolon_kit::octets::{hex, random, sha256};
use symbolon_kit::spiffe::bundle::Bundle;
use symbolon_kit::spiffe::verify::{Anchors, BundleTable, Usage};
use symbolon_kit::text::shown;
use symbolon_kit::tls::Identity;
use symbolon_proto::federation as wire;
use symbolon_proto::federation::federation_client::FederationClient;
use symbolon_proto::ids::{SpiffeId, TrustDomain};
use tonic::Status;
use tonic::transport::Channel;
use tracing::info;

use super::config::control_planes_of;
use super::persist::{self, Established, INVITATION, Invitation, Role};
use super::streams::explain;
use super::{BundleRefused, Core};
use crate::model::PeerName;
use crate::store::{self, Committed, Txn, codec, keys};

/// Longer texts are no tokens.
const MAX_TOKEN_BYTES: usize = 8 * 1024;
const SECRET_BYTES: usize = 32;
const MAX_BUNDLE_BYTES: usize = 256 * 1024;
const MAX_ADDRESSES: usize = 16;
/// How long one call of the handshake may take.
const CALL: Duration = Duration::from_secs(10);

/// An invitation as it is shown, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    pub token: String,
    /// Unix seconds.
    pub expires_at: i64,
}

/// Why no trust was exchanged; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no peer {0:?} in the configuration; add it under `peers` first")]
    UnknownPeer(PeerName),
    #[error("our own bundle is not published yet; try again in a moment")]
    NotReady,
    #[error("that is not a token; copy all of what `symbolon peer invite` printed")]
    Malformed,
    #[error("the token has expired; ask for a new `symbolon peer invite`")]
    Expired,
    #[error("the token is unknown or was used before; ask for a new `symbolon peer invite`")]
    Spent,
    #[error("{claimed} is not {pinned}, the trust domain that the configuration pins for this peer")]
    WrongTrustDomain { claimed: String, pinned: TrustDomain },
    #[error("{0:?} is not the ID of a control plane of the peer's trust domain")]
    WrongId(String),
    #[error("the peer cannot be reached at {addresses}: {why}")]
    Unreachable { addresses: String, why: String },
    #[error("the server is not the one that the token names: {0}; if its authority rotated since, ask for a new token")]
    Impostor(String),
    #[error("the peer refused: {0}")]
    ByPeer(String),
    #[error("the bundle was refused: {0}")]
    Bundle(#[from] BundleRefused),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Makes a token for `peer`; only the hash of its secret is kept.
pub(super) async fn invite(core: &Core, name: &PeerName, ttl: Duration) -> Result<Invited, Refusal> {
    let context = &core.context;
    let peer = core.peers.get(name).ok_or_else(|| Refusal::UnknownPeer(name.clone()))?;
    let own = context.book.own().ok_or(Refusal::NotReady)?;
    let secret = random::<SECRET_BYTES>();
    let expires = context.clock.now() + ttl;
    let expires_at = unix_secs(expires);
    let token = wire::Token {
        trust_domain: context.config.trust_domain.to_string(),
        addrs: context.config.advertise.clone(),
        cp_bundle_sha256: own.sha256().to_vec().into(),
        cp_spiffe_id: context.config.own_id.to_string(),
        one_time_secret: secret.to_vec().into(),
        expires: Some(expires.into()),
    };
    let trust_domain = peer.config.trust_domain.to_string();
    let invitation = Invitation { peer: name.to_string(), trust_domain, expires_at };
    let key = keys::invitation(&hash(&secret));
    let txn = Txn::new().absent(key.clone()).put(key, codec::encode(INVITATION, 1, &invitation)?);
    context.store.commit(txn).await?;
    Ok(Invited { token: URL_SAFE_NO_PAD.encode(token.encode_to_vec()), expires_at })
}

/// The inviter's side. Without a secret it only shows who we are, which is no secret.
pub(super) async fn establish(
    core: &Core,
    request: wire::EstablishRequest,
) -> Result<wire::EstablishResponse, Refusal> {
    let context = &core.context;
    let own = context.book.own().ok_or(Refusal::NotReady)?;
    let answer =
        wire::EstablishResponse { bundle: own.to_jwks().into(), cp_spiffe_id: context.config.own_id.to_string() };
    if request.one_time_secret.is_empty() {
        return Ok(answer);
    }
    if request.one_time_secret.len() != SECRET_BYTES {
        return Err(Refusal::Spent);
    }
    let key = keys::invitation(&hash(&request.one_time_secret));
    let stored = context.store.get(&key).await?.ok_or(Refusal::Spent)?;
    let invitation: Invitation = codec::decode(INVITATION, &stored.value)?;
    if unix_secs(context.clock.now()) >= invitation.expires_at {
        return Err(Refusal::Expired);
    }
    let name: PeerName = invitation.peer.parse().map_err(|_| Refusal::Spent)?;
    // The configuration may have changed since the invitation: it is what counts.
    let peer = core.peers.get(&name).ok_or_else(|| Refusal::UnknownPeer(name.clone()))?;
    let pinned = &peer.config.trust_domain;
    if invitation.trust_domain != pinned.as_str() {
        return Err(Refusal::WrongTrustDomain { claimed: invitation.trust_domain, pinned: pinned.clone() });
    }
    let control_plane = claimed(pinned, &request.trust_domain, &request.cp_spiffe_id)?;
    if request.bundle.len() > MAX_BUNDLE_BYTES {
        return Err(BundleRefused::Content("it is too large".into()).into());
    }
    let with = Established { trust_domain: pinned.clone(), control_plane, addresses: Vec::new(), role: Role::Listener };
    let spend = Txn::new().modified_at(key.clone(), stored.modified).delete(key);
    if let Committed::Conflict { .. } = context.store.commit(spend).await? {
        return Err(Refusal::Spent);
    }
    context.book.offer(pinned, &request.bundle).await?;
    keep(core, &name, with).await?;
    Ok(answer)
}

/// The accepter's side.
pub(super) async fn accept(core: &Core, name: &PeerName, token: &str) -> Result<(), Refusal> {
    let context = &core.context;
    let peer = core.peers.get(name).ok_or_else(|| Refusal::UnknownPeer(name.clone()))?;
    let token = decode(token)?;
    let expires = token.expires.map_or(0, |expires| expires.seconds);
    if unix_secs(context.clock.now()) >= expires {
        return Err(Refusal::Expired);
    }
    let pinned = peer.config.trust_domain.clone();
    let control_plane = claimed(&pinned, &token.trust_domain, &token.cp_spiffe_id)?;
    let own = context.book.own().ok_or(Refusal::NotReady)?;
    let addresses = peer.config.address.clone().map_or_else(|| token.addrs.clone(), |address| vec![address]);
    let unreachable = |why: String| Refusal::Unreachable { addresses: addresses.join(", "), why };
    // Anonymous: the inviter does not hold our bundle yet, and would refuse our certificate.
    let (channel, chain) = net::connect_unverified(&addresses, &Identity::new(context.clock.clone()))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let mut client = FederationClient::new(channel).max_decoding_message_size(MAX_BUNDLE_BYTES * 2);
    let shown = call(&mut client, wire::EstablishRequest::default()).await?;
    let bundle = Bundle::parse_jwks(&pinned, &shown.bundle, context.clock.now())
        .map_err(|error| Refusal::Impostor(format!("its bundle cannot be read: {error}")))?
        .bundle;
    if sha256(&shown.bundle).as_slice() != token.cp_bundle_sha256 {
        return Err(Refusal::Impostor("its bundle is not the one that the token names".into()));
    }
    let anchors = Anchors::new(&BundleTable::from([(pinned.clone(), bundle.into())]));
    match anchors.verify(&chain, Usage::Server, context.clock.now()) {
        Ok(id) if id == control_plane => {}
        Ok(id) => return Err(Refusal::Impostor(format!("it is {id}"))),
        Err(error) => return Err(Refusal::Impostor(error.to_string())),
    }
    let request = wire::EstablishRequest {
        one_time_secret: token.one_time_secret,
        trust_domain: context.config.trust_domain.to_string(),
        bundle: own.to_jwks().into(),
        cp_spiffe_id: context.config.own_id.to_string(),
    };
    let answer = call(&mut client, request).await?;
    if answer.bundle != shown.bundle {
        return Err(Refusal::Impostor("its bundle changed between two calls".into()));
    }
    context.book.offer(&pinned, &answer.bundle).await?;
    let with = Established { trust_domain: pinned, control_plane, addresses: token.addrs, role: Role::Dialer };
    keep(core, name, with).await
}

async fn call(
    client: &mut FederationClient<Channel>,
    request: wire::EstablishRequest,
) -> Result<wire::EstablishResponse, Refusal> {
    match tokio::time::timeout(CALL, client.establish(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Refusal::ByPeer(explain(&status))),
        Err(_) => Err(Refusal::ByPeer("it did not answer in time".into())),
    }
}

/// The other side's control plane, if it belongs to the trust domain that our configuration pins.
fn claimed(pinned: &TrustDomain, trust_domain: &str, id: &str) -> Result<SpiffeId, Refusal> {
    if trust_domain.parse::<TrustDomain>().ok().as_ref() != Some(pinned) {
        return Err(Refusal::WrongTrustDomain { claimed: shown(trust_domain, 300), pinned: pinned.clone() });
    }
    let id: SpiffeId = id.parse().map_err(|_| Refusal::WrongId(shown(id, 300)))?;
    if id.matches(&control_planes_of(pinned)) { Ok(id) } else { Err(Refusal::WrongId(id.to_string())) }
}

fn decode(text: &str) -> Result<wire::Token, Refusal> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Malformed)?;
    let token = wire::Token::decode(bytes.as_slice()).map_err(|_| Refusal::Malformed)?;
    let whole = token.one_time_secret.len() == SECRET_BYTES
        && token.cp_bundle_sha256.len() == 32
        && (1..=MAX_ADDRESSES).contains(&token.addrs.len());
    if whole { Ok(token) } else { Err(Refusal::Malformed) }
}

async fn keep(core: &Core, name: &PeerName, with: Established) -> Result<(), Refusal> {
    let Some(peer) = core.peers.get(name) else { return Err(Refusal::UnknownPeer(name.clone())) };
    core.context.store.commit(Txn::new().put(keys::peer(name), persist::encode_peer(&with)?)).await?;
    info!(peer = %name, control_plane = %with.control_plane, role = ?with.role, "trust exchanged");
    peer.establish(with, core.context.now());
    Ok(())
}

fn hash(secret: &[u8]) -> String {
    hex(&sha256(secret))
}

impl Refusal {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownPeer(_) => "unknown_peer",
            Self::NotReady => "not_ready",
            Self::Malformed => "malformed_token",
            Self::Expired => "expired_token",
            Self::Spent => "spent_token",
            Self::WrongTrustDomain { .. } => "wrong_trust_domain",
            Self::WrongId(_) => "wrong_id",
            Self::Unreachable { .. } => "unreachable",
            Self::Impostor(_) => "impostor",
            Self::ByPeer(_) => "refused_by_peer",
            Self::Bundle(_) => "bundle",
            Self::Store(_) => "store",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let words = refusal.to_string();
        match refusal {
            Refusal::Spent | Refusal::Expired | Refusal::UnknownPeer(_) => Self::permission_denied(words),
            Refusal::WrongTrustDomain { .. } | Refusal::WrongId(_) => Self::permission_denied(words),
            Refusal::Malformed | Refusal::Bundle(_) => Self::invalid_argument(words),
            Refusal::NotReady => Self::unavailable(words),
            // What goes wrong in here is not the caller's to know.
            Refusal::Store(_) => Self::internal("the control plane cannot store this now; try again"),
            Refusal::Unreachable { .. } | Refusal::Impostor(_) | Refusal::ByPeer(_) => Self::internal(words),
        }
    }
}
