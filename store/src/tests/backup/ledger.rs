//! A ledger's backup holds its history.

use std::io::Write;
use std::time::Duration;

use super::super::disk::{Fault, SimDisk};
use super::super::sim::Sim;
use super::{backup_of, changes, filled, quick, quick_ledger};
use crate::backup::{self, verify, verify_chain};
use crate::log::Change;
use crate::{Batch, Code, Durability, Options, Retention, Store, Strategy};

fn ledger() -> Options {
    let mut options = super::super::options();
    options.strategy = Strategy::Ledger;
    options
}

/// Changes as text, so that they compare; keys and values with them.
fn text(changes: &[Change]) -> Vec<String> {
    let op = |op: &crate::log::ChangeOp| match op {
        crate::log::ChangeOp::Set(entry) => format!("{entry:?} {:?}", entry.value()),
        other => format!("{other:?}"),
    };
    changes
        .iter()
        .map(|change| {
            let ops: Vec<String> = change.ops.iter().map(op).collect();
            format!(
                "{} {} {:?} {ops:?}",
                change.revision, change.time_ms, change.actor
            )
        })
        .collect()
}

fn restored(sim: &Sim, stream: &[u8], options: &Options) -> Sim {
    let disk = SimDisk::default();
    let env = sim.engine.seat.env.clone();
    backup::restore_on(&disk, &env, stream, options).unwrap();
    Sim::open(&disk, options.clone(), 5).unwrap()
}

#[test]
fn a_restored_ledger_remembers_everything_and_goes_on() {
    let (data, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut writes = 0_u64;
    // Several segments.
    for owner in ["ada", "alan", "grace"] {
        let store = Store::open(data.path(), ledger()).unwrap();
        for n in 0..20_u64 {
            let key = format!("key-{}", n % 7);
            let batch = Batch::new().set(key, vec![1; 30_000]).actor(owner);
            store.commit(batch).unwrap();
            writes += 1;
        }
        store.delete(b"key-3").unwrap();
        writes += 1;
    }
    let store = Store::open(data.path(), ledger()).unwrap();
    let mut stream = Meanwhile {
        store: &store,
        bytes: Vec::new(),
    };
    let info = store.backup(&mut stream).unwrap();
    let stream = stream.bytes;
    assert_eq!(info.contents.history, Some(writes));
    assert_eq!(info.envelope.revision, writes);
    assert_eq!(verify(&stream[..], &ledger().encryption).unwrap(), info);
    assert_eq!(verify_chain(&stream[..]).unwrap(), info.envelope);
    assert!(store.status().revision > writes, "writes went on");

    let restored = backup::restore(new.path(), &stream[..], &ledger()).unwrap();
    assert_eq!(restored.backup, info);
    let copy = Store::open(new.path(), ledger()).unwrap();
    let all = |store: &Store, to| -> Vec<Change> {
        store.changes(1, to).unwrap().map(Result::unwrap).collect()
    };
    let expected = text(&all(&store, writes));
    assert_eq!(text(&all(&copy, writes)), expected);
    assert_eq!(expected.len(), usize::try_from(writes).unwrap());
    let entry = copy.get_at(b"key-3", 4).unwrap().unwrap();
    assert_eq!((entry.modified(), entry.value().len()), (4, 30_000));
    assert!(copy.get_at(b"key-3", 21).unwrap().is_none());
    let history = copy.history(b"key-3", 0, 100).unwrap();
    assert_eq!(history.len(), 12);
    assert_eq!(history[0].actor.as_deref(), Some("ada"));

    // It goes on, and is opened, backed up and restored again, with a gap in its revisions.
    let next = copy.set(b"new", b"1").unwrap().revision;
    assert_eq!(next, restored.next_revision);
    copy.close().unwrap();
    let copy = Store::open(new.path(), ledger()).unwrap();
    copy.set(b"new", b"2").unwrap();
    let mut again = Vec::new();
    let info = copy.backup(&mut again).unwrap();
    assert_eq!(info.contents.history, Some(writes + 2));
    let third = tempfile::tempdir().unwrap();
    backup::restore(third.path(), &again[..], &ledger()).unwrap();
    let third = Store::open(third.path(), ledger()).unwrap();
    assert_eq!(text(&all(&third, next + 1)), text(&all(&copy, next + 1)));
    assert_eq!(third.content().unwrap().1, info.contents.root);
}

/// Sets a key whenever something is written.
struct Meanwhile<'a> {
    store: &'a Store,
    bytes: Vec<u8>,
}

