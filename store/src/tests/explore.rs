//! Power loss at every change of the disk: what it may leave, once each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::disk::{Keep, Rng, SimDisk};
use super::history::{History, Moment, Promise, run};
use super::scale::{on_all_cores, say, scale};
use super::states::{Undecided, after};
use super::syncs::SyncKind;

/// Subsets drawn where there are too many.
const DRAWN: usize = 8;

/// Disks that were met, with how much was promised when they were looked at, and how many of them were new.
struct Met {
    hashes: Mutex<HashMap<u64, usize>>,
    wanted: u64,
    count: AtomicU64,
}

/// Whether a disk was met.
enum Known {
    New,
    /// When less was promised.
    More,
    Enough,
}

impl Met {
    fn new(wanted: u64) -> Met {
        Met {
            hashes: Mutex::default(),
            wanted,
            count: AtomicU64::new(0),
        }
    }

    fn knows(&self, disk: &SimDisk, promise: Promise) -> Known {
        match self.hashes.lock().insert(disk.hash(), promise.must) {
            None => Known::New,
            Some(before) if before < promise.must => Known::More,
            Some(_) => Known::Enough,
        }
    }

    /// Recovers a state, and counts it if what it holds was promised. Every fourth goes on to be
    /// opened again, written to, and opened after one more power loss.
    fn check(&self, history: &History, disk: &SimDisk, promise: Promise) -> Result<(), String> {
        if self.count().is_multiple_of(4) {
            history.check(disk, promise)?;
        } else {
            history.look(disk, promise)?;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn enough(&self) -> bool {
        self.count() >= self.wanted
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Every state that a power loss at a moment may leave and that is new, to `each`. One that was met when less
/// was promised is looked at again.
fn states_at(
    history: &History,
    Moment { files, promise }: &Moment,
    met: &Met,
    rng: &mut Rng,
    mut each: impl FnMut(SimDisk) -> Result<(), String>,
) -> Result<(), String> {
    let undecided = Undecided::new(files);
    undecided.each(DRAWN, rng, |ways| {
        let disk = history.disk.with_files(undecided.decide(ways));
        let checked = match met.knows(&disk, *promise) {
            Known::New => each(disk),
            Known::More => history.look(&disk, *promise).map(drop),
            Known::Enough => Ok(()),
        };
        checked.map_err(|what| format!("{ways:?}: {what}"))
    })
}

/// Checks what power losses and a kill leave at each moment of one run.
fn explore(seed: u64, met: &Met) -> Result<History, String> {
    let history = run(seed, None);
    let mut rng = Rng(seed ^ 0xc4a5);
    for (at, moment) in history.moments.iter().enumerate() {
        if met.enough() {
            break;
        }
        let Moment { files, promise } = moment;
        let at = |what| format!("seed {seed}, change {at}: {what}");
        states_at(&history, moment, met, &mut rng, |disk| {
            met.check(&history, &disk, *promise)
        })
        .map_err(at)?;
        // Killed: what the page cache shows is read, and must be durable before it is shown.
        history
            .check(&history.disk.with_files(files.clone()), *promise)
            .map_err(|what| at(format!("killed: {what}")))?;
    }
    Ok(history)
}

#[test]
fn no_power_loss_loses_anything_acknowledged() {
    let met = Met::new(scale(2_000, 250_000, 2_500_000));
    let [folds, refused, forgotten] = [(); 3].map(|()| AtomicU64::new(0));
    let began = Instant::now();
    on_all_cores(|seed| {
        let history = explore(seed, &met).unwrap_or_else(|what| panic!("{what}"));
        folds.fetch_add(history.folds, Ordering::Relaxed);
        refused.fetch_add(history.refused, Ordering::Relaxed);
        forgotten.fetch_add(history.forgotten, Ordering::Relaxed);
        // The second one has retention.
        !met.enough() || seed < 1
    });
    assert!(folds.into_inner() > 0, "the workloads fold");
    assert!(forgotten.into_inner() > 0, "retention takes something");
    say(&format!("crash states explored: {}", met.count()));
    println!("{:?}, {refused:?} writes refused", began.elapsed());
}

/// Recovers a disk, and gives each change that this made to it.
fn recoveries(history: &History, disk: &SimDisk, promise: Promise, seed: u64) -> Vec<Moment> {
    let moments: std::sync::Arc<Mutex<Vec<Moment>>> = std::sync::Arc::default();
    let noted = moments.clone();
    let disk = disk.restart();
    disk.watch(move |files| {
        noted.lock().push(Moment {
            files: files.clone(),
            promise,
        });
    });
    // Errors are the oracle's to find.
    drop(history.open(&disk, promise, seed));
    std::mem::take(&mut *moments.lock())
}

/// Power losses during the recovery of what a power loss left, `deep` times over.
fn nested(
    history: &History,
    disk: &SimDisk,
    promise: Promise,
    deep: u32,
    met: &Met,
    rng: &mut Rng,
) -> Result<(), String> {
    for moment in recoveries(history, disk, promise, rng.next()) {
        let mut deeper = Vec::new();
        states_at(history, &moment, met, rng, |disk| {
            deeper.push(disk.restart());
            met.check(history, &disk, promise)
        })?;
        // One of them is lost again while it is recovered.
        if deep > 1 && !deeper.is_empty() && rng.below(4) == 0 {
            let disk = deeper.swap_remove(rng.below(deeper.len()));
            nested(history, &disk, promise, deep - 1, met, rng)
                .map_err(|what| format!("again: {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn power_losses_during_recovery_are_recovered_from() {
    let met = Met::new(scale(1_000, 100_000, 1_000_000));
    on_all_cores(|seed| {
        // Other workloads than above.
        let seed = seed + 1_000_000;
        let history = run(seed, None);
        let mut rng = Rng(seed);
        let mut at = rng.below(40);
        while at < history.moments.len() && !met.enough() {
            let Moment { files, promise } = &history.moments[at];
            let undecided = Undecided::new(files);
            let disk = undecided.decide(&undecided.drawn(&mut rng));
            let disk = history.disk.with_files(disk);
            nested(&history, &disk, *promise, 2, &met, &mut rng)
                .unwrap_or_else(|what| panic!("seed {seed}, change {at}: {what}"));
            at += 1 + rng.below(80);
        }
        !met.enough()
    });
    say(&format!("crash states during recovery: {}", met.count()));
}

/// What some power losses at each moment, and a kill, show of a sync that is left out.
fn glance(seed: u64, broken: SyncKind) -> (u64, Result<(), String>) {
    let history = run(seed, Some(broken));
    let met = Met::new(u64::MAX);
    let mut rng = Rng(seed);
    let mut check = |moment: &Moment| {
        let Moment { files, promise } = moment;
        if Undecided::new(files).effects() <= 6 {
            states_at(&history, moment, &met, &mut rng, |disk| {
                history.check(&disk, *promise)
            })?;
        } else {
            let disk = history.disk.with_files(after(files, Keep::Nothing));
            history.check(&disk, *promise)?;
        }
        history.check(&history.disk.with_files(files.clone()), *promise)
    };
    let result = history.moments.iter().try_for_each(&mut check);
    (history.disk.left_out(), result)
}

// Of two the rest of the store makes up for: a header's sync covers the journal's fill, and the name
// of a claim is durable with what it says. `super::crash` has the two that a crash alone never shows.
#[test]
fn each_kind_of_sync_that_is_left_out_is_noticed() {
    use SyncKind::{Epoch, EpochName, Frame, Header, Image, ImageName, LogName, Recovered};
    for kind in [
        Header, Frame, Recovered, Image, Epoch, LogName, ImageName, EpochName,
    ] {
        let mut left_out = 0;
        let noticed = (0..8).find_map(|seed| {
            let (count, result) = glance(seed, kind);
            left_out += count;
            result.err()
        });
        assert!(left_out > 0, "{kind:?} is not a sync of these workloads");
        assert!(noticed.is_some(), "{kind:?} was left out unnoticed");
    }
}
