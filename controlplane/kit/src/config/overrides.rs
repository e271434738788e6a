//! `SYMBOLON_LISTEN__HTTP=127.0.0.1:0` sets `listen.http`: two underscores go one level down, one underscore parts the words of a
//! camelCase name, a number is a place in a list.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{describe, from_yaml};

const PREFIX: &str = "SYMBOLON_";
/// Variables with this prefix that are no fields of a configuration file.
const OTHERS: [&str; 4] = ["SYMBOLON_ADMIN_SOCKET", "SYMBOLON_CONFIG", "SYMBOLON_LOG", "SYMBOLON_LOG_FORMAT"];

/// One override: the variable, and the path that it names.
#[derive(Debug)]
pub(super) struct Override {
    variable: String,
    value: String,
}

/// The overrides among these variables, in the order of their names, so that the outcome does not hang on the environment's.
pub(super) fn from_env(env: impl IntoIterator<Item = (String, String)>) -> Vec<Override> {
    let ours = |name: &str| name.starts_with(PREFIX) && !OTHERS.contains(&name) && !is_service_link(name);
    let mut overrides: Vec<_> =
        env.into_iter().filter(|(name, _)| ours(name)).map(|(variable, value)| Override { variable, value }).collect();
    overrides.sort_by(|a, b| a.variable.cmp(&b.variable));
    overrides
}

/// Kubernetes sets `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT_8081_TCP_ADDR` and the like in every pod of a namespace with a service
/// of that name.
fn is_service_link(name: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    let link = |at: &str| {
        rest.find(at).is_some_and(|start| (start == 0 || rest[..start].ends_with('_')) && !rest[..start].contains("__"))
    };
    rest == "PORT" || link("SERVICE_HOST") || link("SERVICE_PORT") || link("PORT_")
}

/// Puts the overrides into `tree` and reads it as `T`.
///
/// # Errors
/// The first variable that does not fit, and why.
pub(super) fn apply<T: DeserializeOwned>(mut tree: Value, overrides: &[Override]) -> Result<T, (String, String)> {
    let mut outcome = Err((String::new(), String::new()));
    for (index, one) in overrides.iter().enumerate() {
        let last = index + 1 == overrides.len();
        // A text that reads as YAML means that; where the field wants a text (`SYMBOLON_PEERS__0__NAME=1`), it means itself.
        let read = from_yaml::<Value>(&one.value).unwrap_or_else(|_| Value::String(one.value.clone()));
        let as_text = Value::String(one.value.clone());
        let mut first_error = None;
        for candidate in [read, as_text] {
            let mut with = tree.clone();
            set(&mut with, &one.variable[PREFIX.len()..], candidate).map_err(|why| (one.variable.clone(), why))?;
            match from_yaml::<T>(&with.to_string()) {
                Ok(parsed) => (outcome, tree) = (Ok(parsed), with),
                // What is missing yet may come with the next variable.
                Err(error) if !last && super::is_missing_field(&error) => tree = with,
                Err(error) => {
                    first_error.get_or_insert_with(|| describe(&error));
                    continue;
                }
            }
            first_error = None;
            break;
        }
        if let Some(why) = first_error {
            return Err((one.variable.clone(), why));
        }
    }
    outcome
}

fn set(tree: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let mut at = tree;
    for segment in path.split("__") {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        at = match at {
            Value::Array(items) => {
                let count = items.len();
                let index = segment.parse::<usize>().ok();
                index.and_then(|index| items.get_mut(index)).ok_or_else(|| {
                    format!("{segment:?} is not one of the {count} items of this list, which count from 0")
                })?
            }
            Value::Object(fields) => {
                let known = fields.keys().find(|name| folded(name) == folded(segment)).cloned();
                fields.entry(known.unwrap_or_else(|| camel_case(segment))).or_insert(Value::Null)
            }
            _ => return Err(format!("there is no field below {segment:?}")),
        };
    }
    *at = value;
    Ok(())
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

fn camel_case(segment: &str) -> String {
    let mut name = String::new();
    for (index, word) in segment.split('_').enumerate() {
        let lower = word.to_ascii_lowercase();
        match lower.chars().next() {
            Some(first) if index > 0 => {
                name.push(first.to_ascii_uppercase());
                name.push_str(&lower[first.len_utf8()..]);
            }
            _ => name.push_str(&lower),
        }
    }
    name
}
