//! JWT-SVIDs and WIT-SVIDs, by the socket.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use symbolon_kit::clock::Clock;
use symbolon_kit::spiffe::wit;

use super::*;
use crate::testing::{HOUR, Signer, now};
use crate::workload_api::{WorkloadApi, claims};

/// An agent whose tokens are signed by the trust domain's key.
fn issuing(ca: &Ca) -> Agent {
    let (agent, _) = agent(ca);
    *agent.issuer.signer.lock().unwrap() = ca.signer.clone();
    agent
}

async fn tokens(agent: &Agent, audience: &[&str], id: &str) -> Result<Vec<Jwtsvid>, tonic::Status> {
    let audience = audience.iter().map(ToString::to_string).collect();
    let request = JwtsvidRequest { audience, spiffe_id: id.into() };
    Ok(soon(client(agent).fetch_jwtsvid(with_header(request))).await?.into_inner().svids)
}

#[tokio::test]
async fn bad_154_an_empty_audience_is_an_invalid_argument() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let code = async |audience: &[&str], id: &str| tokens(&agent, audience, id).await.map(drop).map_err(|s| s.code());
    assert_eq!(code(&[], "").await, Err(Code::InvalidArgument));
    assert_eq!(code(&[""], "").await, Err(Code::InvalidArgument));
    assert_eq!(code(&["db", ""], "").await, Err(Code::InvalidArgument));
    assert_eq!(code(&["db"], "nonsense").await, Err(Code::InvalidArgument));
    assert_eq!(code(&["db"], "").await, Ok(()));
    let validate = ValidateJwtsvidRequest { audience: String::new(), svid: "x".into() };
    assert_eq!(client(&agent).validate_jwtsvid(with_header(validate)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn w_11_tokens_are_of_all_identities_or_of_the_one_asked_for() {
    let ca = Ca::new("a.example");
    let hinted = |id: &str, spiffe_id: &str| {
        let entry = crate::identity::Entry { hint: "same".into(), ..entry(id, spiffe_id, &[&my_uid()]) };
        (entry, valid(&ca.svid(spiffe_id)))
    };
    let other = "spiffe://a.example/ns/shop/sa/other";
    let not_mine = (entry("other", other, &["unix:uid:4294967295"]), valid(&ca.svid(other)));
    let agent = Agent::start(view(&ca, vec![hinted("job", JOB), not_mine, hinted("web", WEB)]));
    agent.issuer.names.lock().unwrap().insert("job".into(), JOB.into());
    let ids = |svids: Vec<Jwtsvid>| svids.into_iter().map(|svid| (svid.spiffe_id, svid.hint)).collect::<Vec<_>>();
    let all = ids(tokens(&agent, &["db"], "").await.unwrap());
    assert_eq!(all, [(JOB.to_owned(), "same".to_owned()), (WEB.to_owned(), String::new())], "a hint is given once");
    assert_eq!(ids(tokens(&agent, &["db"], WEB).await.unwrap()), [(WEB.to_owned(), "same".to_owned())]);
    for denied in [other, "spiffe://b.example/w"] {
        assert_eq!(tokens(&agent, &["db"], denied).await.unwrap_err().code(), Code::PermissionDenied, "{denied}");
    }
    agent.change(|view| view.hold(Vec::new()));
    assert_eq!(tokens(&agent, &["db"], "").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn e_7_a_token_that_cannot_be_had_now_is_unavailable() {
    let (agent, _) = agent(&Ca::new("a.example"));
    *agent.issuer.away.lock().unwrap() = true;
    assert_eq!(tokens(&agent, &["db"], "").await.unwrap_err().code(), Code::Unavailable);
    *agent.issuer.away.lock().unwrap() = false;
    assert_eq!(tokens(&agent, &["db"], "").await.unwrap().len(), 1);
}

#[tokio::test]
async fn w_15_the_wit_profile_is_unimplemented_unless_it_is_switched_on() {
    let (agent, _) = agent(&Ca::new("a.example"));
    let svid = client(&agent).fetch_witsvid(with_header(WitsvidRequest::default())).await.unwrap_err();
    let bundles = client(&agent).fetch_wit_bundles(with_header(WitBundlesRequest {})).await.unwrap_err();
    assert_eq!([svid, bundles].map(|status| status.code()), [Code::Unimplemented; 2]);
}

async fn validate(agent: &Agent, audience: &str, svid: &str) -> Result<ValidateJwtsvidResponse, tonic::Status> {
    let request = ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
    Ok(soon(client(agent).validate_jwtsvid(with_header(request))).await?.into_inner())
}

#[tokio::test]
async fn w_13_a_token_is_validated_for_its_audience_and_its_claims_are_returned() {
    let ca = Ca::new("a.example");
    let agent = issuing(&ca);
    let token = tokens(&agent, &["db", "cache"], "").await.unwrap().remove(0).svid;
    let valid = validate(&agent, "db", &token).await.unwrap();
    assert_eq!(valid.spiffe_id, WEB);
    let claims = claims::to_json(&valid.claims.unwrap());
    assert_eq!((claims["sub"].as_str(), claims["aud"].as_array().map(Vec::len)), (Some(WEB), Some(2)));
    assert!(claims["exp"].as_u64().is_some() && claims["jti"].as_str().is_some(), "{claims}");
    let refused = validate(&agent, "DB", &token).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "it is for another audience"));
    let validated = WorkloadApi::counter(&agent.metrics);
    assert_eq!(["valid", "audience"].map(|outcome| validated.value(&[("outcome", outcome)])), [1, 1]);
}

#[tokio::test]
async fn w_14_a_foreign_token_is_verified_by_its_own_trust_domain_or_is_untrusted() {
    let (a, b, d) = (Ca::new("a.example"), Ca::new("b.example"), Ca::new("d.example"));
    let agent = issuing(&a);
    agent.change(|view| view.bundles = bundles(&[&a, &b, &d]));
    let token = |signer: &Signer, sub: &str| signer.jwt(sub, &["db".to_owned()], now(), now() + HOUR);
    let valid = validate(&agent, "db", &token(&b.signer, "spiffe://b.example/w")).await.unwrap();
    assert_eq!(valid.spiffe_id, "spiffe://b.example/w");
    for (what, token) in [
        ("another trust domain's key", token(&b.signer, "spiffe://a.example/w")),
        ("held here, and not the caller's to see", token(&d.signer, "spiffe://d.example/w")),
        ("nobody's", token(&Ca::new("e.example").signer, "spiffe://e.example/w")),
        ("expired", b.signer.jwt("spiffe://b.example/w", &["db".to_owned()], now() - 2 * HOUR, now() - HOUR)),
        ("no token", "x".into()),
    ] {
        assert_eq!(validate(&agent, "db", &token).await.unwrap_err().code(), Code::InvalidArgument, "{what}");
    }
    // Ended: its tokens are untrusted from then on.
    let late = token(&b.signer, "spiffe://b.example/w");
    agent.change(|view| view.bundles = bundles(&[&a]));
    assert_eq!(validate(&agent, "db", &late).await.unwrap_err().code(), Code::InvalidArgument);
    agent.change(|view| view.hold(Vec::new()));
    assert_eq!(validate(&agent, "db", &late).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn w_12_jwt_bundles_hold_keys_of_that_use_and_the_own_trust_domain() {
    let (a, b) = (Ca::new("a.example"), Ca::new("b.example"));
    let agent = issuing(&a);
    agent.change(|view| view.bundles = bundles(&[&a, &b]));
    let mut stream =
        soon(client(&agent).fetch_jwt_bundles(with_header(JwtBundlesRequest {}))).await.unwrap().into_inner();
    let first = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(first.bundles.keys().collect::<Vec<_>>(), ["spiffe://a.example", "spiffe://b.example"]);
    for jwks in first.bundles.values() {
        let jwks: serde_json::Value = serde_json::from_slice(jwks).unwrap();
        let keys = jwks["keys"].as_array().unwrap();
        assert!(
            !keys.is_empty() && keys.iter().all(|key| key["use"] == "jwt-svid" && key["kid"].is_string()),
            "{jwks}"
        );
    }
    agent.change(|view| view.bundles = bundles(&[&a]));
    assert_eq!(soon(stream.message()).await.unwrap().unwrap().bundles.len(), 1, "f_18: gone at once");
    agent.change(|view| view.hold(Vec::new()));
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn w_1_both_profiles_are_served_to_whoever_has_one_identity() {
    let agent = issuing(&Ca::new("a.example"));
    assert!(soon(svids(&agent).await.message()).await.unwrap().is_some());
    assert_eq!(tokens(&agent, &["db"], "").await.unwrap().len(), 1);
}

#[tokio::test]
async fn e_3_every_call_demands_the_header() {
    let agent = issuing(&Ca::new("a.example"));
    let mut api = client(&agent);
    let codes = [
        api.fetch_x509svid(X509svidRequest {}).await.map(drop),
        api.fetch_x509_bundles(X509BundlesRequest {}).await.map(drop),
        api.fetch_jwtsvid(JwtsvidRequest { audience: vec!["db".into()], ..Default::default() }).await.map(drop),
        api.fetch_jwt_bundles(JwtBundlesRequest {}).await.map(drop),
        api.validate_jwtsvid(ValidateJwtsvidRequest { audience: "db".into(), svid: "x".into() }).await.map(drop),
        api.fetch_witsvid(WitsvidRequest::default()).await.map(drop),
        api.fetch_wit_bundles(WitBundlesRequest {}).await.map(drop),
    ];
    assert_eq!(codes.map(|answer| answer.unwrap_err().code()), [Code::InvalidArgument; 7]);
}

/// Signs with the private JWK that came beside a token.
fn sign_with(jwk: &str, message: &[u8]) -> Vec<u8> {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let jwk: serde_json::Value = serde_json::from_str(jwk).unwrap();
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let public = [&[4][..], &bytes("x"), &bytes("y")].concat();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes("d"), &public);
    pair.unwrap().sign(&aws_lc_rs::rand::SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

#[tokio::test]
async fn t_4_a_wit_svid_comes_with_the_key_that_it_is_bound_to() {
    let ca = Ca::new("a.example");
    let agent = issuing(&ca);
    let wit_signer = Arc::new(Signer::new("wit-1"));
    *agent.issuer.signer.lock().unwrap() = wit_signer.clone();
    agent.change(|view| view.incubating = true);
    let request = WitsvidRequest { spiffe_id: WEB.into() };
    let mut stream = soon(client(&agent).fetch_witsvid(with_header(request))).await.unwrap().into_inner();
    let answer = soon(stream.message()).await.unwrap().unwrap();
    let [svid] = &answer.svids[..] else { panic!("{}", answer.svids.len()) };
    assert_eq!(svid.spiffe_id, WEB);
    let bundle = ca.bundle().with_tokens(Vec::new(), vec![wit_signer.authority()]);
    let bundle = Arc::new(bundle);
    let bound = wit::verify(&svid.wit_svid, |_| Some(bundle.clone()), Clock::system().now()).unwrap();
    let proof = sign_with(&svid.wit_svid_key, b"challenge");
    assert_eq!(bound.proven_by(b"challenge", &proof).unwrap().sub.as_str(), WEB);
    let mut jwks =
        soon(client(&agent).fetch_wit_bundles(with_header(WitBundlesRequest {}))).await.unwrap().into_inner();
    let jwks = soon(jwks.message()).await.unwrap().unwrap();
    assert!(jwks.bundles["spiffe://a.example"].contains("wit-svid"));
    // Not this process's; and switched off again.
    let other = WitsvidRequest { spiffe_id: JOB.into() };
    assert_eq!(client(&agent).fetch_witsvid(with_header(other)).await.unwrap_err().code(), Code::PermissionDenied);
    agent.change(|view| view.incubating = false);
    assert_eq!(soon(stream.message()).await.unwrap_err().code(), Code::Unimplemented);
}
