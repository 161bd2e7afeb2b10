//! The Ledger strategy: every revision is kept, and can be asked for.

use super::disk::{Fault, Keep, SimDisk};
use super::sim::{Model, Sim};
use super::workload::{check, quick, run};
use crate::{Batch, Code, Disk, Options, Retention, Store, Strategy, Version};

fn ledger() -> Options {
    let mut options = super::options();
    options.strategy = Strategy::Ledger;
    options
}

/// A ledger for the simulated disk, with a budget that decides how often it folds.
fn quick_ledger(max_disk: u64) -> Options {
    let mut options = quick();
    options.strategy = Strategy::Ledger;
    options.max_disk = max_disk;
    options
}

fn values(versions: &[Version]) -> Vec<Option<Vec<u8>>> {
    versions
        .iter()
        .map(|version| version.entry.as_ref().map(|entry| entry.value().to_vec()))
        .collect()
}

#[test]
fn a_ledger_remembers_every_version_with_time_and_actor() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), ledger()).unwrap();
    store
        .commit(Batch::new().set("a", "1").actor("ada"))
        .unwrap();
    store.set(b"b", b"x").unwrap();
    store.set(b"a", b"2").unwrap();
    store.delete(b"a").unwrap();
    let check = |store: &Store| {
        let history = store.history(b"a", 0, 100).unwrap();
        assert_eq!(
            values(&history),
            [Some(b"1".to_vec()), Some(b"2".to_vec()), None]
        );
        assert_eq!(history[0].actor.as_deref(), Some("ada"));
        assert!(history[0].time_ms > 1_600_000_000_000 && history[1].actor.is_none());
        let revisions: Vec<u64> = history.iter().map(|version| version.revision).collect();
        assert_eq!(revisions, [1, 3, 4]);
        for (revision, expected) in [
            (0, None),
            (1, Some("1")),
            (2, Some("1")),
            (3, Some("2")),
            (4, None),
        ] {
            let entry = store.get_at(b"a", revision).unwrap();
            let found = entry.as_ref().map(crate::Entry::value);
            assert_eq!(found, expected.map(str::as_bytes), "at {revision}");
        }
        let changes: Vec<u64> = store
            .changes(2, 3)
            .unwrap()
            .map(|change| change.unwrap().revision)
            .collect();
        assert_eq!(changes, [2, 3]);
    };
    check(&store);
    store.close().unwrap();
    let store = Store::open(dir.path(), ledger()).unwrap();
    check(&store);
    assert_eq!(store.history(b"a", 2, 1).unwrap()[0].revision, 3);
    assert!(store.history(b"a", 5, 1).unwrap().is_empty());
    let future = store.get_at(b"a", 5).unwrap_err();
    assert!(future.is(Code::InvalidArgument), "{future:?}");
    let wrong = store.changes(3, 2).err().unwrap();
    assert!(wrong.is(Code::InvalidArgument), "{wrong:?}");
}

#[test]
fn a_snapshot_has_no_history_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), super::options()).unwrap();
    for error in [
        store.history(b"a", 0, 1).err(),
        store.get_at(b"a", 0).err(),
        store.changes(1, 1).err(),
    ] {
        assert!(error.unwrap().is(Code::Unsupported));
    }
}

