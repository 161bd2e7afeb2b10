//! What a user of the library sees, on a real directory.

use std::time::Duration;

use super::{keyring, options};
use crate::{
    Batch, Code, Compression, Durability, Encryption, Expect, Kind, Options, Scan, SetOptions,
    Store, Txn,
};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Every file of a store with its bytes.
pub(crate) fn bytes_of(dir: &std::path::Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            (file.file_name(), std::fs::read(file.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn what_was_set_is_there_after_a_reopen() {
    for compression in Compression::ALL {
        let dir = temp();
        let mut options = options();
        options.compression = compression;
        let store = Store::open(dir.path(), options.clone()).unwrap();
        assert_eq!(store.set(b"a", b"1").unwrap().created, 1);
        assert_eq!(store.set(b"a", b"2").unwrap().updated, 1);
        store.set(b"b", &vec![b'x'; 100_000]).unwrap();
        assert_eq!(store.delete(b"nothing").unwrap().deleted, 0);
        let lineage = store.lineage();
        store.close().unwrap();

        let store = Store::open(dir.path(), options).unwrap();
        let entry = store.get(b"a").unwrap().unwrap();
        assert_eq!(entry.value(), b"2");
        assert_eq!(
            (entry.created(), entry.modified(), entry.version()),
            (1, 2, 2)
        );
        assert_eq!(store.get(b"b").unwrap().unwrap().bytes().len(), 100_000);
        assert_eq!((store.len(), store.status().revision), (2, 3));
        assert_eq!(store.lineage(), lineage, "nothing was lost");
    }
}

#[test]
fn a_second_opener_is_refused_until_the_first_has_closed() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    let error = Store::open(dir.path(), options()).err().unwrap();
    assert_eq!((error.kind(), error.code()), (Kind::Concurrency, "locked"));
    let other = store.clone();
    store.close().unwrap();
    assert!(other.set(b"a", b"1").unwrap_err().is(Code::Closed));
    Store::open(dir.path(), options()).unwrap();
}

#[test]
fn dropping_the_last_handle_closes_the_store() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"a", b"1").unwrap();
    drop(store.clone());
    store.set(b"b", b"1").unwrap();
    drop(store);
    assert_eq!(Store::open(dir.path(), options()).unwrap().len(), 2);
}

#[test]
fn files_are_for_their_owner_alone_even_after_someone_loosened_them() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temp();
    let path = dir.path().join("data");
    let check = || {
        let mode =
            |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        for file in std::fs::read_dir(&path).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    };
    Store::open(&path, options())
        .unwrap()
        .set(b"a", b"1")
        .unwrap();
    check();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2775)).unwrap();
    for file in std::fs::read_dir(&path).unwrap() {
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(file.unwrap().path(), open).unwrap();
    }
    let _store = Store::open(&path, options()).unwrap();
    check();
}

#[test]
fn a_wrong_key_a_missing_key_and_a_mismatch_modify_nothing() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"a", b"1").unwrap();
    store.close().unwrap();
    let before = bytes_of(dir.path());
    let attempts = [
        (Encryption::Keyring(keyring("test-key", 8)), "wrong-key"),
        (Encryption::Keyring(keyring("other", 7)), "key-missing"),
        (Encryption::None, "encryption-mismatch"),
    ];
    for (encryption, code) in attempts {
        let error = Store::open(dir.path(), Options::new(encryption))
            .err()
            .unwrap();
        assert_eq!((error.kind(), error.code()), (Kind::Encryption, code));
        assert_eq!(bytes_of(dir.path()), before, "{code} modified something");
    }
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap().value(), b"1");

    let plain = temp();
    Store::open(plain.path(), Options::new(Encryption::None)).unwrap();
    let before = bytes_of(plain.path());
    let error = Store::open(plain.path(), options()).err().unwrap();
    assert!(error.is(Code::EncryptionMismatch));
    assert_eq!(bytes_of(plain.path()), before);
}