impl Write for Meanwhile<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.store.set(b"meanwhile", b"1").unwrap();
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_retention_took_is_not_in_the_backup_and_not_missed() {
    let mut options = quick_ledger();
    options.max_disk = 4 << 20;
    options.retention = Retention {
        age: None,
        revisions: Some(10),
    };
    let mut sim = Sim::open(&SimDisk::default(), options.clone(), 1).unwrap();
    for n in 0..400_u32 {
        let key = format!("key-{}", n % 5);
        sim.run(Batch::new().set(key, vec![1; 20_000])).unwrap();
    }
    let kept = changes(&sim);
    assert!(kept[0].revision > 1, "something went");
    let (stream, info) = backup_of(&sim);
    assert_eq!(info.contents.history, Some(kept.len() as u64));
    let copy = restored(&sim, &stream, &options);
    assert_eq!(text(&changes(&copy)), text(&kept));
    assert!(copy.content() == sim.content());
}

#[test]
fn with_an_interval_a_backup_waits_for_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ledger();
    options.durability = Durability::Interval(Duration::from_millis(50));
    let store = Store::open(dir.path(), options).unwrap();
    for n in 0..10_u64 {
        store.set(b"n", &n.to_le_bytes()).unwrap();
        let mut stream = Vec::new();
        let info = store.backup(&mut stream).unwrap();
        assert_eq!(info.envelope.revision, n + 1);
        assert_eq!(info.contents.history, Some(n + 1));
    }
}

#[test]
fn a_backup_is_restored_with_the_strategy_that_it_was_made_with() {
    for (made, other) in [(quick(), quick_ledger()), (quick_ledger(), quick())] {
        let sim = filled(made.clone(), 1);
        let (stream, _) = backup_of(&sim);
        let disk = SimDisk::default();
        let env = sim.engine.seat.env.clone();
        let error = backup::restore_on(&disk, &env, &stream[..], &other).unwrap_err();
        assert!(error.is(Code::InvalidArgument), "{error:?}");
        assert!(
            error.to_string().contains(made.strategy.as_str()),
            "{error}"
        );
        backup::restore_on(&disk, &env, &stream[..], &made).unwrap();
        assert!(Sim::open(&disk, made, 2).unwrap().content() == sim.content());
    }
    let empty = Sim::open(&SimDisk::default(), quick_ledger(), 1).unwrap();
    let (stream, info) = backup_of(&empty);
    assert_eq!(info.contents.history, Some(0));
    let copy = restored(&empty, &stream, &quick_ledger());
    assert!(copy.content().is_empty() && changes(&copy).is_empty());
}

