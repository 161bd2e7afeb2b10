//! Operations against a model, with a reopen after each step; expiry and clocks.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::disk::SimDisk;
use super::sim::{Model, Sim};
use super::workload::small;
use crate::time::tests::ManualClock;
use crate::{Batch, Code, Expect, SetOptions};

#[derive(Debug, Clone)]
enum Step {
    Set(u8, Vec<u8>),
    Delete(u8),
    /// Several operations at once.
    Batch(Vec<(u8, Option<u8>)>),
    /// A set that is expected to find a key absent.
    Create(u8),
    Close,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..12_u8;
    let step = prop_oneof![
        4 => (key.clone(), vec(any::<u8>(), 0..3000)).prop_map(|(k, v)| Step::Set(k, v)),
        2 => key.clone().prop_map(Step::Delete),
        2 => vec((key.clone(), any::<Option<u8>>()), 1..6).prop_map(Step::Batch),
        2 => key.prop_map(Step::Create),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ];
    vec(step, 1..40)
}

fn key(k: u8) -> Vec<u8> {
    vec![k; usize::from(k) + 1]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_an_ordered_map(steps in steps()) {
        let disk = SimDisk::default();
        let mut model = Model::new();
        let mut sim = Sim::open(&disk, small(), 1).unwrap();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Set(k, value) => {
                    sim.run(Batch::new().set(key(k), value.clone())).unwrap();
                    model.insert(key(k), value);
                }
                Step::Delete(k) => {
                    let done = sim.run(Batch::new().delete(key(k))).unwrap();
                    prop_assert_eq!(done.deleted == 1, model.remove(&key(k)).is_some());
                }
                Step::Batch(ops) => {
                    let mut batch = Batch::new();
                    for (k, value) in ops {
                        if let Some(value) = value {
                                batch = batch.set(key(k), vec![value]);
                                model.insert(key(k), vec![value]);
                        } else {
                                batch = batch.delete(key(k));
                                model.remove(&key(k));
                        }
                    }
                    sim.run(batch).unwrap();
                }
                Step::Create(k) => {
                    let batch = Batch::new().expect(key(k), Expect::Absent).set(key(k), "new");
                    let created = sim.run(batch);
                    prop_assert_eq!(created.is_err(), model.contains_key(&key(k)));
                    if created.is_ok() {
                        model.insert(key(k), b"new".to_vec());
                    }
                }
                Step::Close | Step::Kill => {
                    let revision = sim.revision();
                    if matches!(step, Step::Close) {
                        sim.engine.close().unwrap();
                    }
                    sim = Sim::open(&disk, small(), at as u64).unwrap();
                    prop_assert_eq!(sim.revision(), revision);
                }
            }
            prop_assert_eq!(sim.content(), model.clone());
        }
    }
}

fn ttl(ms: u64) -> SetOptions {
    SetOptions {
        ttl: Some(Duration::from_millis(ms)),
        keep_ttl: false,
    }
}

#[test]
fn an_expired_key_is_gone_at_once_and_its_removal_is_logged() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, small(), 1).unwrap();
    sim.run(Batch::new().set_with("a", "1", ttl(1000)).set("b", "1"))
        .unwrap();
    sim.clock.advance(999);
    assert_eq!(sim.content().len(), 2);
    sim.clock.advance(1);
    assert_eq!(sim.content().len(), 1, "before anything was removed");
    // A new key of the same name begins anew.
    let again = sim.run(
        Batch::new()
            .expect("a", Expect::Absent)
            .set_with("a", "2", ttl(1000)),
    );
    assert_eq!(again.unwrap().created, 1);
    sim.clock.advance(5000);
    let before = sim.revision();
    sim.engine.tick();
    assert_eq!(sim.revision(), before + 1, "the removal has a revision");
    assert_eq!(sim.engine.index.live(0), 1, "and the memory is free");
    sim.engine.close().unwrap();
    let sim = Sim::open_at(&disk, small(), 2, ManualClock::at(0)).unwrap();
    assert_eq!(
        sim.content().len(),
        1,
        "a clock that went back resurrects nothing"
    );
}

#[test]
fn a_clock_that_went_back_does_not_bring_an_expired_key_back() {
    let disk = SimDisk::default();
    let mut sim = Sim::open_at(&disk, small(), 1, ManualClock::at(1_000_000)).unwrap();
    sim.run(Batch::new().set_with("a", "1", ttl(1000))).unwrap();
    sim.clock.advance(2000);
    sim.run(Batch::new().set("b", "1")).unwrap();
    drop(sim);
    for wall in [0, 1_000_500, 1_002_000, u64::MAX / 2] {
        let sim = Sim::open_at(&disk.restart(), small(), 2, ManualClock::at(wall)).unwrap();
        assert!(
            !sim.content().contains_key(&b"a"[..]),
            "wall clock at {wall}"
        );
    }
}

