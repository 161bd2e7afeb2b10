//! Tests of the continuous archive.

mod model;
mod pieces;
mod restore;
mod tamper;

use sha2::{Digest as _, Sha256};

use super::disk::SimDisk;
use super::sim::Sim;
use crate::archive::{self, Archived, Piece, Position, Until};
use crate::backup::{self, BackupInfo, BackupOptions, Restored};
use crate::format::Lineage;
use crate::log::{Change, ChangeOp, LogCursor};
use crate::{Batch, Options, Result, Strategy};

/// Options without what takes time in a debug build, and with room.
fn quick() -> Options {
    let mut options = super::workload::quick();
    options.max_disk = 64 << 20;
    options
}

/// The same for a ledger.
fn quick_ledger() -> Options {
    Options {
        strategy: Strategy::Ledger,
        ..quick()
    }
}

fn open(options: Options) -> Sim {
    Sim::open(&SimDisk::default(), options, 1).unwrap()
}

fn lineage(sim: &Sim) -> Lineage {
    sim.engine.seat.lineage
}

/// What there is behind a revision.
fn next(sim: &Sim, after: u64) -> Archived {
    archive::next(&sim.engine.shared, lineage(sim), after).unwrap()
}

fn position(sim: &Sim) -> Position {
    archive::position(&sim.engine.shared)
}

/// The piece behind a revision, which is there.
fn piece(sim: &Sim, after: u64) -> Piece {
    match next(sim, after) {
        Archived::Piece(piece) => *piece,
        other => panic!("{other:?}"),
    }
}

/// All pieces behind a revision.
fn pieces(sim: &Sim, mut after: u64) -> Vec<Piece> {
    let mut all = Vec::new();
    loop {
        match next(sim, after) {
            Archived::Piece(piece) => {
                after = piece.info.envelope.to;
                all.push(*piece);
            }
            Archived::UpToDate(_) => return all,
            other => panic!("{other:?}"),
        }
    }
}

/// A backup.
fn backup_of(sim: &Sim) -> (Vec<u8>, BackupInfo) {
    let mut stream = Vec::new();
    let info = backup::write(&sim.engine.shared, &BackupOptions::default(), &mut stream).unwrap();
    (stream, info)
}

/// A backup with pieces right behind it.
fn row<'a>(backup: &[u8], pieces: impl IntoIterator<Item = &'a Piece>) -> Vec<u8> {
    let mut bytes = backup.to_vec();
    for piece in pieces {
        bytes.extend_from_slice(&piece.bytes);
    }
    bytes
}

/// What a restore of these bytes makes, opened.
fn restored(sim: &Sim, bytes: &[u8], until: Until, options: &Options) -> Result<(Restored, Sim)> {
    let disk = SimDisk::default();
    let env = sim.engine.seat.env.clone();
    let restored = archive::restore_with(&disk, &env, bytes, until, options)?;
    let opened = Sim::open(&disk, options.clone(), 5)?;
    assert_eq!(opened.engine.seat.lineage, restored.lineage);
    assert_eq!(opened.engine.next, restored.next_revision);
    Ok((restored, opened))
}

/// All entries as text: with values, revisions, versions and times of expiry.
fn state(sim: &Sim) -> Vec<String> {
    let view = sim.engine.shared.view.load();
    let entries = view.index.from(std::ops::Bound::Unbounded);
    entries
        .map(|entry| {
            let entry = entry.unpack();
            format!("{entry:?} {:?} {}", entry.key, sum(entry.value))
        })
        .collect()
}

/// Everything in a store's log, as text.
fn history(sim: &Sim) -> Vec<(u64, String)> {
    let shared = sim.engine.shared.clone();
    let first = shared.feed.durable().log.first_revision();
    let mut cursor = LogCursor::new(shared, first.max(1));
    let changes = std::iter::from_fn(|| cursor.next().unwrap());
    changes
        .map(|change| (change.revision, text(&change)))
        .collect()
}

fn text(change: &Change) -> String {
    let ops: Vec<String> = change
        .ops
        .iter()
        .map(|op| match op {
            ChangeOp::Set(entry) => {
                format!("{entry:?} {:?} {}", entry.key(), sum(entry.value()))
            }
            other => format!("{other:?}"),
        })
        .collect();
    format!("{} {:?} {ops:?}", change.time_ms, change.actor)
}

/// A value in short.
fn sum(value: &[u8]) -> String {
    format!("{:x?}", &Sha256::digest(value)[..8])
}

/// Writes `n` to a key.
fn set(sim: &mut Sim, key: &str, n: u8) {
    let batch = Batch::new().set(key.to_owned(), vec![n]).actor("ada");
    sim.run(batch).unwrap();
    sim.clock.advance(10);
}
