//! What ends a re-encryption before its time: a full disk, and another owner.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::super::disk::{Fault, SimDisk};
use super::super::rotation::Step;
use super::super::scale::scale;
use super::super::sim::Sim;
use super::{Run, ask, both_strategies, check, files, options, prepared, run};
use crate::layout::{self, Name};
use crate::space::Claim;
use crate::task::Running;
use crate::{Batch, Code, Disk, Options, Reencrypted, Result, Strategy};

/// The store, and whoever has asked.
fn asked(disk: &SimDisk, options: &Options) -> (Sim, Receiver<Result<Reencrypted>>) {
    let sim = Sim::open(disk, options.clone(), 11).unwrap();
    let waiter = ask(&sim);
    (sim, waiter)
}

/// The same once it is under way.
fn begun(disk: &SimDisk, options: &Options) -> (Sim, Receiver<Result<Reencrypted>>) {
    let (mut sim, waiter) = asked(disk, options);
    while sim.engine.reencryption.is_none() {
        sim.engine.tick();
    }
    (sim, waiter)
}

fn poisoned(sim: &Sim) -> bool {
    sim.engine.shared.poison().is_some()
}

/// Writes until whoever asked is answered, or writes are refused.
fn write_on(mut sim: Sim, waiter: &Receiver<Result<Reencrypted>>) -> Run {
    let mut run = Run {
        content: sim.content(),
        unknown: None,
        answer: None,
        sim: None,
        before: 0,
        step: Step::Added,
    };
    for n in 0..1000_u32 {
        let (key, value) = (vec![b'w', n.to_le_bytes()[0] % 3], vec![9; 800]);
        let mut next = run.content.clone();
        next.insert(key.clone(), value.clone());
        match sim.run(Batch::new().set(key, value)) {
            Ok(_) => run.content = next,
            Err(_) if poisoned(&sim) => {
                run.unknown = Some(next);
                break;
            }
            Err(error) => assert!(error.is(Code::DiskFull), "{error:?}"),
        }
        match waiter.try_recv() {
            Ok(answer) => {
                run.answer = Some(answer);
                break;
            }
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => sim.clock.advance(200),
        }
    }
    run.sim = Some(sim);
    run
}

#[test]
fn a_disk_that_is_full_at_any_call_leaves_nobody_waiting() {
    let (mut given_up, mut refused) = (0, 0);
    let step = usize::try_from(scale(2, 1, 1)).unwrap();
    for options in both_strategies() {
        let (base, content) = prepared(&options);
        let old = files(&base);
        let whole = base.restart();
        let undisturbed = run(&whole, &options, &content);
        undisturbed.answer.unwrap().unwrap();
        for change in (undisturbed.before + 1..=whole.changes()).step_by(step) {
            let disk = base.restart();
            let (sim, waiter) = asked(&disk, &options);
            disk.arm(change, Fault::FullOnce);
            let run = write_on(sim, &waiter);
            let poisoned = run.sim.as_ref().is_some_and(poisoned);
            assert!(
                run.answer.is_some() || poisoned,
                "change {change}: whoever asked waits for ever"
            );
            if let Some(Err(error)) = &run.answer {
                assert!(error.is(Code::DiskFull), "change {change}: {error:?}");
                given_up += 1;
            }
            refused += u64::from(poisoned);
            disk.disarm();
            check(&disk.restart(), &options, &run, &old);
        }
    }
    assert!(given_up > 0 && refused > 0, "{given_up}, {refused}");
}

