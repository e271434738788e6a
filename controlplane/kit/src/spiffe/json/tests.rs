use serde_json::json;

use super::*;

/// What `members` hands out, in order.
fn read(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut seen = Vec::new();
    members(text.as_bytes(), |name, value| seen.push((name.to_owned(), format!("{value:?}"))))
        .map_err(|e| e.to_string())?;
    Ok(seen)
}

/// Both readers refuse it, for a reason that says `why`.
fn refused(text: &str, why: &str) {
    let (tree, one_by_one) = (parse(text.as_bytes()).unwrap_err().to_string(), read(text).unwrap_err());
    assert!(tree.contains(why) && one_by_one.contains(why), "{text}: {tree} / {one_by_one}");
}

#[test]
fn members_are_handed_out_in_order_and_borrowed() {
    let text =
        r#"{"a":"x","b":7,"c":-7,"d":1.5,"e":["x","y"],"f":["x",1],"g":{"h":[]},"i":null,"j":true,"k":"\n","":[]}"#;
    let mut seen = Vec::new();
    members(text.as_bytes(), |name, value| {
        if let Member::Text(Cow::Owned(_)) = value {
            assert_eq!(name, "k", "only what was escaped is copied");
        }
        seen.push((name.to_owned(), value));
    })
    .unwrap();
    let text = |text: &'static str| Member::Text(text.into());
    let number = Member::Number;
    let want = [
        ("a", text("x")),
        ("b", number(Number::Whole(7))),
        ("c", number(Number::Other(-7.0))),
        ("d", number(Number::Other(1.5))),
        ("e", Member::Texts(vec!["x".into(), "y".into()])),
        ("f", Member::Other),
        ("g", Member::Other),
        ("i", Member::Other),
        ("j", Member::Other),
        ("k", text("\n")),
        ("", Member::Texts(Vec::new())),
    ];
    assert_eq!(seen, want.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn a_member_twice_is_refused_wherever_it_is() {
    refused(r#"{"a":1,"b":2,"a":1}"#, "\"a\" appears twice");
    refused(r#"{"a":1,"\u0061":1}"#, "\"a\" appears twice");
    refused(r#"{"x":{"a":1,"a":2}}"#, "\"a\" appears twice");
    refused(r#"{"x":[[{"a":1,"a":2}]]}"#, "\"a\" appears twice");
    read(r#"{"x":{"a":1},"a":{"a":1}}"#).unwrap();
}

#[test]
fn nesting_members_and_what_follows_are_bounded() {
    let nested = |depth: usize| format!("{{\"x\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    read(&nested(31)).unwrap();
    refused(&nested(32), "nested more than 32 deep");
    let objects = |depth: usize| format!("{}1{}", "{\"x\":".repeat(depth), "}".repeat(depth));
    read(&objects(32)).unwrap();
    refused(&objects(33), "nested more than 32 deep");
    refused("{} {}", "trailing characters");
    refused("{\"a\":1e400}", "out of range");
    let wide = |count: usize| {
        serde_json::to_string(&(0..count).map(|n| (n.to_string(), 0)).collect::<std::collections::BTreeMap<_, _>>())
    };
    read(&wide(128).unwrap()).unwrap();
    assert!(read(&wide(129).unwrap()).unwrap_err().contains("128"));
    for no_object in ["[]", "7", "null", "\"x\""] {
        assert!(read(no_object).unwrap_err().contains("an object"), "{no_object}");
        parse(no_object.as_bytes()).unwrap();
    }
    assert_eq!(parse(b"[{\"a\":[null,true,-1,1.5,\"x\"]}]").unwrap(), json!([{"a": [null, true, -1, 1.5, "x"]}]));
}
