//! Errors of the disk, at every call.

use super::disk::{Fault, Keep, SimDisk};
use super::sim::Sim;
use super::workload::{check, quick, run};
use crate::{Batch, Code, Disk, Durability, Kind, Options};

/// One run of the workload with an error at a call.
fn one(call: u64, fault: Fault, options: &Options) {
    let disk = SimDisk::default();
    disk.arm(call, fault);
    let mut trace = run(&disk, options, 1);
    let at = format!("call {call}, {fault:?}, {:?}", options.durability);
    if let Some(error) = &trace.error {
        assert!(
            [Code::OutcomeUnknown, Code::Poisoned, Code::Io].contains(&error.as_code()),
            "{at}: {error:?}"
        );
        if let Some(sim) = &mut trace.sim
            && !error.is(Code::Io)
        {
            let error = sim.run(Batch::new().set("x", "y")).unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::Io, "poisoned"), "{at}");
            // The mark that makes the next owner write again what the page cache shows.
            if matches!(fault, Fault::ErrorOnce) {
                assert!(
                    disk.list().unwrap().iter().any(|name| name == "suspect"),
                    "{at}: not marked"
                );
            }
            sim.clock.advance(10_000);
            sim.engine.tick();
            assert!(sim.engine.close().is_err(), "{at}");
        }
    }
    assert_eq!(
        disk.resyncs(),
        0,
        "{at}: a file was synced again after its sync failed"
    );
    let restarted = disk.restart();
    check(&restarted, options, &trace).unwrap_or_else(|what| panic!("{at}: {what}"));
    for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
        check(&disk.power_loss(keep), options, &trace)
            .unwrap_or_else(|what| panic!("{at}, then power loss, {keep:?}: {what}"));
    }
}

/// Every `step`th call of the workload from `first` on, in turn. Returns how many.
fn calls(fault: Fault, options: &Options, first: u64, step: usize) -> u64 {
    let disk = SimDisk::default();
    assert!(run(&disk, options, 1).error.is_none());
    let calls = (first..=disk.calls()).step_by(step);
    calls.map(|call| one(call, fault, options)).count() as u64
}

fn interval() -> Options {
    let mut options = quick();
    options.durability = Durability::INTERVAL;
    options
}

#[test]
fn an_error_at_any_call_poisons_and_loses_nothing_acknowledged() {
    println!("errors: {}", calls(Fault::ErrorOnce, &quick(), 1, 1));
}

#[test]
fn an_error_for_ever_from_any_call_loses_nothing_acknowledged() {
    println!("lasting: {}", calls(Fault::ErrorForEver, &quick(), 1, 1));
}

// Of the calls with an interval, every other one fails once, and the rest for ever.
#[test]
fn with_an_interval_an_error_loses_at_most_the_interval() {
    let calls = calls(Fault::ErrorOnce, &interval(), 1, 2);
    println!("errors, interval: {calls}");
}

#[test]
fn with_an_interval_an_error_for_ever_loses_at_most_the_interval() {
    let calls = calls(Fault::ErrorForEver, &interval(), 2, 2);
    println!("lasting, interval: {calls}");
}

// Opens of a ledger of several segments, its folds and its close included.
#[test]
fn an_error_at_any_call_of_a_ledger_loses_nothing_acknowledged() {
    let mut options = quick();
    options.strategy = crate::Strategy::Ledger;
    options.max_disk = 2 << 20;
    let step = usize::try_from(super::scale::scale(7, 1, 1)).unwrap();
    println!(
        "errors, ledger: {}",
        calls(Fault::ErrorOnce, &options, 1, step)
    );
    let lasting = calls(Fault::ErrorForEver, &options, 2, step);
    println!("lasting, ledger: {lasting}");
}

/// The kernel fails to write what a killed owner left in the page cache, and nobody is there to be told: what
/// the next owner reads is not on disk.
#[test]
fn a_writeback_that_fails_behind_a_killed_owner_loses_nothing_that_was_seen() {
    let undisturbed = SimDisk::default();
    assert!(run(&undisturbed, &quick(), 1).error.is_none());
    for change in 1..=undisturbed.changes() {
        let disk = SimDisk::default();
        disk.arm(change, Fault::PowerLoss);
        let trace = run(&disk, &quick(), 1);
        check(&disk.restart_unwritten(), &quick(), &trace)
            .unwrap_or_else(|what| panic!("killed at change {change}: {what}"));
    }
    println!("failed writebacks: {}", undisturbed.changes());
}

#[test]
fn with_an_interval_a_write_whose_payload_a_failure_threw_away_is_not_answered_with_success() {
    let mut tried = 0;
    for call in 1..40 {
        let disk = SimDisk::default();
        let mut sim = Sim::open(&disk, interval(), 1).unwrap();
        // The journal is full but for a little, and the spare is there: the second of the group
        // switches, which fails at one of its calls.
        while sim.engine.spare.is_none() {
            sim.engine.tick();
        }
        let room = usize::try_from(sim.engine.journal.as_ref().unwrap().room()).unwrap();
        disk.arm(disk.calls() + call, Fault::ErrorOnce);
        let answers = sim.group(vec![
            Batch::new().set("a", vec![1; room / 2]),
            Batch::new().set("b", vec![2; room]),
        ]);
        if sim.engine.shared.poison().is_some() && answers[1].is_err() {
            tried += 1;
            assert!(
                answers[0]
                    .as_ref()
                    .is_err_and(|e| e.is(Code::OutcomeUnknown))
            );
            assert!(sim.content().is_empty());
        }
    }
    assert!(tried > 0);
}
