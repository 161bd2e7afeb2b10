//! Carries a change made on a typed object over to the object as it was sent.
//!
//! The API server may know fields that this operator's types do not. A patch computed from the typed forms alone would move
//! list entries and leave such fields behind on the wrong one; so entries are matched by name, and all that the change did
//! not touch is taken from what was sent.

use serde_json::{Map, Value};

/// What `raw` becomes by the change from `before` to `after`, where `before` is `raw` as the types saw it.
pub fn graft(raw: &Value, before: &Value, after: &Value) -> Value {
    if before == after {
        return raw.clone();
    }
    match (raw, before, after) {
        (Value::Object(raw), Value::Object(before), Value::Object(after)) => {
            let mut result = raw.clone();
            result.retain(|key, _| after.contains_key(key) || !before.contains_key(key));
            for (key, after) in after {
                let value = match (raw.get(key), before.get(key)) {
                    (Some(raw), Some(before)) => graft(raw, before, after),
                    _ => after.clone(),
                };
                result.insert(key.clone(), value);
            }
            Value::Object(result)
        }
        (Value::Array(raw), Value::Array(before), Value::Array(after)) => Value::Array(
            after
                .iter()
                .map(|item| {
                    let same = before.iter().position(|b| b == item).or_else(|| {
                        let id = identity(item)?;
                        before
                            .iter()
                            .position(|b| identity(b).as_ref() == Some(&id))
                    });
                    match same.and_then(|i| Some((raw.get(i)?, before.get(i)?))) {
                        Some((raw, before)) => graft(raw, before, item),
                        None => item.clone(),
                    }
                })
                .collect(),
        ),
        _ => after.clone(),
    }
}

/// What makes an entry of a list itself: its name, and its path where several may share the name (mounts).
fn identity(item: &Value) -> Option<(Option<&Value>, Option<&Value>)> {
    let item: &Map<String, Value> = item.as_object()?;
    let (name, path) = (item.get("name"), item.get("mountPath"));
    (name.is_some() || path.is_some()).then_some((name, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_stay_on_the_entry_they_were_on() {
        let raw = json!({"new": 1, "c": [{"name": "app", "future": true, "image": "a"}]});
        let before = json!({"c": [{"name": "app", "image": "a"}]});
        let after = json!({"c": [{"name": "ours"}, {"name": "app", "image": "a", "env": [1]}]});
        assert_eq!(
            graft(&raw, &before, &after),
            json!({"new": 1, "c": [{"name": "ours"},
                   {"name": "app", "future": true, "image": "a", "env": [1]}]})
        );
    }

    #[test]
    fn what_the_change_removed_is_removed_and_nothing_else() {
        let raw = json!({"gone": 1, "unknown": 2, "kept": {"x": 1, "y": null}});
        let before = json!({"gone": 1, "kept": {"x": 1}});
        let after = json!({"kept": {"x": 2}});
        assert_eq!(
            graft(&raw, &before, &after),
            json!({"unknown": 2, "kept": {"x": 2, "y": null}})
        );
    }

    #[test]
    fn no_change_is_no_change() {
        let raw = json!({"a": null, "b": [{"name": "x", "future": 1}]});
        let seen = json!({"b": [{"name": "x"}]});
        assert_eq!(graft(&raw, &seen, &seen), raw);
    }
}