#[test]
fn a_backup_says_itself_with_which_strategy_it_is_restored() {
    // Of one that nobody wrote to, and of one that somebody did.
    for (strategy, writes) in [
        (Strategy::Snapshot, 0),
        (Strategy::Ledger, 0),
        (Strategy::Snapshot, 3),
        (Strategy::Ledger, 3),
    ] {
        let (data, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut options = super::super::options();
        options.strategy = strategy;
        let store = Store::open(data.path(), options.clone()).unwrap();
        for n in 0..writes {
            store.set(b"k", &[n]).unwrap();
        }
        let mut stream = Vec::new();
        store.backup(&mut stream).unwrap();
        let piece = |n: u8| {
            let position = store.archive_position();
            store.set(b"k", &[n]).unwrap();
            let piece = store.archive(position.lineage, position.revision).unwrap();
            let crate::archive::Archived::Piece(piece) = piece else {
                unreachable!("nothing was archived")
            };
            piece.bytes
        };
        let row = [&stream[..], &piece(9)].concat();
        // What the options say of the strategy is not asked.
        for (from, until, last) in [
            (&stream, None, writes),
            (&row, Some(crate::archive::Until::End), 10),
        ] {
            let new = new.path().join(last.to_string());
            let restored = backup::restore_as_it_was(&new, &from[..], until, &ledger()).unwrap();
            assert_eq!(restored.strategy, strategy);
            let copy = Store::open(&new, options.clone()).unwrap();
            let found = copy.get(b"k").unwrap();
            let found = found.map(|found| found.value().to_vec());
            assert_eq!(found, last.checked_sub(1).map(|n| vec![n]));
            if strategy == Strategy::Ledger {
                let writes = if until.is_some() { writes + 1 } else { writes };
                assert_eq!(
                    copy.history(b"k", 0, 99).unwrap().len(),
                    usize::from(writes)
                );
            }
        }
    }
}

#[test]
fn a_ledger_without_a_history_is_restored_with_its_strategy_only() {
    let (data, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(data.path(), super::super::options()).unwrap();
    store.set(b"k", b"v").unwrap();
    store.close().unwrap();
    // What a store had kept for watchers is a ledger's history: none is left after a restore.
    let mut stream = Vec::new();
    let store = Store::open(data.path(), super::super::options()).unwrap();
    store.backup(&mut stream).unwrap();
    let copy = new.path().join("copy");
    backup::restore(&copy, &stream[..], &super::super::options()).unwrap();
    crate::convert(&copy, ledger(), &mut |_, _| {}).unwrap();
    let mut stream = Vec::new();
    let store = Store::open(&copy, ledger()).unwrap();
    let info = store.backup(&mut stream).unwrap();
    assert_eq!((info.contents.entries, info.contents.history), (1, Some(0)));

    let again = new.path().join("again");
    let restored = backup::restore_as_it_was(&again, &stream[..], None, &ledger());
    let error = restored.unwrap_err();
    assert!(error.is(Code::InvalidArgument) && error.to_string().contains("strategy ledger"));
    backup::restore(&again, &stream[..], &ledger()).unwrap();
    assert!(
        Store::open(&again, ledger())
            .unwrap()
            .get(b"k")
            .unwrap()
            .is_some()
    );
}

/// A backup of the first version with all kinds of frames, kept in `tests/golden/`. To make it
/// anew: remove it, and run this with `CODEXSTORE_WRITE_GOLDEN=1`.
#[test]
fn the_golden_backup_is_read_for_ever() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/v1-backup-aes256-history"
    );
    if std::env::var_os("CODEXSTORE_WRITE_GOLDEN").is_some() && !std::path::Path::new(path).exists()
    {
        let mut sim = Sim::open(&SimDisk::default(), ledger(), 9).unwrap();
        let batch = Batch::new().set("greeting", "hello").actor("ada");
        sim.run(batch).unwrap();
        sim.run(Batch::new().set("gone", "1")).unwrap();
        let batch = Batch::new()
            .delete("gone")
            .set("greeting", "a longer value, which compresses; ".repeat(40));
        sim.run(batch).unwrap();
        std::fs::write(path, backup_of(&sim).0).unwrap();
    }
    let stream = std::fs::read(path).unwrap();
    let info = verify(&stream[..], &ledger().encryption).unwrap();
    assert_eq!(verify_chain(&stream[..]).unwrap(), info.envelope);
    assert_eq!(
        (info.envelope.revision, info.envelope.next_revision),
        (3, 4)
    );
    assert_eq!((info.contents.entries, info.contents.history), (1, Some(3)));
    assert_eq!(
        info.contents.root[..8],
        [0x3a, 0x8e, 0xe5, 0x24, 0x34, 0x29, 0x4e, 0x19]
    );
    let new = tempfile::tempdir().unwrap();
    backup::restore(new.path(), &stream[..], &ledger()).unwrap();
    let store = Store::open(new.path(), ledger()).unwrap();
    assert_eq!(store.history(b"gone", 0, 9).unwrap().len(), 2);
    assert_eq!(store.get(b"greeting").unwrap().unwrap().version(), 2);
}

#[test]
fn a_poisoned_ledger_does_not_wait_for_what_was_never_written() {
    let mut options = quick_ledger();
    options.durability = Durability::INTERVAL;
    let disk = SimDisk::default();
    let mut sim = Sim::open(&disk, options, 1).unwrap();
    sim.run(Batch::new().set("a", "1")).unwrap();
    disk.arm(disk.calls() + 1, Fault::ErrorForEver);
    sim.clock.advance(1000);
    sim.engine.tick();
    let shared = &sim.engine.shared;
    assert!(shared.poison().is_some());
    let options = backup::BackupOptions::default();
    let error = backup::write(shared, &options, &mut std::io::sink()).unwrap_err();
    assert!(error.is(Code::Poisoned), "{error:?}");
}
