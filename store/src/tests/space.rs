//! Full disks and full memory.

use super::disk::{Rng, SimDisk};
use super::options;
use super::sim::{Model, Sim};
use super::workload::quick;
use crate::{Batch, Code, Compression, Options};

fn plain(max_disk: u64) -> Options {
    let mut options = quick();
    options.max_disk = max_disk;
    options.compression = Compression::None;
    options
}

/// Sets keys until the first refusal; returns how many were accepted.
fn fill(sim: &mut Sim, value: usize, model: &mut Model) -> (u32, crate::Error) {
    for n in 0..100_000_u32 {
        let key = format!("fill-{n:06}").into_bytes();
        match sim.run(Batch::new().set(key.clone(), vec![7; value])) {
            Ok(_) => model.insert(key, vec![7; value]),
            Err(error) => return (n, error),
        };
    }
    panic!("never full");
}

#[test]
fn the_budget_is_never_exceeded_reads_go_on_and_deletes_make_room() {
    for (max_disk, value) in [(1 << 20, 1000), (1 << 20, 20_000), (4 << 20, 100_000)] {
        let disk = SimDisk::default();
        let mut model = Model::new();
        let mut sim = Sim::open(&disk, plain(max_disk), 1).unwrap();
        for round in 0..4 {
            let (count, error) = fill(&mut sim, value, &mut model);
            assert!(error.is(Code::DiskFull), "{error:?}");
            let floor = if round == 0 {
                max_disk / 5 / value as u64
            } else {
                1
            };
            assert!(
                u64::from(count) >= floor,
                "{count} of {value} bytes in {max_disk}"
            );
            assert!(
                disk.take_peak() as u64 <= max_disk,
                "{} of {max_disk}",
                disk.used()
            );
            assert!(sim.content() == model);
            // Overwriting with something smaller, and deleting, go on.
            for key in model.keys().cloned().collect::<Vec<_>>() {
                sim.run(Batch::new().delete(key)).unwrap();
                assert!(
                    disk.take_peak() as u64 <= max_disk,
                    "{} of {max_disk}",
                    disk.used()
                );
            }
            model.clear();
        }
        drop(sim);
        let sim = Sim::open(&disk, plain(max_disk), 2).unwrap();
        assert!(sim.content() == model);
    }
}

/// A value that does not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..len.div_ceil(8))
        .flat_map(|_| rng.next().to_le_bytes())
        .take(len)
        .collect()
}

#[test]
fn overwriting_at_the_limit_with_what_does_not_compress_stays_in_the_budget() {
    for compression in [Compression::Zstd, Compression::None] {
        for (max_disk, value) in [(1 << 20, 2000), (4 << 20, 20_000), (4 << 20, 100_000)] {
            let at = format!("{compression:?}, {max_disk}, values of {value}");
            let mut options = plain(max_disk);
            options.compression = compression;
            let disk = SimDisk::default();
            let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
            let mut model = Model::new();
            fill(&mut sim, value, &mut model);
            let (mut written, mut refused) = (0, 0);
            for round in 0..3 {
                for (n, key) in model.keys().cloned().collect::<Vec<_>>().iter().enumerate() {
                    let value = noise(value, round * 1000 + n as u64);
                    match sim.run(Batch::new().set(key.clone(), value.clone())) {
                        Ok(_) => {
                            written += 1;
                            model.insert(key.clone(), value);
                        }
                        Err(error) => {
                            assert!(error.is(Code::DiskFull), "{at}: {error:?}");
                            refused += 1;
                        }
                    }
                    let peak = disk.take_peak() as u64;
                    assert!(peak <= max_disk, "{at}: {peak} bytes of {max_disk}");
                }
            }
            assert!(sim.content() == model, "{at}");
            assert!(
                written > 0 && (compression == Compression::Zstd || refused == 0),
                "{at}: {written} written, {refused} refused"
            );
            for key in model.keys().cloned().collect::<Vec<_>>() {
                sim.run(Batch::new().delete(key)).unwrap();
                let peak = disk.take_peak() as u64;
                assert!(peak <= max_disk, "{at}: {peak} bytes of {max_disk}");
            }
            drop(sim);
            assert!(Sim::open(&disk, options, 2).unwrap().content().is_empty());
        }
    }
}

#[test]
fn overwriting_in_a_small_budget_waits_for_folds_rather_than_fail() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, plain(1 << 20), 1).unwrap();
    for n in 0..2000_u32 {
        let key = format!("{}", n % 10);
        sim.run(Batch::new().set(key, vec![n.to_le_bytes()[0]; 10_000]))
            .unwrap();
        assert!(disk.take_peak() <= 1 << 20);
    }
    assert!(sim.engine.gauges.folds > 10);
}

