//! Disks of every size: whatever is accepted is kept, reads go on, and deletes make room.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Rng, SimDisk};
use super::scale::{on_all_cores, say, scale};
use super::sim::{Model, Sim};
use super::workload::quick;
use crate::{Batch, Code, Options, Strategy};

/// A workload that outgrows any disk that it is tried on.
struct Case {
    options: Options,
    value: usize,
    keys: usize,
    groups: usize,
}

fn cases() -> [Case; 3] {
    let case = |value, keys, groups| Case {
        options: quick(),
        value,
        keys,
        groups,
    };
    let mut ledger = case(3_000, 12, 70);
    ledger.options.strategy = Strategy::Ledger;
    // Many new keys; few that are replaced, so that it folds; a history.
    [case(2_500, 100, 60), case(9_000, 5, 40), ledger]
}

/// What a run of a case came to.
#[derive(Default)]
struct Seen {
    refused: u64,
    unopened: u64,
}

fn one(case: &Case, capacity: usize, seed: u64) -> Seen {
    let at = format!("{capacity} bytes, values of {}", case.value);
    let disk = SimDisk::with_capacity(capacity);
    let mut came_to = Seen::default();
    let mut model = Model::new();
    let mut rng = Rng(seed);
    for open in 0..2 {
        let mut sim = match Sim::open(&disk, case.options.clone(), rng.next()) {
            Ok(sim) => sim,
            Err(error) => {
                assert!(error.is(Code::DiskFull), "{at}: {error:?}");
                came_to.unopened += 1;
                break;
            }
        };
        assert!(sim.content() == model, "{at}: open {open}");
        // The second owner goes on for a while only.
        let groups = if open == 0 { case.groups } else { 12 };
        for n in 0..groups {
            let key = vec![b'k', u8::try_from(rng.below(case.keys)).unwrap()];
            let value = vec![u8::try_from(n).unwrap() | 1; case.value];
            match sim.run(Batch::new().set(key.clone(), value.clone())) {
                Ok(_) => {
                    model.insert(key, value);
                }
                Err(error) => {
                    assert!(error.is(Code::DiskFull), "{at}: {error:?}");
                    came_to.refused += 1;
                }
            }
            assert!(disk.used() <= capacity, "{at}");
            sim.clock.advance(1100);
        }
        assert!(sim.content() == model, "{at}: reads go on");
        assert!(sim.engine.shared.poison().is_none(), "{at}: not poisoned");
        if came_to.refused > 0 {
            let first = model.keys().next().cloned();
            if let Some(key) = first {
                sim.run(Batch::new().delete(key.clone()))
                    .unwrap_or_else(|e| panic!("{at}: delete: {e:?}"));
                model.remove(&key);
            }
        }
        assert!(sim.content() == model, "{at}");
    }
    // Nothing is lost: with more room it is all there.
    disk.set_capacity(capacity + (8 << 20));
    let mut sim = Sim::open(&disk, case.options.clone(), rng.next())
        .unwrap_or_else(|e| panic!("{at}: with more room: {e:?}"));
    assert!(sim.content() == model, "{at}: with more room");
    sim.run(Batch::new().set("more", "room"))
        .unwrap_or_else(|e| panic!("{at}: with more room: {e:?}"));
    came_to
}

/// All files are multiples of a sector long but for claims, of 64 bytes each, of which there are
/// never more than three. So between these capacities nothing that is written fits or does not.
fn capacities() -> Vec<usize> {
    let claims: BTreeSet<usize> = (0..=3).map(|claims| claims * 64).collect();
    let sectors = 0..(560 << 10) / 512;
    let capacities = sectors.flat_map(|n| claims.iter().map(move |more| n * 512 + more));
    capacities.collect()
}

#[test]
fn on_a_disk_of_any_size_nothing_accepted_is_lost_and_deletes_go_on() {
    let step = scale(97, 1, 1);
    let capacities = capacities();
    let (tried, refused, unopened) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let cases = cases();
    on_all_cores(|n| {
        let at = usize::try_from(n * step).unwrap();
        let (case, capacity) = (at / capacities.len(), at % capacities.len());
        let Some(case) = cases.get(case) else {
            return false;
        };
        let seen = one(case, capacities[capacity], n);
        tried.fetch_add(1, Ordering::Relaxed);
        refused.fetch_add(seen.refused, Ordering::Relaxed);
        unopened.fetch_add(seen.unopened, Ordering::Relaxed);
        true
    });
    let [tried, refused, unopened] = [tried, refused, unopened].map(AtomicU64::into_inner);
    assert!(refused > 0 && unopened > 0);
    say(&format!(
        "disks of every size: {tried} ({refused} writes refused, {unopened} too small to open)"
    ));
}
