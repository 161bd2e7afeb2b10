//! Verifying a store that nobody has open.

use std::ops::Bound;
use std::path::Path;

use serde::Serialize;

use super::Progress;
use super::disk::ReadOnly;
use super::inspect::{FileReport, Inspection, Role, look};
use super::walk::End;
use crate::anchor::{Anchor, hex as bytes_of};
use crate::backup::Root;
use crate::error::{Code, Result};
use crate::format::{FRAMES_AT, FileId, Lineage, StoreId};
use crate::index::View;
use crate::journal::LogFile;
use crate::keyring::Encryption;
use crate::options::Strategy;
use crate::recovery::Recovered;
use crate::survey::Survey;

/// What verifying found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Verification {
    /// Everything was opened with its key and replayed. If not, only the chain of hashes and the
    /// shape of files and frames were checked, which needs no key.
    pub opened: bool,
    /// Files that were read.
    pub files: u64,
    /// Frames in them that verify.
    pub frames: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Of a ledger with which nothing is wrong: where it ends, to be kept elsewhere. Without a key,
    /// its revision is the lowest that it can be.
    pub anchor: Option<Anchor>,
    /// Whether the ledger passes through the anchor that it was verified against, if there was one.
    pub anchor_held: Option<bool>,
    /// What is in the store, if everything was opened and replayed.
    pub content: Option<Content>,
    /// What is wrong; empty: nothing.
    pub faults: Vec<Fault>,
    /// What is unusual and does no harm.
    pub notes: Vec<Fault>,
}

/// What is in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Content {
    /// The latest revision.
    pub revision: u64,
    /// Entries, those whose time is over and which no owner has removed yet included.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// SHA-256 over all entries with their revisions, as a backup's [`crate::backup::Contents`] has
    /// it: 64 hex digits.
    pub root: String,
}

/// Something that is wrong, or unusual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Fault {
    /// In which file; none: in what there is, or is not.
    pub file: Option<String>,
    /// Where in it.
    pub offset: Option<u64>,
    /// At which frame; 0 for the header.
    pub sequence: Option<u64>,
    /// What.
    pub what: String,
}

impl Fault {
    fn of(file: &FileReport, what: impl Into<String>) -> Fault {
        Fault {
            file: Some(file.name.clone()),
            offset: None,
            sequence: None,
            what: what.into(),
        }
    }

    fn at(file: &FileReport, offset: u64, sequence: u64, what: &str) -> Fault {
        Fault {
            offset: Some(offset),
            sequence: Some(sequence),
            ..Fault::of(file, what)
        }
    }

    fn general(what: impl Into<String>) -> Fault {
        Fault {
            file: None,
            offset: None,
            sequence: None,
            what: what.into(),
        }
    }
}

/// Verifies a store that nobody has open, and modifies nothing. With keys, every file is opened and
/// the store replayed as an open would; without, the chain of hashes is checked, which tells
/// damage, but not a forgery by someone who can write to the disk.
///
/// What is wrong with the files is told in the result. Errors: `locked` if somebody has the store
/// open, a kind of Encryption if a key is wrong or missing, `io`.
pub fn verify(
    dir: &Path,
    encryption: Option<&Encryption>,
    progress: Progress<'_>,
) -> Result<Verification> {
    verify_against(dir, encryption, None, progress)
}

/// The same of a ledger whose anchor was kept elsewhere: it is a fault as well if what the log held
/// then was cut or changed since. That needs no key, and tells a forgery of the log up to there.
///
/// Besides the errors of [`verify`]: `invalid-argument` if it is a snapshot, `past-gone` if nothing else
/// is wrong and what is left of the log begins behind the anchor.
pub fn verify_against(
    dir: &Path,
    encryption: Option<&Encryption>,
    anchor: Option<&Anchor>,
    progress: Progress<'_>,
) -> Result<Verification> {
    let disk = ReadOnly::hold(dir)?;
    let found = look(&disk, encryption, progress)?;
    if anchor.is_some() && found.strategy == Some(Strategy::Snapshot.as_str()) {
        return Err(Anchor::of_no_ledger());
    }
    let mut verification = Verification {
        opened: false,
        files: found.files.len() as u64,
        frames: found.files.iter().map(|file| file.frames).sum(),
        bytes: found.files.iter().map(|file| file.bytes).sum(),
        anchor: found.anchor,
        anchor_held: None,
        content: None,
        faults: Vec::new(),
        notes: Vec::new(),
    };
    judge(&found, &mut verification);
    match encryption.map(|encryption| replay(&disk, encryption)) {
        Some(Ok(state)) => {
            verification.opened = true;
            verification.content = Some(content(&state.view)?);
            if let Some(end) = &mut verification.anchor {
                end.revision = state.view.revision;
            }
        }
        // What was found before says more than that.
        Some(Err(error)) if error.is(Code::Corrupt) && !verification.faults.is_empty() => {}
        Some(Err(error)) if error.is(Code::Corrupt) => {
            verification.faults.push(Fault::general(error.message()));
        }
        Some(Err(error)) => return Err(error),
        None => {}
    }
    if let Some(anchor) = anchor {
        compare(&disk, &found, anchor, &mut verification)?;
    }
    if !verification.faults.is_empty() {
        verification.anchor = None;
    }
    Ok(verification)
}

