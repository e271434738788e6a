//! What a foreign endpoint serves, row by row: which documents are taken, and that all others change nothing. Each case is fetched
//! over TLS while a good bundle is held.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::IsCa;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::hostile::{Answer, redirect};
use super::world::{B, Root, World, and, bytes, document, token_key, with};

/// What becomes of a document.
#[derive(Clone, Copy)]
enum Want {
    /// Refused, counted under this word; what is held stays.
    Kept(&'static str),
    /// Taken, with so many authorities of X.509.
    Taken(usize),
}

use Want::{Kept, Taken};

/// What is served, given the sequence that is next.
type Case<'a> = (&'static str, Box<dyn Fn(u64) -> Answer + 'a>, Want);

fn case<'a>(name: &'static str, serve: impl Fn(u64) -> Answer + 'a, want: Want) -> Case<'a> {
    (name, Box::new(serve), want)
}

fn said(value: &Value) -> Answer {
    Answer::Json(bytes(value))
}

fn text(text: impl Into<Vec<u8>>) -> Answer {
    Answer::Json(text.into())
}

fn raw(head: &str, body: &[u8]) -> Answer {
    Answer::Raw([head.as_bytes(), b"\r\n\r\n", body].concat())
}

/// Serves one case after another; after each that was taken, the good bundle is held again.
async fn run(world: &World, cases: Vec<Case<'_>>) {
    let mut next = world.shown().await.sequence + 1;
    for (name, serve, want) in cases {
        let before = world.held().await;
        world.b.answers(serve(next));
        match want {
            Kept(word) => {
                let counted = world.fetches(word);
                let seen = world.refresh().await;
                assert_eq!(world.fetches(word), counted + 1, "{name}: {} ({seen:?})", seen.last_error);
                assert!(!seen.last_error.is_empty() && seen.failures > 0, "{name}: {seen:?}");
                assert_eq!(seen.state, "FAILING", "{name}");
                assert_eq!(world.held().await, before, "{name}: what is held stays");
            }
            Taken(authorities) => {
                let seen = world.refresh().await;
                assert_eq!((seen.state.as_str(), seen.failures), ("FRESH", 0), "{name}: {}", seen.last_error);
                let held: Value = serde_json::from_slice(&world.held().await.unwrap()).unwrap();
                let x509 = held["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "x509-svid").count();
                assert_eq!(x509, authorities, "{name}: {held}");
                world.b.answers(said(&document(B, next + 1, &[&world.root])));
                assert_eq!(world.refresh().await.sequence, next + 1, "after {name}");
                next += 2;
            }
        }
    }
}

#[tokio::test]
async fn bad_035_and_after_what_an_endpoint_serves() {
    let world = World::start().await;
    let (root, other) = (&world.root, Root::of(B));
    let good = |next| document(B, next, &[root]);
    let own = world.a_root().await;
    let deep = format!("{{\"keys\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let foreign = Root::of("c.example");
    let not_ca = Root::with(B, |params| params.is_ca = IsCa::ExplicitNoCa);
    let expired = Root::with(B, |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let x509 = |next, x5c: Value| {
        let mut key = document(B, next, &[&other])["keys"][0].clone();
        key["x5c"] = x5c;
        and(good(next), key)
    };
    let without = |next, member: &str| {
        let mut key = document(B, next, &[&other])["keys"][0].clone();
        key.as_object_mut().unwrap().remove(member);
        and(good(next), key)
    };
    let key_with = |next, member: &str, value: Value| {
        let mut key = document(B, next, &[&other])["keys"][0].clone();
        key[member] = value;
        and(good(next), key)
    };
    let first = STANDARD.encode(other.der());
    let member = |next: u64, member: &str| {
        let json = String::from_utf8(bytes(&good(next))).unwrap();
        text(json.replacen('{', &format!("{{{member},"), 1))
    };
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc1\x01\x0d\x00\x00\x00\xc2\xa0\xf7Om\x0e7\xa0";
    let cases = vec![
        case("bad_035_not_json", |_| text("<html>no</html>"), Kept("malformed")),
        case("bad_035_nothing", |_| text(""), Kept("malformed")),
        case("bad_035_deep", |_| text(deep.clone()), Kept("malformed")),
        case("bad_035_not_utf_8", |_| text(b"{\"keys\":[\"\xff\"]}".to_vec()), Kept("malformed")),
        case("bad_035_more_than_1_mib", |_| text(vec![b' '; 1024 * 1024 + 1]), Kept("too_large")),
        case("bad_036_a_bomb", |_| raw("HTTP/1.1 200 OK\r\ncontent-encoding: gzip", gzip), Kept("encoded")),
        case("bad_036_zstd", |_| raw("HTTP/1.1 200 OK\r\ncontent-encoding: zstd", gzip), Kept("encoded")),
        case("bad_036_a_bomb_that_is_not_called_one", |_| raw("HTTP/1.1 200 OK", gzip), Kept("malformed")),
        case("bad_037_slow_drip", |_| Answer::Drip, Kept("deadline")),
        case("bad_038_a_second_keys_member", |next| member(next, "\"keys\":[]"), Kept("malformed")),
        case("bad_038_a_second_sequence", |next| member(next, "\"spiffe_sequence\":1"), Kept("malformed")),
        case("bad_039_no_keys", |next| said(&json!({"spiffe_sequence": next})), Kept("no_keys")),
        case("bad_039_null_keys", |next| said(&with(good(next), "keys", Value::Null)), Kept("no_keys")),
        case("bad_039_an_empty_object", |_| text("{}"), Kept("no_keys")),
        case("bad_041_unknown_use", |next| said(&key_with(next, "use", json!("tls"))), Taken(1)),
        case("bad_041_missing_use", |next| said(&without(next, "use")), Taken(1)),
        case("bad_041_unknown_kty", |next| said(&key_with(next, "kty", json!("QUANTUM"))), Taken(1)),
        case("bad_042_no_x5c", |next| said(&without(next, "x5c")), Taken(1)),
        case("bad_043_two_in_x5c", |next| said(&x509(next, json!([&first, STANDARD.encode(root.der())]))), Taken(2)),
        case("bad_044_bad_base64", |next| said(&x509(next, json!(["!!!"]))), Taken(1)),
        case("bad_044_bad_der", |next| said(&x509(next, json!([STANDARD.encode(b"garbage")]))), Taken(1)),
        case("bad_045_no_authority", |next| said(&document(B, next, &[root, &not_ca])), Taken(1)),
        case("bad_045_expired", |next| said(&document(B, next, &[root, &expired])), Taken(1)),
        case("bad_045_all_expired", |next| said(&document(B, next, &[&expired])), Kept("unusable")),
        case("bad_045_all_no_authority", |next| said(&document(B, next, &[&not_ca])), Kept("unusable")),
        case("bad_046_another_s_root", |next| said(&document(B, next, &[root, &foreign])), Kept("other_trust_domain")),
        case("bad_047_our_own_root", |next| said(&and(good(next), own.clone())), Kept("other_trust_domain")),
        case(
            "bad_048_a_jwt_key_without_kid",
            |next| {
                let mut key = token_key("k");
                key.as_object_mut().unwrap().remove("kid");
                said(&and(good(next), key))
            },
            Taken(1),
        ),
        case(
            "bad_049_one_kid_two_keys",
            |next| said(&and(and(good(next), token_key("k")), token_key("k"))),
            Kept("duplicate_kid"),
        ),
        case("bad_050_private_key", |next| said(&key_with(next, "d", json!("c2VjcmV0"))), Kept("secret_key")),
        case("bad_051_symmetric_key", |next| said(&key_with(next, "kty", json!("oct"))), Kept("secret_key")),
        case(
            "bad_052_rsa_that_is_none",
            |next| {
                let weak = json!({"use": "jwt-svid", "kty": "RSA", "kid": "w", "e": "AQ", "n": "wJ3v"});
                said(&and(good(next), weak))
            },
            Taken(1),
        ),
        case("bad_053_older", |next| said(&document(B, next - 2, &[&other])), Kept("older")),
        case(
            "bad_053_no_sequence",
            |next| {
                let mut value = document(B, next, &[&other]);
                value.as_object_mut().unwrap().remove("spiffe_sequence");
                said(&value)
            },
            Kept("older"),
        ),
        case("bad_054_another_content", |next| said(&document(B, next - 1, &[&other])), Kept("same_sequence")),
        case("bad_055_1", |next| said(&with(good(next), "spiffe_sequence", json!(-1))), Kept("sequence")),
        case("bad_055_1_5", |next| said(&with(good(next), "spiffe_sequence", json!(1.5))), Kept("sequence")),
        case("bad_055_text", |next| said(&with(good(next), "spiffe_sequence", json!("7"))), Kept("sequence")),
        case(
            "bad_055_2_64",
            |next| {
                let json = String::from_utf8(bytes(&with(good(next), "spiffe_sequence", json!(424_242)))).unwrap();
                text(json.replace("424242", "18446744073709551616"))
            },
            Kept("sequence"),
        ),
        case("bad_057_to_http", |_| redirect(&world.b.url("localhost").replace("https", "http")), Kept("redirect_url")),
        case("bad_057_elsewhere", |_| redirect(&world.b.url("127.0.0.1")), Kept("redirect_host")),
        case("bad_057_link_local", |_| redirect("https://169.254.169.254/"), Kept("redirect_link_local")),
        case("bad_057_round_and_round", |_| redirect("/"), Kept("redirects")),
        case(
            "bad_058_10_000_keys",
            |next| {
                let keys: Vec<_> =
                    (0..10_000).map(|n| json!({"kty": "EC", "use": "x", "kid": format!("{n}")})).collect();
                said(&with(good(next), "keys", json!(keys)))
            },
            Kept("too_many_keys"),
        ),
        case("trailing garbage", |next| text([bytes(&good(next)), b"garbage".to_vec()].concat()), Kept("malformed")),
        case("a second document", |next| text([bytes(&good(next)), bytes(&good(next))].concat()), Kept("malformed")),
        case("f_12_not_200", |next| raw("HTTP/1.1 404 Not Found", &bytes(&good(next))), Kept("status")),
        case("f_12_an_error", |next| raw("HTTP/1.1 500 Oh no", &bytes(&good(next))), Kept("status")),
        case("f_12_part_of_it", |next| raw("HTTP/1.1 206 Partial Content", &bytes(&good(next))), Kept("status")),
        case("f_12_not_modified", |_| raw("HTTP/1.1 304 Not Modified", b""), Kept("status")),
        case("no HTTP", |_| Answer::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()), Kept("http")),
        case(
            "cut short",
            |next| {
                let body = bytes(&good(next));
                raw(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}", body.len() + 9), &body)
            },
            Kept("http"),
        ),
    ];
    run(&world, cases).await;
    assert!(world.alarms("refused") > 0 && world.alarms("ignored_element") > 0 && world.alarms("secret_key") > 0);
}

/// SPIRE takes 876 MiB of memory for it; here the sender cannot even get rid of it.
#[tokio::test]
async fn bad_036_256_mib_are_not_read() {
    let world = World::start().await;
    world.b.answers(Answer::Flood(256 * 1024 * 1024));
    let seen = world.refresh().await;
    assert_eq!((seen.state.as_str(), world.fetches("too_large")), ("FAILING", 1), "{}", seen.last_error);
    let sent = world.b.sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < 16 * 1024 * 1024, "{sent} bytes were taken");
}

/// `[]`, and keys for tokens only, are statements: honoured when a second look finds the same.
#[tokio::test]
async fn bad_040_what_withdraws_everything_is_honoured_at_the_second_look() {
    let world = World::start().await;
    let empty = json!({"keys": [], "spiffe_sequence": 11});
    let tokens = json!({"keys": [token_key("k")], "spiffe_sequence": 21});
    for (withdrawal, sequence, alarms) in [(empty, 11, 1), (tokens, 21, 2)] {
        let before = world.held().await;
        world.b.answers(said(&withdrawal));
        let first = world.refresh().await;
        assert!(first.last_error.contains("second look"), "{}", first.last_error);
        assert_eq!(world.held().await, before, "not yet");
        assert_eq!((world.alarms("unconfirmed_withdrawal"), world.alarms("withdrawn")), (alarms, alarms - 1));
        let second = world.refresh().await;
        assert_eq!((second.sequence, second.trusted_until), (sequence, 0), "{}", second.last_error);
        assert_eq!((world.alarms("unconfirmed_withdrawal"), world.alarms("withdrawn")), (alarms, alarms));
        // Over the Web's authorities the endpoint can say otherwise again.
        world.b.answers(said(&document(B, sequence + 1, &[&world.root])));
        assert_eq!(world.refresh().await.sequence, sequence + 1);
    }
}

/// Rows of the refresh hint: what is absurd is clamped, and what is not there is five minutes.
#[tokio::test]
async fn bad_056_the_refresh_hint_decides_when_the_next_look_is() {
    let world = World::start().await;
    let mut sequence = 10;
    let table: [(Value, std::ops::RangeInclusive<u64>); 7] = [
        (json!(60), 55..=61),
        (Value::Null, 290..=301),
        (json!(0), 25..=301),
        (json!(-1), 25..=301),
        (json!(1_000_000_000_000_u64), 86_000..=86_401),
        (json!(2_000_000_000), 86_000..=86_401),
        (json!(300), 290..=301),
    ];
    for (hint, want) in table {
        sequence += 1;
        let mut value = document(B, sequence, &[&world.root]);
        match hint {
            Value::Null => drop(value.as_object_mut().unwrap().remove("spiffe_refresh_hint")),
            hint => value["spiffe_refresh_hint"] = hint,
        }
        world.b.answers(said(&value));
        let seen = world.refresh().await;
        assert_eq!(seen.sequence, sequence, "{}", seen.last_error);
        let now = symbolon_kit::clock::unix_secs(symbolon_kit::clock::Clock::system().now());
        let wait = u64::try_from(seen.next_at - now).unwrap();
        assert!(want.contains(&wait), "{}: {wait} s", value["spiffe_refresh_hint"]);
    }
}

/// F-13: a redirect that may be followed is, under the same checks, and the next look begins where the operator said.
#[tokio::test]
async fn f_13_a_redirect_on_the_same_host_is_followed_and_not_kept() {
    let world = World::start().await;
    let moved = |sequence| {
        let new = said(&document(B, sequence, &[&world.root]));
        Answer::Paths(vec![("/", Box::new(redirect("/moved"))), ("/moved", Box::new(new))])
    };
    for sequence in [11, 12] {
        world.b.asked.lock().unwrap().clear();
        world.b.answers(moved(sequence));
        assert_eq!(world.refresh().await.sequence, sequence);
        assert_eq!(*world.b.asked.lock().unwrap(), ["/", "/moved"]);
    }
    assert_eq!(world.shown().await.endpoint, world.b.url("localhost"));
}

/// F-4: whoever publishes no sequences is followed by the newest fetch.
#[tokio::test]
async fn f_4_without_any_sequence_the_newest_fetch_counts() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let web = super::hostile::Web::new(folder.path());
    let b = super::hostile::Hostile::web(&web).await;
    let a = super::world::rig(folder, &format!("federation: {{rootsFile: {:?}}}\n", web.roots)).await;
    let (one, two) = (Root::of(B), Root::of(B));
    let bare = |root: &Root| {
        let mut value = document(B, 1, &[root]);
        value.as_object_mut().unwrap().remove("spiffe_sequence");
        value
    };
    b.answers(said(&bare(&one)));
    let asked = super::world::relationship(B, "https_web", &b.url("localhost"), "", &[]);
    a.admin().set_relationship(asked).await.unwrap();
    super::world::is(&a, B, "FRESH").await;
    b.answers(said(&bare(&two)));
    let asked = symbolon_proto::admin::RefreshRelationshipRequest { trust_domain: B.into() };
    assert_eq!(a.admin().refresh_relationship(asked).await.unwrap().into_inner().state, "FRESH");
    let held: Value = serde_json::from_slice(&super::world::held(&a, B).await.unwrap()).unwrap();
    assert_eq!(held["keys"][0]["x5c"][0], STANDARD.encode(two.der()));
}

/// The deadline is over everything, and the refusal comes at it.
#[tokio::test]
async fn bad_037_an_endpoint_that_says_nothing_costs_one_deadline() {
    let world = World::start().await;
    world.b.answers(Answer::Silence);
    let began = Instant::now();
    let seen = world.refresh().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!((seen.state.as_str(), world.fetches("deadline")), ("FAILING", 1));
}