#[test]
fn history_is_whole_behind_many_folds_and_opens() {
    let disk = SimDisk::default();
    let mut states = vec![Model::new()];
    let mut folds = 0;
    for open in 0..6 {
        let mut sim = Sim::open(&disk, quick_ledger(8 << 20), open).unwrap();
        for n in 0..60_u32 {
            let mut model = states.last().unwrap().clone();
            let key = vec![b'k', u8::try_from(n % 10).unwrap()];
            model.insert(key.clone(), vec![u8::try_from(open).unwrap(); 8000]);
            sim.run(Batch::new().set(key.clone(), model[&key].clone()))
                .unwrap();
            states.push(model);
        }
        folds += sim.engine.gauges.folds;
        if open % 2 == 0 {
            sim.engine.close().unwrap();
        }
    }
    assert!(folds >= 2, "{folds}");
    let names = disk.list().unwrap();
    let images = names.iter().filter(|n| n.starts_with("image-")).count();
    let segments = names.iter().filter(|n| n.starts_with("ledger-")).count();
    assert_eq!((images, segments > 4), (1, true), "{names:?}");

    let store = open(&disk, quick_ledger(8 << 20));
    let mut model = Model::new();
    for (at, change) in store.changes(1, 360).unwrap().enumerate() {
        for op in change.unwrap().ops {
            let crate::ChangeOp::Set(entry) = op else {
                panic!("only sets")
            };
            model.insert(entry.key().to_vec(), entry.value().to_vec());
        }
        assert!(model == states[at + 1], "after revision {}", at + 1);
    }
    assert!(model == *states.last().unwrap());
    assert_eq!(store.status().first_revision, 1);
}

/// A store with threads on a simulated disk.
pub fn open(disk: &SimDisk, options: Options) -> Store {
    let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk.clone());
    Store::open_on(disk, crate::Env::system(), options).unwrap()
}

#[test]
fn a_power_loss_at_any_call_loses_nothing_of_a_ledger() {
    let disk = SimDisk::default();
    let trace = run(&disk, &quick_ledger(2 << 20), 1);
    assert!(trace.error.is_none() && trace.folds > 0);
    let mut states = 0;
    for call in 1..=disk.changes() + 1 {
        let disk = SimDisk::default();
        disk.arm(call, Fault::PowerLoss);
        let trace = run(&disk, &quick_ledger(2 << 20), 1);
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
            states += 1;
            let disk = disk.power_loss(keep);
            check(&disk, &quick_ledger(2 << 20), &trace)
                .unwrap_or_else(|what| panic!("call {call}, {keep:?}: {what}"));
            whole(&disk, &trace.states);
        }
    }
    println!("crash states of a ledger: {states}");
}

/// The log replays to what the store shows, from revision 1.
fn whole(disk: &SimDisk, states: &[Model]) {
    let store = open(disk, quick_ledger(2 << 20));
    let latest = store.status().revision;
    let mut model = Model::new();
    if latest > 0 {
        for change in store.changes(1, latest).unwrap() {
            for op in change.unwrap().ops {
                match op {
                    crate::ChangeOp::Set(entry) => {
                        model.insert(entry.key().to_vec(), entry.value().to_vec());
                    }
                    other => drop(model.remove(other.key())),
                }
            }
        }
    }
    model.remove(&b"after"[..]);
    let keys = store.len() - u64::from(store.has(b"after").unwrap());
    assert_eq!(model.len() as u64, keys);
    assert!(states.len() > 1 || model.is_empty() || latest > 0);
}

#[test]
fn a_missing_segment_is_an_integrity_error() {
    let disk = SimDisk::default();
    let trace = run(&disk, &quick_ledger(2 << 20), 4);
    trace.sim.unwrap().engine.close().unwrap();
    let names = disk.list().unwrap();
    let segments: Vec<_> = names.iter().filter(|n| n.starts_with("ledger-")).collect();
    assert!(segments.len() >= 3, "{names:?}");
    // The oldest may have been taken by retention: that is for an anchor to tell.
    for name in &segments[1..] {
        let disk = disk.restart();
        disk.remove(name).unwrap();
        let error = Sim::open(&disk, quick_ledger(2 << 20), 1).err();
        let error = error.unwrap_or_else(|| panic!("{name} was missing, and nobody noticed"));
        assert!(error.is(Code::Corrupt), "{name}: {error:?}");
    }
}

