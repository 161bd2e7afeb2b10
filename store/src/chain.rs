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
    let mut files = vec![first];
    while let Some(last) = files.last().map(|found| found.open.header.file) {
        // An owner that was overtaken may have begun a file too: the higher epoch counts.
        let follows = |header: &Header| header.link.file == last;
        let epochs = rest.iter().map(|found| &found.open.header);
        let Some(epoch) = epochs.filter(|h| follows(h)).map(|h| h.epoch).max() else {
            break;
        };
        let wins = |header: &Header| follows(header) && header.epoch == epoch;
        let Some(next) = take(&mut rest, wins) else {
            break;
        };
        if rest.iter().any(|found| wins(&found.open.header)) {
            return Err(Error::corrupt(format!(
                "{}: two log files follow one",
                next.name
            )));
        }
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
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] => Some((a.file, b.epoch)),
            _ => None,
        })
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
