//! Bad input 141 to 147: join tokens.

use super::*;

/// Spends a token for a key that nobody has used before.
async fn redeem(identity: &Identity, token: &str) -> Result<NodeName, Refusal> {
    identity.tokens.redeem(token, &symbolon_kit::octets::random(), |_| Ok(())).await
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn bad_141_one_use_in_turn() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    assert_eq!(redeem(&identity, &token).await, Ok(node("node-1")));
    assert_eq!(redeem(&identity, &token).await, Err(Refusal::UnknownToken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_141_one_use_among_a_hundred_at_once() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (identity, token) = (identity.clone(), token.clone());
            tokio::spawn(async move { join_with(&identity, &token, &plain_csr()).await })
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
    assert_eq!(redeem(&identity, &good).await, Ok(node("node-1")));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(redeem(&identity, &late).await, Err(Refusal::ExpiredToken));
    assert_eq!(redeem(&identity, &late).await, Err(Refusal::UnknownToken), "and gone");
}

#[tokio::test]
async fn bad_142_the_clock_stepped_back() {
    let mut world = world();
    let now = world.clock.now();
    let token = world.start().await.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let set_back = |by: u64| Clock::manual(now - Duration::from_secs(by));
    world.clock = set_back(3600);
    assert_eq!(redeem(&world.start().await, &token).await, Err(Refusal::ExpiredToken));
    world.clock = Clock::manual(now);
    let token = world.start().await.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    world.clock = set_back(5);
    assert_eq!(redeem(&world.start().await, &token).await, Ok(node("node-1")), "clocks are corrected by a little");
}

#[tokio::test]
async fn bad_143_a_bad_csr_or_another_store() {
    let (here, elsewhere) = (world(), world());
    let (here, elsewhere) = (here.start().await, elsewhere.start().await);
    let token = here.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    assert_eq!(join_with(&elsewhere, &token, &plain_csr()).await.unwrap_err(), Refusal::UnknownToken);
    assert!(matches!(join_with(&here, &token, b"no CSR").await, Err(Refusal::BadCsr(_))));
    join_with(&here, &token, &plain_csr()).await.expect("a bad CSR does not spend the token");
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
        assert_eq!(redeem(&identity, &text).await, Err(Refusal::UnknownToken), "{:.20}", text);
    }
    assert_eq!(redeem(&identity, &token).await, Ok(node("node-1")));
}

#[tokio::test]
async fn bad_145_the_token_is_no_part_of_the_id() {
    let world = world();
    let identity = world.start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let minted = join_with(&identity, &token, &plain_csr()).await.unwrap();
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
    join_with(&first, &token, &plain_csr()).await.unwrap();
    let again = world.start().await;
    assert_eq!(join_with(&again, &token, &plain_csr()).await.unwrap_err(), Refusal::UnknownToken);
    assert!(join_with(&again, &unspent, &plain_csr()).await.is_ok());
}

#[tokio::test]
async fn a_token_for_ever_is_no_panic() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), Duration::MAX).await.unwrap();
    assert_eq!(token.expires_at, i64::MAX);
    assert_eq!(redeem(&identity, &token.token).await, Ok(node("node-1")));
}

#[tokio::test]
async fn bad_141_the_key_that_spent_a_token_may_fetch_the_answer_again_and_no_other() {
    let world = world();
    let identity = world.start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let csr = plain_csr();
    let first = join_with(&identity, &token, &csr).await.unwrap();
    let again = join_with(&identity, &token, &csr).await.unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(join_with(&identity, &token, &plain_csr()).await.unwrap_err(), Refusal::UnknownToken, "another key");
    // Also across a restart, and after the token itself would have expired; but not for ever.
    let identity = world.start().await;
    world.clock.advance(MINUTE * 2);
    join_with(&identity, &token, &csr).await.expect("within minutes");
    world.clock.advance(crate::identity::tokens::AGAIN);
    assert_eq!(join_with(&identity, &token, &csr).await.unwrap_err(), Refusal::UnknownToken);
}

#[tokio::test]
async fn bad_141_a_hundred_at_once_with_one_key_are_one_node() {
    let identity = world().start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let csr = plain_csr();
    let callers = (0..100).map(|_| join_with(&identity, &token, &csr));
    let answers = futures::future::join_all(callers).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(identity.nodes.all().len(), 1);
    // Only the newest certificate counts.
    let counts =
        answers.iter().flatten().filter(|minted| identity.nodes.check(&node("node-1"), &minted.serial).is_ok());
    assert_eq!(counts.count(), 1);
}

#[tokio::test]
async fn bad_142_a_clock_that_was_set_back_revives_no_token() {
    let mut world = world();
    let (now, identity) = (world.clock.now(), world.start().await);
    let old = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    world.clock.advance(MINUTE + Duration::from_secs(1));
    identity.tokens.create(&node("node-2"), MINUTE).await.unwrap(); // the time is seen
    // By less than is held against it, so that only what was seen tells that the token has expired.
    world.clock = Clock::manual(now + Duration::from_secs(30));
    let identity = world.start().await;
    assert_eq!(redeem(&identity, &old).await, Err(Refusal::ExpiredToken));
    let new = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    assert_eq!(redeem(&identity, &new).await, Ok(node("node-1")), "new ones can be made");
}

#[tokio::test]
async fn bad_147_a_replay_after_the_store_was_restored_from_a_backup() {
    let world = world();
    let identity = world.start().await;
    let (token, other) = (identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token, plain_csr());
    let unspent = identity.tokens.create(&node("node-2"), MINUTE).await.unwrap().token;
    let backup = world.store.range(store::Prefix("identity/token".into())).await.unwrap().0;
    join_with(&identity, &token, &other).await.unwrap();
    // As the operator's restore would do: the store is what it was, the folder beside it is not.
    let restore = backup.into_iter().fold(store::Txn::new(), |txn, stored| txn.put(stored.key, stored.value));
    world.store.commit(restore).await.unwrap();
    let identity = world.start().await;
    for (name, token) in [("spent", &token), ("unspent, but who knows", &unspent)] {
        assert_eq!(join_with(&identity, token, &plain_csr()).await.unwrap_err(), Refusal::UnknownToken, "{name}");
    }
    let fresh = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    join_with(&identity, &fresh, &plain_csr()).await.expect("and things go on");
    let identity = world.start().await;
    let fresh = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    let identity = {
        drop(identity);
        world.start().await
    };
    join_with(&identity, &fresh, &plain_csr()).await.expect("a plain restart drops none");
}

#[tokio::test]
async fn bad_147_the_store_in_another_folder_gives_no_token_back() {
    let world = world();
    let identity = world.start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    redeem(&identity, &identity.tokens.create(&node("node-2"), MINUTE).await.unwrap().token).await.unwrap();
    std::fs::remove_file(&world.config.fence).unwrap();
    assert_eq!(redeem(&world.start().await, &token).await, Err(Refusal::UnknownToken));
    std::fs::write(&world.config.fence, "many").unwrap();
    assert!(matches!(world.try_start().await, Err(Error::Fence { .. })));
}

#[tokio::test]
async fn tokens_of_no_use_are_forgotten() {
    let world = world();
    let identity = world.start().await;
    let token = identity.tokens.create(&node("node-1"), MINUTE).await.unwrap().token;
    redeem(&identity, &token).await.unwrap();
    identity.tokens.create(&node("node-2"), MINUTE).await.unwrap();
    world.clock.advance(Duration::from_secs(3600));
    identity.tokens.create(&node("node-3"), MINUTE).await.unwrap();
    assert_eq!(world.store.range(store::keys::tokens()).await.unwrap().0.len(), 1);
}
