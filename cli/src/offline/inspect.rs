//! `inspect`: what lies in the directory.

use anyhow::Result;
use codexstore::offline::{self, End, FileReport, Inspection, Role};

use super::{args::Inspect, progress::Bar};
use crate::output::{self, Format, Table, size};

/// `inspect`.
pub fn inspect(args: &Inspect, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let bar = Bar::of_bytes("reading");
    let found = offline::inspect(dir, &mut |done, of| bar.at(done, of))?;
    drop(bar);
    match format {
        Format::Json => output::json(&found),
        Format::Table => output::raw(text(&found).as_bytes()),
    }
}

fn text(found: &Inspection) -> String {
    let mut about = Table::bare();
    let mut add = |name: &str, value: String| about.row(vec![name.to_owned(), value]);
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    add("Store", or_none(&found.store));
    add("Lineage", or_none(&found.lineage));
    add("Epoch", found.epoch.to_string());
    add("Strategy", or_none(&found.strategy.map(ToOwned::to_owned)));
    if let Some(anchor) = &found.anchor {
        add("Anchor", anchor.to_string());
    }
    let owner = if found.live {
        "open in another process: what is shown here may have changed while it was read"
    } else {
        "nobody has it open"
    };
    add("State", owner.to_owned());
    if found.interval {
        let what = "the last owner acknowledged before it synced (durability Interval)";
        add("Durability", what.to_owned());
    }
    for claim in found.claims.iter().filter(|claim| !claim.written) {
        add("Claim", format!("{} does not verify", claim.epoch));
    }
    for other in &found.others {
        add("Also there", output::printable(other.as_bytes()));
    }
    let mut text = about.render();
    if !found.files.is_empty() {
        text.push('\n');
        text.push_str(&files(&found.files).render());
    }
    text.push('\n');
    let (heading, lines) = match found.open.refusals.as_slice() {
        [] => ("An open, if its keys are right, would:", &found.open.steps),
        refusals => ("An open would refuse:", &refusals.to_vec()),
    };
    text.push_str(heading);
    text.push('\n');
    for line in lines {
        text.extend(["  ", line, "\n"]);
    }
    text
}

fn files(files: &[FileReport]) -> Table {
    let mut table = Table::new(&[
        "FILE",
        "ROLE",
        "REVISION",
        "FRAMES",
        "USED",
        "SIZE",
        "CIPHER",
        "KEY",
        "COMPRESSION",
        "END",
    ]);
    for file in files {
        let header = file.header.as_ref();
        let of_header = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        table.row(vec![
            file.name.clone(),
            role(file.role).to_owned(),
            of_header(header.map(|h| h.first_revision.to_string())),
            file.frames.to_string(),
            size(file.used),
            size(file.bytes),
            of_header(header.map(|h| h.cipher.to_owned())),
            file.key_id.clone().unwrap_or_else(|| "-".to_owned()),
            of_header(header.map(|h| h.compression.to_owned())),
            end(&file.end),
        ]);
    }
    table
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Image => "image",
        Role::Log => "log",
        Role::Past => "past",
        Role::Overtaken => "overtaken",
        Role::Stray => "stray",
        Role::Unbegun => "unbegun",
        _ => "unknown",
    }
}

fn end(end: &End) -> String {
    match end {
        End::Closed => "closed".to_owned(),
        End::Open => "open".to_owned(),
        End::Torn { offset, .. } => format!("torn at offset {offset}"),
        End::Damaged {
            sequence: 0,
            offset,
            ..
        } => format!("damaged at offset {offset}"),
        End::Damaged {
            offset, sequence, ..
        } => format!("damaged at offset {offset}, frame {sequence}"),
        End::Unbegun => "never begun".to_owned(),
    }
}
