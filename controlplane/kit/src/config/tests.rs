use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    trust_domain: String,
    #[serde(default)]
    listen: Listen,
    #[serde(default = "hour", with = "duration")]
    svid_ttl: Duration,
    #[serde(default)]
    peers: Vec<Peer>,
    #[serde(default)]
    verbose: bool,
    #[serde(default)]
    weight: u32,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Listen {
    http: String,
    max_streams: Option<u32>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Peer {
    name: String,
}

fn hour() -> Duration {
    Duration::from_hours(1)
}

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<File, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("symbolon.yaml");
    std::fs::write(&path, text).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(&path, env).map_err(|error| {
        let text = error.to_string();
        text.split_once("symbolon.yaml").map(|(_, rest)| rest.to_owned()).unwrap_or(text)
    })
}

fn refused(text: &str, env: &[(&str, &str)]) -> String {
    load_text(text, env).unwrap_err()
}

#[test]
fn a_good_file_is_read() {
    let file = load_text("trustDomain: a.example\nlisten: {http: \"127.0.0.1:0\"}\nsvidTtl: 1m30s\n", &[]).unwrap();
    assert_eq!(file.trust_domain, "a.example");
    assert_eq!(file.svid_ttl, Duration::from_secs(90));
}

#[test]
fn bad_130_unknown_fields_are_named_with_their_place_and_neighbour() {
    let text = refused("trustDomain: a.example\nlisten:\n  htpp: x\n", &[]);
    assert_eq!(text, ":3:3: unknown field \"htpp\"; did you mean \"http\"?");
    let text = refused("trustDomain: a.example\nzzzzzz: 1\n", &[]);
    assert!(text.starts_with(":2:1: unknown field \"zzzzzz\"; known are trustDomain, "), "{text}");
}

#[test]
fn bad_130_duplicate_keys_are_refused_with_their_place() {
    for text in ["trustDomain: a\ntrustDomain: b\n", "trustDomain: a\nlisten:\n  http: x\n  http: y\n"] {
        let refusal = refused(text, &[]);
        assert!(refusal.starts_with(if text.contains("listen") { ":4:" } else { ":2:" }), "{refusal}");
        assert!(refusal.contains("duplicate"), "{refusal}");
    }
}

#[test]
fn bad_130_what_is_missing_or_no_yaml_is_refused() {
    assert!(refused("listen: {http: x}\n", &[]).contains("field \"trustDomain\" is missing"));
    assert!(refused("trustDomain: [\n", &[]).starts_with(':'));
    assert!(refused("", &[]).contains("missing") || !refused("", &[]).is_empty());
    assert!(refused("trustDomain: a\n---\ntrustDomain: b\n", &[]).starts_with(':'));
    let absent = load::<File>(Path::new("/does/not/exist.yaml"), []).unwrap_err();
    assert!(absent.to_string().contains("cannot be read"), "{absent}");
}

#[test]
fn bad_131_an_anchor_bomb_is_refused_at_once() {
    let mut text = String::from("trustDomain: a\na: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f"), ("h", "g")] {
        text.push_str(&format!("{name}: &{name} [*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of}]\n"));
    }
    // As a tree, where nothing but the limits stops it.
    let error = from_yaml::<BTreeMap<String, serde_json::Value>>(&text).unwrap_err();
    assert!(error.to_string().contains("alias") || error.to_string().contains("budget"), "{error}");
    // A few aliases are what an operator may use.
    assert!(from_yaml::<serde_json::Value>("a: &a [x, y]\nb: *a\nc: *a\n").is_ok());
}

#[test]
fn bad_131_a_file_over_a_mebibyte_is_refused() {
    let text = format!("trustDomain: a # {}\n", "x".repeat(1024 * 1024));
    assert!(refused(&text, &[]).contains("larger than 1 MiB"));
}

