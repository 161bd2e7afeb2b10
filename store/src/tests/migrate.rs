//! Migrations to other keys: what they keep, and what a crash or an error leaves at each call.

mod changed;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::basic::bytes_of;
use super::disk::{Fault, Keep, SimDisk};
use super::keyring;
use super::keys::passphrase;
use super::sim::{Sim, env};
use super::workload::quick;
use crate::layout::Name;
use crate::migrate::migrate_on;
use crate::{
    Batch, ChangeOp, Code, Compression, Disk, Encryption, KeySize, Kind, Migrated, Options, Result,
    Scan, Store, Strategy, migrate_encryption,
};

/// A revision's changes: revision, time, actor, and each key with its value.
type History = Vec<(u64, u64, Option<String>, Vec<(Vec<u8>, Option<Vec<u8>>)>)>;

/// Key, value, created and modified revision, version.
type Fields = (Vec<u8>, Vec<u8>, u64, u64, u64);

/// All that a store holds.
#[derive(Debug, PartialEq)]
pub struct All {
    entries: Vec<Fields>,
    revision: u64,
    lineage: u64,
    history: History,
}

fn all(store: &Store) -> All {
    let mut scan = Scan::all();
    scan.limit = 0;
    let page = store.scan(&scan).unwrap();
    assert!(page.cursor.is_none());
    let entries = page.items.iter().map(|e| {
        let key = e.key().to_vec();
        (
            key,
            e.value().to_vec(),
            e.created(),
            e.modified(),
            e.version(),
        )
    });
    let status = store.status();
    let history = match store.changes(status.first_revision, status.revision) {
        Ok(changes) => changes.map(|change| change.unwrap()).collect(),
        Err(error) => {
            assert!(error.is(Code::Unsupported), "{error:?}");
            Vec::new()
        }
    };
    let history = history.into_iter().map(|change| {
        let ops = change.ops.iter().map(|op| match op {
            ChangeOp::Set(entry) => (entry.key().to_vec(), Some(entry.value().to_vec())),
            ChangeOp::Delete(key) | ChangeOp::Expire(key) => (key.to_vec(), None),
        });
        (
            change.revision,
            change.time_ms,
            change.actor.clone(),
            ops.collect(),
        )
    });
    All {
        entries: entries.collect(),
        revision: status.revision,
        lineage: status.lineage,
        history: history.collect(),
    }
}

fn ring(byte: u8) -> Encryption {
    Encryption::Keyring(keyring("test-key", byte))
}

fn under(encryption: Encryption, strategy: Strategy) -> Options {
    let mut options = quick();
    options.max_disk = 2 << 20;
    options.encryption = encryption;
    options.strategy = strategy;
    options
}

fn open(disk: &SimDisk, options: &Options) -> Result<Store> {
    Store::open_on(Arc::new(disk.clone()), env(9), options.clone())
}

fn migrate(disk: &SimDisk, old: &Options, new: &Options) -> Result<Migrated> {
    // Another run draws other ids.
    let seed =
        u64::try_from(disk.used()).unwrap() << 16 | disk.restart().list().unwrap().len() as u64;
    let disk = Arc::new(disk.clone());
    migrate_on(disk, env(seed), &old.encryption, new, &mut |_| {})
}

/// A store that has folded, of several owners, one of which was killed.
pub fn prepared(options: &Options) -> (SimDisk, All) {
    let disk = SimDisk::default();
    let mut folds = 0;
    for owner in 0..3_u8 {
        let mut sim = Sim::open(&disk, options.clone(), u64::from(owner)).unwrap();
        for n in 0..12_u8 {
            let key = [b'k', n % 5];
            let mut batch = Batch::new().set(key.to_vec(), vec![owner ^ n; 24_000]);
            if n % 4 == 3 {
                batch = batch.delete(vec![b'k', n % 3]).actor("ada");
            }
            sim.run(batch).unwrap();
        }
        folds += sim.engine.gauges.folds;
        if owner != 1 {
            sim.engine.close().unwrap();
        }
    }
    assert!(folds > 0);
    let disk = disk.power_loss(Keep::Everything);
    let store = open(&disk, options).unwrap();
    let content = all(&store);
    store.close().unwrap();
    (disk.power_loss(Keep::Everything), content)
}

