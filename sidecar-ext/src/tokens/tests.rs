use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use symbolon_kit::clock::unix_secs;

use super::*;
use crate::testing::{entry, eventually, now, soon};

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";

/// Issues by a script; what it issues has a number in its payload.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) clock: Clock,
    /// Of each request, the orders.
    pub(crate) requests: Mutex<Vec<Vec<wire::JwtOrder>>>,
    pub(crate) kid: Mutex<String>,
    pub(crate) away: Mutex<bool>,
    /// SPIFFE ID by entry id; of others it is [`WEB`].
    pub(crate) names: Mutex<std::collections::BTreeMap<String, String>>,
}

impl Fake {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            requests: Mutex::default(),
            kid: Mutex::new("k1".into()),
            away: Mutex::new(false),
            names: Mutex::default(),
        })
    }

    fn orders(&self) -> usize {
        self.requests.lock().unwrap().iter().map(Vec::len).sum()
    }
}

impl Minter for Fake {
    fn mint(&self, orders: Vec<wire::JwtOrder>) -> BoxFuture<'_, Result<Vec<wire::MintedJwt>, Status>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if *self.away.lock().unwrap() {
                return Err(Status::unavailable("away"));
            }
            let mut requests = self.requests.lock().unwrap();
            let issue = |order: &wire::JwtOrder| {
                use wire::minted_jwt::Outcome;
                let outcome = match order.entry_id.strip_prefix("refused") {
                    Some(_) => {
                        Outcome::Refusal(wire::Refusal { reason: "unknown_entry".into(), detail: String::new() })
                    }
                    None => {
                        let header = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.kid.lock().unwrap());
                        let issued_at = unix_secs(self.clock.now());
                        let spiffe_id = self.names.lock().unwrap().get(&order.entry_id).cloned().unwrap_or(WEB.into());
                        let payload = serde_json::json!({
                            "sub": spiffe_id, "aud": order.audience, "iat": issued_at, "exp": issued_at + 300,
                            "jti": rand::random::<u64>().to_string(),
                        });
                        let encoded = [header, payload.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
                        Outcome::Svid(wire::JwtSvid {
                            spiffe_id,
                            token: format!("{}.{}.c2ln", encoded[0], encoded[1]),
                            issued_at,
                            expires_at: issued_at + 300,
                        })
                    }
                };
                wire::MintedJwt { outcome: Some(outcome) }
            };
            let answers = orders.iter().map(issue).collect();
            requests.push(orders);
            Ok(answers)
        })
    }
}

struct Rig {
    fake: Arc<Fake>,
    clock: Clock,
    tokens: Tokens,
    trust: watch::Sender<Arc<Trust>>,
    entries: watch::Sender<Option<EntryList>>,
    metrics: Metrics,
    drain: Drain,
}

impl Rig {
    fn start() -> Self {
        let (clock, metrics, drain) = (Clock::manual(now()), Metrics::new(), Drain::new());
        let fake = Fake::new(clock.clone());
        let (trust, trust_rx) = watch::channel(Arc::default());
        let (entries, entries_rx) = watch::channel(None);
        let (tokens, keeper) = Keeper::new(fake.clone(), clock.clone(), Counts::new(&metrics), trust_rx, entries_rx);
        tokio::spawn(keeper.run(drain.clone()));
        Self { fake, clock, tokens, trust, entries, metrics, drain }
    }

    async fn fetch(&self, id: &str, audience: &[&str]) -> Result<String, NoToken> {
        let audience = Audience::parse(audience.iter().map(ToString::to_string).collect()).unwrap();
        let entries = [Arc::new(entry(id, WEB, &["unix:uid:0"]))];
        let mut answers = soon(self.tokens.fetch(&entries, &audience)).await;
        answers.remove(0).map(|token| token.text.as_str().to_owned())
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drain.start();
    }
}

#[tokio::test]
async fn a_token_is_kept_for_its_entry_and_its_set_of_audiences() {
    let rig = Rig::start();
    let first = rig.fetch("web", &["db", "cache"]).await.unwrap();
    assert_eq!(rig.fetch("web", &["cache", "db", "db"]).await.unwrap(), first, "a set");
    assert_ne!(rig.fetch("web", &["db"]).await.unwrap(), first);
    assert_ne!(rig.fetch("job", &["db", "cache"]).await.unwrap(), first);
    assert_eq!(rig.fake.orders(), 3);
    assert_eq!(rig.fake.requests.lock().unwrap()[0][0].audience, ["cache", "db"]);
}

