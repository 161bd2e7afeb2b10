//! What is told of the keys: each with the files that it wraps, as the headers on disk say it.

use std::collections::BTreeMap;
use std::sync::mpsc::{TryRecvError, channel};

use super::disk::SimDisk;
use super::reencrypt::ask;
use super::rotation::Step;
use super::sim::Sim;
use super::workload::quick;
use crate::format::open_without_key;
use crate::layout::{self, Name};
use crate::{Batch, Disk, Encryption, KeyId, Options, Strategy, Wrapped};

fn options(strategy: Strategy) -> Options {
    let mut options = quick();
    options.max_disk = 16 << 20;
    options.encryption = Encryption::Keyring(Step::Added.keyring());
    options.strategy = strategy;
    options
}

/// What the headers on disk say.
fn on_disk(disk: &SimDisk) -> BTreeMap<KeyId, Wrapped> {
    let names = disk.list().unwrap();
    let data = names.iter().filter(|name| {
        matches!(
            layout::parse(name),
            Name::Image(_) | Name::Log(..) | Name::Next(..) | Name::Temporary
        )
    });
    let files: Vec<_> = data
        .filter_map(|name| {
            let bytes = disk.content(name);
            // A journal that is not begun is zeros.
            let open = open_without_key(bytes.get(..12_288)?).ok()?;
            Some((open.key_id, bytes.len() as u64))
        })
        .collect();
    Wrapped::by_key(files.iter().map(|(id, len)| (id.as_ref(), *len)))
}

fn told(sim: &Sim) -> BTreeMap<KeyId, Wrapped> {
    sim.engine.shared.keys.lock().needed.clone()
}

fn write(sim: &mut Sim, times: u8) {
    for n in 0..times {
        let batch = Batch::new().set(vec![n % 5 + 1], vec![n; 24_000]);
        sim.run(batch).unwrap();
    }
}

/// Waits until the background has nothing to do.
fn settle(sim: &mut Sim) {
    for _ in 0..2000 {
        sim.engine.tick();
        if sim.engine.running.is_none() && sim.engine.reencryption.is_none() {
            return;
        }
    }
    panic!("the background is never idle");
}

/// What is told is what is on disk. Returns the ids, with how many files each wraps.
fn check(sim: &Sim, disk: &SimDisk, when: &str) -> Vec<(String, u64)> {
    let told = told(sim);
    assert_eq!(told, on_disk(disk), "{when}");
    let ids = told.iter().map(|(id, of)| (id.to_string(), of.files));
    ids.collect()
}

fn ids(told: &[(String, u64)]) -> Vec<&str> {
    told.iter().map(|(id, _)| id.as_str()).collect()
}

/// A store with an image and log files, all under the key `old`.
fn filled(disk: &SimDisk, options: &Options) -> Sim {
    let mut sim = Sim::open(disk, options.clone(), 7).unwrap();
    assert_eq!(check(&sim, disk, "an empty store"), [("old".to_owned(), 1)]);
    write(&mut sim, 60);
    for _ in 0..100 {
        if sim.engine.gauges.folds == 0 {
            write(&mut sim, 10);
        }
    }
    assert!(sim.engine.gauges.folds > 0);
    settle(&mut sim);
    let before = check(&sim, disk, "before");
    assert_eq!(ids(&before), ["old"]);
    assert!(before[0].1 > 2, "{before:?}");
    sim
}

fn promote(sim: &Sim) {
    let keyring = Step::Promoted.keyring();
    sim.engine.shared.reload_keyring(keyring).unwrap();
}

#[test]
fn a_rewrap_moves_all_files_from_the_old_key_to_the_new_one() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let disk = SimDisk::default();
        let mut sim = filled(&disk, &options(strategy));
        promote(&sim);
        assert_eq!(ids(&check(&sim, &disk, "promoted")), ["old"]);
        // What is written since is under the new one.
        write(&mut sim, 40);
        settle(&mut sim);
        let between = check(&sim, &disk, "written since");
        let all: u64 = between.iter().map(|(_, files)| files).sum();
        assert_eq!(ids(&between), ["new", "old"]);

        let (answer, waiter) = channel();
        sim.engine.shared.rewraps.lock().push(answer);
        while matches!(waiter.try_recv(), Err(TryRecvError::Empty)) {
            sim.engine.tick();
        }
        settle(&mut sim);
        let behind = check(&sim, &disk, "rewrapped");
        assert_eq!(behind, [("new".to_owned(), all)], "{strategy:?}");
        sim.engine.close().unwrap();
        let retired = Step::Retired.of(&options(strategy));
        let sim = Sim::open(&disk, retired, 8).unwrap();
        assert_eq!(ids(&check(&sim, &disk, "opened again")), ["new"]);
    }
}

#[test]
fn a_reencryption_counts_what_it_writes_and_what_it_replaced_until_that_is_gone() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let disk = SimDisk::default();
        let mut sim = filled(&disk, &options(strategy));
        let before = told(&sim);
        promote(&sim);
        let waiter = ask(&sim);
        let mut both = 0;
        let done = loop {
            match waiter.try_recv() {
                Ok(done) => break done.unwrap(),
                Err(TryRecvError::Empty) => sim.engine.tick(),
                Err(error) => panic!("{error}"),
            }
            let told = told(&sim);
            if sim.engine.running.is_none() {
                check(&sim, &disk, "between two slices");
            }
            let old = told.iter().find(|(id, _)| id.as_str() == "old");
            if let (Some((_, old)), true) = (old, told.len() == 2) {
                assert_eq!(Some(old), before.values().next(), "all of it, or nothing");
                both += 1;
            }
        };
        assert!(both > 2, "{strategy:?}: {both}");
        settle(&mut sim);
        let behind = check(&sim, &disk, "re-encrypted");
        assert_eq!(ids(&behind), ["new"]);
        assert!(behind[0].1 >= done.files, "{behind:?}: {done:?}");
    }
}