#[test]
fn an_image_for_which_there_is_no_space_ends_it_and_is_not_waited_for() {
    for options in both_strategies() {
        let (base, content) = prepared(&options);
        let disk = base.restart();
        let (mut sim, waiter) = begun(&disk, &options);
        // The log is sealed anew, and someone else takes what was free.
        sim.engine.wait().unwrap();
        disk.set_capacity(disk.used() + 4096);
        sim.engine.shortage.forget_free();
        for _ in 0..50 {
            sim.engine.tick();
        }
        let answer = waiter.try_recv();
        let error = answer.expect("it is waited for").unwrap_err();
        assert!(error.is(Code::DiskFull), "{error:?}");
        assert!(error.to_string().contains("for the image"), "{error}");
        assert!(!poisoned(&sim) && sim.content() == content);
        let names = disk.list().unwrap();
        let temporary = names.iter().any(|name| layout::final_name(name).is_some());
        assert!(!temporary, "{names:?}");
    }
}

#[test]
fn the_image_takes_its_space_once() {
    const CAPACITY: usize = 16 << 20;
    let mut options = options(Strategy::Snapshot);
    let (base, _) = prepared(&options);
    options.max_disk = 1 << 40;
    let disk = base.restart();
    disk.set_capacity(CAPACITY);
    let (mut sim, _waiter) = begun(&disk, &options);
    // The log is sealed anew, and then the image is written.
    sim.engine.wait().unwrap();
    sim.engine.tick();
    sim.engine.wait().unwrap();
    let written = sim.engine.reencryption_image();
    assert!(written > 100_000, "{written}");
    // Nobody else takes any: what is there and what is free is the whole disk, but for an owner's claim.
    let (limit, all) = (sim.engine.disk_limit(), CAPACITY as u64);
    assert!(limit <= all && limit + 4096 > all, "{limit} of {all}");
}

#[test]
fn a_smaller_journal_is_prepared_before_a_reencryption_is_given_up() {
    let options = options(Strategy::Snapshot);
    let (base, _) = prepared(&options);
    let (mut smaller, mut given_up) = (0, 0);
    for room in (0..100).map(|n| n * (32 << 10)) {
        let disk = base.restart();
        let (mut sim, _waiter) = begun(&disk, &options);
        sim.engine.wait().unwrap();
        assert!(sim.engine.may_give_up());
        // It was begun, and another is due.
        let spare = sim.engine.spare.take().unwrap();
        disk.remove(&spare.name).unwrap();
        let usual = sim.engine.next_size(0);
        disk.set_capacity(disk.used() + room);
        sim.engine.shortage.forget_free();
        sim.engine.prepare(0, Claim::Anyone);
        match (&sim.engine.reencryption, sim.engine.running) {
            (Some(_), Some(Running::Prepare { size })) => smaller += u64::from(size < usual),
            (None, _) => given_up += 1,
            (Some(_), running) => panic!("{running:?} where {room} is free"),
        }
    }
    assert!(smaller > 0 && given_up > 0, "{smaller}, {given_up}");
}

#[test]
fn an_owner_that_was_overtaken_makes_no_file_and_switches_none() {
    for options in both_strategies() {
        let (base, _) = prepared(&options);
        let mut overtaken = 0;
        loop {
            let disk = base.restart();
            let (mut old, waiter) = begun(&disk, &options);
            for _ in 0..overtaken {
                old.engine.tick();
            }
            if waiter.try_recv().is_ok() {
                break;
            }
            let _new = Sim::open(&disk, options.clone(), 12).unwrap();
            let names = |disk: &SimDisk| -> BTreeSet<String> {
                let names = disk.list().unwrap().into_iter();
                // A journal that was prepared is none before it is begun.
                names
                    .filter(|name| !matches!(layout::parse(name), Name::Log(..)))
                    .collect()
            };
            let before = names(&disk);
            for _ in 0..300 {
                old.engine.tick();
            }
            if matches!(waiter.try_recv(), Ok(Ok(_))) {
                // It had come to its end, but for the word.
                overtaken += 1;
                continue;
            }
            assert_eq!(names(&disk), before, "{overtaken}");
            let poison = old.engine.shared.poison();
            assert!(poison.is_some_and(|e| e.is(Code::Fenced)), "{poison:?}");
            overtaken += 1;
        }
        assert!(overtaken > 5, "{overtaken}");
    }
}