#[tokio::test]
async fn past_half_its_life_the_next_is_minted_while_the_old_one_is_handed_out() {
    let rig = Rig::start();
    let first = rig.fetch("web", &["db"]).await.unwrap();
    rig.pass(149);
    assert_eq!(rig.fetch("web", &["db"]).await.unwrap(), first);
    assert_eq!(rig.fake.orders(), 1);
    rig.pass(2);
    assert_eq!(rig.fetch("web", &["db"]).await.unwrap(), first, "nobody waits");
    eventually(|| rig.metrics.counter("symbolon_sidecar_tokens_minted", "").value(&[]) == 2).await;
    let second = rig.fetch("web", &["db"]).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(rig.fake.orders(), 2, "once");
}

#[tokio::test]
async fn an_outage_is_bridged_by_what_is_kept_until_it_expires() {
    let rig = Rig::start();
    let first = rig.fetch("web", &["db"]).await.unwrap();
    *rig.fake.away.lock().unwrap() = true;
    for seconds in [200, 80, 19] {
        rig.pass(seconds);
        assert_eq!(rig.fetch("web", &["db"]).await.unwrap(), first);
    }
    rig.pass(1);
    assert!(matches!(rig.fetch("web", &["db"]).await, Err(NoToken::Unanswered(_))), "i_6: expired");
    *rig.fake.away.lock().unwrap() = false;
    assert!(rig.fetch("web", &["db"]).await.is_ok());
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_request_and_one_token() {
    let rig = Rig::start();
    let all = futures::future::join_all((0..100).map(|_| rig.fetch("web", &["db"]))).await;
    let first = all[0].clone().unwrap();
    assert!(all.into_iter().all(|one| one.unwrap() == first));
    assert_eq!(rig.fake.orders(), 1);
    let entries: Vec<_> = ["a", "b", "refused"].map(|id| Arc::new(entry(id, WEB, &["unix:uid:0"]))).to_vec();
    let answers = soon(rig.tokens.fetch(&entries, &Audience::parse(vec!["db".into()]).unwrap())).await;
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert!(matches!(&answers[2], Err(NoToken::Refused(why)) if why.contains("unknown_entry")));
    assert_eq!(rig.fake.requests.lock().unwrap().len(), 2, "one request for one caller's entries");
}

#[tokio::test]
async fn fault_021_tokens_of_a_tainted_key_are_dropped_at_once() {
    let rig = Rig::start();
    let first = rig.fetch("web", &["db"]).await.unwrap();
    let tainted = Tainted { jwt: ["k1".to_owned()].into(), ..Tainted::default() };
    *rig.fake.kid.lock().unwrap() = "k2".into();
    rig.trust.send_replace(Arc::new(Trust { tainted: Arc::new(tainted), ..Trust::default() }));
    let mut second = first.clone();
    for _ in 0..100 {
        second = rig.fetch("web", &["db"]).await.unwrap(); // the taint may be heard after a question
        if second != first {
            break;
        }
    }
    assert_ne!(second, first);
    assert_eq!(store::kid(&second).as_deref(), Some("k2"));
    // What a tainted key signs all the same is not kept.
    *rig.fake.kid.lock().unwrap() = "k1".into();
    let third = rig.fetch("web", &["other"]).await.unwrap();
    assert_ne!(rig.fetch("web", &["other"]).await.unwrap(), third);
}

#[tokio::test]
async fn the_tokens_of_an_entry_that_is_gone_are_forgotten() {
    let rig = Rig::start();
    let first = rig.fetch("web", &["db"]).await.unwrap();
    rig.entries.send_replace(Some(Arc::from([])));
    let mut second = first.clone();
    for _ in 0..100 {
        second = rig.fetch("web", &["db"]).await.unwrap();
        if second != first {
            break;
        }
    }
    assert_ne!(second, first);
}

#[test]
fn bad_154_an_audience_names_somebody_and_not_everybody() {
    let parse = |names: &[&str]| Audience::parse(names.iter().map(ToString::to_string).collect());
    assert_eq!(parse(&[]), Err(AudienceError::Empty));
    assert_eq!(parse(&[""]), Err(AudienceError::Empty));
    assert_eq!(parse(&["db", ""]), Err(AudienceError::Empty));
    let many: Vec<_> = (0..33).map(|at| at.to_string()).collect();
    assert_eq!(Audience::parse(many), Err(AudienceError::TooLarge));
    assert_eq!(parse(&[&"x".repeat(1025)]), Err(AudienceError::TooLarge));
    assert!(parse(&["db", "db"]).is_ok());
}

#[test]
fn a_token_is_not_printed() {
    assert_eq!(format!("{:?}", Text(String::from("secret").into())), "Text(redacted)");
}
