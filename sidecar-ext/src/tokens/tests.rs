use std::sync::Mutex;

use symbolon_kit::clock::unix_secs;
use symbolon_kit::spiffe::svid::new_key;

use super::*;
use crate::testing::{Signer, entry, eventually, now, soon};

const WEB: &str = "spiffe://a.example/ns/shop/sa/web";

/// Issues by a script; what it issues has a number in its payload.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) clock: Clock,
    /// Of each request, the orders.
    pub(crate) requests: Mutex<Vec<Vec<Order>>>,
    /// Signs.
    pub(crate) signer: Mutex<Arc<Signer>>,
    pub(crate) away: Mutex<bool>,
    /// SPIFFE ID by entry id; of others it is [`WEB`].
    pub(crate) names: Mutex<std::collections::BTreeMap<String, String>>,
}

impl Fake {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            requests: Mutex::default(),
            signer: Mutex::new(Arc::new(Signer::new("k1"))),
            away: Mutex::new(false),
            names: Mutex::default(),
        })
    }

    fn orders(&self) -> usize {
        self.requests.lock().unwrap().iter().map(Vec::len).sum()
    }
}

impl Fake {
    fn issue(&self, order: &Order) -> Minted {
        use wire::minted_jwt::Outcome;
        if order.entry_id.starts_with("refused") {
            let refusal = wire::Refusal { reason: "unknown_entry".into(), detail: String::new() };
            return (wire::MintedJwt { outcome: Some(Outcome::Refusal(refusal)) }, None);
        }
        let spiffe_id = self.names.lock().unwrap().get(&order.entry_id).cloned().unwrap_or_else(|| WEB.into());
        let (from, signer) = (self.clock.now(), self.signer.lock().unwrap().clone());
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_secs(from).unsigned_abs());
        let until = from + Duration::from_secs(300);
        // No audience: a WIT-SVID, with its key.
        let (token, key) = if order.audience.is_empty() {
            let (key, _) = new_key().unwrap();
            (signer.wit(&spiffe_id, &key, from, until), Some(key))
        } else {
            (signer.jwt(&spiffe_id, &order.audience, from, until), None)
        };
        let svid = wire::JwtSvid { spiffe_id, token, issued_at: unix_secs(from), expires_at: unix_secs(until) };
        (wire::MintedJwt { outcome: Some(Outcome::Svid(svid)) }, key)
    }
}

impl Minter for Fake {
    fn mint(&self, orders: Vec<Order>) -> BoxFuture<'_, Result<Vec<Minted>, Status>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if *self.away.lock().unwrap() {
                return Err(Status::unavailable("away"));
            }
            let answers = orders.iter().map(|order| self.issue(order)).collect();
            self.requests.lock().unwrap().push(orders);
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
    let old = std::mem::replace(&mut *rig.fake.signer.lock().unwrap(), Arc::new(Signer::new("k2")));
    rig.trust.send_replace(Arc::new(Trust { tainted: Arc::new(tainted), ..Trust::default() }));
    let second = rig.fetch("web", &["db"]).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(store::kid(&second).as_deref(), Some("k2"));
    // What a tainted key signs all the same is not kept.
    *rig.fake.signer.lock().unwrap() = old;
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