#[test]
fn neither_keys_nor_values_are_readable_on_disk() {
    let dir = temp();
    let mut options = options();
    options.compression = Compression::None;
    let store = Store::open(dir.path(), options).unwrap();
    store.set(b"canary-key", b"canary-value").unwrap();
    store.close().unwrap();
    for (name, bytes) in bytes_of(dir.path()) {
        assert!(!bytes.windows(6).any(|part| part == b"canary"), "{name:?}");
    }
}

#[test]
fn preconditions_and_compare_and_set_decide_atomically() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    let first = store.compare_and_set(b"a", Expect::Absent, b"1").unwrap();
    let error = store
        .compare_and_set(b"a", Expect::Absent, b"2")
        .unwrap_err();
    assert!(error.is(Code::PreconditionFailed));
    store
        .compare_and_set(b"a", Expect::Revision(first.revision), b"2")
        .unwrap();
    let stale = Batch::new()
        .expect(&b"a"[..], Expect::Revision(first.revision))
        .set(&b"b"[..], &b"1"[..]);
    assert!(
        store
            .commit(stale)
            .unwrap_err()
            .is(Code::PreconditionFailed)
    );
    assert!(!store.has(b"b").unwrap());
    store
        .commit(
            Batch::new()
                .expect(&b"a"[..], Expect::Present)
                .delete(&b"a"[..]),
        )
        .unwrap();
    assert!(store.is_empty());
}

#[test]
fn the_last_write_of_a_batch_wins_and_counts_once() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"old", b"0").unwrap();
    let batch = Batch::new()
        .set(&b"a"[..], &b"1"[..])
        .set(&b"a"[..], &b"2"[..])
        .delete(&b"old"[..])
        .set(&b"old"[..], &b"1"[..])
        .set(&b"gone"[..], &b"1"[..])
        .delete(&b"gone"[..]);
    let done = store.commit(batch).unwrap();
    assert_eq!(
        (done.revision, done.created, done.updated, done.deleted),
        (2, 1, 1, 0)
    );
    let old = store.get(b"old").unwrap().unwrap();
    assert_eq!((old.created(), old.modified(), old.version()), (1, 2, 2));
    assert_eq!(store.get(b"a").unwrap().unwrap().version(), 1);
    let nothing = store
        .commit(Batch::new().set(&b"x"[..], &b"1"[..]).delete(&b"x"[..]))
        .unwrap();
    assert_eq!(
        nothing.revision, 2,
        "a batch that changes nothing has no revision"
    );
    store.close().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!((store.len(), store.status().revision), (2, 2));
}

#[test]
fn a_failed_or_panicking_program_changes_nothing() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"a", b"1").unwrap();
    let error = store
        .run(|txn: &mut Txn<'_>| {
            txn.set(b"a", b"2")?;
            txn.delete(b"a")?;
            txn.set(b"b", b"2")?;
            txn.set(b"", b"2")
        })
        .unwrap_err();
    assert!(error.is(Code::InvalidKey));
    let panicked = store.run(|txn: &mut Txn<'_>| -> crate::Result<()> {
        txn.set(b"b", b"2")?;
        panic!("a caller's bug")
    });
    assert!(panicked.unwrap_err().is(Code::Internal));
    assert_eq!(store.get(b"a").unwrap().unwrap().value(), b"1");
    assert_eq!(store.set(b"c", b"3").unwrap().revision, 2);
    assert_eq!(store.len(), 2);
}

#[test]
fn limits_on_keys_and_values_are_errors() {
    let dir = temp();
    let mut options = options();
    options.max_value = 1000;
    let store = Store::open(dir.path(), options).unwrap();
    store.set(&[1; 1024], &[0; 1000]).unwrap();
    assert!(store.set(&[1; 1025], b"").unwrap_err().is(Code::InvalidKey));
    assert!(store.set(b"", b"").unwrap_err().is(Code::InvalidKey));
    assert!(store.get(b"").unwrap_err().is(Code::InvalidKey));
    assert!(store.set(b"k", &[0; 1001]).unwrap_err().is(Code::TooLarge));
}