/// The options before and after: which keys, which ciphers, and whether at all.
pub fn pairs(strategy: Strategy) -> Vec<(Options, Options)> {
    let size = |byte, size| {
        let mut options = under(ring(byte), strategy);
        options.key_size = size;
        options
    };
    let none = || under(Encryption::None, strategy);
    vec![
        (size(1, KeySize::Aes256), size(2, KeySize::Aes128)),
        (size(1, KeySize::Aes128), size(1, KeySize::Aes192)),
        (size(1, KeySize::Aes192), none()),
        (none(), size(1, KeySize::Aes256)),
    ]
}

/// What a crash or an error left: the old keys open all of it or the new ones do, and another run
/// with both finishes it. True if the switch was done.
pub fn check(disk: &SimDisk, old: &Options, new: &Options, content: &All) -> bool {
    let switched = match open(&disk.restart(), old) {
        Ok(store) => {
            assert_eq!(all(&store), *content, "with the old keys");
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::Encryption, "{error:?}");
            true
        }
    };
    // If the old keys are of no use, the new ones are: an ordinary open finishes.
    if switched {
        let disk = disk.restart();
        let store = open(&disk, new).unwrap();
        assert_eq!(all(&store), *content, "with the new keys");
        store.close().unwrap();
        assert_eq!(strangers(&disk, new), BTreeSet::new());
    }
    let done = migrate(disk, old, new).unwrap();
    if old.encryption.what() != new.encryption.what() {
        assert_eq!(done.resumed, switched);
    }
    assert_eq!(done.revision, content.revision);
    assert_eq!(done.keys, content.entries.len() as u64);
    assert_eq!(strangers(disk, new), BTreeSet::new());
    // And what is there survives a power loss, and is written on.
    let disk = disk.power_loss(Keep::Nothing);
    let store = open(&disk, new).unwrap();
    assert_eq!(all(&store), *content, "after another run");
    assert_eq!(
        store.set(b"after", b"all").unwrap().revision,
        content.revision + 1
    );
    drop(store);
    let store = open(&disk.power_loss(Keep::Nothing), new).unwrap();
    assert_eq!(store.len(), content.entries.len() as u64 + 1);
    switched
}

/// Files that are not of a store under these keys.
fn strangers(disk: &SimDisk, options: &Options) -> BTreeSet<String> {
    let cipher = match options.encryption {
        Encryption::None => crate::format::Cipher::None,
        _ => crate::format::Cipher::AesGcm(options.key_size),
    };
    let mut names: BTreeSet<String> = disk.list().unwrap().into_iter().collect();
    names.retain(|name| {
        let parsed = crate::layout::parse(name);
        if matches!(parsed, Name::Epoch(_)) {
            return false;
        }
        let bytes = disk.content(name);
        let prefix = bytes.get(..12288);
        let opened = prefix.map(|prefix| crate::format::open(prefix, &options.encryption));
        // A spare that was never begun is nobody's.
        let unbegun = bytes.iter().all(|byte| *byte == 0);
        let ours = opened.is_some_and(|open| open.is_ok_and(|open| open.header.cipher == cipher));
        matches!(parsed, Name::Temporary | Name::Next(..)) || !(ours || unbegun)
    });
    names
}

/// Loses power at every `step`th call that changes the disk, and checks what is left. How many
/// states, and how many of them behind the switch.
fn sweep(old: &Options, new: &Options, step: usize, broken: Option<&'static str>) -> (u64, u64) {
    let (base, content) = prepared(old);
    if let Some(part) = broken {
        base.break_sync(part);
    }
    let whole = base.restart();
    let done = migrate(&whole, old, new).unwrap();
    assert!(!done.resumed && done.logs > 0);
    let (mut states, mut switched) = (0, 0);
    for call in (1..=whole.changes()).step_by(step) {
        let disk = base.restart();
        disk.arm(call, Fault::PowerLoss);
        assert!(migrate(&disk, old, new).is_err());
        for keep in [Keep::Nothing, Keep::Everything, Keep::Some(call)] {
            states += 1;
            switched += u64::from(check(&disk.power_loss(keep), old, new, &content));
        }
    }
    println!("crash states of a migration checked: {states}, behind the switch: {switched}");
    (states, switched)
}

/// Every call for one pair of options, and some for the others.
fn sweep_all(strategy: Strategy, whole: usize, step: usize) {
    for (at, (old, new)) in pairs(strategy).iter().enumerate() {
        let (states, switched) = sweep(old, new, if at == whole { step } else { 8 }, None);
        // The second pair differs in the size of the frames' keys alone: both open both.
        assert!(at == 1 || switched > 3 && switched < states);
    }
}

