//! Holds JSON against a JSON Schema, as far as docs/event.schema.json needs it.

#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::Value;

/// docs/event.schema.json
pub fn of_events() -> Value {
    serde_json::from_str(include_str!("../../docs/event.schema.json")).unwrap()
}

/// What is wrong with `value`, in a line each.
///
/// # Panics
/// For a keyword that it does not know: it would not be held.
pub fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let number = |v: &Value| v.as_f64();
    for (keyword, wanted) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" => true,
            "type" => match wanted {
                Value::String(kind) => is_type(kind, value),
                kinds => kinds
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|k| is_type(k.as_str().unwrap(), value)),
            },
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => number(value).is_none_or(|n| n >= wanted.as_f64().unwrap()),
            "maximum" => number(value).is_none_or(|n| n <= wanted.as_f64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|s| s.len() as u64 >= wanted.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|s| s.len() as u64 <= wanted.as_u64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|a| a.len() as u64 >= wanted.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|a| a.len() as u64 <= wanted.as_u64().unwrap()),
            "format" => {
                assert_eq!(wanted, "date-time");
                value.as_str().is_none_or(|s| humantime::parse_rfc3339(s).is_ok())
            }
            "required" => {
                let keys = wanted.as_array().unwrap().iter();
                value
                    .as_object()
                    .is_none_or(|object| keys.clone().all(|key| object.contains_key(key.as_str().unwrap())))
            }
            "properties" => {
                for (key, schema) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        faults.extend(self::faults(schema, value, &format!("{at}.{key}")));
                    }
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    faults.extend(self::faults(wanted, item, &format!("{at}[]")));
                }
                true
            }
            "additionalProperties" => wanted.as_bool().unwrap(),
            unknown => panic!("{at}: the keyword {unknown} is not known here"),
        };
        if !holds {
            faults.push(format!("{at}: {value}, expected {keyword} {wanted}"));
        }
    }
    faults
}

fn is_type(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not known here"),
    }
}
