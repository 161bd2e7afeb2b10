//! A restore makes a whole store or none, whatever happens to the disk.

use std::io::{self, Read};

use super::super::disk::{Fault, Keep, SimDisk};
use super::super::sim::{Model, Sim};
use super::{backup_of, changes, filled, quick, quick_ledger};
use crate::archive::{self, Until};
use crate::backup::{self, BackupInfo, Restored};
use crate::{Batch, Code, Disk, Env, Options, Result};

/// A backup with all that is to come of it.
struct Case {
    bytes: Vec<u8>,
    info: BackupInfo,
    content: Model,
    history: usize,
    /// Pieces of an archive come behind the backup.
    until: Option<Until>,
    /// The revision with which what is restored goes on.
    next: u64,
    options: Options,
    env: Env,
}

fn case() -> Case {
    case_of(quick())
}

fn case_of(options: Options) -> Case {
    let sim = filled(options.clone(), 1);
    let (bytes, info) = backup_of(&sim);
    let history = info.contents.history.map_or(0, |_| changes(&sim).len());
    Case {
        bytes,
        content: sim.content(),
        history,
        until: None,
        next: info.envelope.next_revision + (1 << 32),
        info,
        options,
        env: sim.engine.seat.env.clone(),
    }
}

/// A backup with pieces behind it, of which the last holds more than is wanted.
fn with_pieces(options: Options) -> Case {
    let mut sim = filled(options.clone(), 1);
    let (mut bytes, info) = backup_of(&sim);
    let lineage = sim.engine.seat.lineage;
    let mut after = info.envelope.revision;
    let (mut content, mut history, mut until) = (Model::new(), 0, 0);
    for round in 0..3_u8 {
        for n in 0..4_u8 {
            let value = vec![round; usize::from(n) * 9000];
            let batch = Batch::new()
                .set(format!("key-{n:02}"), value)
                .delete(format!("key-{:02}", 20 + round));
            sim.run(batch).unwrap();
            if (round, n) == (2, 1) {
                (content, until) = (sim.content(), sim.revision());
                history = info.contents.history.map_or(0, |_| changes(&sim).len());
            }
        }
        match archive::next(&sim.engine.shared, lineage, after).unwrap() {
            archive::Archived::Piece(piece) => {
                after = piece.info.envelope.to;
                bytes.extend(piece.bytes);
            }
            other => panic!("{other:?}"),
        }
    }
    Case {
        bytes,
        info,
        content,
        history,
        until: Some(Until::Revision(until)),
        next: after + 1 + (1 << 32),
        options,
        env: sim.engine.seat.env.clone(),
    }
}

impl Case {
    fn restore(&self, disk: &SimDisk) -> Result<Restored> {
        self.restore_from(disk, &self.bytes[..])
    }

    fn restore_from(&self, disk: &SimDisk, from: impl Read) -> Result<Restored> {
        backup::restore_all(disk, &self.env, from, self.until, &self.options)
    }

    /// What a crash or an error left: no store, or all of it; and then the restore works.
    fn check(&self, disk: &SimDisk, finished: bool) -> std::result::Result<&'static str, String> {
        let opened = disk.restart();
        let state = match Sim::open(&opened, self.options.clone(), 7) {
            Err(error) if error.is(Code::RestoreUnfinished) => "unfinished",
            Err(error) => return Err(format!("open: {error:?}")),
            Ok(sim) if sim.content() == self.content => {
                if sim.engine.next != self.next {
                    return Err(format!("goes on at {}", sim.engine.next));
                }
                if self.history > 0 && changes(&sim).len() != self.history {
                    return Err("other history".to_owned());
                }
                "complete"
            }
            Ok(sim) if sim.content().is_empty() && sim.engine.next == 1 => "empty",
            Ok(_) => return Err("half a store".to_owned()),
        };
        if finished && state != "complete" {
            return Err(format!("{state} after it was finished"));
        }
        let again = self.restore(disk);
        match (state, again) {
            ("complete", Err(error)) if error.is(Code::InvalidArgument) => {}
            ("complete", again) => return Err(format!("over a store: {again:?}")),
            (_, Err(error)) => return Err(format!("again: {error:?}")),
            (_, Ok(restored)) if restored.backup != self.info => {
                return Err("again: something else".to_owned());
            }
            (_, Ok(_)) => {}
        }
        // What was promised is durable. Where only the last sync failed nothing was; but what is
        // written from now on stays, and no mark comes back.
        let disk = match state {
            "complete" if !finished => disk.restart(),
            _ => disk.power_loss(Keep::Nothing),
        };
        let mut expected = self.content.clone();
        for key in ["a", "b"] {
            let mut sim = Sim::open(&disk, self.options.clone(), 8)
                .map_err(|e| format!("after it: {e:?}"))?;
            if sim.content() != expected {
                return Err("after it: other content".to_owned());
            }
            sim.run(Batch::new().set(key, "1"))
                .map_err(|e| format!("write: {e:?}"))?;
            expected.insert(key.into(), b"1".to_vec());
            drop(sim);
            let disk = disk.power_loss(Keep::Nothing);
            let sim =
                Sim::open(&disk, self.options.clone(), 9).map_err(|e| format!("at last: {e:?}"))?;
            if sim.content() != expected {
                return Err("at last: other content".to_owned());
            }
        }
        Ok(state)
    }
}

