//! Bad input 141 to 147: join tokens.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn bad_141_one_use_in_turn() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    assert_eq!(identity.tokens.redeem(&token).await, Ok(node("node-1")));
    assert_eq!(identity.tokens.redeem(&token).await, Err(Refusal::UnknownToken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_141_one_use_among_a_hundred_at_once() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (identity, token) = (identity.clone(), token.clone());
            tokio::spawn(async move { identity.attest_node(&token, &plain_csr()).await })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 99));
    assert!(lost.into_iter().all(|refused| refused.unwrap_err() == Refusal::UnknownToken));
}

#[tokio::test]
async fn bad_142_expired() {
    let world = world();
    let identity = world.start().await;
    let create = async || identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let (good, late) = (create().await, create().await);
    world.clock.advance(MINUTE - Duration::from_secs(1));
    assert_eq!(identity.tokens.redeem(&good).await, Ok(node("node-1")));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(identity.tokens.redeem(&late).await, Err(Refusal::ExpiredToken));
    assert_eq!(identity.tokens.redeem(&late).await, Err(Refusal::UnknownToken), "and gone");
}

#[tokio::test]
async fn bad_142_the_clock_stepped_back() {
    let mut world = world();
    let now = world.clock.now();
    let token = world.start().await.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let set_back = |by: u64| Clock::manual(now - Duration::from_secs(by));
    world.clock = set_back(3600);
    assert_eq!(world.start().await.tokens.redeem(&token).await, Err(Refusal::ExpiredToken));
    world.clock = Clock::manual(now);
    let token = world.start().await.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    world.clock = set_back(5);
    assert_eq!(world.start().await.tokens.redeem(&token).await, Ok(node("node-1")), "clocks are corrected by a little");
}

#[tokio::test]
async fn bad_143_a_bad_csr_or_another_store() {
    let (here, elsewhere) = (world(), world());
    let (here, elsewhere) = (here.start().await, elsewhere.start().await);
    let token = here.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    assert_eq!(elsewhere.attest_node(&token, &plain_csr()).await.unwrap_err(), Refusal::UnknownToken);
    assert!(matches!(here.attest_node(&token, b"no CSR").await, Err(Refusal::BadCsr(_))));
    here.attest_node(&token, &plain_csr()).await.expect("a bad CSR does not spend the token");
}

#[tokio::test]
async fn bad_144_what_is_no_token() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let wrong = [
        String::new(),
        "x".repeat(1024 * 1024),
        "\0".into(),
        format!("{token}\0"),
        format!(" {token}"),
        token.to_uppercase(),
        token[..63].into(),
        "тест".into(),
        "../tokens".into(),
    ];
    for text in wrong {
        assert_eq!(identity.tokens.redeem(&text).await, Err(Refusal::UnknownToken), "{:.20}", text);
    }
    assert_eq!(identity.tokens.redeem(&token).await, Ok(node("node-1")));
}

#[tokio::test]
async fn bad_145_the_token_is_no_part_of_the_id() {
    let world = world();
    let identity = world.start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let minted = identity.attest_node(&token, &plain_csr()).await.unwrap();
    assert_eq!(minted.id.as_str(), "spiffe://a.example/symbolon/node/node-1");
    let file = std::fs::read(world.folder.path().join("store.redb")).unwrap();
    assert!(!file.windows(token.len()).any(|window| window == token.as_bytes()), "only its hash is stored");
}

#[tokio::test]
async fn bad_146_tokens_cannot_be_guessed() {
    let identity = world().start().await;
    let mut tokens = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
        assert_eq!(token.len(), 64, "256 bits");
        assert!(tokens.insert(token));
    }
}

#[tokio::test]
async fn bad_147_a_replay_after_a_restart() {
    let world = world();
    let first = world.start().await;
    let token = first.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let unspent = first.tokens.create(&node("node-2"), MINUTE).await.unwrap().token;
    first.attest_node(&token, &plain_csr()).await.unwrap();
    let again = world.start().await;
    assert_eq!(again.attest_node(&token, &plain_csr()).await.unwrap_err(), Refusal::UnknownToken);
    assert!(again.attest_node(&unspent, &plain_csr()).await.is_ok());
}

#[tokio::test]
async fn a_token_for_ever_is_no_panic() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), Duration::MAX).await.unwrap();
    assert_eq!(token.expires_at, i64::MAX);
    assert_eq!(identity.tokens.redeem(&token.token).await, Ok(node("node-1")));
}
