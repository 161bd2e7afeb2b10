//! `list`: follows the pages and prints each as it comes, so that memory holds one page.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use codexstore_api::bodies::{Item, ListQuery};

use super::{Entry, call, client, value_fields};
use crate::{
    args::List,
    output::{self, Format, Table, printable},
};

/// Keys in one page.
const PAGE: u32 = 1000;
/// Keys in one page that has values.
const PAGE_WITH_VALUES: u32 = 100;
/// Characters of a value in a table.
const SHOWN: usize = 60;

/// `list`.
pub async fn list(args: &List, format: Format) -> Result<()> {
    let client = client(&args.socket);
    let bytes = |text: &Option<std::ffi::OsString>| text.as_ref().map(|t| t.as_bytes().to_vec());
    let mut query = ListQuery {
        prefix: bytes(&args.prefix),
        glob: bytes(&args.glob),
        values: args.values,
        ..ListQuery::default()
    };
    let page = if args.values { PAGE_WITH_VALUES } else { PAGE };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut printer = Printer::new(format, args.values);
    loop {
        query.limit = Some(u32::try_from(left).map_or(page, |left| left.min(page)));
        let answer = call(&args.socket, client.list(&query).await)?;
        left = left.saturating_sub(answer.items.len() as u64);
        printer.page(&answer.items)?;
        match answer.cursor {
            Some(cursor) if left > 0 => query.cursor = Some(cursor),
            _ => return printer.end(answer.revision),
        }
    }
}

struct Printer {
    format: Format,
    values: bool,
    headed: bool,
    any: bool,
}

impl Printer {
    fn new(format: Format, values: bool) -> Self {
        Self {
            format,
            values,
            headed: false,
            any: false,
        }
    }

    fn page(&mut self, items: &[Item]) -> Result<()> {
        let text = match self.format {
            Format::Table => self.table(items)?,
            Format::Json => self.json(items)?,
        };
        self.headed = true;
        self.any |= !items.is_empty();
        output::raw(text.as_bytes())
    }

    fn table(&self, items: &[Item]) -> Result<String> {
        let mut headings = vec!["KEY", "REVISION", "VERSION", "EXPIRES"];
        if self.values {
            headings.push("VALUE");
        }
        let mut table = if self.headed {
            Table::bare()
        } else {
            Table::new(&headings)
        };
        for item in items {
            let mut cells = vec![
                printable(&item.key_bytes()?),
                item.revision.to_string(),
                item.version.to_string(),
                item.expires_at
                    .clone()
                    .unwrap_or_else(|| "never".to_owned()),
            ];
            if let Some(value) = item.value_bytes()? {
                cells.push(shortened(&printable(&value)));
            }
            table.row(cells);
        }
        Ok(table.render())
    }

    fn json(&self, items: &[Item]) -> Result<String> {
        let mut text = String::new();
        if !self.headed {
            text.push_str("{\"items\": [");
        }
        for (index, item) in items.iter().enumerate() {
            let comma = if self.any || index > 0 { "," } else { "" };
            let json = serde_json::to_string(&entry(item)?).context("make JSON")?;
            text.extend([comma, "\n  ", &json]);
        }
        Ok(text)
    }

    fn end(&self, revision: u64) -> Result<()> {
        match self.format {
            Format::Table => Ok(()),
            Format::Json => output::line(&format!("\n], \"revision\": {revision}}}")),
        }
    }
}

pub(super) fn entry(item: &Item) -> Result<Entry> {
    let (text, value) = match item.value_bytes()? {
        Some(value) => value_fields(&value),
        None => (None, None),
    };
    Ok(Entry {
        key: item.key.clone(),
        key_base64: item.key_base64.clone(),
        text,
        value,
        revision: item.revision,
        created_revision: Some(item.created_revision),
        version: item.version,
        expires_at: item.expires_at.clone(),
        etag: None,
    })
}

/// A text for one cell of a table.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, value: &str) -> Item {
        Item {
            key: Some(key.to_owned()),
            value: Some(codexstore_api::encoding::base64(value.as_bytes())),
            revision: 7,
            ..Item::default()
        }
    }

    #[test]
    fn pages_make_one_json_document() {
        let mut printer = Printer::new(Format::Json, true);
        let mut text = printer.json(&[]).unwrap();
        printer.headed = true;
        text += &printer.json(&[item("a", "1"), item("b", "2")]).unwrap();
        printer.any = true;
        text += &printer.json(&[item("c", "3")]).unwrap();
        text += "\n]}";
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["items"][2]["key"], "c");
        assert_eq!(json["items"][2]["text"], "3");
    }

    #[test]
    fn the_headings_are_printed_once_and_long_values_are_cut() {
        let mut printer = Printer::new(Format::Table, true);
        let text = printer.table(&[item("a", &"x".repeat(500))]).unwrap();
        assert!(text.starts_with("KEY") && text.contains("xxx…"), "{text}");
        printer.headed = true;
        assert!(printer.table(&[item("b", "")]).unwrap().starts_with('b'));
    }
}