#[test]
fn a_value_larger_than_a_journal_is_kept() {
    let dir = temp();
    let mut options = options();
    options.max_value = 20 << 20;
    options.compression = Compression::None;
    let store = Store::open(dir.path(), options.clone()).unwrap();
    store.set(b"big", &vec![5; 20 << 20]).unwrap();
    store.set(b"small", b"1").unwrap();
    store.close().unwrap();
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(store.get(b"big").unwrap().unwrap().value().len(), 20 << 20);
    assert!(store.has(b"small").unwrap());
}

#[test]
fn scans_page_by_prefix_range_and_pattern() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    let mut batch = Batch::new();
    for n in 0..100 {
        batch = batch.set(format!("user/{n:02}"), format!("{n}"));
    }
    store.commit(batch.set("usa", "x").set("z", "y")).unwrap();
    let keys = |scan: &Scan| -> Vec<String> {
        let mut scan = scan.clone();
        let mut all = Vec::new();
        loop {
            let page = store.scan(&scan).unwrap();
            assert!(scan.limit == 0 || page.items.len() <= scan.limit);
            all.extend(
                page.items
                    .iter()
                    .map(|e| String::from_utf8(e.key().to_vec()).unwrap()),
            );
            match page.cursor {
                Some(cursor) => scan.cursor = Some(cursor),
                None => return all,
            }
        }
    };
    assert_eq!(keys(&Scan::all()).len(), 102);
    let mut scan = Scan::prefix("user/");
    scan.limit = 7;
    assert_eq!(keys(&scan).len(), 100);
    scan.from = Some("user/90".into());
    scan.to = Some("user/95".into());
    assert_eq!(keys(&scan).first().unwrap(), "user/90");
    assert_eq!(keys(&scan).len(), 5);
    let mut scan = Scan::glob("user/?3");
    scan.max_examined = 9;
    assert_eq!(keys(&scan).len(), 10);
    scan.prefix = "us".into();
    scan.max_bytes = 1;
    assert_eq!(keys(&scan).len(), 10);
    assert_eq!(store.keys(b"user/1").unwrap().len(), 10);
    assert!(
        store
            .scan(&Scan::glob("["))
            .unwrap_err()
            .is(Code::InvalidArgument)
    );
    assert_eq!(store.delete_prefix(b"user/").unwrap(), 100);
    assert_eq!(store.clear().unwrap(), 2);
}

#[test]
fn typed_values_go_through_json_and_errors_do_not_quote_them() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set_as(b"list", &vec![1, 2, 3]).unwrap();
    assert_eq!(
        store.get_as::<Vec<u32>>(b"list").unwrap(),
        Some(vec![1, 2, 3])
    );
    assert_eq!(store.get_as::<u32>(b"nothing").unwrap(), None);
    store.set(b"word", b"\"hunter2\"").unwrap();
    let error = store.get_as::<u32>(b"word").unwrap_err();
    assert!(error.is(Code::WrongType) && !format!("{error:?}").contains("hunter2"));
}

#[test]
fn a_clean_close_leaves_live_data_only() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"a", b"1").unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while store.status().disk_bytes < 2 << 20 {
        assert!(std::time::Instant::now() < deadline, "no spare");
        store.set(b"a", b"1").unwrap();
    }
    store.close().unwrap();
    let files = bytes_of(dir.path());
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes < 128 << 10, "{bytes} bytes");
    assert_eq!(files.len(), 3, "lock, epoch and one journal");
}

