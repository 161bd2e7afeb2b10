//! Full disks and full memory.

use super::disk::SimDisk;
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
                disk.used() as u64 <= max_disk,
                "{} of {max_disk}",
                disk.used()
            );
            assert!(sim.content() == model);
            // Overwriting with something smaller, and deleting, go on.
            for key in model.keys().cloned().collect::<Vec<_>>() {
                sim.run(Batch::new().delete(key)).unwrap();
                assert!(
                    disk.used() as u64 <= max_disk,
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

#[test]
fn overwriting_in_a_small_budget_waits_for_folds_rather_than_fail() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, plain(1 << 20), 1).unwrap();
    for n in 0..2000_u32 {
        let key = format!("{}", n % 10);
        sim.run(Batch::new().set(key, vec![n.to_le_bytes()[0]; 10_000]))
            .unwrap();
        assert!(disk.used() <= 1 << 20);
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
