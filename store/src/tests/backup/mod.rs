//! Tests of backups and restores.

mod hand_over;
mod ledger;
mod local;
mod modes;
mod restore;
mod stream;
mod tamper;

use super::disk::SimDisk;
use super::sim::Sim;
use crate::backup::{self, BackupInfo, BackupOptions};
use crate::log::{Change, LogCursor};
use crate::{Batch, Options, Strategy};

/// Options without what takes time in a debug build, and with room.
fn quick() -> Options {
    let mut options = super::workload::quick();
    options.max_disk = 64 << 20;
    options
}

/// The same for a ledger.
fn quick_ledger() -> Options {
    let mut options = quick();
    options.strategy = Strategy::Ledger;
    options
}

/// Everything in a store's log.
fn changes(sim: &Sim) -> Vec<Change> {
    let shared = sim.engine.shared.clone();
    let first = shared.feed.durable().log.first_revision();
    let mut cursor = LogCursor::new(shared, first.max(1));
    std::iter::from_fn(|| cursor.next().unwrap()).collect()
}

/// A stepped store with a few dozen entries, some large enough that a backup has several frames.
fn filled(options: Options, seed: u64) -> Sim {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, options, seed).unwrap();
    for n in 0..30_usize {
        let value = vec![u8::try_from(n).unwrap(); (n % 6) * 8_000];
        sim.run(Batch::new().set(format!("key-{n:02}"), value))
            .unwrap();
    }
    sim.run(Batch::new().delete("key-07").delete("key-11"))
        .unwrap();
    sim
}

/// Its backup.
fn backup_of(sim: &Sim) -> (Vec<u8>, BackupInfo) {
    let mut stream = Vec::new();
    let info = backup::write(&sim.engine.shared, &BackupOptions::default(), &mut stream).unwrap();
    (stream, info)
}