#[test]
fn another_strategy_is_refused_before_anything_is_touched() {
    let disk = SimDisk::default();
    drop(Sim::open(&disk, quick_ledger(2 << 20), 1).unwrap());
    let before = disk.changes();
    let error = Sim::open(&disk, quick(), 2).err().unwrap();
    assert!(error.is(Code::InvalidArgument), "{error:?}");
    assert!(error.to_string().contains("ledger"), "{error}");
    assert_eq!(disk.changes(), before);
}

#[test]
fn retention_takes_whole_segments_oldest_first_and_says_what_is_gone() {
    let disk = SimDisk::default();
    let mut options = quick_ledger(16 << 20);
    options.retention = Retention {
        revisions: Some(100),
        age: None,
    };
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    for n in 0..400_u32 {
        let key = vec![b'k', u8::try_from(n % 5).unwrap()];
        sim.clock.advance(50);
        sim.run(Batch::new().set(key, vec![7; 20_000])).unwrap();
    }
    let first = sim.engine.shared.feed.durable().log.first_revision();
    assert!((2..=301).contains(&first), "{first}");
    drop(sim);
    let store = open(&disk, options);
    let gone = store.changes(1, 10).err().unwrap();
    assert!(gone.is(Code::PastGone), "{gone:?}");
    assert!(gone.to_string().contains("400"), "{gone}");
    assert_eq!(store.changes(301, 400).unwrap().count(), 100);
    assert!(store.get_at(b"k\0", 1).unwrap_err().is(Code::PastGone));
    assert!(store.get_at(b"k\0", 399).unwrap().is_some());
    assert!(store.get_at(b"never", first).unwrap().is_none());
}

#[test]
fn retention_by_age_waits_for_the_age() {
    let disk = SimDisk::default();
    let mut options = quick_ledger(16 << 20);
    options.retention = Retention {
        revisions: None,
        age: Some(std::time::Duration::from_hours(1)),
    };
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    for _ in 0..200_u32 {
        sim.run(Batch::new().set("a", vec![7; 20_000])).unwrap();
    }
    let first = |sim: &Sim| sim.engine.shared.feed.durable().log.first_revision();
    assert_eq!(first(&sim), 1);
    sim.clock.advance(3_700_000);
    for _ in 0..50 {
        sim.engine.tick();
    }
    assert!(first(&sim) > 50, "{}", first(&sim));
    drop(sim);
    let mut snapshot = quick();
    snapshot.retention.revisions = Some(1);
    let error = Sim::open(&SimDisk::default(), snapshot, 1).err().unwrap();
    assert!(error.is(Code::InvalidArgument), "{error:?}");
}

#[test]
fn a_full_ledger_refuses_writes_and_keeps_its_history() {
    let disk = SimDisk::default();
    let options = quick_ledger(2 << 20);
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match sim.run(Batch::new().set("a", vec![7; 20_000])) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        let peak = disk.take_peak();
        assert!(peak <= 2 << 20, "{peak} bytes");
    };
    assert!(error.is(Code::DiskFull), "{error:?}");
    assert!(acknowledged > 30, "{acknowledged}");
    sim.engine.close().unwrap();
    let store = open(&disk, options);
    assert_eq!(
        store.changes(1, acknowledged).unwrap().count() as u64,
        acknowledged
    );
    drop(store);
}