/// Compares a ledger with its anchor.
fn compare(
    disk: &ReadOnly,
    found: &Inspection,
    anchor: &Anchor,
    into: &mut Verification,
) -> Result<()> {
    let latest = into.content.as_ref().map(|content| content.revision);
    match passes(disk, found, anchor, latest) {
        Ok(()) => into.anchor_held = Some(true),
        Err(error) if error.is(Code::Corrupt) => {
            into.anchor_held = Some(false);
            into.faults.push(Fault::general(error.message()));
        }
        Err(error) if error.is(Code::PastGone) && !into.faults.is_empty() => {
            into.notes.push(Fault::general(error.message()));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn passes(disk: &ReadOnly, found: &Inspection, anchor: &Anchor, latest: Option<u64>) -> Result<()> {
    let store = found.store.as_deref().and_then(bytes_of).map(StoreId);
    anchor.check_store(store)?;
    let counts = |file: &&FileReport| matches!(file.role, Role::Log | Role::Past);
    let logs = found.files.iter().filter(counts);
    let mut logs: Vec<LogFile> = logs.filter_map(log_file).collect();
    logs.sort_by_key(|log| log.first_revision);
    let logs: Vec<&LogFile> = logs.iter().collect();
    anchor.check(disk, anchor.store, &logs, latest)
}

/// What a log file's report says of it, up to where it counts; nothing of an image.
fn log_file(report: &FileReport) -> Option<LogFile> {
    let header = report.header.as_ref().filter(|h| h.kind != "image")?;
    let last = report.last_sequence;
    Some(LogFile {
        name: report.name.clone(),
        len: report.bytes,
        used: report.used.saturating_sub(FRAMES_AT),
        key_id: None,
        file: FileId(bytes_of(&header.file)?),
        first_revision: header.first_revision,
        created_ms: header.created_ms,
        end: report.next_at.map_or(last, |at| at.min(last)),
    })
}

/// Reads a store that nobody has open as an open would, without claiming it.
pub(crate) fn replay(disk: &ReadOnly, encryption: &Encryption) -> Result<Recovered> {
    Survey::take(disk, encryption)?.recover(disk, || Ok(Lineage::default()))
}

fn judge(found: &Inspection, into: &mut Verification) {
    for file in &found.files {
        let counts = !matches!(file.role, Role::Overtaken)
            && (file.role != Role::Past || file.header.as_ref().is_none_or(|h| h.kind != "image"));
        let list = if counts {
            &mut into.faults
        } else {
            &mut into.notes
        };
        let mut damaged = false;
        if let End::Damaged {
            offset,
            sequence,
            what,
        } = &file.end
        {
            let fault = Fault::at(file, *offset, *sequence, what);
            // What stands behind the place where the next file took over does not count.
            if file.next_at.is_some_and(|at| *sequence > at) {
                into.notes.push(fault);
            } else {
                damaged = true;
                list.push(fault);
            }
        }
        let list = if counts {
            &mut into.faults
        } else {
            &mut into.notes
        };
        for by in &file.disputed_by {
            list.push(Fault::of(file, format!("not the chain that {by} names")));
        }
        if let Some(at) = file.next_at
            && at > file.last_sequence
            && !damaged
        {
            let what = format!(
                "ends at sequence {} before the place {at} where the next file took over",
                file.last_sequence
            );
            list.push(Fault::of(file, what));
        }
        if let End::Torn { offset, bytes } = file.end {
            let what = format!("{bytes} bytes of a write that never ended: an open drops them");
            into.notes
                .push(Fault::at(file, offset, file.last_sequence + 1, &what));
        }
        if file.damaged_slot {
            into.notes
                .push(Fault::of(file, "one of its two key slots is damaged"));
        }
    }
    for refusal in &found.open.refusals {
        let known = into.faults.iter().any(|fault| {
            let named = fault
                .file
                .as_ref()
                .is_some_and(|name| refusal.starts_with(name.as_str()));
            named && (refusal.contains(&fault.what) || fault.what.starts_with("ends at"))
        });
        if !known {
            into.faults.push(Fault::general(refusal));
        }
    }
    for claim in found.claims.iter().filter(|claim| !claim.written) {
        into.notes.push(Fault::general(format!(
            "claim {} does not verify: its owner died before it was written, or it is damaged",
            claim.epoch
        )));
    }
    if found.suspect {
        into.notes.push(Fault::general(
            "a write or sync failed under the last owner: the next open rewrites all live data",
        ));
    }
}

fn content(view: &View) -> Result<Content> {
    Ok(Content {
        revision: view.revision,
        entries: view.index.from(Bound::Unbounded).count() as u64,
        bytes: view.index.bytes(),
        root: hex(&Root::of(&view.index)?),
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
