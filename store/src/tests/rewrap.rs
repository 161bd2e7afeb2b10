//! Rewraps: of a closed store at each call, and of a running one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};

use parking_lot::Mutex;

use super::basic::bytes_of;
use super::disk::{Fault, Files, Keep, Rng, SimDisk};
use super::keyring;
use super::keys::passphrase;
use super::sim::{Model, Sim, env};
use super::states::Undecided;
use super::workload::quick;
use crate::rewrap::rewrap_on;
use crate::{
    Batch, Code, Encryption, Key, KeyId, Keyring, Kind, Options, Rewrapped, Store, Strategy,
    check_keys, rewrap,
};

/// A keyring of both keys; the first is current.
pub fn both(ids: [&str; 2]) -> Keyring {
    let keys = ids.map(|id| {
        let byte = if id == "old" { 1 } else { 2 };
        (KeyId::new(id).unwrap(), Key::new(&[byte; 32]).unwrap())
    });
    Keyring::new(KeyId::new(ids[0]).unwrap(), keys.into()).unwrap()
}

fn with(keyring: Keyring) -> Options {
    let mut options = quick();
    options.max_disk = 2 << 20;
    options.encryption = Encryption::Keyring(keyring);
    options
}

/// A closed store with an image and several journals under the key `old`.
pub fn prepared() -> SimDisk {
    prepared_as(Strategy::Snapshot)
}

/// The same of a strategy.
fn prepared_as(strategy: Strategy) -> SimDisk {
    let disk = SimDisk::default();
    for owner in 0..2_u8 {
        let mut options = with(keyring("old", 1));
        options.strategy = strategy;
        let mut sim = Sim::open(&disk, options, u64::from(owner)).unwrap();
        for n in 0..12_u8 {
            let batch = Batch::new().set(vec![n % 5 + 1], vec![owner ^ n; 24_000]);
            sim.run(batch).unwrap();
        }
        sim.engine.close().unwrap();
    }
    disk.power_loss(Keep::Everything)
}

fn run(disk: &SimDisk) -> crate::Result<Rewrapped> {
    let old = Encryption::Keyring(keyring("old", 1));
    let new = Encryption::Keyring(keyring("new", 2));
    rewrap_on(disk, &env(3), &old, &new, &mut |_, _| {})
}

/// What a rewrap left, whatever ended it, opens with the keyring of both, and is finished by another one.
fn check_cut(disk: &SimDisk, strategy: Strategy, content: &Model) {
    let open = |disk: &SimDisk, keyring, seed| {
        let mut options = with(keyring);
        options.strategy = strategy;
        Sim::open(disk, options, seed)
    };
    let sim = open(&disk.restart(), both(["new", "old"]), 2).unwrap();
    assert!(sim.content() == *content);
    let done = run(disk).unwrap();
    assert!(done.files >= 3);
    assert_eq!(run(disk).unwrap().slots, 0, "done is done");
    let disk = disk.power_loss(Keep::Nothing);
    let error = open(&disk, keyring("old", 1), 3).err().unwrap();
    assert!(error.is(Code::KeyMissing));
    let sim = open(&disk, keyring("new", 2), 3).unwrap();
    assert!(sim.content() == *content && sim.engine.shared.findings.is_empty());
}

#[test]
fn a_rewrap_is_finished_by_another_one_after_a_power_loss_or_error_at_any_call() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let base = prepared_as(strategy);
        let mut options = with(keyring("old", 1));
        options.strategy = strategy;
        let content = Sim::open(&base.restart(), options, 1).unwrap().content();
        let (whole, seen) = (base.restart(), Arc::<Mutex<Vec<Files>>>::default());
        let noted = seen.clone();
        whole.watch(move |files| noted.lock().push(files.clone()));
        let done = run(&whole).unwrap();
        assert!(done.files >= 3 && done.slots == 2 * done.files, "{done:?}");
        let calls = whole.calls();
        let mut seen = std::mem::take(&mut *seen.lock());
        seen.push(whole.files());
        let (mut met, mut rng) = (BTreeSet::new(), Rng(1));
        for files in &seen {
            let undecided = Undecided::new(files);
            let each = |ways: &[usize]| {
                let disk = base.with_files(undecided.decide(ways));
                if met.insert(disk.hash()) {
                    check_cut(&disk, strategy, &content);
                }
                Ok::<(), ()>(())
            };
            undecided.each(8, &mut rng, each).unwrap();
        }
        assert!(met.len() as u64 > 2 * done.slots);
        for call in (1..=calls).step_by(3) {
            let disk = base.restart();
            disk.arm(call, Fault::ErrorOnce);
            assert!(run(&disk).is_err());
            check_cut(&disk.restart(), strategy, &content);
        }
        println!(
            "crash states of a closed store's rewrap checked, {strategy:?}: {}",
            met.len()
        );
    }
}

