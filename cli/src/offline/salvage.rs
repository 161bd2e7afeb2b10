//! `salvage`: what can be proven of a damaged store, in a new one.

use anyhow::Result;
use codexstore::{
    Options,
    offline::{self, Lost, Salvage as Report},
};
use codexstore_api::codes;

use super::{args::Salvage, progress::Bar};
use crate::{
    failure::Exit,
    output::{self, Format, Table, size},
};

/// `salvage`.
pub fn salvage(args: &Salvage, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let options = Options::new(args.keys.encryption()?);
    let bar = Bar::of_bytes("salvaging");
    let report = offline::salvage(dir, &args.into, &options, args.strict, &mut |done, of| {
        bar.at(done, of);
    })?;
    drop(bar);
    match format {
        Format::Json => output::json(&report)?,
        Format::Table => output::raw(text(args, &report).as_bytes())?,
    }
    if report.is_complete() {
        return Ok(());
    }
    // A script must not take a part for the whole.
    Err(Exit(codes::EXIT_INTEGRITY).into())
}

fn text(args: &Salvage, report: &Report) -> String {
    let mut about = Table::bare();
    let mut add = |name: &str, value: String| about.row(vec![name.to_owned(), value]);
    if report.written {
        add("Written to", args.into.display().to_string());
    } else {
        add("Written", "nothing: nothing could be proven".to_owned());
    }
    add("Entries", report.entries.to_string());
    add("Bytes", size(report.bytes));
    add("Up to revision", report.revision.to_string());
    add("Frames proven", report.frames.to_string());
    if report.behind_gap > 0 {
        let what = "entries recovered behind a gap: each is as it was written, something before it is missing";
        add("Of them", format!("{} {what}", report.behind_gap));
    }
    let mut text = about.render();
    list(&mut text, "Lost", &report.lost);
    list(
        &mut text,
        "Damaged around their content, which is whole",
        &report.mended,
    );
    list(
        &mut text,
        "Writes that never ended, which nobody was told had",
        &report.torn,
    );
    if !report.refusals.is_empty() {
        text.push_str("\nWhy the store does not open:\n");
        for refusal in &report.refusals {
            text.extend(["  ", refusal, "\n"]);
        }
    }
    text.push('\n');
    text.push_str(if report.is_complete() {
        "Nothing is missing.\n"
    } else {
        "What was lost may have set or deleted any key: keys may be missing, may hold an older value, or may be \
         there although they were deleted.\n"
    });
    text
}

fn list(text: &mut String, heading: &str, list: &[Lost]) {
    if list.is_empty() {
        return;
    }
    text.extend(["\n", heading, ":\n"]);
    for lost in list {
        text.extend(["  ", &line(lost), "\n"]);
    }
}

fn line(lost: &Lost) -> String {
    let mut parts = vec![lost.file.clone()];
    parts.push(match (lost.sequence, lost.until) {
        (0, _) => "all of it".to_owned(),
        (first, Some(until)) if until > first => format!("frames {first} to {until}"),
        (first, Some(_)) => format!("frame {first}"),
        (first, None) => format!("from frame {first} on"),
    });
    parts.push(format!("{} at offset {}", size(lost.bytes), lost.offset));
    parts.extend(match (lost.after_revision, lost.before_revision) {
        (Some(after), Some(before)) if before > after + 2 => {
            Some(format!("revisions {} to {}", after + 1, before - 1))
        }
        (Some(after), Some(before)) if before == after + 2 => {
            Some(format!("revision {}", after + 1))
        }
        (Some(after), None) => Some(format!("revisions from {} on", after + 1)),
        (None, Some(before)) if before > 1 => Some(format!("revisions below {before}")),
        _ => None,
    });
    format!("{}: {}", parts.join(", "), lost.what)
}
