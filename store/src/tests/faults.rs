//! Errors of the disk, at every call.

use super::disk::{Fault, Keep, SimDisk};
use super::workload::{check, quick, run};
use crate::{Batch, Code, Kind};

/// One run of the workload with an error at a call.
fn one(call: u64, fault: Fault) {
    let disk = SimDisk::default();
    disk.arm(call, fault);
    let mut trace = run(&disk, &quick(), 1);
    let at = format!("call {call}, {fault:?}");
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
    check(&restarted, &quick(), &trace).unwrap_or_else(|what| panic!("{at}: {what}"));
    for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
        check(&disk.power_loss(keep), &quick(), &trace)
            .unwrap_or_else(|what| panic!("{at}, then power loss, {keep:?}: {what}"));
    }
}

#[test]
fn an_error_at_any_call_poisons_and_loses_nothing_acknowledged() {
    let disk = SimDisk::default();
    assert!(run(&disk, &quick(), 1).error.is_none());
    for call in 1..=disk.calls() {
        one(call, Fault::ErrorOnce);
    }
    println!("errors injected: {}", disk.calls());
}

#[test]
fn an_error_for_ever_from_any_call_loses_nothing_acknowledged() {
    let disk = SimDisk::default();
    assert!(run(&disk, &quick(), 1).error.is_none());
    for call in 1..=disk.calls() {
        one(call, Fault::ErrorForEver);
    }
}