#[test]
fn a_rewrap_leaves_nothing_that_the_old_key_opens_and_no_frame_changes() {
    let dir = tempfile::tempdir().unwrap();
    // The same id with other bytes, too.
    let sorts = || {
        [
            Encryption::Keyring(keyring("k", 1)),
            Encryption::Keyring(keyring("k", 2)),
            Encryption::Passphrase(passphrase("correct horse battery")),
            Encryption::Passphrase(passphrase("another horse battery")),
        ]
    };
    let [first, ..] = sorts();
    let store = Store::open(dir.path(), Options::new(first.clone())).unwrap();
    store.set(b"a", b"1").unwrap();
    store.close().unwrap();
    let mut before = first;
    for new in sorts().into_iter().skip(1) {
        let files = bytes_of(dir.path());
        let mut told = Vec::new();
        let done = rewrap(dir.path(), &before, &new, &mut |n, of| told.push((n, of))).unwrap();
        assert_eq!(told.last(), Some(&(done.files, done.files)));
        for ((name, old), (_, new)) in files.iter().zip(bytes_of(dir.path())) {
            if old.len() > 12288 {
                assert_eq!(old[..4096], new[..4096], "{name:?}");
                assert_eq!(old[12288..], new[12288..], "{name:?}");
                assert!(old[4096..8192] != new[4096..8192] && old[8192..12288] != new[8192..12288]);
            }
        }
        let files = bytes_of(dir.path());
        let error = Store::open(dir.path(), Options::new(before)).err().unwrap();
        assert_eq!(error.kind(), Kind::Encryption);
        assert_eq!(bytes_of(dir.path()), files);
        let store = Store::open(dir.path(), Options::new(new.clone())).unwrap();
        assert_eq!(store.get(b"a").unwrap().unwrap().value(), b"1");
        store.close().unwrap();
        before = new;
    }
    // The same passphrase with another count: a new salt, and one for all files.
    let more = passphrase("another horse battery").with_iterations(150_000);
    let more = Encryption::Passphrase(more.unwrap());
    let done = rewrap(dir.path(), &before, &more, &mut |_, _| {}).unwrap();
    assert_eq!(done.slots, 2 * done.files);
    let derivations: BTreeSet<Vec<u8>> = bytes_of(dir.path())
        .into_iter()
        .filter(|(_, bytes)| bytes.len() > 12288)
        .map(|(_, bytes)| bytes[4096 + 148..4096 + 172].to_vec())
        .collect();
    assert_eq!(derivations.len(), 1);
    assert_eq!(
        derivations.first().unwrap()[4..8],
        150_000_u32.to_le_bytes()
    );
}

#[test]
fn a_rewrap_that_cannot_be_modifies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let old = Encryption::Keyring(keyring("old", 1));
    let run = |old: &Encryption, new: &Encryption| rewrap(dir.path(), old, new, &mut |_, _| {});
    assert!(run(&old, &old).unwrap_err().is(Code::NotFound));
    let store = Store::open(dir.path(), Options::new(old.clone())).unwrap();
    store.set(b"a", b"1").unwrap();
    assert!(run(&old, &old).unwrap_err().is(Code::Locked));
    store.close().unwrap();
    let before = bytes_of(dir.path());
    let other = Encryption::Keyring(keyring("other", 3));
    let wrong = Encryption::Keyring(keyring("old", 3));
    let passphrase = Encryption::Passphrase(passphrase("correct horse battery"));
    for (old, new, code) in [
        (&other, &other, Code::KeyMissing),
        (&wrong, &other, Code::WrongKey),
        (&passphrase, &other, Code::EncryptionMismatch),
        (&old, &Encryption::None, Code::InvalidArgument),
    ] {
        let error = run(old, new).unwrap_err();
        assert!(error.is(code), "{error:?}");
        assert!(check_keys(dir.path(), new).is_err());
        assert_eq!(bytes_of(dir.path()), before);
    }
    assert_eq!(check_keys(dir.path(), &old).unwrap(), 1);
    assert_eq!(bytes_of(dir.path()), before);
    let plain = tempfile::tempdir().unwrap();
    assert!(
        check_keys(plain.path(), &old)
            .unwrap_err()
            .is(Code::NotFound)
    );
    Store::open(plain.path(), Options::new(Encryption::None)).unwrap();
    let error = rewrap(plain.path(), &old, &old, &mut |_, _| {}).unwrap_err();
    assert!(error.is(Code::EncryptionMismatch), "{error:?}");
}