/// Loses power at every change of the disk.
fn sweep(
    case: &Case,
    broken: Option<&'static str>,
    subsets: u64,
) -> std::result::Result<[u64; 3], String> {
    let new_disk = || {
        let disk = SimDisk::default();
        if let Some(part) = broken {
            disk.break_sync(part);
        }
        disk
    };
    let disk = new_disk();
    case.restore(&disk).unwrap();
    let changes = disk.changes();
    assert!(changes > 15, "{changes}");
    let mut seen = [0; 3];
    for change in 1..=changes + 1 {
        let disk = new_disk();
        disk.arm(change, Fault::PowerLoss);
        let finished = case.restore(&disk).is_ok();
        assert_eq!(finished, change > changes);
        let keeps = [Keep::Nothing, Keep::Everything]
            .into_iter()
            .chain((0..subsets).map(|n| Keep::Some(change * 1000 + n)));
        for keep in keeps {
            let state = case
                .check(&disk.power_loss(keep), finished)
                .map_err(|what| format!("change {change} of {changes}, {keep:?}: {what}"))?;
            let at = ["empty", "unfinished", "complete"];
            seen[at.iter().position(|name| *name == state).unwrap()] += 1;
        }
    }
    Ok(seen)
}

#[test]
fn a_power_loss_at_any_call_leaves_a_whole_store_or_none() {
    for (case, name) in [
        (case(), "snapshot"),
        (case_of(quick_ledger()), "ledger"),
        (with_pieces(quick()), "snapshot with pieces"),
        (with_pieces(quick_ledger()), "ledger with pieces"),
    ] {
        let [empty, unfinished, complete] = sweep(&case, None, 8).unwrap();
        assert!(empty > 0 && unfinished > 0 && complete > 0);
        println!(
            "restore of a {name}: crash states checked: {} ({empty} empty, {unfinished} \
             unfinished, {complete} complete)",
            empty + unfinished + complete
        );
    }
}

#[test]
fn the_sweep_notices_each_sync_that_is_left_out() {
    for (case, parts) in [
        (case(), &["journal-", "image-", "epoch", "."][..]),
        (case_of(quick_ledger()), &["ledger-"]),
        (with_pieces(quick()), &["journal-", "image-", "epoch", "."]),
        (with_pieces(quick_ledger()), &["ledger-"]),
    ] {
        for part in parts {
            assert!(
                sweep(&case, Some(part), 4).is_err(),
                "syncs of {part} could be left out unnoticed"
            );
        }
    }
}

#[test]
fn a_power_loss_in_a_second_restore_is_as_harmless() {
    let case = case();
    let first = SimDisk::default();
    first.arm(9, Fault::PowerLoss);
    case.restore(&first).unwrap_err();
    let first = first.power_loss(Keep::Everything);
    let mut states = 0;
    for change in 1.. {
        let disk = first.restart();
        disk.arm(change, Fault::PowerLoss);
        let finished = case.restore(&disk).is_ok();
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(change)] {
            case.check(&disk.power_loss(keep), finished)
                .unwrap_or_else(|what| panic!("change {change}, {keep:?}: {what}"));
            states += 1;
        }
        if finished {
            break;
        }
    }
    println!("restore after a restore: crash states checked: {states}");
}

#[test]
fn an_error_at_any_call_leaves_a_whole_store_or_none() {
    for case in [
        case(),
        case_of(quick_ledger()),
        with_pieces(quick()),
        with_pieces(quick_ledger()),
    ] {
        errors(&case);
    }
}

fn errors(case: &Case) {
    let disk = SimDisk::default();
    case.restore(&disk).unwrap();
    let calls = disk.calls();
    for fault in [Fault::ErrorOnce, Fault::ErrorForEver] {
        for call in 1..=calls {
            let disk = SimDisk::default();
            disk.arm(call, fault);
            let restored = case.restore(&disk);
            disk.disarm();
            let what = |what| format!("call {call} of {calls}, {fault:?}: {what}");
            for disk in [disk.restart(), disk.power_loss(Keep::Nothing)] {
                case.check(&disk, restored.is_ok()).map_err(what).unwrap();
            }
        }
    }
    println!("restore: errors injected: {}", 2 * calls);
}

