//! Tokens, and two whole sides over real mTLS on loopback.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use symbolon_kit::net;
use symbolon_proto::federation as wire;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::*;
use super::harness::{Ca, Side, name, side, side_again, side_at, until};

const HOUR: Duration = Duration::from_hours(1);

/// b, which listens; what it serves ends with its drain.
async fn listening(ca: &Ca, store: Arc<super::harness::Memory>) -> (Side, JoinHandle<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let b = side_at("b", "a", ca, store, vec![address.clone()]).await;
    let serving = serve(&b, listener);
    (b, serving, address)
}

fn serve(b: &Side, listener: TcpListener) -> JoinHandle<()> {
    let routes = tonic::service::Routes::new(b.server.clone());
    let refused = b.metrics.counter("handshakes_refused", "");
    let (identity, drain) = (b.identity.clone(), b.drain.clone());
    tokio::spawn(net::serve(listener, identity, routes, net::Limits::default(), refused, drain))
}

#[tokio::test]
async fn a_token_makes_two_meshes_allies() {
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let a = side("a", "b", &a_ca, Arc::default()).await;
    let (b, _serving, _) = listening(&b_ca, Arc::default()).await;
    a.serves("ledger.shop", [7]);
    b.serves("pay.shop", [1, 2]);
    assert_eq!((a.status().state, a.status().role), (PeerState::Pending, None));
    let token = b.handle.invite(&name("a"), HOUR).await.expect("a token").token;
    let accepted = a.handle.accept(&name("b"), &token).await.expect("accepted");
    assert_eq!(accepted.role, Some(Role::Dialer));
    a.imports("pay.shop", 2).await;
    a.is(PeerState::Live).await;
    b.is(PeerState::Live).await;
    until("refused by policy", || b.status().refusals.contains_key("foreign_trust_domain")).await;
    until("told", || a.status().last_error.contains("refuses")).await;
    let status = b.status();
    assert_eq!((status.role, status.exported_services, status.bundle_sequence), (Some(Role::Listener), 1, Some(5)));
    b.serves("pay.shop", [1, 2, 3]);
    a.imports("pay.shop", 3).await;
    until("programmed", || b.status().programmed_seq == b.status().head_seq).await;

    // Reused, by anybody.
    let again = a.handle.accept(&name("b"), &token).await.expect_err("spent");
    assert!(matches!(&again, Refusal::ByPeer(words) if words.contains("used before")), "{again}");

    // The peer's bundle moves over the link.
    b.book.set(b_ca.bundle(6));
    until("the newer bundle", || a.status().bundle_sequence == Some(6)).await;

    // b's control plane restarts on another port.
    let before = a.imported("pay.shop");
    b.drain.start();
    a.is(PeerState::Suspect).await;
    assert_eq!(a.imported("pay.shop"), before);
    let address = b.handle.0.context.config.advertise[0].clone();
    let listener = TcpListener::bind(&address).await.expect("the same port");
    let reborn = side_again("b", "a", &b_ca, b.store.clone(), vec![address], &[a_ca.bundle(5)]).await;
    reborn.serves("pay.shop", [1, 2, 3, 4]);
    let _serving = serve(&reborn, listener);
    a.imports("pay.shop", 4).await;
    a.drain.start();
    reborn.drain.start();
}

