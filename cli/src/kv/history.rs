//! `history`: follows the pages and prints each as it comes, so that memory holds one page.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use codexstore_api::bodies::{HistoryQuery, KeyVersion};
use serde::Serialize;

use super::{args::History, call, client, list::shortened, value_fields};
use crate::output::{self, Format, Table, printable};

/// Versions in one page.
const PAGE: u32 = 1000;

/// `history`.
pub async fn history(args: &History, format: Format) -> Result<()> {
    let client = client(&args.socket);
    let mut query = HistoryQuery {
        from: args.from,
        limit: None,
        values: args.values,
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let (mut headed, mut any) = (false, false);
    loop {
        query.limit = Some(u32::try_from(left).map_or(PAGE, |left| left.min(PAGE)));
        let page = client.history(args.key.as_bytes(), &query).await;
        let page = call(&args.socket, page)?;
        left = left.saturating_sub(page.items.len() as u64);
        match format {
            Format::Table => output::raw(table(&page.items, args.values, !headed)?.as_bytes())?,
            Format::Json => output::raw(json(&page.items, !headed, any)?.as_bytes())?,
        }
        headed = true;
        any |= !page.items.is_empty();
        match page.next {
            Some(next) if left > 0 => query.from = Some(next),
            _ => break,
        }
    }
    match format {
        Format::Table => Ok(()),
        Format::Json => output::line("\n]}"),
    }
}

fn table(items: &[KeyVersion], values: bool, head: bool) -> Result<String> {
    let mut headings = vec!["REVISION", "TIME", "OP", "VERSION", "EXPIRES", "ACTOR"];
    if values {
        headings.push("VALUE");
    }
    let mut table = if head {
        Table::new(&headings)
    } else {
        Table::bare()
    };
    for item in items {
        let never = if item.op == "set" { "never" } else { "" };
        let actor = item.actor.as_deref().unwrap_or_default();
        let mut cells = vec![
            item.revision.to_string(),
            item.time.clone(),
            item.op.clone(),
            item.version
                .map(|version| version.to_string())
                .unwrap_or_default(),
            item.expires_at.clone().unwrap_or_else(|| never.to_owned()),
            printable(actor.as_bytes()),
        ];
        if let Some(value) = item.value_bytes()? {
            cells.push(shortened(&printable(&value)));
        }
        table.row(cells);
    }
    Ok(table.render())
}

/// One version for programs. The value is in `text`, or in `value` as base64.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    revision: u64,
    time: &'a str,
    op: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<&'a str>,
}

fn json(items: &[KeyVersion], head: bool, any: bool) -> Result<String> {
    let mut all = String::new();
    if head {
        all.push_str("{\"items\": [");
    }
    for (index, item) in items.iter().enumerate() {
        let (text, value) = match item.value_bytes()? {
            Some(value) => value_fields(&value),
            None => (None, None),
        };
        let shown = Shown {
            revision: item.revision,
            time: &item.time,
            op: &item.op,
            actor: item.actor.as_deref(),
            text,
            value,
            created_revision: item.created_revision,
            version: item.version,
            expires_at: item.expires_at.as_deref(),
        };
        let comma = if any || index > 0 { "," } else { "" };
        let json = serde_json::to_string(&shown).context("make JSON")?;
        all.extend([comma, "\n  ", &json]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(revision: u64, value: Option<&[u8]>) -> KeyVersion {
        KeyVersion {
            revision,
            op: "set".to_owned(),
            actor: Some("a\u{1b}[2J".to_owned()),
            value: value.map(codexstore_api::encoding::base64),
            ..KeyVersion::default()
        }
    }

    #[test]
    fn pages_make_one_json_document() {
        let mut text = json(&[version(1, Some(b"a")), version(2, None)], true, false).unwrap();
        text += &json(&[version(3, Some(b"\xff"))], false, true).unwrap();
        text += "\n]}";
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["items"][0]["text"], "a");
        assert!(json["items"][1].get("value").is_none());
        assert_eq!(json["items"][2]["value"], "/w==");
    }

    #[test]
    fn an_actor_cannot_send_control_codes_to_a_terminal() {
        let text = table(&[version(1, Some(b"a"))], true, true).unwrap();
        assert!(
            text.starts_with("REVISION") && text.contains(r"a\u{1b}[2J"),
            "{text}"
        );
        assert!(
            !table(&[version(1, None)], false, false)
                .unwrap()
                .contains("REVISION")
        );
    }
}