#[test]
fn a_power_loss_at_any_call_leaves_the_old_snapshot_or_the_new_one() {
    sweep_all(Strategy::Snapshot, 0, 1);
}

#[test]
fn a_power_loss_at_any_call_leaves_the_old_ledger_or_the_new_one() {
    sweep_all(Strategy::Ledger, 3, 2);
}

#[test]
fn the_sweep_notices_each_sync_that_is_left_out() {
    let (old, new) = pairs(Strategy::Snapshot).remove(0);
    for part in ["journal-", "image-", "."] {
        let swept = catch_unwind(AssertUnwindSafe(|| sweep(&old, &new, 1, Some(part))));
        assert!(
            swept.is_err(),
            "syncs of {part} could be left out unnoticed"
        );
    }
}

#[test]
fn an_error_at_any_call_of_a_migration_leaves_the_old_store_or_the_new_one() {
    let mut tried = 0;
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let (old, new) = pairs(strategy).remove(0);
        let (base, content) = prepared(&old);
        let whole = base.restart();
        migrate(&whole, &old, &new).unwrap();
        for fault in [Fault::ErrorOnce, Fault::ErrorForEver] {
            for call in (1..=whole.calls()).step_by(13) {
                let disk = base.restart();
                disk.arm(call, fault);
                let failed = migrate(&disk, &old, &new).is_err();
                assert!(failed || fault == Fault::ErrorOnce);
                assert_eq!(disk.resyncs(), 0);
                tried += 1;
                check(&disk.restart(), &old, &new, &content);
                check(&disk.power_loss(Keep::Some(call)), &old, &new, &content);
            }
        }
    }
    println!("errors in migrations: {tried}");
}

#[test]
fn a_full_disk_leaves_the_old_store_and_gives_its_space_back() {
    let (old, new) = pairs(Strategy::Ledger).remove(0);
    let (base, content) = prepared(&old);
    let whole = base.restart();
    migrate(&whole, &old, &new).unwrap();
    let (used, peak) = (base.used(), whole.take_peak());
    assert!(peak > used * 3 / 2);
    for part in 1..10 {
        let disk = base.restart();
        disk.set_capacity(used + (peak - used) * part / 10);
        let error = migrate(&disk, &old, &new).unwrap_err();
        assert!(error.is(Code::DiskFull), "{error:?}");
        assert!(disk.used() <= used + 4096, "{} of {used}", disk.used());
        let store = open(&disk, &old).unwrap();
        assert_eq!(all(&store), content);
    }
}

#[test]
fn what_an_interval_may_have_lost_stays_a_new_lineage_with_higher_revisions() {
    let disk = SimDisk::default();
    let mut old = under(Encryption::None, Strategy::Snapshot);
    old.durability = crate::Durability::INTERVAL;
    let mut sim = Sim::open(&disk, old.clone(), 1).unwrap();
    let lineage = sim.engine.seat.lineage;
    sim.run(Batch::new().set("a", "1")).unwrap();
    drop(sim);
    let new = under(ring(1), Strategy::Snapshot);
    migrate(&disk, &old, &new).unwrap();
    for owner in 1..3 {
        let sim = Sim::open(&disk, new.clone(), owner).unwrap();
        assert_ne!(sim.engine.seat.lineage, lineage);
        assert!(sim.engine.next > 1 << 31);
        assert!(sim.engine.next < 1 << 33, "once");
    }
}

/// Encryption of every sort, for real directories.
fn sorts() -> Vec<Options> {
    let mut all = Vec::new();
    for encryption in [
        Encryption::None,
        ring(1),
        ring(2),
        Encryption::Passphrase(passphrase("correct horse battery")),
        Encryption::Passphrase(passphrase("another horse battery")),
    ] {
        let mut options = Options::new(encryption);
        options.strategy = Strategy::Ledger;
        options.key_size = KeySize::ALL[all.len() % 3];
        options.compression = Compression::ALL[all.len() % 4];
        all.push(options);
    }
    all
}

