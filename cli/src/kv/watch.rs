//! `watch`: prints each change as it comes.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use codexstore_api::bodies::{Changed, WatchQuery};
use serde::Serialize;

use super::{args::Watch, call, client, list::shortened, value_fields};
use crate::output::{self, Format, printable};

/// `watch`.
pub async fn watch(args: &Watch, format: Format) -> Result<()> {
    let prefix = args.prefix.as_ref().map(|text| text.as_bytes().to_vec());
    // Nobody there is said soon; one that goes away later is waited for.
    let client = client(&args.socket);
    call(&args.socket, client.ready().await)?;
    let mut watch = client.patience(args.socket.timeout).watch(WatchQuery {
        prefix: prefix.unwrap_or_default(),
        from: args.from,
        after: args.after.clone(),
        values: args.values,
    });
    let begun = watch.begin().await;
    told(args, &watch, begun)?;
    if format == Format::Table {
        output::raw(line(["REVISION", "TIME", "OP", "ACTOR"], "KEY", None).as_bytes())?;
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let next = watch.next().await;
        let change = told(args, &watch, next)?;
        match format {
            Format::Table => output::raw(table(&change)?.as_bytes())?,
            Format::Json => {
                output::line(&json(watch.position().unwrap_or_default(), &change)?)?;
            }
        }
        left -= 1;
    }
    Ok(())
}

/// The answer, or the error with what to do when changes are missing.
fn told<T>(
    args: &Watch,
    watch: &codexstore_api::client::Watch,
    answer: codexstore_api::Result<T>,
) -> Result<T> {
    let gone = matches!(&answer, Err(error) if error.is("past-gone"));
    let told = call(&args.socket, answer);
    match watch.current() {
        Some(current) if gone => told.with_context(|| {
            let next = current + 1;
            format!("changes are missing: list what is there, then watch --from {next}")
        }),
        _ => told,
    }
}

fn table(change: &Changed) -> Result<String> {
    let revision = change.revision.to_string();
    let actor = printable(change.actor.as_deref().unwrap_or("-").as_bytes());
    let mut text = String::new();
    for op in &change.operations {
        let key = printable(&op.key_bytes()?);
        let value = op.value_bytes()?;
        let value = value.map(|value| shortened(&printable(&value)));
        let cells = [&revision, &change.time, &op.op, actor.as_str()];
        text += &line(cells, &key, value.as_deref());
    }
    Ok(text)
}

/// Columns are as wide as what usually stands in them: nobody knows what comes.
fn line([revision, time, op, actor]: [&str; 4], key: &str, value: Option<&str>) -> String {
    let text = format!("{revision:<8}   {time:<24}   {op:<6}   {actor:<8}   {key}");
    match value {
        Some(value) => format!("{text}   {value}").trim_end().to_owned() + "\n",
        None => text + "\n",
    }
}

/// A change for programs. Values are in `text`, or in `value` as base64: as in a batch.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: &'a str,
    revision: u64,
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    operations: Vec<ShownOp<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownOp<'a> {
    op: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<&'a str>,
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

fn json(id: &str, change: &Changed) -> Result<String> {
    let mut operations = Vec::with_capacity(change.operations.len());
    for op in &change.operations {
        let (text, value) = match op.value_bytes()? {
            Some(value) => value_fields(&value),
            None => (None, None),
        };
        operations.push(ShownOp {
            op: &op.op,
            key: op.key.as_deref(),
            key_base64: op.key_base64.as_deref(),
            text,
            value,
            created_revision: op.created_revision,
            version: op.version,
            expires_at: op.expires_at.as_deref(),
        });
    }
    let shown = Shown {
        id,
        revision: change.revision,
        time: &change.time,
        actor: change.actor.as_deref(),
        operations,
    };
    serde_json::to_string(&shown).context("make JSON")
}

#[cfg(test)]
mod tests {
    use codexstore_api::bodies::ChangedOp;

    use super::*;

    #[test]
    fn a_line_for_each_key_and_an_object_for_each_change() {
        let op = |op: &str, key: &str, value: Option<&str>| ChangedOp {
            op: op.to_owned(),
            key: Some(key.to_owned()),
            value: value.map(str::to_owned),
            ..ChangedOp::default()
        };
        let change = Changed {
            revision: 7,
            time: "2026-11-25T10:00:00Z".to_owned(),
            actor: None,
            operations: vec![op("set", "a", Some("/w==")), op("delete", "b\n", None)],
        };
        let text = table(&change).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].ends_with(r"set      -          a   \xff"),
            "{text}"
        );
        assert!(lines[1].ends_with(r"delete   -          b\n"), "{text}");
        let json = json("0-7", &change).unwrap();
        assert_eq!(json.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["id"], &json["revision"]), (&"0-7".into(), &7.into()));
        assert_eq!(json["operations"][0]["value"], "/w==");
    }
}
