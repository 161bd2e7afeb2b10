//! What an open would do with what was found: decided from reports, without reading anything.

use serde::Serialize;

use super::inspect::{Claim, Found, Inspection, Role, There};
use super::lines::Lines;
use super::walk::End;
use crate::anchor::Anchor;
use crate::format::{FileKind, Header, Link};
use crate::layout::{self, Name};
use crate::options::Strategy;

/// What an open would do. Without a key it is not known whether the frames authenticate.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Opening {
    /// Why it would refuse; empty: as far as is known without a key, it would not.
    pub refusals: Vec<String>,
    /// What it would do, in order, if it does not refuse.
    pub steps: Vec<String>,
}

/// Gives each file its role and says what an open would do.
pub(crate) fn judge(there: There, live: bool) -> Inspection {
    let mut open = Opening::default();
    if there.restoring {
        open.refusals.push(layout::unfinished().to_string());
    }
    let roles = roles(&there, &mut open);
    if open.refusals.is_empty() {
        steps(&there, &roles, &mut open);
    }
    let sound = !live && open.refusals.is_empty();
    let anchor = if sound { anchor(&there, &roles) } else { None };
    let cuts = cuts(&there);
    let last = there.claims.values().rev().find_map(|claim| *claim);
    let newest = there
        .files
        .iter()
        .filter_map(|file| file.header.as_ref())
        .max_by_key(|header| (header.epoch, header.created_ms));
    Inspection {
        live,
        store: last
            .map(|epoch| epoch.store)
            .or(newest.map(|header| header.store))
            .map(|id| id.to_string()),
        lineage: newest
            .map(|header| header.lineage)
            .or(last.map(|epoch| epoch.lineage))
            .map(|id| id.to_string()),
        strategy: strategy(&there).map(Strategy::as_str),
        epoch: there.claims.keys().last().copied().unwrap_or(0),
        anchor,
        interval: last.is_some_and(|epoch| epoch.interval),
        suspect: there.suspect,
        claims: there
            .claims
            .iter()
            .map(|(epoch, read)| Claim {
                epoch: *epoch,
                written: read.is_some(),
            })
            .collect(),
        files: there
            .files
            .into_iter()
            .zip(roles)
            .zip(cuts)
            .map(|((file, role), next_at)| file.report(role, next_at))
            .collect(),
        others: there.others,
        open,
    }
}

/// A store's strategy is that of its newest log.
pub(crate) fn strategy(there: &There) -> Option<Strategy> {
    let logs = there.files.iter().filter(|file| !file.is_image());
    let logs = logs.filter_map(|file| Some((file.header.as_ref()?, file.number())));
    let (newest, _) = logs.max_by_key(|(header, number)| (header.epoch, *number))?;
    Some(match newest.kind {
        FileKind::Ledger => Strategy::Ledger,
        _ => Strategy::Snapshot,
    })
}

/// Where a ledger ends.
fn anchor(there: &There, roles: &[Role]) -> Option<Anchor> {
    let files = there.files.iter().zip(roles);
    let logs = files.filter(|(_, role)| **role == Role::Log);
    let (last, header) = logs
        .filter_map(|(file, _)| Some((file, file.header.as_ref()?)))
        .max_by_key(|(file, header)| (header.epoch, file.number()))?;
    (header.kind == FileKind::Ledger).then_some(Anchor {
        store: header.store,
        epoch: header.epoch,
        revision: header.first_revision.saturating_sub(1),
        link: Link {
            file: header.file,
            sequence: last.walked.last,
            chain: last.walked.chain,
        },
    })
}

/// Of each file, where the next one took over.
fn cuts(there: &There) -> Vec<Option<u64>> {
    let logs = there.files.iter().filter(|file| !file.is_image());
    let headers: Vec<&Header> = logs.filter_map(|file| file.header.as_ref()).collect();
    let lines = Lines::of(&headers);
    let cut = |header: &Header| lines.cut(header.file).map(|cut| cut.sequence);
    let of = |file: &Found| file.header.as_ref().and_then(cut);
    there.files.iter().map(of).collect()
}

