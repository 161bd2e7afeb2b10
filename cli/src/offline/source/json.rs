//! One JSON object: each member becomes an entry.

use std::io::BufRead;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::{Record, Records};
use crate::failure::Coded;

/// A member that is a string becomes its text; any other value its JSON.
pub fn read(input: Box<dyn BufRead>) -> Result<Records> {
    // The parser's message could quote what it read.
    let object: Map<String, Value> = serde_json::from_reader(input)
        .map_err(|e| {
            let what = if e.is_data() {
                "not a JSON object"
            } else {
                "not JSON"
            };
            Coded::invalid(format!("{what}: line {}, column {}", e.line(), e.column()))
        })
        .context("read the file")?;
    let members = object.into_iter().map(|(key, value)| Record {
        key: key.into_bytes(),
        value: match value {
            Value::String(text) => text.into_bytes(),
            other => other.to_string().into_bytes(),
        },
        expires_at: None,
    });
    Ok(Box::new((1..).zip(members.map(Ok))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_text_and_the_rest_is_json() {
        let text = br#"{"a": "x", "b": {"c": [1, null]}, "d": 7}"#;
        let found: Vec<_> = read(Box::new(&text[..])).unwrap().collect();
        let values: Vec<_> = found
            .iter()
            .map(|(_, record)| String::from_utf8(record.as_ref().unwrap().value.clone()).unwrap())
            .collect();
        assert_eq!(values, ["x", r#"{"c":[1,null]}"#, "7"]);
        for bad in ["[1]", "{\"secret", "7"] {
            let error = read(Box::new(bad.as_bytes())).err().unwrap();
            assert!(!format!("{error:#}").contains("secret"), "{error:#}");
        }
    }
}
