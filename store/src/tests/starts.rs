//! What an open reads: live data, and of history one look at the beginning of each file.

use super::disk::SimDisk;
use super::scale::say;
use super::sim::Sim;
use super::workload::quick;
use crate::format::FRAMES_AT;
use crate::{Batch, Disk, Options, Strategy};

/// Keys that there are at the end, each with a value of this many bytes.
const KEYS: u8 = 5;
const VALUE: usize = 3000;

/// What an open looks at of each file: twice, before the store is claimed and behind that.
const LOOKS: u64 = 2;

fn ledger() -> Options {
    let mut options = quick();
    options.strategy = Strategy::Ledger;
    options.max_disk = 64 << 20;
    // Each segment has a few frames.
    options.max_frames = 8;
    options
}

/// A closed ledger that has come to at least so many segments by values of so many bytes, and then to
/// the same content as any other.
fn with_segments(wanted: usize, value: usize) -> SimDisk {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, ledger(), 1).unwrap();
    while segments(&disk) < wanted {
        let batch = Batch::new().set(vec![sim.revision().to_le_bytes()[0] % KEYS], vec![1; value]);
        sim.run(batch).unwrap();
    }
    for key in 0..KEYS {
        sim.run(Batch::new().set(vec![key], vec![key; VALUE]))
            .unwrap();
    }
    // An image of all that, with which the log goes on in a new segment.
    while sim.engine.spare.is_none() || sim.engine.running.is_some() {
        sim.engine.tick();
    }
    sim.engine.start_fold().unwrap();
    sim.engine.wait().unwrap();
    assert!(sim.engine.older.is_empty(), "all of it is the past");
    sim.engine.close().unwrap();
    disk
}

fn segments(disk: &SimDisk) -> usize {
    let names = disk.list().unwrap();
    names
        .iter()
        .filter(|name| name.starts_with("ledger-"))
        .count()
}

/// What an open did.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    calls: u64,
    bytes: u64,
}

fn open(disk: &SimDisk) -> Cost {
    let disk = disk.restart();
    let sim = Sim::open(&disk, ledger(), 2).unwrap();
    assert_eq!(sim.content().len(), usize::from(KEYS));
    Cost {
        calls: disk.calls(),
        bytes: disk.bytes_read(),
    }
}

#[test]
fn a_start_costs_live_data_and_of_history_a_look_at_each_header() {
    let (few, many) = (with_segments(5, 100), with_segments(300, 100));
    let more = (segments(&many) - segments(&few)) as u64;
    assert!(more > 250, "{more}");
    let (short, long) = (open(&few), open(&many));
    // Of each segment it asks for the name and the length, and reads header and key slots.
    assert_eq!(long.calls - short.calls, more * LOOKS * 3);
    assert_eq!(long.bytes - short.bytes, more * LOOKS * FRAMES_AT);

    // However long the segments are.
    let fat = with_segments(segments(&many) - 2, 20_000);
    let more = segments(&fat) as u64 - segments(&few) as u64;
    let history = fat.used() - many.used();
    assert!(history > 16 << 20, "{history}");
    let wide = open(&fat);
    assert_eq!(wide.calls - short.calls, more * LOOKS * 3);
    assert_eq!(wide.bytes - short.bytes, more * LOOKS * FRAMES_AT);
    say(&format!(
        "a ledger's open: of {} segments {} calls, {} bytes read; of {} segments {} and {}; with {history} more \
         bytes of history {} and {}",
        segments(&few),
        short.calls,
        short.bytes,
        segments(&many),
        long.calls,
        long.bytes,
        wide.calls,
        wide.bytes,
    ));
}