#[test]
fn a_running_store_is_rewrapped_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = with(both(["old", "new"]));
    options.max_disk = 8 << 20;
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            for n in 0..300_u32 {
                store
                    .set(&[u8::try_from(n % 20 + 1).unwrap()], &vec![7; 20_000])
                    .unwrap();
            }
        })
    };
    // Nothing to do while the old key is current.
    assert_eq!(store.rewrap().unwrap().slots, 0);
    store.reload_keyring(both(["new", "old"])).unwrap();
    let done = store.rewrap().unwrap();
    assert!(done.files > 0);
    writer.join().unwrap();
    assert_eq!(store.status().key_id.unwrap().as_str(), "new");
    // What was needed before is not any more.
    store.reload_keyring(keyring("new", 2)).unwrap();
    store.set(b"last", b"1").unwrap();
    assert!(store.status().folds > 0);
    store.close().unwrap();
    options.encryption = Encryption::Keyring(keyring("new", 2));
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(store.len(), 21);
    let closed = store.clone();
    store.close().unwrap();
    assert!(closed.rewrap().unwrap_err().is(Code::Closed));
}

#[test]
fn a_disk_that_is_full_in_the_rewrap_of_a_running_store_leaves_nobody_waiting() {
    let base = prepared();
    let mut refused = 0;
    for change in 1..12 {
        let disk = base.restart();
        let mut sim = Sim::open(&disk, with(both(["old", "new"])), 5).unwrap();
        let content = sim.content();
        *sim.engine.seat.encryption.lock() = Encryption::Keyring(both(["new", "old"]));
        let (answer, waiter) = channel();
        sim.engine.shared.rewraps.lock().push(answer);
        disk.arm(disk.changes() + change, Fault::FullOnce);
        let mut answered = Err(TryRecvError::Empty);
        for _ in 0..300 {
            sim.engine.tick();
            answered = waiter.try_recv();
            if !matches!(answered, Err(TryRecvError::Empty)) {
                break;
            }
        }
        let poisoned = sim.engine.shared.poison().is_some();
        match answered {
            Ok(done) => assert!(done.unwrap().slots > 0 && !poisoned),
            Err(error) => assert!(error == TryRecvError::Disconnected && poisoned, "{change}"),
        }
        refused += u64::from(poisoned);
        drop(sim);
        let sim = Sim::open(&disk.restart(), with(both(["new", "old"])), 6).unwrap();
        assert!(sim.content() == content);
    }
    assert!(refused > 0);
}

#[test]
fn an_error_in_the_rewrap_of_a_running_store_poisons_it_and_loses_nothing() {
    for call in 1..40 {
        let disk = SimDisk::default();
        let options = with(both(["old", "new"]));
        let store = Store::open_on(Arc::new(disk.clone()), env(1), options.clone()).unwrap();
        store.set(b"a", b"1").unwrap();
        store.reload_keyring(both(["new", "old"])).unwrap();
        disk.arm(disk.calls() + call, Fault::ErrorForEver);
        let result = store.rewrap();
        if result.is_err() {
            assert!(store.status().poisoned.is_some());
        }
        drop(store);
        let store = Store::open_on(Arc::new(disk.restart()), env(2), options).unwrap();
        assert_eq!(store.get(b"a").unwrap().unwrap().value(), b"1");
    }
}
