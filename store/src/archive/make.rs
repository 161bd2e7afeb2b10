//! Making a piece: what the log holds behind a revision, sealed as a file of its own.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::info::{Archived, Piece, PieceContents, PieceEnvelope, PieceInfo, Position};
use crate::error::{Code, Result};
use crate::format::{FileKind, FrameKind, Lineage, Link};
use crate::gather::GatherBatches;
use crate::log::LogCursor;
use crate::shared::Shared;

/// Bytes of payload after which a piece is closed.
const PIECE: usize = 8 << 20;

/// Where a store is. What is durable was answered, and is in every later owner's history.
pub(crate) fn position(shared: &Shared) -> Position {
    let durable = shared.feed.durable();
    let log = durable.log.first_revision();
    let (floor, begins) = shared.before_log;
    let first = log.saturating_sub(1);
    let first = if log == begins {
        floor.min(first)
    } else {
        first
    };
    Position {
        store: shared.seat.store,
        lineage: shared.seat.lineage,
        epoch: shared.seat.epoch,
        revision: durable.revision,
        first: first.min(durable.revision),
    }
}

/// The piece behind revision `after` of that line of history.
pub(crate) fn next(shared: &Arc<Shared>, lineage: Lineage, after: u64) -> Result<Archived> {
    let position = position(shared);
    if lineage != position.lineage {
        return Ok(Archived::OtherLineage(position));
    }
    if after >= position.revision {
        // Behind a restore, revisions were skipped that nobody was given.
        let reached = after == position.revision || after < shared.first_revision;
        return Ok(if reached {
            Archived::UpToDate(position)
        } else {
            Archived::Behind(position)
        });
    }
    let (floor, begins) = shared.before_log;
    let next = if (floor..begins).contains(&after) {
        begins
    } else {
        after.saturating_add(1)
    };
    let parked = shared.archive.lock().take();
    let mut cursor = LogCursor::resume(shared.clone(), parked, next);
    let gathered = match gather(&mut cursor) {
        Ok(Some(gathered)) => gathered,
        Ok(None) => return Ok(Archived::UpToDate(position)),
        Err(error) if error.is(Code::PastGone) => {
            return Ok(Archived::PastGone(self::position(shared)));
        }
        Err(error) => return Err(error.context("read the log for the archive")),
    };
    let more = shared.feed.durable().revision > gathered.to;
    let (info, bytes) = seal(shared, after, gathered)?;
    // An owner that was overtaken must not say how history went on.
    shared.seat.check_epoch()?;
    *shared.archive.lock() = cursor.park();
    Ok(Archived::Piece(Box::new(Piece { info, bytes, more })))
}

/// Batches that were read.
struct Gathered {
    payloads: Vec<Vec<u8>>,
    batches: u64,
    first_ms: u64,
    last_ms: u64,
    to: u64,
}

/// Reads what is durable, up to a piece's worth; none if there is nothing.
fn gather(cursor: &mut LogCursor) -> Result<Option<Gathered>> {
    let mut gather = GatherBatches::default();
    let mut found: Option<Gathered> = None;
    let mut bytes = 0;
    while bytes + gather.len() < PIECE {
        let change = match cursor.next() {
            Ok(Some(change)) => change,
            Ok(None) => break,
            // What was read before is as good as ever; the next piece says that the rest is gone.
            Err(error) if error.is(Code::PastGone) && found.is_some() => break,
            Err(error) => return Err(error),
        };
        let full = gather.add(&change)?;
        let found = found.get_or_insert(Gathered {
            payloads: Vec::new(),
            batches: 0,
            first_ms: change.time_ms,
            last_ms: 0,
            to: 0,
        });
        found.batches += 1;
        found.last_ms = change.time_ms;
        found.to = change.revision;
        if let Some(payload) = full {
            bytes += payload.len();
            found.payloads.push(payload);
        }
    }
    if let Some(found) = &mut found {
        found.payloads.extend(gather.finish());
    }
    Ok(found)
}

/// Makes the file. Each payload is let go as soon as it is in.
fn seal(shared: &Shared, after: u64, gathered: Gathered) -> Result<(PieceInfo, Vec<u8>)> {
    let seat = &shared.seat;
    let random = &*seat.env.random;
    let last = Link {
        sequence: gathered.to,
        ..Link::default()
    };
    let kind = FileKind::Archive;
    let made = seat.create_at(kind, after.saturating_add(1), last, gathered.last_ms)?;
    let (mut bytes, mut sealer) = (made.prefix, made.sealer);
    for payload in gathered.payloads {
        sealer.seal(FrameKind::Batches, &payload, random, &mut bytes)?;
    }
    sealer.close(random, &mut bytes)?;
    let sha256 = Sha256::digest(&bytes).into();
    let info = PieceInfo {
        envelope: PieceEnvelope::new(&made.header, made.key_id, bytes.len() as u64, sha256),
        contents: PieceContents {
            batches: gathered.batches,
            first_ms: gathered.first_ms,
        },
    };
    Ok((info, bytes))
}