#[test]
fn a_ledger_that_was_cut_rolled_back_or_forked_is_refused_against_its_anchor() {
    let disk = SimDisk::default();
    let options = quick_ledger(16 << 20);
    let mut copies = Vec::new();
    let mut anchors = Vec::new();
    for seed in 0..4 {
        let mut sim = Sim::open(&disk, options.clone(), seed).unwrap();
        for n in 0..40_u8 {
            sim.run(Batch::new().set(vec![n], vec![n; 20_000])).unwrap();
            if n % 9 == 0 {
                copies.push(disk.restart());
                anchors.push(anchor(&sim));
            }
        }
        sim.engine.close().unwrap();
    }
    copies.push(disk.restart());
    let try_open = |disk: &SimDisk, anchor| {
        let mut options = options.clone();
        options.anchor = Some(anchor);
        Sim::open(&disk.restart(), options, 77).map(drop)
    };
    for (at, anchor) in anchors.iter().enumerate() {
        // It passes through every anchor, of every owner and in every file.
        try_open(&disk, *anchor).unwrap();
        for (older, copy) in copies.iter().enumerate() {
            let result = try_open(copy, *anchor);
            if older >= at {
                result.unwrap();
                continue;
            }
            let error = result.unwrap_err();
            assert!(error.is(Code::Corrupt), "{error:?}");
            let lost = format!("to {} are lost", anchor.revision);
            assert!(error.to_string().contains(&lost), "{error}");
        }
    }
    // Another branch from an old copy, as long as the other one.
    let fork = copies[3].restart();
    let mut sim = Sim::open(&fork, options.clone(), 50).unwrap();
    for n in 0..200_u8 {
        sim.run(Batch::new().set(vec![n], vec![1; 100])).unwrap();
    }
    drop(sim);
    try_open(&fork, anchors[3]).unwrap();
    let error = try_open(&fork, anchors[5]).unwrap_err();
    assert!(error.to_string().contains("another way"), "{error}");
    let mut foreign = anchors[0];
    foreign.store.0[0] ^= 1;
    assert!(try_open(&disk, foreign).unwrap_err().is(Code::Corrupt));
    let mut snapshot = quick();
    snapshot.anchor = Some(anchors[0]);
    let error = Sim::open(&SimDisk::default(), snapshot, 1).err().unwrap();
    assert!(error.is(Code::InvalidArgument), "{error:?}");
}

fn anchor(sim: &Sim) -> crate::Anchor {
    let durable = sim.engine.shared.feed.durable();
    crate::Anchor {
        store: sim.engine.seat.store,
        epoch: sim.engine.seat.epoch,
        revision: durable.revision,
        link: durable.link,
    }
}

#[test]
fn a_store_changes_its_strategy_both_ways_without_loss_at_every_power_loss() {
    let disk = SimDisk::default();
    let snapshot = || {
        let mut options = quick();
        options.max_disk = 2 << 20;
        options
    };
    let convert = |mut options: Options| {
        options.convert = true;
        options
    };
    let mut sim = Sim::open(&disk, snapshot(), 1).unwrap();
    for n in 0..60_u8 {
        sim.run(Batch::new().set(vec![n % 9, 1], vec![n; 20_000]))
            .unwrap();
    }
    assert!(sim.engine.gauges.folds > 0);
    let content = sim.content();
    drop(sim);
    // A seed for each open: it decides the ids of files, which are kept.
    for (seed, to, other) in [
        (1000, quick_ledger(4 << 20), snapshot()),
        (2000, snapshot(), quick_ledger(4 << 20)),
    ] {
        for call in 1.. {
            let disk = disk.restart();
            disk.arm(call, Fault::PowerLoss);
            drop(Sim::open(&disk, convert(to.clone()), seed + call));
            if !disk.is_off() {
                break;
            }
            for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
                let disk = disk.power_loss(keep);
                let sim = Sim::open(&disk, to.clone(), seed - 1)
                    .or_else(|_| Sim::open(&disk, other.clone(), seed - 2))
                    .unwrap_or_else(|e| panic!("call {call}, {keep:?}: {e:?}"));
                assert!(sim.content() == content, "call {call}, {keep:?}");
            }
        }
        let mut sim = Sim::open(&disk, convert(to.clone()), seed - 3).unwrap();
        sim.run(Batch::new().set("more", "1")).unwrap();
        sim.run(Batch::new().delete("more")).unwrap();
        sim.engine.close().unwrap();
        let mut sim = Sim::open(&disk, to, seed - 4).unwrap();
        assert!(sim.content() == content);
        sim.engine.close().unwrap();
        assert!(Sim::open(&disk.restart(), other, seed - 5).is_err());
    }
}

