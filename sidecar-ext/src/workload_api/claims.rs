//! Claims of a token, between JSON and the message that carries them.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as Wire};
use serde_json::{Map, Value};

/// As the Workload API carries them. Numbers become floating point there; dates fit.
pub fn to_wire(claims: Map<String, Value>) -> Struct {
    Struct { fields: claims.into_iter().map(|(name, value)| (name, value_to_wire(value))).collect() }
}

/// As people read them.
pub fn to_json(claims: &Struct) -> Value {
    Value::Object(claims.fields.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect())
}

fn value_to_wire(value: Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(value_to_wire).collect() }),
        Value::Object(fields) => Kind::StructValue(to_wire(fields)),
    };
    Wire { kind: Some(kind) }
}

fn value_to_json(value: &Wire) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        // A date is written without the fraction that it never had.
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole, and small enough to be exact")]
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9.0e15 => Value::from(*value as i64),
        Some(Kind::NumberValue(value)) => Value::from(*value),
        Some(Kind::StringValue(value)) => Value::String(value.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(value_to_json).collect()),
        Some(Kind::StructValue(fields)) => to_json(fields),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_come_back_as_they_were() {
        let claims = json!({
            "sub": "spiffe://a.example/w", "aud": ["db"], "exp": 1_790_000_300, "x": null, "y": true, "z": 1.5,
            "nested": {"a": [1, {"b": "c"}]},
        });
        let Value::Object(map) = claims.clone() else { panic!() };
        assert_eq!(to_json(&to_wire(map)), claims);
    }
}
