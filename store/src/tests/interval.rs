//! Durability `interval`: what was acknowledged before it was written is there after a clean close,
//! whatever happened between.

use std::time::Duration;

use super::disk::{Rng, SimDisk};
use super::sim::{Model, Sim};
use super::workload::quick;
use crate::{Batch, Code, Durability, Options, SetOptions};

fn interval(max_disk: u64) -> Options {
    let mut options = quick();
    options.durability = Durability::INTERVAL;
    options.max_disk = max_disk;
    options
}

#[test]
fn a_fold_right_behind_an_expiry_is_not_older_than_its_place_in_the_log() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, interval(8 << 20), 1).unwrap();
    let ttl = SetOptions {
        ttl: Some(Duration::from_secs(1)),
        keep_ttl: false,
    };
    sim.run(Batch::new().set_with("gone", "1", ttl).set("a", "1"))
        .unwrap();
    sim.clock.advance(5000);
    sim.engine.tick();
    assert!(sim.engine.index.get(b"gone").is_none(), "it was swept");
    assert_eq!(sim.revision(), 2, "and readers see that");
    sim.engine.start_fold().unwrap();
    sim.run(Batch::new().set("b", "2")).unwrap();
    let content = sim.content();
    sim.engine.close().unwrap();
    let sim = Sim::open(&disk, interval(8 << 20), 2).unwrap();
    assert!(sim.content() == content);
    assert_eq!(sim.revision(), 3);
}

#[test]
fn folds_forced_by_a_full_disk_lose_nothing_that_was_acknowledged() {
    let mut refused = 0;
    for seed in 1..40 {
        let mut rng = Rng(seed);
        let disk = SimDisk::default();
        let mut model = Model::new();
        for open in 0..3 {
            let mut sim = Sim::open(&disk, interval(1 << 20), seed * 10 + open).unwrap();
            assert!(sim.content() == model, "seed {seed}, open {open}");
            for _ in 0..60 {
                let group: Vec<(Vec<u8>, Vec<u8>)> = (0..=rng.below(4))
                    .map(|_| {
                        let key = vec![u8::try_from(rng.below(12)).unwrap()];
                        let byte = u8::try_from(rng.below(256)).unwrap();
                        (key, vec![byte; rng.below(30_000)])
                    })
                    .collect();
                let batches = group
                    .iter()
                    .map(|(key, value)| Batch::new().set(key.clone(), value.clone()))
                    .collect();
                for ((key, value), answer) in group.into_iter().zip(sim.group(batches)) {
                    match answer {
                        Ok(_) => drop(model.insert(key, value)),
                        Err(error) => {
                            assert!(error.is(Code::DiskFull), "{error:?}");
                            refused += 1;
                        }
                    }
                }
                sim.clock.advance(rng.below(60) as u64);
            }
            assert!(sim.content() == model, "seed {seed}, open {open}");
            sim.engine.close().unwrap();
        }
    }
    assert!(refused > 0);
}