#[test]
fn a_full_disk_leaves_no_store_and_gives_the_space_back() {
    for case in [case(), with_pieces(quick()), with_pieces(quick_ledger())] {
        full_disk(&case);
    }
}

fn full_disk(case: &Case) {
    let whole = SimDisk::default();
    case.restore(&whole).unwrap();
    let most = whole.take_peak();
    for capacity in (0..most).step_by(most / 40) {
        let disk = SimDisk::with_capacity(capacity);
        let error = case.restore(&disk).unwrap_err();
        assert!(error.is(Code::DiskFull), "{capacity}: {error:?}");
        assert_eq!(disk.list().unwrap(), ["restoring"], "{capacity}");
        disk.set_capacity(1 << 30);
        case.check(&disk, false).unwrap();
    }
}

/// A connection that breaks.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

#[test]
fn a_stream_that_is_cut_or_damaged_makes_no_store() {
    let case = case();
    let end = case.bytes.len();
    for cut in (0..end).step_by(end / 50).chain([end - 1, end - 512]) {
        let disk = SimDisk::default();
        let error = case.restore_from(&disk, &case.bytes[..cut]).unwrap_err();
        assert!(error.is(Code::Corrupt), "{cut}: {error:?}");
        case.check(&disk, false).unwrap();
    }
    for at in (0..end).step_by(end / 50).chain([end - 1]) {
        let mut bytes = case.bytes.clone();
        bytes[at] ^= 1;
        let disk = SimDisk::default();
        let error = case.restore_from(&disk, &bytes[..]).unwrap_err();
        assert!(error.is(Code::Corrupt), "{at}: {error:?}");
        case.check(&disk, false).unwrap();
    }
    let disk = SimDisk::default();
    let error = case
        .restore_from(&disk, case.bytes[..end / 2].chain(Broken))
        .unwrap_err();
    assert!(error.is(Code::Io), "{error:?}");
    case.check(&disk, false).unwrap();
}

#[test]
fn nothing_of_a_store_is_ever_restored_over() {
    let case = case();
    for name in [
        "image-00000000000000000001",
        "journal-00000000000000000001",
        "epoch-00000000000000000001",
        "epoch-00000000000000000001.tmp",
        "suspect",
    ] {
        let disk = SimDisk::default();
        disk.create(name).unwrap();
        let error = case.restore(&disk).unwrap_err();
        assert!(error.is(Code::InvalidArgument), "{name}: {error:?}");
        assert_eq!(disk.list().unwrap(), [name]);
    }
    let disk = SimDisk::default();
    disk.create("lost+found").unwrap();
    case.restore(&disk).unwrap();
    assert!(disk.list().unwrap().contains(&"lost+found".to_owned()));
    let dir = tempfile::tempdir().unwrap();
    let _open = crate::Store::open(dir.path(), quick()).unwrap();
    let error = backup::restore(dir.path(), &case.bytes[..], &quick()).unwrap_err();
    assert!(error.is(Code::Locked), "{error:?}");
}

#[test]
fn a_large_stream_takes_little_memory_and_opens() {
    let mut sim = Sim::open(
        &SimDisk::default(),
        {
            let mut options = quick();
            options.max_disk = u64::MAX;
            options.max_value = 64 << 20;
            options
        },
        1,
    )
    .unwrap();
    sim.run(Batch::new().set("big", vec![7; 30 << 20])).unwrap();
    sim.run(Batch::new().set("small", "1")).unwrap();
    let (bytes, info) = backup_of(&sim);
    let disk = SimDisk::default();
    let env = sim.engine.seat.env.clone();
    let mut options = quick();
    options.max_disk = 20 << 20;
    let error = backup::restore_on(&disk, &env, &bytes[..], &options);
    assert!(error.unwrap_err().is(Code::DiskFull), "the budget holds");
    options.max_disk = u64::MAX;
    let restored = backup::restore_on(&disk, &env, &bytes[..], &options).unwrap();
    assert_eq!(restored.backup, info);
    assert!(Sim::open(&disk, options, 2).unwrap().content() == sim.content());
}

#[test]
fn an_unfinished_restore_is_told_by_whoever_looks() {
    let case = case();
    let dir = tempfile::tempdir().unwrap();
    let cut = &case.bytes[..case.bytes.len() / 2];
    backup::restore(dir.path(), cut, &quick()).unwrap_err();
    let error = crate::Store::open(dir.path(), quick()).err().unwrap();
    assert!(error.is(Code::RestoreUnfinished), "{error:?}");
    let found = crate::offline::inspect(dir.path(), &mut |_, _| ()).unwrap();
    assert_eq!(found.open.refusals, [error.to_string()]);
    backup::restore(dir.path(), &case.bytes[..], &quick()).unwrap();
    crate::Store::open(dir.path(), quick()).unwrap();
}
