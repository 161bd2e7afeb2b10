//! Which log file follows which.
//!
//! The headers say it: each names its predecessor, and the image names the file that goes on
//! behind it. What lies before that file is the *past*: a ledger's history, or journals that are
//! kept so that watchers can resume. It is found by going back from link to link; its frames are
//! read only when someone asks for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::error::{Error, Result};
use crate::format::{FRAMES_AT, FileId, FileKind, Header, Link};
use crate::journal::LogFile;
use crate::survey::Found;

/// The log files in order.
pub(crate) struct Chain {
    /// What the image holds already, oldest first.
    pub past: Vec<LogFile>,
    /// What is to be replayed.
    pub files: Vec<Found>,
    /// What an owner left that was overtaken, or a removal that was cut.
    pub garbage: Vec<String>,
}

/// Puts log files in order and checks that none is missing. `image`: where the image says that
/// the log goes on; `None` without an image.
pub(crate) fn order(logs: Vec<Found>, image: Option<Link>) -> Result<Chain> {
    let mut rest = logs;
    let first = take(&mut rest, |header| match image {
        Some(link) => header.file == link.file,
        None => header.link == Link::default(),
    });
    let Some(first) = first else {
        return Err(Error::corrupt(if image.is_some() {
            "the log file that the image names is missing"
        } else {
            "the first log file is missing, and there is no image"
        }));
    };
    let past = go_back(&mut rest, first.open.header.link);
    let mut last = first.open.header.file;
    let mut files = vec![first];
    loop {
        // An owner that was overtaken may have begun a file too: the higher epoch counts.
        let follows = |header: &Header| header.link.file == last;
        let epochs = rest.iter().map(|found| &found.open.header);
        let epoch = epochs.filter(|h| follows(h)).map(|h| h.epoch).max();
        let wins = |header: &Header| follows(header) && Some(header.epoch) == epoch;
        let Some(next) = take(&mut rest, wins) else {
            break;
        };
        if rest.iter().any(|found| wins(&found.open.header)) {
            return Err(Error::corrupt(format!(
                "{}: two log files follow one",
                next.name
            )));
        }
        last = next.open.header.file;
        files.push(next);
    }
    let mut chain = Chain {
        past: past
            .iter()
            .map(|(found, end)| log_file(found, *end))
            .collect(),
        files,
        garbage: Vec::new(),
    };
    let whole: Vec<&Header> = past
        .iter()
        .map(|(found, _)| &found.open.header)
        .chain(chain.files.iter().map(|found| &found.open.header))
        .collect();
    let oldest = chain.files.first().map_or(0, |found| found.number);
    chain.garbage = explain(&whole, oldest, rest)?;
    Ok(chain)
}

fn take(from: &mut Vec<Found>, wanted: impl Fn(&Header) -> bool) -> Option<Found> {
    let at = from.iter().position(|found| wanted(&found.open.header))?;
    Some(from.swap_remove(at))
}

/// The files before `link`, oldest first, each with the sequence at which it ends.
fn go_back(rest: &mut Vec<Found>, mut link: Link) -> Vec<(Found, u64)> {
    // By id: a long history is gone through once.
    let mut places: BTreeMap<FileId, usize> = rest
        .iter()
        .enumerate()
        .map(|(at, found)| (found.open.header.file, at))
        .collect();
    let mut slots: Vec<Option<Found>> = rest.drain(..).map(Some).collect();
    let mut past = VecDeque::new();
    while link != Link::default() {
        let found = places
            .remove(&link.file)
            .and_then(|at| slots.get_mut(at)?.take());
        let Some(found) = found else { break };
        let end = std::mem::replace(&mut link, found.open.header.link).sequence;
        past.push_front((found, end));
    }
    *rest = slots.into_iter().flatten().collect();
    past.into()
}

fn log_file(found: &Found, end: u64) -> LogFile {
    let header = &found.open.header;
    LogFile {
        name: found.name.clone(),
        len: found.len,
        used: found.len.saturating_sub(FRAMES_AT),
        key_id: found.open.key_id.clone(),
        file: header.file,
        first_revision: header.first_revision,
        created_ms: header.created_ms,
        end,
    }
}

