//! One entry as one line of JSON: what `export` writes and `import` reads.
//!
//! The fields are those of `list -o json`: the key in `key`, or in `keyBase64` if it is no UTF-8; the value
//! in `text`, or in `value` as base64 if it is not; `expiresAt` in RFC 3339, or as milliseconds since 1970
//! where that cannot be written so. `revision`, `createdRevision` and `version` tell about the store that
//! was exported; a store that imports counts for itself.

use codexstore::Entry;
use codexstore_api::{
    bodies::key_fields,
    encoding::{base64, unbase64},
    time::{parse_rfc3339, rfc3339},
};
use serde_json::{Map, Value};

use super::source::Record;

const FIELDS: [&str; 8] = [
    "key",
    "keyBase64",
    "text",
    "value",
    "expiresAt",
    "revision",
    "createdRevision",
    "version",
];

/// The line of an entry, without its end.
pub fn encode(entry: &Entry) -> String {
    let mut line = Map::new();
    let (key, key_base64) = key_fields(entry.key());
    for (name, text) in [("key", key), ("keyBase64", key_base64)] {
        if let Some(text) = text {
            line.insert(name.to_owned(), text.into());
        }
    }
    match std::str::from_utf8(entry.value()) {
        Ok(text) => line.insert("text".to_owned(), text.into()),
        Err(_) => line.insert("value".to_owned(), base64(entry.value()).into()),
    };
    line.insert("revision".to_owned(), entry.modified().into());
    line.insert("createdRevision".to_owned(), entry.created().into());
    line.insert("version".to_owned(), entry.version().into());
    if let Some(at) = entry.expires_at() {
        let exact = rfc3339(at).filter(|text| parse_rfc3339(text) == Some(at));
        line.insert(
            "expiresAt".to_owned(),
            exact.map_or_else(|| at.into(), Value::from),
        );
    }
    Value::Object(line).to_string()
}

/// Reads a line. The error names the field and never what is in it.
pub fn decode(line: &[u8]) -> Result<Record, String> {
    let line: Value =
        serde_json::from_slice(line).map_err(|e| format!("not JSON, at column {}", e.column()))?;
    let Value::Object(line) = line else {
        return Err("not a JSON object".to_owned());
    };
    if let Some(unknown) = line
        .keys()
        .position(|name| !FIELDS.contains(&name.as_str()))
    {
        return Err(format!(
            "field {} in the order of names is not known; there are {}",
            unknown + 1,
            FIELDS.join(", ")
        ));
    }
    for name in ["revision", "createdRevision", "version"] {
        if line.get(name).is_some_and(|number| !number.is_u64()) {
            return Err(format!("{name}: not a number"));
        }
    }
    Ok(Record {
        key: bytes(&line, "key", "keyBase64")?,
        value: bytes(&line, "text", "value")?,
        expires_at: expiry(&line)?,
    })
}

/// What stands in the one field as text, or in the other as base64.
fn bytes(line: &Map<String, Value>, plain: &str, encoded: &str) -> Result<Vec<u8>, String> {
    let text = |name: &str| match line.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("{name}: not a string")),
    };
    match (text(plain)?, text(encoded)?) {
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(text)) => unbase64(text).ok_or_else(|| format!("{encoded}: not base64")),
        (None, None) => Err(format!("{plain}: missing, and {encoded} too")),
        (Some(_), Some(_)) => Err(format!("{plain}: there is {encoded} as well")),
    }
}

fn expiry(line: &Map<String, Value>) -> Result<Option<u64>, String> {
    match line.get("expiresAt") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => parse_rfc3339(text).map(Some).ok_or_else(|| {
            "expiresAt: not a time; write for example 2026-11-25T08:00:00Z".to_owned()
        }),
        Some(number) => number
            .as_u64()
            .map(Some)
            .ok_or_else(|| "expiresAt: not milliseconds since 1970".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(line: &str, wanted: &str) {
        let error = decode(line.as_bytes()).err().unwrap();
        assert!(error.contains(wanted), "{line}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_by_field_and_never_shown() {
        refused(r#"{"key": "k", "text": "hush""#, "not JSON, at column");
        refused(r#"["hush"]"#, "not a JSON object");
        refused(r#"{"text": "hush"}"#, "key: missing");
        refused(r#"{"key": "k"}"#, "text: missing");
        refused(r#"{"key": "k", "text": 7}"#, "text: not a string");
        refused(r#"{"key": "k", "value": "hush!"}"#, "value: not base64");
        refused(r#"{"key": "k", "text": "a", "value": ""}"#, "as well");
        refused(r#"{"key": "k", "text": "a", "hush": 1}"#, "not known");
        refused(
            r#"{"key": "k", "text": "a", "expiresAt": "hush"}"#,
            "expiresAt",
        );
        refused(r#"{"key": "k", "text": "a", "expiresAt": -1}"#, "expiresAt");
        refused(r#"{"key": "k", "text": "a", "version": "hush"}"#, "version");
    }

    #[test]
    fn times_are_read_in_both_forms() {
        let at = |time: &str| {
            let line = format!(r#"{{"key": "k", "text": "", "expiresAt": {time}}}"#);
            decode(line.as_bytes()).unwrap().expires_at
        };
        assert_eq!(at("1763971200123"), Some(1_763_971_200_123));
        assert_eq!(at("\"2025-11-24T08:00:00.123Z\""), Some(1_763_971_200_123));
        assert_eq!(
            at("\"2025-11-24T09:00:00.123+01:00\""),
            Some(1_763_971_200_123)
        );
        assert_eq!(at("null"), None);
    }
}
