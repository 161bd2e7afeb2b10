//! Backups of a store under load: what was acknowledged up to the revision of a backup is in it, and nothing else is.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use codexstore::{Store, Strategy, backup};
use codexstore_proof::work::{self, Ack};

use crate::harness::{WRITERS, counted, random, rounds};

/// What each writer was told, in order.
type Acks = [Mutex<Vec<Ack>>; WRITERS];

/// Backups of each store before it is closed, and opened with another compression; a ledger keeps all, and each of its backups has it:
/// a new one goes on instead, and sooner.
fn of_a_store(strategy: Strategy) -> usize {
    match strategy {
        Strategy::Snapshot => 25,
        Strategy::Ledger => 5,
    }
}

#[test]
fn nothing_acknowledged_before_the_revision_of_a_backup_is_missing_from_it() {
    let mut random = random(9);
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        let (mut taken, mut acknowledged, mut seed) = (0, 0, 0);
        let mut acks = Acks::default();
        let count = rounds(100);
        while taken < count {
            let options = work::options(strategy, seed);
            seed += 1;
            let store = Store::open(&dir, options).unwrap();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                // Also where something panics.
                let _stop = Stop(&stop);
                for (writer, acks) in (0_u64..).zip(&acks) {
                    let (store, stop) = (&store, &stop);
                    scope.spawn(move || write(store, writer, acks, stop));
                }
                for _ in 0..of_a_store(strategy).min(count - taken) {
                    std::thread::sleep(std::time::Duration::from_millis(random.u64(..30)));
                    one(&store, strategy, seed, &acks, place.path());
                    taken += 1;
                }
            });
            store.close().unwrap();
            if strategy == Strategy::Ledger || taken == count {
                acknowledged += acks
                    .iter()
                    .map(|of| of.lock().unwrap().len())
                    .sum::<usize>();
                acks = Acks::default();
                std::fs::remove_dir_all(&dir).unwrap();
            }
        }
        assert!(acknowledged > 20 * count, "too little load: {acknowledged}");
        counted(&format!(
            "backups under load restored and compared: {taken} ({strategy:?}), batches acknowledged meanwhile: {acknowledged}"
        ));
    }
}

/// Ends the writers.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Commits one batch after the other, from where the writer was.
fn write(store: &Store, writer: u64, acks: &Mutex<Vec<Ack>>, stop: &AtomicBool) {
    let from = acks.lock().unwrap().last().map_or(0, |ack| ack.n);
    for n in from + 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let revision = store.commit(work::batch(writer, n)).unwrap().revision;
        acks.lock().unwrap().push(Ack { n, revision });
    }
}

/// The last of each writer up to a revision, among those that were acknowledged by now.
fn up_to(acks: &Acks, revision: u64) -> Vec<Ack> {
    let last = |of_writer: &Mutex<Vec<Ack>>| {
        let all = of_writer.lock().unwrap();
        let there = all.partition_point(|ack| ack.revision <= revision);
        there.checked_sub(1).map_or_else(Ack::default, |at| all[at])
    };
    acks.iter().map(last).collect()
}

/// Takes a backup while all write, restores it, and compares.
fn one(store: &Store, strategy: Strategy, seed: u64, acks: &Acks, place: &Path) {
    let before = up_to(acks, u64::MAX);
    let mut bytes = Vec::new();
    let info = store.backup(&mut bytes).unwrap();
    let revision = info.envelope.revision;
    let oldest = before.iter().map(|ack| ack.revision).max().unwrap_or(0);
    assert!(
        revision >= oldest,
        "revision {oldest} was acknowledged before the backup of {revision} began"
    );
    let target = place.join("restored");
    // Whatever compression it was written with.
    let options = work::options(strategy, seed + 1);
    backup::restore(&target, &bytes[..], &options).unwrap();
    let copy = Store::open(&target, options).unwrap();
    // One that was on its way may be in it too: whole, and no more than one of each writer.
    let wanted = up_to(acks, revision);
    let found = work::check(&copy, &wanted).unwrap_or_else(|wrong| {
        panic!("the backup of revision {revision}: {wrong}");
    });
    for (writer, found) in found.iter().enumerate() {
        assert!(
            found.revision <= revision,
            "writer {writer}: revision {} is in the backup of {revision}",
            found.revision
        );
    }
    assert_eq!(work::count(&copy).unwrap(), info.contents.entries);
    copy.close().unwrap();
    std::fs::remove_dir_all(&target).unwrap();
}
