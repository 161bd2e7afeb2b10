//! Checks a document against the CRD as an API server would: structure, bounds and rules.
//!
//! What a server would silently prune, an unknown field, is an error here: it is a typing error.

use codexstore_crds::manifest;
use kube_cel::{Validator, apply_defaults};
use regex::Regex;
use serde_json::{Map, Value};

/// The document with all defaults filled in, or everything that is wrong with it.
pub fn check(document: &Value) -> Result<Value, Vec<String>> {
    let schema = schema().map_err(|e| vec![e])?;
    let mut document = document.clone();
    drop_nulls(&mut document);
    let mut wrong = Vec::new();
    check_metadata(&document, &mut wrong);
    structure("", &schema, &document, &mut wrong);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let document = apply_defaults(&schema, &document);
    match Validator::new().validate(&schema, &document, None) {
        Ok(()) => Ok(document),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

/// The schema of the CodexStore, with the fields that every object has.
fn schema() -> Result<Value, String> {
    let crd = manifest::crd();
    let schema = crd.spec.versions.first().and_then(|v| v.schema.as_ref());
    let schema = schema.and_then(|s| s.open_api_v3_schema.as_ref());
    let mut schema =
        serde_json::to_value(schema).map_err(|e| format!("the schema is not JSON: {e}"))?;
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, kind) in [
            ("apiVersion", "string"),
            ("kind", "string"),
            ("metadata", "object"),
        ] {
            let open =
                serde_json::json!({"type": kind, "x-kubernetes-preserve-unknown-fields": true});
            properties.insert(name.to_owned(), open);
        }
    }
    Ok(schema)
}

/// `field: null` means that the field is absent, since none of ours is nullable.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn check_metadata(document: &Value, wrong: &mut Vec<String>) {
    let name = document.pointer("/metadata/name").and_then(Value::as_str);
    let Some(name) = name else {
        wrong.push("metadata.name is missing: write for example `name: orders`".to_owned());
        return;
    };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let whole = name.chars().all(fits) && ends(name.chars().next()) && ends(name.chars().last());
    if !whole || name.contains("..") {
        wrong.push(format!(
            "metadata.name `{name}` is not a name: lower-case letters, digits, `-` and `.`, with a letter or digit at both ends"
        ));
    }
}

fn structure(path: &str, schema: &Value, value: &Value, wrong: &mut Vec<String>) {
    let at = if path.is_empty() { "document" } else { path };
    let allowed = schema.get("enum").and_then(Value::as_array);
    if let Some(allowed) = allowed.filter(|allowed| !allowed.contains(value)) {
        let allowed: Vec<String> = allowed.iter().map(shown).collect();
        wrong.push(format!(
            "{at} is {}: write {}",
            shown(value),
            one_of(&allowed)
        ));
        return;
    }
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    if int_or_string && (value.is_string() || value.is_i64() || value.is_u64()) {
        if let Some(text) = value.as_str() {
            check_text(at, schema, text, wrong);
        }
        return;
    }
    match (schema.get("type").and_then(Value::as_str), value) {
        (Some("object"), Value::Object(map)) => object(path, schema, map, wrong),
        (Some("array"), Value::Array(items)) => {
            check_bound(at, schema, "maxItems", "entries", items.len(), wrong);
            let none = Value::Null;
            let schema = schema.get("items").unwrap_or(&none);
            for (index, item) in items.iter().enumerate() {
                structure(&format!("{at}[{index}]"), schema, item, wrong);
            }
        }
        (Some("string"), Value::String(text)) => check_text(at, schema, text, wrong),
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
            check_range(at, schema, number, wrong);
        }
        (Some("number"), Value::Number(number)) => check_range(at, schema, number, wrong),
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(wanted), got) => wrong.push(format!("{at} is {}: {wanted} wanted", shown(got))),
    }
}

fn object(path: &str, schema: &Value, map: &Map<String, Value>, wrong: &mut Vec<String>) {
    let empty = Map::new();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            wrong.push(format!("{} is missing", join(name)));
        }
    }
    for (name, value) in map {
        if let Some(schema) = properties.get(name) {
            structure(&join(name), schema, value, wrong);
        } else if let Some(schema) = schema.get("additionalProperties").filter(|s| s.is_object()) {
            structure(&join(name), schema, value, wrong);
        } else if !flag(schema, "x-kubernetes-preserve-unknown-fields") {
            let known: Vec<String> = properties.keys().map(|k| format!("`{k}`")).collect();
            let known = if known.is_empty() {
                "it has no fields".to_owned()
            } else {
                format!("known here: {}", known.join(", "))
            };
            wrong.push(format!(
                "{} is no field of a CodexStore ({known})",
                join(name)
            ));
        }
    }
}