#[test]
fn a_full_file_system_loses_nothing_and_does_not_poison() {
    let mut refused = 0;
    for capacity in (300_000..1_500_000).step_by(61_111) {
        let disk = SimDisk::with_capacity(capacity);
        let mut unlimited = plain(u64::MAX);
        unlimited.max_disk = 1 << 24;
        let Ok(mut sim) = Sim::open(&disk, unlimited.clone(), 1) else {
            continue;
        };
        let mut model = Model::new();
        for _ in 0..3 {
            let (_, error) = fill(&mut sim, 5000, &mut model);
            assert!(error.is(Code::DiskFull), "{capacity}: {error:?}");
            assert!(sim.engine.shared.poison().is_none(), "{capacity}");
            refused += 1;
            assert!(sim.content() == model);
            sim.clock.advance(2000);
            for key in model.keys().cloned().collect::<Vec<_>>() {
                sim.run(Batch::new().delete(key))
                    .unwrap_or_else(|e| panic!("{capacity}: {e:?}"));
            }
            model.clear();
        }
        fill(&mut sim, 5000, &mut model);
        drop(sim);
        let sim = Sim::open(&disk, unlimited, 2).unwrap_or_else(|e| panic!("{capacity}: {e:?}"));
        assert!(sim.content() == model, "{capacity}");
    }
    assert!(refused > 20);
}

#[test]
fn space_that_someone_else_takes_is_noticed_and_given_back() {
    let disk = SimDisk::with_capacity(8 << 20);
    let mut sim = Sim::open(&disk, plain(8 << 20), 1).unwrap();
    let mut model = Model::new();
    for n in 0..20_u8 {
        sim.run(Batch::new().set(vec![n], vec![n; 20_000])).unwrap();
        model.insert(vec![n], vec![n; 20_000]);
    }
    disk.set_capacity(disk.used());
    let (_, error) = fill(&mut sim, 20_000, &mut model);
    assert!(error.is(Code::DiskFull));
    assert!(sim.engine.shared.poison().is_none());
    for n in 0..20_u8 {
        sim.run(Batch::new().delete(vec![n])).unwrap();
        model.remove(&vec![n]);
    }
    disk.set_capacity(8 << 20);
    sim.clock.advance(5000);
    sim.run(Batch::new().set("again", vec![1; 20_000])).unwrap();
    model.insert(b"again".to_vec(), vec![1; 20_000]);
    assert!(sim.content() == model);
}

#[test]
fn memory_full_refuses_what_grows_and_nothing_else() {
    let disk = SimDisk::default();
    let mut options = options();
    options.max_memory = 100_000;
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    let mut model = Model::new();
    let (count, error) = fill(&mut sim, 1000, &mut model);
    assert!(
        error.is(Code::MemoryFull) && count > 80,
        "{count}: {error:?}"
    );
    sim.run(Batch::new().set("fill-000000", "smaller")).unwrap();
    sim.run(Batch::new().delete("fill-000001")).unwrap();
    sim.run(Batch::new().set("fill-000001", vec![1; 1000]))
        .unwrap();
}

#[test]
fn an_owner_that_is_killed_again_and_again_leaves_few_journals_and_stays_in_the_budget() {
    use crate::Disk;
    for written in [true, false] {
        let disk = SimDisk::default();
        let mut model = Model::new();
        for seed in 0..60 {
            let mut options = plain(1 << 20);
            options.keep_log = 0;
            let mut sim = Sim::open(&disk, options, seed).unwrap();
            if written && seed == 0 {
                let value = noise(100_000, 1);
                sim.run(Batch::new().set("a", value.clone())).unwrap();
                model.insert(b"a".to_vec(), value);
            }
            // Long enough for what is due, and nothing is written.
            for _ in 0..40 {
                sim.engine.tick();
            }
            assert!(sim.content() == model);
            let peak = disk.take_peak();
            assert!(peak <= 1 << 20, "open {seed}: {peak} bytes");
            let names = disk.list().unwrap();
            let journals = names.iter().filter(|n| n.starts_with("journal-")).count();
            assert!(journals <= 20, "open {seed}: {journals} journals");
        }
    }
}

#[test]
fn memory_is_bounded_while_a_fold_holds_what_was_replaced() {
    let disk = SimDisk::default();
    let mut options = options();
    options.max_memory = 300_000;
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    for n in 0..200_u8 {
        sim.run(Batch::new().set(vec![n], vec![n; 1000])).unwrap();
    }
    let mut folds = 0;
    for n in 0..1000_u32 {
        if sim.engine.running.is_none() {
            sim.engine.start_fold().unwrap();
        }
        let key = vec![n.to_le_bytes()[0] % 200];
        let group = vec![Batch::new().set(key, vec![1; 1000])];
        // Without a tick, the fold stands still.
        let answers = sim.group_only(group);
        assert!(answers.into_iter().all(|answer| answer.is_ok()));
        let used = sim.engine.memory_used();
        assert!(used <= 300_000, "{used} bytes");
        folds = folds.max(sim.engine.gauges.folds);
    }
    assert!(folds > 3, "{folds}");
}
