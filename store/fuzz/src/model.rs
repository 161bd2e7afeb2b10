//! Operations on a store, and what a map makes of the same.

use std::collections::BTreeMap;
use std::path::Path;

use codexstore::{
    Batch, Code, Compression, Encryption, Expect, Key, KeyId, Keyring, Options, Scan, Store,
    Strategy,
};

fn open(dir: &Path, how: u8) -> Store {
    let id = KeyId::new("k1").expect("an id");
    let keyring = Keyring::single(id, Key::new(&[7; 32]).expect("a key"));
    let mut options = Options::new(if how & 1 == 0 {
        Encryption::Keyring(keyring)
    } else {
        Encryption::None
    });
    options.strategy = if how & 2 == 0 {
        Strategy::Snapshot
    } else {
        Strategy::Ledger
    };
    options.compression = if how & 4 == 0 {
        Compression::None
    } else {
        Compression::Zstd
    };
    Store::open(dir, options).expect("opens")
}

/// A key of a small space: some are prefixes of others, or have bytes of every kind.
fn key(byte: u8) -> Vec<u8> {
    let mut key = vec![byte % 7 * 40; 1 + usize::from(byte / 7 % 4)];
    if byte > 200 {
        key.push(byte);
    }
    key
}

/// Each three bytes are an operation, its key, and what it does.
pub fn model(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    // In memory, where a sync costs nothing.
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory");
    let mut store = open(dir.path(), *how);
    let mut map: BTreeMap<Vec<u8>, (Vec<u8>, u64)> = BTreeMap::new();
    let mut revision = 0;
    for op in data.chunks_exact(3).take(60) {
        let (key, value) = (
            key(op[1]),
            vec![op[2]; usize::from(op[2]) * usize::from(op[2] % 5)],
        );
        match op[0] % 9 {
            0 | 1 => {
                let done = store.set(&key, &value).expect("set");
                revision += 1;
                let before = map.insert(key, (value, revision));
                assert_eq!(
                    (done.revision, done.created),
                    (revision, u64::from(before.is_none()))
                );
            }
            2 => {
                let there = map.remove(&key).is_some();
                revision += u64::from(there);
                let done = store.delete(&key).expect("delete");
                assert_eq!((done.deleted, done.revision), (u64::from(there), revision));
            }
            3 => {
                let expect = match op[2] % 3 {
                    0 => Expect::Absent,
                    1 => Expect::Present,
                    _ => Expect::Revision(
                        map.get(&key)
                            .map_or(9, |found| found.1 + u64::from(op[2] > 200)),
                    ),
                };
                let holds = match (expect, map.get(&key)) {
                    (Expect::Absent, found) => found.is_none(),
                    (Expect::Present, found) => found.is_some(),
                    (Expect::Revision(at), found) => found.is_some_and(|found| found.1 == at),
                };
                let done = store.compare_and_set(&key, expect, &value);
                if holds {
                    revision += 1;
                    assert_eq!(done.expect("holds").revision, revision);
                    map.insert(key, (value, revision));
                } else {
                    assert!(
                        done.expect_err("does not hold")
                            .is(Code::PreconditionFailed)
                    );
                }
            }
            4 => {
                let other = self::key(op[2]);
                let done = store.commit(
                    Batch::new()
                        .set(key.clone(), value.clone())
                        .delete(other.clone()),
                );
                let there = map.contains_key(&key) || map.contains_key(&other);
                let nothing = key == other && !there;
                revision += u64::from(!nothing);
                assert_eq!(done.expect("a batch").revision, revision);
                map.insert(key, (value, revision));
                map.remove(&other);
            }
            5 => {
                let found = store.get(&key).expect("get");
                let found = found.map(|entry| (entry.value().to_vec(), entry.modified()));
                assert_eq!(found.as_ref(), map.get(&key));
            }
            6 if op[1] < 60 => {
                let doomed: Vec<Vec<u8>> = map
                    .keys()
                    .filter(|k| k.starts_with(&key))
                    .cloned()
                    .collect();
                assert_eq!(
                    store.delete_prefix(&key).expect("delete"),
                    doomed.len() as u64
                );
                revision += u64::from(!doomed.is_empty());
                doomed.iter().for_each(|key| drop(map.remove(key)));
            }
            7 => {
                if op[1] % 2 == 0 {
                    store.close().expect("close");
                } else {
                    drop(store);
                }
                store = open(dir.path(), *how);
            }
            _ => check(&store, &map, revision),
        }
    }
    store.close().expect("close");
    check(&open(dir.path(), *how), &map, revision);
}

fn check(store: &Store, map: &BTreeMap<Vec<u8>, (Vec<u8>, u64)>, revision: u64) {
    assert_eq!(
        (store.len(), store.status().revision),
        (map.len() as u64, revision)
    );
    let page = store.scan(&Scan::all()).expect("scan");
    assert!(
        page.items
            .iter()
            .map(|e| (e.key(), e.value()))
            .eq(map.iter().map(|(k, v)| (&k[..], &v.0[..])))
    );
}
