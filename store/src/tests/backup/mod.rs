//! Tests of backups and restores.

mod local;
mod modes;
mod restore;
mod stream;
mod tamper;

use super::disk::SimDisk;
use super::sim::Sim;
use crate::backup::{self, BackupInfo, BackupOptions};
use crate::{Batch, Options};

/// Options without what takes time in a debug build, and with room.
fn quick() -> Options {
    let mut options = super::workload::quick();
    options.max_disk = 64 << 20;
    options
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
