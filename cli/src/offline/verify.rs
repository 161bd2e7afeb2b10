//! `verify`: whether a store is what it was written to be.

use anyhow::Result;
use codexstore::offline::{self, Fault, Verification};
use codexstore_api::codes;

use super::{args::Verify, progress::Bar};
use crate::{
    failure::Exit,
    output::{self, Format, Table, size},
};

/// `verify`.
pub fn verify(args: &Verify, format: Format) -> Result<()> {
    let dir = args.data.there()?;
    let encryption = args.keys.encryption()?;
    let bar = Bar::of_bytes("verifying");
    let found = offline::verify_against(
        dir,
        encryption.as_ref(),
        args.anchor.as_ref(),
        &mut |done, of| bar.at(done, of),
    )?;
    drop(bar);
    match format {
        Format::Json => output::json(&found)?,
        Format::Table => output::raw(text(&found, encryption.is_some()).as_bytes())?,
    }
    if found.faults.is_empty() {
        return Ok(());
    }
    Err(Exit(codes::EXIT_INTEGRITY).into())
}

fn text(found: &Verification, keyed: bool) -> String {
    let mut about = Table::bare();
    let mut add = |name: &str, value: String| about.row(vec![name.to_owned(), value]);
    let held = found.anchor_held == Some(true);
    let result = match (found.faults.len(), found.opened, keyed) {
        (0, true, _) if held => {
            "good: everything was opened and replayed, and the log passes through the anchor"
                .to_owned()
        }
        (0, true, _) => "good: everything was opened and replayed".to_owned(),
        (0, false, _) if held => {
            "the chain of hashes is whole and passes through the anchor; without a key nothing was \
             opened, so a forgery behind the anchor, or of an image, is not told"
                .to_owned()
        }
        (0, false, _) => {
            "the chain of hashes is whole; without a key nothing was opened, so a forgery is not told"
                .to_owned()
        }
        (count, true, _) => format!("{}, although everything was opened", faults(count)),
        (count, false, true) => format!("{}; nothing was replayed", faults(count)),
        (count, false, false) => format!("{}, without a key", faults(count)),
    };
    add("Result", result);
    add("Files", found.files.to_string());
    add("Frames", found.frames.to_string());
    add("Read", size(found.bytes));
    if let Some(anchor) = &found.anchor {
        add("Anchor", anchor.to_string());
    }
    if let Some(content) = &found.content {
        add("Revision", content.revision.to_string());
        add("Entries", content.entries.to_string());
        add("Bytes", size(content.bytes));
        add("Root", content.root.clone());
    }
    let mut text = about.render();
    for (heading, list) in [("Faults", &found.faults), ("Notes", &found.notes)] {
        if list.is_empty() {
            continue;
        }
        text.extend(["\n", heading, ":\n"]);
        for fault in list {
            text.extend(["  ", &line(fault), "\n"]);
        }
    }
    text
}

fn faults(count: usize) -> String {
    match count {
        1 => "1 fault".to_owned(),
        count => format!("{count} faults"),
    }
}

fn line(fault: &Fault) -> String {
    // Most messages name the place themselves.
    let told = fault.what.contains("at offset");
    let offset = fault.offset.filter(|_| !told);
    let sequence = fault.sequence.filter(|sequence| !told && *sequence > 0);
    let place: Vec<String> = fault
        .file
        .iter()
        .cloned()
        .chain(offset.map(|offset| format!("offset {offset}")))
        .chain(sequence.map(|sequence| format!("frame {sequence}")))
        .collect();
    if place.is_empty() {
        return fault.what.clone();
    }
    format!("{}: {}", place.join(", "), fault.what)
}