fn roles(there: &There, open: &mut Opening) -> Vec<Role> {
    let files = &there.files;
    let mut roles: Vec<Role> = files
        .iter()
        .map(|file| match (&file.header, &file.walked.end) {
            (Some(_), _) => Role::Past,
            (None, End::Unbegun) => Role::Unbegun,
            (None, _) => Role::Unknown,
        })
        .collect();
    let mut set = |at: usize, role: Role| {
        if let Some(place) = roles.get_mut(at) {
            *place = role;
        }
    };
    owner(there, open);
    for file in files.iter().filter(|file| file.header.is_none()) {
        if let End::Damaged { what, .. } = &file.walked.end {
            open.refusals.push(format!("{}: {what}", file.name));
        }
    }
    // The image with the highest name counts, whatever it holds.
    let image = files.iter().enumerate().rfind(|(_, file)| file.is_image());
    let logs: Vec<(usize, &Header)> = files
        .iter()
        .enumerate()
        .filter(|(_, file)| !file.is_image())
        .filter_map(|(at, file)| Some((at, file.header.as_ref()?)))
        .collect();
    let headers: Vec<&Header> = logs.iter().map(|(_, header)| *header).collect();
    let lines = Lines::of(&headers);
    let mut start = None;
    if let Some((at, file)) = image {
        set(at, Role::Image);
        ends_well(file, open);
        start = file.header.as_ref().map(|header| header.link);
        if let (Some(header), Name::Image(revision)) = (&file.header, file.named)
            && header.first_revision != revision
        {
            open.refusals.push(format!(
                "{}: holds revision {}, not the one it is named",
                file.name, header.first_revision
            ));
        }
    }
    let first = headers.iter().position(|log| match start {
        Some(link) => log.file == link.file,
        None => log.link == Link::default(),
    });
    let line = first.map(|first| lines.from(first)).unwrap_or_default();
    let past = first.map(|first| lines.before(first));
    for (n, (at, _)) in logs.iter().enumerate() {
        if lines.overtaken(n) {
            set(*at, Role::Overtaken);
        } else if line.contains(&n) {
            set(*at, Role::Log);
        }
    }
    let line: Vec<&Found> = line
        .iter()
        .filter_map(|n| files.get(logs.get(*n)?.0))
        .collect();
    let lowest = line.first().map_or(0, |file| file.number());
    for (n, (at, header)) in logs.iter().enumerate() {
        let Some(file) = files.get(*at) else { continue };
        if lines.overtaken(n) || line.iter().any(|log| log.name == file.name) {
            continue;
        }
        // A ledger's segments are never of no value: what is before a gap shows it.
        let cut_off =
            header.kind == FileKind::Ledger && past.as_ref().is_some_and(|past| !past.contains(&n));
        let missing = if file.number() > lowest {
            "the log file before it is missing"
        } else if cut_off {
            "a log file beside it is missing"
        } else {
            continue;
        };
        set(*at, Role::Stray);
        open.refusals.push(format!("{}: {missing}", file.name));
    }
    replayed(there, image.map(|(_, file)| file), &line, &lines, open);
    roles
}

/// Whether the claims explain the files.
fn owner(there: &There, open: &mut Opening) {
    let files = there.files.iter().any(|f| f.walked.end != End::Unbegun);
    let highest = there.claims.keys().last().copied().unwrap_or(0);
    let Some(last) = there.claims.values().rev().find_map(|claim| *claim) else {
        if files {
            open.refusals
                .push("no claim (epoch-N) verifies, but there are data files".to_owned());
        }
        return;
    };
    if last.journal > 0 && !files {
        open.refusals.push(
            "the store was in use, but all of its images and log files are missing".to_owned(),
        );
    }
    for file in &there.files {
        let Some(header) = &file.header else { continue };
        if header.store != last.store {
            open.refusals
                .push(format!("{}: of another store", file.name));
        }
        if header.epoch > highest {
            open.refusals.push(format!(
                "{}: of epoch {}, but the store is only at {highest}",
                file.name, header.epoch
            ));
        }
    }
}