#[test]
fn every_sort_of_encryption_becomes_every_other() {
    for old in sorts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), old.clone()).unwrap();
        for n in 0..50_u8 {
            let batch = Batch::new()
                .set(vec![n % 7 + 1], vec![n; 3000])
                .actor("ada");
            store.commit(batch).unwrap();
        }
        let content = all(&store);
        assert_eq!(content.history.len(), 50);
        store.close().unwrap();
        let mut before = old.encryption.clone();
        for new in sorts() {
            let mut steps: BTreeMap<_, Vec<_>> = BTreeMap::new();
            let done = migrate_encryption(dir.path(), &before, &new, &mut |progress| {
                assert!(progress.done <= progress.total, "{progress:?}");
                let told = (progress.done, progress.total);
                steps.entry(progress.step).or_default().push(told);
            });
            assert_eq!(done.unwrap().keys, 7);
            let names: Vec<_> = steps.keys().copied().collect();
            assert_eq!(names, ["image", "log", "remove", "verify"]);
            for step in ["verify", "remove"] {
                let told = &steps[step];
                assert!(told.is_sorted_by_key(|(done, _)| *done), "{told:?}");
                let (first, last) = (told[0], told[told.len() - 1]);
                assert!(first.0 == 0 && last.0 == last.1 && last.1 > 0, "{told:?}");
            }
            // On the way through the image and the log, and not only at its end.
            let far = |(done, total): &&(u64, u64)| *done > 0 && done < total;
            assert!(steps["verify"].iter().filter(far).count() > 1, "{steps:?}");
            let store = Store::open(dir.path(), new.clone()).unwrap();
            assert_eq!(all(&store), content);
            store.close().unwrap();
            before = new.encryption.clone();
            for other in sorts() {
                if format!("{:?}", other.encryption) != format!("{:?}", new.encryption) {
                    let error = Store::open(dir.path(), other).err().unwrap();
                    assert_eq!(error.kind(), Kind::Encryption);
                }
            }
        }
    }
}

#[test]
fn a_migration_that_cannot_be_modifies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nothing");
    let run = |dir: &std::path::Path, old: &Encryption, new: &Options| {
        migrate_encryption(dir, old, new, &mut |_| {})
    };
    let new = Options::new(ring(2));
    let error = run(&missing, &ring(1), &new).unwrap_err();
    assert!(error.is(Code::NotFound) && !missing.exists());
    let error = run(dir.path(), &ring(1), &new).unwrap_err();
    assert!(error.is(Code::NotFound), "{error:?}");

    let store = Store::open(dir.path(), Options::new(ring(1))).unwrap();
    store.set(b"a", b"1").unwrap();
    let error = run(dir.path(), &ring(1), &new).unwrap_err();
    assert!(error.is(Code::Locked), "{error:?}");
    store.close().unwrap();
    let before = bytes_of(dir.path());
    for old in [
        ring(3),
        Encryption::None,
        Encryption::Keyring(keyring("other", 1)),
        Encryption::Passphrase(passphrase("correct horse battery")),
    ] {
        let error = run(dir.path(), &old, &new).unwrap_err();
        assert_eq!(error.kind(), Kind::Encryption);
        assert_eq!(bytes_of(dir.path()), before);
    }
    let again = run(dir.path(), &ring(1), &new).unwrap();
    assert!(!again.resumed);
    assert!(
        run(dir.path(), &ring(1), &new).unwrap().resumed,
        "done is done"
    );
}

#[test]
fn a_log_file_of_many_megabytes_becomes_another_and_holds_the_same() {
    let mut old = Options::new(ring(1));
    old.strategy = Strategy::Ledger;
    let new = Options {
        encryption: ring(2),
        ..old.clone()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), old.clone()).unwrap();
    let mut rng = super::disk::Rng(7);
    // What does not get shorter by compression, in more bytes than are written before a sync.
    for n in 0..10_u8 {
        // And one whose frame is so large that its memory is not kept.
        let words = if n == 9 { 3 << 17 } else { 1 << 17 };
        let value: Vec<u8> = (0..words).flat_map(|_| rng.next().to_le_bytes()).collect();
        store.set(&[n % 3], &value).unwrap();
    }
    let content = all(&store);
    store.close().unwrap();
    let mut logged = Vec::new();
    migrate_encryption(dir.path(), &old.encryption, &new, &mut |progress| {
        if progress.step == "log" {
            logged.push(progress.done);
        }
    })
    .unwrap();
    assert!(
        logged.is_sorted() && logged.last() > Some(&(8 << 20)),
        "{logged:?}"
    );
    let store = Store::open(dir.path(), new).unwrap();
    assert_eq!(all(&store), content);
}
