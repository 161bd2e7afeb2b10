//! From a YAML file, of one document or several, to the CodexStore in it.

use anyhow::Result;
use codexstore_crds::{CodexStore, names};
use serde::Deserialize;
use serde_json::Value;
use serde_yaml::Value as Yaml;

use super::schema;
use crate::failure::Coded;

/// The CodexStore in `text`: the only one, or the one called `wanted`. `file` is for messages.
pub fn parse(text: &[u8], file: &str, wanted: Option<&str>) -> Result<CodexStore> {
    let invalid = |what: String| Coded::invalid(format!("{file}: {what}"));
    let mut stores = Vec::new();
    for document in serde_yaml::Deserializer::from_slice(text) {
        let document =
            Yaml::deserialize(document).map_err(|e| invalid(format!("not valid YAML: {e}")))?;
        if field(&document, "kind") != Some("CodexStore") {
            continue;
        }
        let version = field(&document, "apiVersion").unwrap_or_default();
        let known = format!("{}/{}", names::GROUP, names::VERSION);
        if version != known {
            let text = format!("apiVersion of the CodexStore is `{version}`: write `{known}`");
            return Err(invalid(text).into());
        }
        stores.push(document);
    }
    let name = |document: &Yaml| {
        let name = document.get("metadata").and_then(|m| field(m, "name"));
        name.unwrap_or_default().to_owned()
    };
    let names: Vec<String> = stores.iter().map(name).collect();
    if let Some(wanted) = wanted {
        stores.retain(|document| name(document) == wanted);
    }
    let document = match stores.as_slice() {
        [one] => one,
        [] if names.is_empty() => {
            return Err(invalid("there is no document with `kind: CodexStore`".to_owned()).into());
        }
        [] => {
            let text = format!("no CodexStore has that name; there is {}", names.join(", "));
            return Err(invalid(text).into());
        }
        _ => {
            let text = format!(
                "there are several CodexStores: choose one with --store ({})",
                names.join(", ")
            );
            return Err(invalid(text).into());
        }
    };
    let document = Value::deserialize(document)
        .map_err(|e| invalid(format!("the CodexStore is not an object of text keys: {e}")))?;
    let document = schema::check(&document).map_err(|wrong| invalid(wrong.join("; ")))?;
    Ok(serde_json::from_value(document).map_err(|e| invalid(e.to_string()))?)
}

fn field<'a>(value: &'a Yaml, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Yaml::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = "apiVersion: codexstore.dev/v1alpha1\nkind: CodexStore\nmetadata: {name: orders}\nspec: {}\n";

    fn parse_text(text: &str, wanted: Option<&str>) -> Result<CodexStore, String> {
        parse(text.as_bytes(), "f.yaml", wanted).map_err(|e| e.to_string())
    }

    #[test]
    fn the_store_is_found_among_other_documents() {
        let text = format!(
            "# a comment\n---\napiVersion: v1\nkind: ConfigMap\ndata: {{1: a}}\n---\n{ORDERS}---\n"
        );
        let store = parse_text(&text, None).unwrap();
        assert_eq!(store.metadata.name.as_deref(), Some("orders"));
        assert!(store.spec.encryption.is_on());
    }

    #[test]
    fn several_stores_need_a_choice() {
        let text = format!("{ORDERS}---\n{}", ORDERS.replace("orders", "carts"));
        let error = parse_text(&text, None).unwrap_err();
        assert!(error.contains("--store (orders, carts)"), "{error}");
        let store = parse_text(&text, Some("carts")).unwrap();
        assert_eq!(store.metadata.name.as_deref(), Some("carts"));
        assert!(
            parse_text(&text, Some("x"))
                .unwrap_err()
                .contains("orders, carts")
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let error = |text: &str| parse_text(text, None).unwrap_err();
        assert!(error("a: [").contains("f.yaml: not valid YAML"));
        assert!(error("kind: Pod").contains("no document with `kind: CodexStore`"));
        assert!(error("").contains("no document"));
        assert!(
            error(&ORDERS.replace("v1alpha1", "v9")).contains("write `codexstore.dev/v1alpha1`")
        );
        assert!(error(&ORDERS.replace("{}", "{sterategy: Snapshot}")).contains("spec.sterategy"));
    }
}