#[test]
fn every_key_is_read_as_it_was_at_every_revision() {
    let disk = SimDisk::default();
    let mut states = vec![Model::new()];
    let mut rng = super::disk::Rng(3);
    for seed in 0..3 {
        let mut sim = Sim::open(&disk, quick_ledger(4 << 20), seed).unwrap();
        for _ in 0..40 {
            let mut model = states.last().unwrap().clone();
            let key = vec![u8::try_from(rng.below(4)).unwrap()];
            let batch = if rng.below(4) == 0 && model.remove(&key).is_some() {
                Batch::new().delete(key)
            } else {
                let value = vec![u8::try_from(rng.below(256)).unwrap(); 9000];
                model.insert(key.clone(), value.clone());
                Batch::new().set(key, value)
            };
            sim.run(batch).unwrap();
            states.push(model);
        }
    }
    let store = open(&disk, quick_ledger(4 << 20));
    for (revision, model) in states.iter().enumerate() {
        for key in 0..4 {
            let found = store.get_at(&[key], revision as u64).unwrap();
            let found = found.map(|entry| entry.value().to_vec());
            assert_eq!(found.as_ref(), model.get(&vec![key]), "{key} at {revision}");
        }
    }
}

#[test]
fn a_past_segment_that_was_cut_or_exchanged_is_damage_and_not_a_gap() {
    let disk = SimDisk::default();
    let options = quick_ledger(8 << 20);
    for seed in 0..3 {
        let mut sim = Sim::open(&disk, options.clone(), seed).unwrap();
        for n in 0..60_u8 {
            sim.run(Batch::new().set(vec![n], vec![n; 9000])).unwrap();
        }
        sim.engine.start_fold().unwrap();
        sim.engine.wait().unwrap();
        sim.engine.close().unwrap();
    }
    let names = disk.list().unwrap();
    let oldest = names.iter().find(|n| n.starts_with("ledger-")).unwrap();
    let read = |disk: &SimDisk| -> crate::Result<usize> {
        let store = open(disk, options.clone());
        let mut count = 0;
        for change in store.changes(1, 180)? {
            change?;
            count += 1;
        }
        Ok(count)
    };
    assert_eq!(read(&disk.restart()).unwrap(), 180);
    let len = disk.content(oldest).len();
    // The last frame only hands over.
    for cut in [1024, 8192, 40_960, (len / 2) & !511] {
        let disk = disk.restart();
        disk.edit(oldest, |bytes| bytes.truncate(len - cut));
        let error = read(&disk).unwrap_err();
        assert!(error.is(Code::Corrupt), "{error:?}");
        let disk = disk.restart();
        disk.edit(oldest, |bytes| bytes.resize(len, 0));
        let error = read(&disk).unwrap_err();
        assert!(error.is(Code::Corrupt), "{error:?}");
    }
}

#[test]
fn revisions_that_an_open_skipped_do_not_count_as_kept() {
    let disk = SimDisk::default();
    let mut options = quick_ledger(16 << 20);
    options.durability = crate::Durability::INTERVAL;
    options.retention.revisions = Some(1000);
    for seed in 0..4 {
        let mut sim = Sim::open(&disk, options.clone(), seed).unwrap();
        for n in 0..60_u8 {
            sim.run(Batch::new().set(vec![n], vec![n; 9000])).unwrap();
            sim.clock.advance(200);
            sim.engine.tick();
        }
        sim.engine.start_fold().unwrap();
        sim.engine.wait().unwrap();
        for _ in 0..20 {
            sim.clock.advance(2000);
            sim.engine.tick();
        }
        let first = sim.engine.shared.feed.durable().log.first_revision();
        assert_eq!(first, 1, "owner {seed}");
        assert!(seed == 0 || sim.revision() > 1 << 32);
    }
}