/// Accounts for the files outside the chain: of an owner that was overtaken, or journals older
/// than what is kept. A ledger's segments are never of no value.
fn explain(chain: &[&Header], oldest: u64, mut rest: Vec<Found>) -> Result<Vec<String>> {
    let successor: BTreeMap<FileId, u64> = chain
        .iter()
        .zip(chain.iter().skip(1))
        .map(|(a, b)| (a.file, b.epoch))
        .collect();
    let mut overtaken: BTreeSet<FileId> = BTreeSet::new();
    rest.sort_by_key(|found| found.number);
    let mut garbage = Vec::new();
    for found in rest {
        let Header {
            link,
            file,
            epoch,
            kind,
            ..
        } = found.open.header;
        let branch = successor
            .get(&link.file)
            .is_some_and(|winner| epoch < *winner);
        if branch || overtaken.contains(&link.file) {
            overtaken.insert(file);
        } else if found.number >= oldest || kind == FileKind::Ledger {
            return Err(Error::corrupt(format!(
                "{}: a log file beside it is missing",
                found.name
            )));
        }
        garbage.push(found.name);
    }
    Ok(garbage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compression;
    use crate::crypto::OsRandom;
    use crate::format::{self, FileSpec, Lineage, StoreId};
    use crate::keyring::{Encryption, KeySize};

    fn link(file: u8) -> Link {
        Link {
            file: FileId([file; 16]),
            ..Link::default()
        }
    }

    /// A log file of this id, behind another one (0: none).
    fn found(kind: FileKind, file: u8, behind: u8, epoch: u64) -> Found {
        let spec = FileSpec {
            kind,
            store: StoreId([1; 16]),
            lineage: Lineage(2),
            file: FileId([file; 16]),
            epoch,
            first_revision: 1,
            link: link(behind),
            compression: Compression::None,
            key_size: KeySize::Aes256,
            created_ms: 0,
        };
        let made = format::create(&spec, &Encryption::None, &OsRandom).unwrap();
        Found {
            number: u64::from(file),
            name: file.to_string(),
            len: FRAMES_AT,
            open: format::open(&made.prefix, &Encryption::None).unwrap(),
        }
    }

    /// The names of the past, of the log and of what is of no value.
    fn ordered(logs: &[(u8, u8, u64)], kind: FileKind, image: Option<u8>) -> Result<[String; 3]> {
        let logs = logs
            .iter()
            .map(|(file, behind, epoch)| found(kind, *file, *behind, *epoch));
        let chain = order(logs.collect(), image.map(link))?;
        let past: Vec<_> = chain.past.into_iter().map(|file| file.name).collect();
        let files: Vec<_> = chain.files.into_iter().map(|file| file.name).collect();
        Ok([past, files, chain.garbage].map(|names| names.join(" ")))
    }

    #[test]
    fn log_files_are_put_in_order_whatever_the_order_they_are_found_in() {
        for (logs, image, expected) in [
            (&[(1, 0, 1)][..], None, ["", "1", ""]),
            (&[(3, 2, 2), (1, 0, 1), (2, 1, 1)], None, ["", "1 2 3", ""]),
            (
                &[(3, 2, 2), (1, 0, 1), (2, 1, 1)],
                Some(2),
                ["1", "2 3", ""],
            ),
            // What is left of a removal that was cut.
            (&[(3, 2, 2), (1, 0, 1)], Some(3), ["", "3", "1"]),
            // An owner that was overtaken, and what it wrote on.
            (
                &[(1, 0, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2)],
                None,
                ["", "1 3", "2 4"],
            ),
        ] {
            let found = ordered(logs, FileKind::Journal, image).unwrap();
            assert_eq!(found, expected, "{logs:?}, {image:?}");
        }
    }

    #[test]
    fn a_log_file_that_is_missing_or_that_two_follow_is_damage() {
        let (journal, ledger) = (FileKind::Journal, FileKind::Ledger);
        let none: &[(u8, u8, u64)] = &[];
        for (logs, kind, image, what) in [
            (none, journal, None, "the first log file is missing"),
            (&[(2, 1, 1)], journal, None, "the first log file is missing"),
            (
                &[(1, 0, 1)],
                journal,
                Some(2),
                "that the image names is missing",
            ),
            (
                &[(1, 0, 1), (2, 1, 1), (3, 1, 1)],
                journal,
                None,
                "two log files follow one",
            ),
            (
                &[(1, 0, 1), (3, 2, 1)],
                journal,
                None,
                "3: a log file beside it is missing",
            ),
            // A segment is never of no value, however old it is.
            (
                &[(3, 2, 2), (1, 0, 1)],
                ledger,
                Some(3),
                "1: a log file beside it is missing",
            ),
        ] {
            let error = ordered(logs, kind, image).unwrap_err();
            assert_eq!(error.code(), "corrupt", "{error:?}");
            assert!(error.message().contains(what), "{error:?}, not {what}");
        }
    }
}