fn check_text(at: &str, schema: &Value, text: &str, wrong: &mut Vec<String>) {
    let length = text.chars().count();
    check_bound(at, schema, "maxLength", "characters", length, wrong);
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0);
    if (length as u64) < least {
        wrong.push(format!(
            "{at} has {length} characters: at least {least} wanted"
        ));
    }
    let pattern = schema.get("pattern").and_then(Value::as_str);
    if let Some(Ok(regex)) = pattern.map(Regex::new)
        && !regex.is_match(text)
    {
        wrong.push(format!("{at} is `{text}`: it must match {regex}"));
    }
}

fn check_bound(
    at: &str,
    schema: &Value,
    bound: &str,
    what: &str,
    is: usize,
    wrong: &mut Vec<String>,
) {
    if let Some(most) = schema.get(bound).and_then(Value::as_u64)
        && is as u64 > most
    {
        wrong.push(format!("{at} has {is} {what}: at most {most} allowed"));
    }
}

fn check_range(at: &str, schema: &Value, number: &serde_json::Number, wrong: &mut Vec<String>) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let value = number.as_f64().unwrap_or(f64::NAN);
    if let Some(least) = bound("minimum").filter(|least| value < *least) {
        wrong.push(format!("{at} is {number}: at least {least} wanted"));
    }
    if let Some(most) = bound("maximum").filter(|most| value > *most) {
        wrong.push(format!("{at} is {number}: at most {most} allowed"));
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool) == Some(true)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

fn one_of(allowed: &[String]) -> String {
    match allowed {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        other => other.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(spec: &Value) -> Result<Value, String> {
        let document = json!({
            "apiVersion": "codexstore.dev/v1alpha1",
            "kind": "CodexStore",
            "metadata": {"name": "orders"},
            "spec": spec,
        });
        check(&document).map_err(|wrong| wrong.join("\n"))
    }

    #[track_caller]
    fn refused(value: &Value, because: &str) {
        let error = spec(value).expect_err("should be refused");
        assert!(error.contains(because), "{error}");
    }

    #[test]
    fn an_empty_spec_gets_all_defaults() {
        let document = spec(&json!({})).unwrap();
        assert_eq!(document["spec"]["strategy"], "Snapshot");
        assert_eq!(document["spec"]["volume"]["ephemeral"]["sizeLimit"], "1Gi");
        assert_eq!(document["spec"]["encryption"]["keySize"], 256);
        assert_eq!(spec(&Value::Null).unwrap(), document);
        assert_eq!(spec(&json!({"volume": null})).unwrap(), document);
    }

    #[test]
    fn an_unknown_field_is_refused_and_the_known_ones_are_named() {
        refused(&json!({"volum": {}}), "spec.volum is no field");
        refused(&json!({"volum": {}}), "`volume`");
        refused(
            &json!({"encryption": {"none": {"really": true}}}),
            "spec.encryption.none.really",
        );
    }

    #[test]
    fn wrong_types_values_and_bounds_are_refused() {
        refused(
            &json!({"strategy": "Leger"}),
            "spec.strategy is `Leger`: write `Snapshot` or `Ledger`",
        );
        refused(&json!({"encryption": {"keySize": 255}}), "128, 192 or 256");
        refused(
            &json!({"volume": {"podVolume": "x".repeat(64)}}),
            "at most 63",
        );
        refused(&json!({"volume": {"podVolume": "Data"}}), "must match");
        refused(
            &json!({"volume": {"claim": {}}}),
            "spec.volume.claim.size is missing",
        );
        refused(&json!({"resources": []}), "object wanted");
        refused(
            &json!({"volume": {"ephemeral": {"sizeLimit": "big"}}}),
            "sizeLimit",
        );
    }

    #[test]
    fn the_rules_of_the_crd_are_run() {
        refused(
            &json!({"encryption": {"keys": {"managed": {}}, "none": {}}}),
            "both `none` and `keys`",
        );
        refused(
            &json!({"volume": {"podVolume": "data", "claim": {"size": "1Gi"}}}),
            "exactly one of",
        );
        refused(
            &json!({"volume": {"ephemeral": {"sizeLimit": "1Mi"}}}),
            "at least 16Mi",
        );
        let long = json!({"metadata": {"name": "x".repeat(41)}, "spec": {}});
        assert!(check(&long).unwrap_err().concat().contains("40 characters"));
    }

    #[test]
    fn an_object_without_a_proper_name_is_refused() {
        for name in ["Orders", "-a", "a..b", "a_b", ""] {
            let document = json!({"metadata": {"name": name}, "spec": {}});
            assert!(
                check(&document)
                    .unwrap_err()
                    .concat()
                    .contains("not a name"),
                "{name}"
            );
        }
        assert!(
            check(&json!({"spec": {}}))
                .unwrap_err()
                .concat()
                .contains("metadata.name is missing")
        );
    }
}