#[test]
fn interval_durability_is_written_within_the_interval_and_at_close() {
    let dir = temp();
    let mut options = options();
    options.durability = Durability::Interval(Duration::from_millis(20));
    let store = Store::open(dir.path(), options.clone()).unwrap();
    for n in 0..50_u32 {
        store.set(&n.to_be_bytes(), b"x").unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while store.status().groups == 0 {
        assert!(std::time::Instant::now() < deadline, "never written");
        std::thread::sleep(Duration::from_millis(5));
    }
    store.set(b"last", b"x").unwrap();
    store.close().unwrap();
    assert_eq!(Store::open(dir.path(), options).unwrap().len(), 51);
}

#[test]
fn a_keyring_is_reloaded_only_if_it_opens_what_is_there() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"a", b"1").unwrap();
    assert!(
        store
            .reload_keyring(keyring("new", 9))
            .unwrap_err()
            .is(Code::KeyMissing)
    );
    let error = store.reload_keyring(keyring("test-key", 8)).unwrap_err();
    assert!(error.is(Code::WrongKey), "other bytes under the same id");
    let both = crate::Keyring::new(
        crate::KeyId::new("new").unwrap(),
        [("new", 9), ("test-key", 7)]
            .map(|(id, byte)| {
                (
                    crate::KeyId::new(id).unwrap(),
                    crate::Key::new(&[byte; 32]).unwrap(),
                )
            })
            .into(),
    )
    .unwrap();
    store.reload_keyring(both.clone()).unwrap();
    assert_eq!(store.status().loaded_keys.len(), 2);
    assert_eq!(
        store.status().key_id.unwrap().as_str(),
        "test-key",
        "nothing is rewritten"
    );
    store.close().unwrap();
    let store = Store::open(dir.path(), Options::new(Encryption::Keyring(both))).unwrap();
    assert_eq!(store.status().key_id.unwrap().as_str(), "new");
}

#[test]
fn expiry_is_seen_at_once_and_survives_a_reopen() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    let ttl = |ms| SetOptions {
        ttl: Some(Duration::from_millis(ms)),
        keep_ttl: false,
    };
    store.set_with(b"short", b"1", ttl(30)).unwrap();
    store.set_with(b"long", b"1", ttl(3_600_000)).unwrap();
    assert!(
        store
            .set_with(b"none", b"1", ttl(0))
            .unwrap_err()
            .is(Code::InvalidArgument)
    );
    assert!(store.get(b"long").unwrap().unwrap().expires_at().unwrap() > store.now_ms());
    std::thread::sleep(Duration::from_millis(40));
    assert!(store.get(b"short").unwrap().is_none());
    assert_eq!(store.len(), 1);
    store.close().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    assert!(store.get(b"short").unwrap().is_none());
    assert!(store.has(b"long").unwrap());
}

#[test]
fn a_visit_shows_what_a_scan_gives_until_it_is_broken_off() {
    use std::ops::ControlFlow;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for n in 0..100_u8 {
        store.set(&[b'k', n], &[n; 50]).unwrap();
    }
    let scan = Scan {
        from: Some(vec![b'k', 10].into()),
        limit: 30,
        ..Scan::prefix("k")
    };
    let page = store.scan(&scan).unwrap();
    let mut seen = Vec::new();
    let revision = store
        .visit(&scan, |entry| {
            seen.push((entry.key.to_vec(), entry.value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    let items = page.items.iter();
    let items: Vec<_> = items
        .map(|e| (e.key().to_vec(), e.value().to_vec()))
        .collect();
    assert_eq!((revision, items.len()), (page.revision, 30));
    assert_eq!(seen, items);
    let mut shown = 0;
    let broken = store.visit(&scan, |_| {
        shown += 1;
        ControlFlow::Break(())
    });
    assert_eq!((broken.unwrap(), shown), (100, 1));
}

#[test]
fn a_snapshot_shows_one_point_in_time_whatever_is_written_meanwhile() {
    let dir = temp();
    let store = Store::open(dir.path(), options()).unwrap();
    store
        .commit(Batch::new().set("a", "1").set("b", "1"))
        .unwrap();
    let before = store.snapshot();
    let in_txn = store
        .run(|txn: &mut Txn<'_>| {
            txn.delete(b"a")?;
            txn.set(b"b", b"2")?;
            Ok((txn.len(), txn.is_empty(), txn.max_value()))
        })
        .unwrap();
    assert_eq!(in_txn, (1, false, options().max_value));
    let value = |key: &[u8]| before.get(key).unwrap().map(|e| e.value().to_vec());
    assert_eq!(
        (value(b"a"), value(b"b")),
        (Some(b"1".into()), Some(b"1".into()))
    );
    assert_eq!(
        (before.len(), before.scan(&Scan::all()).unwrap().items.len()),
        (2, 2)
    );
    let after = store.snapshot();
    assert_eq!((after.len(), after.is_empty()), (1, false));
    assert!(after.revision() > before.revision() && after.now_ms() >= before.now_ms());
    assert!(before.get(b"").is_err());
}