#[test]
fn a_large_jump_of_the_clock_suspends_expiry_until_it_is_accepted() {
    let disk = SimDisk::default();
    let mut sim = Sim::open_at(&disk, small(), 1, ManualClock::at(1_000_000)).unwrap();
    sim.run(Batch::new().set_with("a", "1", ttl(86_400_000)))
        .unwrap();
    drop(sim);
    let ten_years = 10 * 365 * 86_400_000;
    for seed in 2..4 {
        let clock = ManualClock::at(1_000_000 + ten_years);
        let mut sim = Sim::open_at(&disk, small(), seed, clock).unwrap();
        assert_eq!(
            sim.engine.seat.time.jump_ms(),
            Some(ten_years),
            "said, at each open"
        );
        assert!(sim.content().contains_key(&b"a"[..]));
        sim.run(Batch::new().set("b", "does not move the log's time"))
            .unwrap();
    }
    let clock = ManualClock::at(1_000_000 + ten_years);
    let mut sim = Sim::open_at(&disk, small(), 4, clock).unwrap();
    sim.engine.seat.time.accept();
    assert_eq!(sim.content().len(), 1, "only b is left");
    sim.engine.tick();
    drop(sim);
    let sim = Sim::open_at(&disk, small(), 5, ManualClock::at(0)).unwrap();
    assert!(!sim.content().contains_key(&b"a"[..]));
}

#[test]
fn a_kept_ttl_stays_and_a_plain_set_removes_it() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, small(), 1).unwrap();
    sim.run(
        Batch::new()
            .set_with("a", "1", ttl(1000))
            .set_with("b", "1", ttl(1000)),
    )
    .unwrap();
    let keep = SetOptions {
        ttl: None,
        keep_ttl: true,
    };
    sim.run(Batch::new().set_with("a", "2", keep).set("b", "2"))
        .unwrap();
    sim.clock.advance(1000);
    assert_eq!(
        sim.content().into_keys().collect::<Vec<_>>(),
        [b"b".to_vec()]
    );
}

#[test]
fn every_answer_of_a_group_waits_for_its_sync() {
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, small(), 1).unwrap();
    disk.arm(disk.calls() + 1, super::disk::Fault::ErrorForEver);
    // The second is refused by what the first wrote, which is then not on disk.
    let create = || Batch::new().expect("a", Expect::Absent).set("a", "1");
    let answers = sim.group(vec![create(), create()]);
    assert!(answers[0].as_ref().unwrap_err().is(Code::OutcomeUnknown));
    assert!(answers[1].as_ref().unwrap_err().is(Code::Poisoned));
    assert!(sim.content().is_empty());
}

#[test]
fn a_fold_begins_with_a_spare_journal_ready_so_that_writers_go_on() {
    let disk = SimDisk::default();
    let mut options = small();
    options.max_disk = 1 << 30;
    options.compression = crate::Compression::None;
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    let mut folds = 0;
    let mut before = false;
    for n in 0..400_u32 {
        let value = vec![1; 60_000];
        sim.run(Batch::new().set((n % 50).to_string(), value))
            .unwrap();
        let folding = matches!(sim.engine.running, Some(crate::task::Running::Image { .. }));
        if folding && !before {
            folds += 1;
            assert!(sim.engine.spare.is_some(), "write {n}");
        }
        before = folding;
    }
    assert!(folds > 1, "{folds}");
}

#[test]
fn what_was_acknowledged_early_is_written_before_a_wait_for_the_background() {
    let disk = SimDisk::default();
    let mut options = small();
    options.compression = crate::Compression::None;
    options.durability = crate::Durability::INTERVAL;
    let mut sim = Sim::open(&disk, options.clone(), 1).unwrap();
    while sim.engine.spare.is_some() || sim.engine.running.is_none() {
        sim.engine.spare = None;
        sim.engine.maintain();
    }
    let room = usize::try_from(sim.engine.journal.as_ref().unwrap().room()).unwrap();
    let answers = sim.group_only(vec![Batch::new().set("a", "acknowledged")]);
    assert!(answers[0].is_ok());
    sim.clock.advance(200);
    // Too large for the present journal: it waits for the next one.
    let answers = sim.group_only(vec![Batch::new().set("b", vec![1; room])]);
    assert!(answers[0].is_ok(), "{answers:?}");
    let disk = disk.power_loss(super::disk::Keep::Nothing);
    let sim = Sim::open(&disk, options, 2).unwrap();
    assert_eq!(sim.content().len(), 1);
    assert!(sim.content().contains_key(&b"a"[..]));
}

#[test]
fn after_a_failed_flush_nothing_more_is_written_by_a_tick() {
    let disk = SimDisk::default();
    let mut options = small();
    options.durability = crate::Durability::INTERVAL;
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    sim.run(Batch::new().set_with("a", "1", ttl(1000))).unwrap();
    sim.clock.advance(500);
    sim.engine.tick();
    sim.run(Batch::new().set("b", "1")).unwrap();
    sim.clock.advance(5000);
    disk.arm(disk.calls() + 1, super::disk::Fault::ErrorOnce);
    let commits = sim.engine.gauges.commits;
    sim.engine.tick();
    assert!(sim.engine.shared.poison().is_some());
    assert_eq!(sim.engine.gauges.commits, commits, "nothing was swept");
    assert!(sim.engine.payload.is_empty());
}