#[test]
fn bad_132_nothing_is_coerced() {
    for value in ["0777", "1e3", "true", "12", "0x1f"] {
        assert!(load_text(&format!("trustDomain: {value}\n"), &[]).is_err(), "{value} is no text");
        let quoted = load_text(&format!("trustDomain: \"{value}\"\n"), &[]).unwrap();
        assert_eq!(quoted.trust_domain, value);
    }
    for value in ["no", "yes", "on", "1"] {
        let refusal = refused(&format!("trustDomain: a\nverbose: {value}\n"), &[]);
        assert!(refusal.starts_with(":2:"), "{value} is no boolean: {refusal}");
    }
    for value in ["1e3", "\"5\"x", "5.0", "-1"] {
        assert!(load_text(&format!("trustDomain: a\nweight: {value}\n"), &[]).is_err(), "{value} is no whole number");
    }
    let refusal = refused("trustDomain: a\nsvidTtl: 12\n", &[]);
    assert!(refusal.starts_with(":2:") && refusal.contains("unit"), "{refusal}");
}

#[test]
fn the_environment_overrides_by_path_in_any_spelling_of_case() {
    let env = [
        ("SYMBOLON_LISTEN__HTTP", "127.0.0.1:9"),
        ("SYMBOLON_LISTEN__MAX_STREAMS", "7"),
        ("SYMBOLON_SVID_TTL", "60s"),
        ("SYMBOLON_PEERS__1__NAME", "7"),
        ("SYMBOLON_VERBOSE", "true"),
        ("SYMBOLON_ADMIN_SOCKET", "/run/x.sock"),
        ("SYMBOLON_SERVICE_HOST", "10.0.0.1"),
        ("SYMBOLON_PORT_8081_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let file = load_text("trustDomain: a\npeers: [{name: b}, {name: c}]\nlisten: {http: x}\n", &env).unwrap();
    assert_eq!(file.listen, Listen { http: "127.0.0.1:9".into(), max_streams: Some(7) });
    assert_eq!(file.svid_ttl, Duration::from_secs(60));
    assert_eq!(file.peers[1].name, "7");
    assert!(file.verbose);
}

#[test]
fn the_environment_may_give_what_the_file_leaves_out() {
    let file = load_text("listen: {http: x}\n", &[("SYMBOLON_TRUST_DOMAIN", "a"), ("SYMBOLON_LISTEN__HTTP", "y")]);
    assert_eq!(file.map(|file| (file.trust_domain, file.listen.http)), Ok(("a".into(), "y".into())));
}

#[test]
fn a_bad_override_names_its_variable() {
    for (name, value, why) in [
        ("SYMBOLON_SVID_TTL", "soon", "not a duration"),
        ("SYMBOLON_LISTEN__HTPP", "x", "did you mean \"http\"?"),
        ("SYMBOLON_PEERS__3__NAME", "x", "count from 0"),
        ("SYMBOLON_TRUST_DOMAIN__X", "x", "no field below"),
        ("SYMBOLON_WEIGHT", "many", "u32"),
    ] {
        let refusal = refused("trustDomain: a\n", &[(name, value)]);
        let why = if name.contains("PEERS") { "" } else { why };
        assert!(refusal.contains(&format!("environment variable {name}: ")) && refusal.contains(why), "{refusal}");
    }
}

#[test]
fn an_error_of_the_file_keeps_its_line_when_there_are_overrides() {
    let refusal = refused("trustDomain: a\nlisten:\n  htpp: x\n", &[("SYMBOLON_SVID_TTL", "60s")]);
    assert!(refusal.starts_with(":3:3: "), "{refusal}");
}

#[test]
fn durations_are_written_with_their_units() {
    for (text, ms) in
        [("250ms", 250), ("12s", 12_000), ("1m30s", 90_000), ("24h", 86_400_000), ("1d", 86_400_000), ("0s", 0)]
    {
        assert_eq!(duration::parse(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "12", "s", "1.5s", "-1s", "1s1m", "1s 1ms", "99999999999999999999s", "11000d", "1x", "1é"] {
        assert!(duration::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn durations_round_trip(ms in 0u64..300_000_000_000) {
        let duration = Duration::from_millis(ms);
        prop_assert_eq!(duration::parse(&duration::display(duration)), Ok(duration));
    }

    #[test]
    fn no_text_panics_the_parser(text in ".{0,60}") {
        let _ = duration::parse(&text);
        let _ = from_yaml::<File>(&text);
    }
}
