//! Clocks that jump between opens: what has expired stays so, and the order of writes does not
//! depend on time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::disk::{Rng, SimDisk};
use super::scale::{on_all_cores, say, scale};
use super::sim::Sim;
use super::workload::quick;
use crate::time::tests::ManualClock;
use crate::{Batch, Durability, Options, SetOptions, Strategy};

const YEARS: u64 = 10 * 365 * 86_400_000;

/// The wall clock at the next open.
fn jumps(wall: u64) -> [u64; 10] {
    [
        wall,
        wall + 1000,
        wall.saturating_sub(1000),
        wall.saturating_add(YEARS),
        wall.saturating_sub(YEARS),
        0,
        1,
        u64::MAX,
        u64::MAX - 500,
        1_700_000_000_000,
    ]
}

/// A store between two opens, and what its readers have been shown.
#[derive(Clone)]
struct Shown {
    disk: SimDisk,
    wall: u64,
    /// Writes, of which each has a key of its own.
    writes: u64,
    /// Keys that were seen expired.
    expired: BTreeSet<u64>,
    revision: u64,
    /// The time of the last write.
    time: u64,
}

/// One open under a wall clock, with what follows. Returns what the next one begins with.
fn open(before: &Shown, wall: u64, options: &Options, rng: &mut Rng) -> Shown {
    let disk = before.disk.restart();
    let clock = ManualClock::at(wall);
    let mut sim = Sim::open_at(&disk, options.clone(), rng.next(), clock).unwrap();
    let mut shown = Shown {
        disk,
        wall,
        ..before.clone()
    };
    // The clock may be told to be right.
    if rng.below(3) == 0 {
        sim.engine.seat.time.accept();
    }
    let look = |sim: &Sim, shown: &mut Shown| {
        let found = sim.content();
        for n in 0..shown.writes {
            let there = found.contains_key(&n.to_be_bytes()[..]);
            assert!(!(there && shown.expired.contains(&n)), "{n} is back");
            if !there {
                shown.expired.insert(n);
            }
        }
        let now = sim.engine.seat.time.now_ms();
        assert!(now >= shown.time, "time went back: {now}, {}", shown.time);
        assert_eq!(sim.revision(), shown.revision);
    };
    look(&sim, &mut shown);
    let last = before.revision;
    for _ in 0..2 {
        let ttl = [1, 900, 5_000, YEARS, u64::MAX / 2][rng.below(5)];
        let options = SetOptions {
            ttl: (rng.below(4) > 0).then(|| Duration::from_millis(ttl)),
            keep_ttl: false,
        };
        // It is in the log, so no later open begins before it.
        shown.time = sim.engine.seat.time.now_ms();
        let key = shown.writes.to_be_bytes().to_vec();
        let done = sim
            .run(Batch::new().set_with(key, "value", options))
            .unwrap();
        assert!(done.revision > last, "later writes have higher revisions");
        shown.writes += 1;
        sim.clock.advance([0, 1, 1500][rng.below(3)]);
        sim.engine.tick();
        shown.revision = sim.revision();
        look(&sim, &mut shown);
    }
    // The removal of what expired is due a second later at most, then it is logged.
    sim.clock.advance(1000);
    sim.engine.tick();
    shown.revision = sim.revision();
    look(&sim, &mut shown);
    if rng.below(2) == 0 {
        sim.engine.close().unwrap();
    }
    shown.wall = shown
        .wall
        .saturating_add(sim.clock.mono.load(Ordering::Relaxed));
    shown
}

#[test]
fn no_jump_of_the_clock_brings_anything_back_or_changes_the_order() {
    let wanted = scale(3_000, 100_000, 1_000_000);
    let opens = AtomicU64::new(0);
    on_all_cores(|seed| {
        let mut rng = Rng(seed);
        let mut options = quick();
        if seed % 3 == 1 {
            options.strategy = Strategy::Ledger;
            options.max_disk = 4 << 20;
        }
        if seed % 5 == 1 {
            options.max_clock_jump = Duration::from_millis(rng.next() % 10_000);
        }
        assert_eq!(options.durability, Durability::Always);
        let mut stores = vec![Shown {
            disk: SimDisk::default(),
            wall: 1_700_000_000_000,
            writes: 0,
            expired: BTreeSet::new(),
            revision: 0,
            time: 0,
        }];
        // Schedules of up to three jumps; each open ends one, and begins others.
        for depth in 0..3 {
            let mut next = Vec::new();
            for shown in &stores {
                for wall in jumps(shown.wall.min(u64::MAX - 2000)) {
                    opens.fetch_add(1, Ordering::Relaxed);
                    next.push(open(shown, wall, &options, &mut rng));
                }
            }
            if depth == 1 {
                // Of a hundred a third, drawn.
                next.retain(|_| rng.below(3) == 0);
            }
            stores = next;
        }
        opens.load(Ordering::Relaxed) < wanted
    });
    say(&format!("clock schedules: {}", opens.into_inner()));
}