#[tokio::test]
async fn bad_141_to_144_tokens_that_are_no_good() {
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let a = side("a", "b", &a_ca, Arc::default()).await;
    let (b, _serving, address) = listening(&b_ca, Arc::default()).await;
    for nonsense in ["", "x", "\0", "токен", "AAAA", &"A".repeat(1024 * 1024)] {
        let refused = a.handle.accept(&name("b"), nonsense).await.expect_err("no token");
        assert_eq!(refused.label(), "malformed_token");
        let counted = a.metrics.counter("symbolon_federation_refused", "");
        assert!(counted.value(&[("peer", ""), ("reason", "malformed_token")]) > 0);
    }
    let unknown = a.handle.invite(&name("zzz"), HOUR).await.expect_err("no such peer");
    assert_eq!(unknown.label(), "unknown_peer");

    let token = b.handle.invite(&name("a"), HOUR).await.expect("a token").token;
    let genuine = wire::Token::decode(URL_SAFE_NO_PAD.decode(&token).expect("base64").as_slice()).expect("a token");
    let changed = |change: fn(&mut wire::Token)| {
        let mut token = genuine.clone();
        change(&mut token);
        URL_SAFE_NO_PAD.encode(token.encode_to_vec())
    };
    type Spoil = fn(&mut wire::Token);
    let cases: [(&str, Spoil, &str); 6] = [
        ("another trust domain", |t| t.trust_domain = "c.example".into(), "wrong_trust_domain"),
        (
            "another trust domain's ID",
            |t| t.cp_spiffe_id = "spiffe://c.example/symbolon/controlplane/0".into(),
            "wrong_id",
        ),
        ("another ID", |t| t.cp_spiffe_id = "spiffe://b.example/symbolon/controlplane/1".into(), "impostor"),
        ("another bundle", |t| t.cp_bundle_sha256 = vec![0; 32].into(), "impostor"),
        ("another secret", |t| t.one_time_secret = vec![0; 32].into(), "refused_by_peer"),
        ("nobody there", |t| t.addrs = vec!["127.0.0.1:1".into()], "unreachable"),
    ];
    for (what, change, label) in cases {
        let refused = a.handle.accept(&name("b"), &changed(change)).await.expect_err(what);
        assert_eq!(refused.label(), label, "{what}: {refused}");
        assert_eq!(a.status().state, PeerState::Pending, "{what}");
        assert_eq!(a.status().bundle_sequence, None, "{what}: nothing is kept");
    }

    // Somebody else listens there, with an authority of the same name.
    let (mallory, _at, elsewhere) = listening(&Ca::new("b.example"), Arc::default()).await;
    let mut redirected = genuine.clone();
    redirected.addrs = vec![elsewhere];
    let redirected = URL_SAFE_NO_PAD.encode(redirected.encode_to_vec());
    let refused = a.handle.accept(&name("b"), &redirected).await.expect_err("an impostor");
    assert_eq!(refused.label(), "impostor", "{refused}");
    mallory.drain.start();

    // None of that spent the token.
    a.handle.accept(&name("b"), &token).await.expect("still good");

    // Expired, by either clock.
    let token = b.handle.invite(&name("a"), HOUR).await.expect("a token").token;
    b.clock.advance(HOUR);
    let refused = a.handle.accept(&name("b"), &token).await.expect_err("expired there");
    assert!(refused.to_string().contains("expired"), "{refused}");
    a.clock.advance(HOUR);
    assert_eq!(a.handle.accept(&name("b"), &token).await.expect_err("expired here").label(), "expired_token");
    assert!(address.starts_with("127."));
}

#[tokio::test]
async fn bad_141_a_token_is_spent_once_however_many_try() {
    let (a_ca, b_ca) = (Ca::new("a.example"), Ca::new("b.example"));
    let b = side("b", "a", &b_ca, Arc::default()).await;
    let token = b.handle.invite(&name("a"), HOUR).await;
    assert!(token.is_ok(), "even without an address to advertise");
    let token = token.expect("a token").token;
    let token = wire::Token::decode(URL_SAFE_NO_PAD.decode(token).expect("base64").as_slice()).expect("a token");
    let request = |trust_domain: &str, id: &str| wire::EstablishRequest {
        one_time_secret: token.one_time_secret.clone(),
        trust_domain: trust_domain.into(),
        bundle: a_ca.bundle(5).to_jwks().into(),
        cp_spiffe_id: id.into(),
    };
    // bad 143: the inviter's configuration says who may redeem it.
    for (trust_domain, id) in [
        ("c.example", "spiffe://c.example/symbolon/controlplane/0"),
        ("a.example", "spiffe://c.example/symbolon/controlplane/0"),
        ("a.example", "spiffe://a.example/ns/shop/sa/pay"),
    ] {
        let refused = invite::establish(&b.handle.0, request(trust_domain, id)).await.expect_err(trust_domain);
        assert!(matches!(refused.label(), "wrong_trust_domain" | "wrong_id"), "{refused}");
    }
    let good = || request("a.example", "spiffe://a.example/symbolon/controlplane/0");
    let all = futures::future::join_all((0..100).map(|_| invite::establish(&b.handle.0, good()))).await;
    assert_eq!(all.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(b.status().role, Some(Role::Listener));

    // A bundle that is refused leaves nothing, and the secret spent.
    let c = side("b", "a", &b_ca, Arc::default()).await;
    let token = c.handle.invite(&name("a"), HOUR).await.expect("a token").token;
    let token = wire::Token::decode(URL_SAFE_NO_PAD.decode(token).expect("base64").as_slice()).expect("a token");
    let bad = wire::EstablishRequest {
        one_time_secret: token.one_time_secret.clone(),
        bundle: bytes::Bytes::from_static(b"{}"),
        ..good()
    };
    assert_eq!(invite::establish(&c.handle.0, bad).await.expect_err("no bundle").label(), "bundle");
    assert_eq!((c.status().role, c.status().bundle_sequence), (None, None));
    let retry = wire::EstablishRequest { one_time_secret: token.one_time_secret, ..good() };
    assert_eq!(invite::establish(&c.handle.0, retry).await.expect_err("spent").label(), "spent_token");
}
