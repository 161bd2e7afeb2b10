//! Two owners where a lock does not hold: the first is paused at every call it makes of the disk,
//! a second one opens the store and writes, and the first goes on.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use parking_lot::Mutex;

use super::disk::SimDisk;
use super::sim::{Model, Sim};
use super::workload::quick;
use crate::{Batch, Code};

/// What the first owner does, in all: opens, writes until it has folded, closes.
/// Gives the answered writes to `answered` as they come.
fn first(disk: &SimDisk, answered: &mut dyn FnMut(u32)) -> crate::Result<()> {
    let mut sim = Sim::open(disk, quick(), 1)?;
    for n in 0..30_u32 {
        let value = vec![n.to_le_bytes()[0]; 10_000];
        sim.run(
            Batch::new()
                .set((n % 3).to_string(), value)
                .set("n", n.to_string()),
        )?;
        answered(n);
    }
    assert!(sim.engine.gauges.folds > 0, "the first owner folds");
    sim.engine.close()
}

/// A disk before the first owner: without a store, or with one whose owner was killed.
fn before(used: bool) -> SimDisk {
    let disk = SimDisk::default();
    if used {
        let mut sim = Sim::open(&disk, quick(), 7).unwrap();
        sim.run(Batch::new().set("old", "1")).unwrap();
        sim.engine.tick();
    }
    disk.restart()
}

/// Pauses the first owner at a call. False if it makes fewer calls.
fn paused_at(call: u64, used: bool) -> bool {
    let disk = before(used);
    let (send, opened): (_, Receiver<(Sim, Model)>) = channel();
    let second = disk.clone();
    let over = Arc::new(Mutex::new(false));
    let taken = over.clone();
    disk.pause_at(call, move || {
        let mut sim = Sim::open(&second, quick(), 2).unwrap();
        sim.run(Batch::new().set("second", "1")).unwrap();
        let content = sim.content();
        *taken.lock() = true;
        send.send((sim, content)).unwrap();
    });
    let (mut last, mut late) = (None, Vec::new());
    let result = first(&disk, &mut |n| {
        if *over.lock() {
            late.push(n);
        }
        last = Some(n);
    });
    let Ok((mut sim, content)) = opened.try_recv() else {
        return false;
    };
    if late.len() == 30 {
        // Paused before its claim: it came second.
        assert!(result.is_ok(), "call {call}: {result:?}");
        let error = sim.run(Batch::new().set("again", "1")).unwrap_err();
        assert!(error.is(Code::OutcomeUnknown), "call {call}: {error:?}");
        let third = Sim::open(&disk, quick(), 3).unwrap();
        let found = third.content();
        assert!(found.contains_key(&b"second"[..]) && found[&b"n"[..]] == b"29");
        return true;
    }
    // One write may have been past its last look when it was paused: then the second has read it.
    assert!(late.len() <= 1, "call {call}: {late:?} were answered");
    if let Some(last) = last {
        // Or the next one, which was on disk and not answered yet.
        let found = String::from_utf8(content[&b"n"[..]].clone()).unwrap();
        let found: u32 = found.parse().unwrap();
        assert!(found == last || found == last + 1, "call {call}: {found}");
    }
    if let Err(error) = result {
        let known = [
            Code::Fenced,
            Code::OutcomeUnknown,
            Code::Poisoned,
            Code::Locked,
            Code::Io,
        ];
        assert!(known.contains(&error.as_code()), "call {call}: {error:?}");
    }
    assert!(sim.content() == content);
    sim.run(Batch::new().set("again", "1"))
        .unwrap_or_else(|e| panic!("call {call}: {e:?}"));
    let content = sim.content();
    drop(sim);
    let third = Sim::open(&disk, quick(), 3).unwrap_or_else(|e| panic!("call {call}: {e:?}"));
    assert!(third.content() == content, "call {call}");
    true
}

#[test]
fn a_paused_owner_acknowledges_nothing_after_another_has_opened_and_spoils_nothing() {
    let mut pauses = 0;
    for used in [false, true] {
        let mut call = 1;
        while paused_at(call, used) {
            call += 1;
        }
        assert!(call > 100, "{call}");
        pauses += call - 1;
    }
    println!("owners paused: {pauses}");
}

#[test]
fn what_an_owner_does_until_another_has_claimed_the_store_counts() {
    let mut opened = 0;
    for call in 1..60 {
        let disk = SimDisk::default();
        let mut old = Sim::open(&disk, quick(), 1).unwrap();
        old.run(Batch::new().set("a", "1")).unwrap();
        let (send, done) = channel();
        disk.pause_at(disk.calls() + call, move || {
            // Far enough for a switch and a fold.
            let answered = (0..40_u32)
                .take_while(|n| {
                    let value = vec![n.to_le_bytes()[0]; 10_000];
                    let batch = Batch::new().set((n % 3).to_string(), value);
                    old.run(batch.set("n", n.to_string())).is_ok()
                })
                .last();
            send.send((answered, old.engine.gauges.folds)).unwrap();
        });
        let sim = match Sim::open(&disk, quick(), 2) {
            Ok(sim) => sim,
            // A fold removed what had been listed.
            Err(error) => {
                assert!(error.is(Code::Locked), "call {call}: {error:?}");
                Sim::open(&disk, quick(), 2).unwrap()
            }
        };
        let Ok((answered, folds)) = done.try_recv() else {
            break;
        };
        if let Some(n) = answered {
            assert!(folds > 0, "the old owner folds");
            assert_eq!(sim.content()[&b"n"[..]], n.to_string().into_bytes());
            opened += 1;
        }
    }
    assert!(opened > 3, "{opened}");
}

#[test]
fn of_two_openers_at_once_one_wins() {
    // The second claims between the first one's look at the directory and its claim.
    let disk = before(false);
    let second = disk.clone();
    let (send, opened) = channel();
    disk.pause_at(3, move || {
        send.send(Sim::open(&second, quick(), 2).unwrap()).unwrap();
    });
    let error = Sim::open(&disk, quick(), 1).err().unwrap();
    assert!(error.is(Code::Locked), "{error:?}");
    let mut sim = opened.recv().unwrap();
    sim.run(Batch::new().set("a", "1")).unwrap();
}

#[test]
fn a_claim_of_an_opener_that_died_at_once_is_passed_over() {
    use crate::Disk;
    let disk = before(true);
    disk.create(&crate::layout::epoch(9)).unwrap();
    let sim = Sim::open(&disk, quick(), 1).unwrap();
    assert_eq!(sim.engine.seat.epoch, 10);
    assert!(sim.content().contains_key(&b"old"[..]));
    let names = disk.list().unwrap();
    let claims = names.iter().filter(|name| name.starts_with("epoch-"));
    assert_eq!(claims.count(), 1, "{names:?}");
}

#[test]
fn tries_to_open_that_fail_do_not_leave_a_claim_each() {
    use crate::Disk;
    let disk = before(true);
    let names = disk.list().unwrap();
    let journal = names.iter().find(|n| n.starts_with("journal-")).unwrap();
    // The first frame's body: seen only when the log is read.
    disk.edit(journal, |bytes| bytes[12_288 + 60] ^= 1);
    for seed in 0..5 {
        let error = Sim::open(&disk, quick(), seed).err().unwrap();
        assert!(error.is(Code::Corrupt), "{error:?}");
        let names = disk.list().unwrap();
        let claims = names.iter().filter(|name| name.starts_with("epoch-"));
        assert_eq!(claims.count(), 1, "{names:?}");
    }
}