/// Whether what is replayed is all there.
fn replayed(
    there: &There,
    image: Option<&Found>,
    line: &[&Found],
    lines: &Lines,
    open: &mut Opening,
) {
    let Some(last) = line.last() else {
        if let Some(image) = image.filter(|image| image.header.is_some()) {
            open.refusals
                .push(format!("the log file that {} names is missing", image.name));
        } else if image.is_none() && there.files.iter().any(|f| f.header.is_some()) {
            open.refusals
                .push("the first log file is missing, and there is no image".to_owned());
        }
        return;
    };
    for file in line {
        let cut = file.header.as_ref().and_then(|h| lines.cut(h.file));
        // What stands behind the place where the next log took over does not count.
        if cut.is_none_or(|cut| cut.sequence > file.walked.last) {
            ends_well(file, open);
        }
        for by in &file.walked.strangers {
            open.refusals
                .push(format!("{}: not the chain that {by} names", file.name));
        }
        let named = image
            .and_then(|image| image.header.as_ref())
            .map(|header| header.link)
            .filter(|link| file.header.as_ref().is_some_and(|h| h.file == link.file));
        let damaged = matches!(file.walked.end, End::Damaged { .. });
        for link in cut.into_iter().chain(named) {
            if link.sequence > file.walked.last && !damaged {
                open.refusals.push(format!(
                    "{}: ends at sequence {} before the place {} that another file names",
                    file.name, file.walked.last, link.sequence
                ));
            }
        }
    }
    if last.walked.handed_over {
        open.refusals.push(format!(
            "{}: the log file that follows it is missing",
            last.name
        ));
    }
    let claim = there.claims.values().rev().find_map(|claim| *claim);
    let named = claim.map_or(0, |claim| claim.journal);
    let first = line.first().map_or(0, |file| file.number());
    if named > 0 && named >= first && !line.iter().any(|file| file.number() == named) {
        open.refusals.push(format!(
            "log file number {named}, which the last owner began with, is missing"
        ));
    }
}

fn ends_well(file: &Found, open: &mut Opening) {
    if let End::Damaged { what, .. } = &file.walked.end {
        open.refusals.push(format!("{}: {what}", file.name));
    }
}

fn steps(there: &There, roles: &[Role], open: &mut Opening) {
    let with = |role: Role| {
        there
            .files
            .iter()
            .zip(roles)
            .filter(move |(_, has)| **has == role)
            .map(|(file, _)| file)
    };
    if there.files.is_empty() && there.claims.is_empty() {
        open.steps.push("make a new store".to_owned());
        return;
    }
    let mut say = |text: String| open.steps.push(text);
    for image in with(Role::Image) {
        say(format!(
            "load {}: {} frames",
            image.name, image.walked.frames
        ));
    }
    let mut logs: Vec<&Found> = with(Role::Log).collect();
    logs.sort_by_key(|log| log.number());
    for log in &logs {
        say(format!("replay {}: {} frames", log.name, log.walked.frames));
        if let End::Torn { offset, bytes } = log.walked.end {
            say(format!(
                "drop {bytes} bytes at offset {offset} of {}: a write that never ended, and was \
                 never acknowledged",
                log.name
            ));
        }
    }
    let closed = logs.last().is_none_or(|log| log.walked.end == End::Closed);
    let claim = there.claims.values().rev().find_map(|claim| *claim);
    if !closed && claim.is_some_and(|claim| claim.interval) {
        say(
            "begin a new line of history: the last owner acknowledged before it synced, and did \
             not close the store"
                .to_owned(),
        );
    }
    if there.suspect {
        say("rewrite all live data: a write or sync failed under the last owner".to_owned());
    }
    for file in there.files.iter().filter(|file| file.damaged_slot) {
        say(format!(
            "report the damaged key slot of {}; the other one opens it",
            file.name
        ));
    }
}
