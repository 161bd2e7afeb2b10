//! What a backup holds, and how long.

use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::super::{disk::SimDisk, keyring, options, sim::Sim};
use super::{backup_of, filled, quick};
use crate::backup::{self, BackupOptions, verify, verify_chain};
use crate::format::Cipher;
use crate::{Batch, Code, Compression, Encryption, KeySize, Kind, Options, Store};

/// Does something at each write.
struct Hooked<F> {
    bytes: Vec<u8>,
    hook: F,
}

impl<F: FnMut(usize) -> io::Result<()>> Write for Hooked<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.hook)(self.bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_backup_shows_one_point_in_time_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for n in 0..200_u32 {
        store.set(&n.to_be_bytes(), &vec![1; 9000]).unwrap();
    }
    let (revision, root) = store.content().unwrap();
    let mut writes = 0_u32;
    let mut out = Hooked {
        bytes: Vec::new(),
        hook: |_| {
            // Both what is still to come and what is gone by.
            for n in [0, 199, 1000 + writes] {
                store.set(&n.to_be_bytes(), b"changed").unwrap();
            }
            store.delete(&100_u32.to_be_bytes()).unwrap();
            writes += 1;
            Ok(())
        },
    };
    let info = store.backup(&mut out).unwrap();
    let bytes = out.bytes;
    assert!(writes > 6, "several frames: {writes}");
    let envelope = &info.envelope;
    assert_eq!((envelope.revision, info.contents.root), (revision, root));
    assert_eq!((info.contents.entries, info.contents.history), (200, None));
    assert_eq!(envelope.lineage.0, store.lineage());
    assert_eq!((envelope.epoch, envelope.next_revision), (1, 201));
    assert_eq!(envelope.bytes, bytes.len() as u64);
    assert_eq!(envelope.sha256[..], Sha256::digest(&bytes)[..]);
    assert_eq!(envelope.key_id.as_ref().unwrap().as_str(), "test-key");
    assert_eq!(verify(&bytes[..], &options().encryption).unwrap(), info);
    assert_eq!(verify_chain(&bytes[..]).unwrap(), info.envelope);
    assert_ne!(store.content().unwrap().1, root, "the store went on");

    let new = tempfile::tempdir().unwrap();
    let restored = backup::restore(new.path(), &bytes[..], &options()).unwrap();
    assert_eq!(restored.backup, info);
    let copy = Store::open(new.path(), options()).unwrap();
    assert_eq!(copy.content().unwrap(), (revision, root));
    assert_eq!(copy.lineage(), restored.lineage.0);
    let next = copy.set(b"new", b"1").unwrap().revision;
    assert_eq!(next, restored.next_revision);
    assert_eq!(next, 201 + (1 << 32));
    let entry = copy.get(&5_u32.to_be_bytes()).unwrap().unwrap();
    assert_eq!((entry.value().len(), entry.modified()), (9000, 6));
}

#[test]
fn the_root_depends_on_content_alone() {
    let mut all = vec![(Encryption::None, KeySize::Aes256, Compression::None)];
    for size in KeySize::ALL {
        for compression in Compression::ALL {
            all.push((options().encryption, size, compression));
        }
    }
    let mut roots = Vec::new();
    for (encryption, key_size, compression) in all {
        let mut options = Options::new(encryption);
        options.key_size = key_size;
        options.compression = compression;
        let sim = filled(options.clone(), 1);
        let (bytes, info) = backup_of(&sim);
        assert_eq!(verify(&bytes[..], &options.encryption).unwrap(), info);
        if matches!(options.encryption, Encryption::Keyring(_)) {
            assert_eq!(info.envelope.cipher, Cipher::AesGcm(key_size));
        }
        roots.push(info.contents);
        let disk = SimDisk::default();
        let env = sim.engine.seat.env.clone();
        backup::restore_on(&disk, &env, &bytes[..], &options).unwrap();
        let copy = Sim::open(&disk, options, 3).unwrap();
        assert_eq!(copy.content(), sim.content());
        assert_eq!(backup_of(&copy).1.contents, info.contents);
    }
    assert!(roots.iter().all(|found| *found == roots[0]), "{roots:?}");
}

#[test]
fn an_empty_store_has_a_backup_too() {
    let sim = Sim::open(&SimDisk::default(), quick(), 1).unwrap();
    let (bytes, info) = backup_of(&sim);
    assert_eq!((info.envelope.revision, info.contents.entries), (0, 0));
    let disk = SimDisk::default();
    let env = sim.engine.seat.env.clone();
    backup::restore_on(&disk, &env, &bytes[..], &quick()).unwrap();
    let mut copy = Sim::open(&disk, quick(), 2).unwrap();
    assert!(copy.content().is_empty());
    assert_eq!(copy.engine.next, 1 + (1 << 32));
    copy.run(Batch::new().set("a", "1")).unwrap();
}

#[test]
fn a_second_restore_goes_on_above_what_the_first_may_have_given_out() {
    let sim = filled(quick(), 1);
    let mut bytes = backup_of(&sim).0;
    let mut next = sim.engine.next;
    for seed in 2..5 {
        let disk = SimDisk::default();
        let env = sim.engine.seat.env.clone();
        let restored = backup::restore_on(&disk, &env, &bytes[..], &quick()).unwrap();
        next += 1 << 32;
        assert_eq!(restored.next_revision, next);
        // Not written to before the next backup.
        let copy = Sim::open(&disk, quick(), seed).unwrap();
        assert_eq!(copy.engine.next, next);
        bytes = backup_of(&copy).0;
    }
}

#[test]
fn a_backup_needs_its_key_and_a_store_needs_to_agree() {
    let sim = filled(options(), 1);
    let (bytes, _) = backup_of(&sim);
    let wrong = |encryption: Encryption, code: Code| {
        let error = verify(&bytes[..], &encryption).unwrap_err();
        assert!(
            error.is(code) && error.kind() == Kind::Encryption,
            "{error:?}"
        );
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(encryption);
        let error = backup::restore(dir.path(), &bytes[..], &options).unwrap_err();
        assert!(error.is(code), "{error:?}");
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing but LOCK: {names:?}");
    };
    wrong(Encryption::Keyring(keyring("other", 7)), Code::KeyMissing);
    wrong(Encryption::Keyring(keyring("test-key", 8)), Code::WrongKey);
    wrong(Encryption::None, Code::EncryptionMismatch);
    let plain = backup_of(&filled(quick(), 1)).0;
    let error = verify(&plain[..], &options().encryption).unwrap_err();
    assert!(error.is(Code::EncryptionMismatch), "{error:?}");
}

#[test]
fn other_files_of_a_store_are_no_backups() {
    let sim = filled(quick(), 1);
    let seat = &sim.engine.seat;
    let random = &*seat.env.random;
    for kind in [
        crate::format::FileKind::Image,
        crate::format::FileKind::Journal,
    ] {
        let made = seat
            .create(kind, 1, crate::format::Link::default())
            .unwrap();
        let mut bytes = made.prefix;
        made.sealer.close(random, &mut bytes).unwrap();
        for error in [
            verify(&bytes[..], &Encryption::None).unwrap_err(),
            verify_chain(&bytes[..]).unwrap_err(),
        ] {
            assert!(error.is(Code::Corrupt), "{error:?}");
        }
    }
}

#[test]
fn a_backup_that_takes_too_long_fails_and_holds_nothing_more() {
    let sim = filled(options(), 1);
    let mut options = BackupOptions {
        deadline: Duration::from_secs(10),
        keep: None,
    };
    let mut out = Hooked {
        bytes: Vec::new(),
        hook: |at| {
            // The last write, the closing frame, is late as well.
            if at > 0 {
                sim.clock.advance(4_000);
            }
            Ok(())
        },
    };
    let error = backup::write(&sim.engine.shared, &options, &mut out).unwrap_err();
    assert!(error.is(Code::Deadline), "{error:?}");
    assert!(verify(&out.bytes[..], &super::super::options().encryption).is_err());
    assert_eq!(sim.engine.shared.holds.bytes(), 0);
    for deadline in [Duration::ZERO, Duration::from_hours(13)] {
        options.deadline = deadline;
        let error = backup::write(&sim.engine.shared, &options, &mut io::sink()).unwrap_err();
        assert!(error.is(Code::InvalidArgument), "{error:?}");
    }
}

#[test]
fn a_failing_writer_is_an_io_error_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    store.set(b"a", b"1").unwrap();
    for (errno, code) in [(28, Code::DiskFull), (32, Code::Io)] {
        let mut out = Hooked {
            bytes: Vec::new(),
            hook: |at| match at {
                0 => Ok(()),
                _ => Err(io::Error::from_raw_os_error(errno)),
            },
        };
        let error = store.backup(&mut out).unwrap_err();
        assert!(error.is(code), "{error:?}");
        assert!(error.to_string().starts_with("write the backup"), "{error}");
    }
    store.set(b"a", b"2").unwrap();
    assert!(store.status().poisoned.is_none());
}

#[test]
fn an_owner_that_was_overtaken_makes_no_backup() {
    let disk = SimDisk::default();
    let mut old = Sim::open(&disk, quick(), 1).unwrap();
    old.run(Batch::new().set("a", "1")).unwrap();
    let _new = Sim::open(&disk, quick(), 2).unwrap();
    let shared = &old.engine.shared;
    let error = backup::write(shared, &BackupOptions::default(), &mut io::sink()).unwrap_err();
    assert!(error.is(Code::Fenced), "{error:?}");
}

/// Memory as it is after all writes that were answered.
fn memory(store: &Store) -> u64 {
    store.run(|_: &mut crate::Txn<'_>| Ok(())).unwrap();
    store.status().memory_bytes
}

/// Begins a backup in another thread and leaves it in the middle of a write until told to go on;
/// then gives its end.
fn stalled(
    store: &Store,
) -> (
    mpsc::Sender<()>,
    mpsc::Receiver<crate::Result<backup::BackupInfo>>,
) {
    let (go, wait) = mpsc::channel::<()>();
    let (begun, started) = mpsc::channel();
    let (done, end) = mpsc::channel();
    let store = store.clone();
    std::thread::spawn(move || {
        let mut first = true;
        let mut out = Hooked {
            bytes: Vec::new(),
            hook: |at| {
                if at > 0 && std::mem::take(&mut first) {
                    begun.send(()).unwrap();
                    wait.recv().unwrap();
                }
                Ok(())
            },
        };
        done.send(store.backup(&mut out)).unwrap();
    });
    started.recv().unwrap();
    (go, end)
}

#[test]
fn what_a_stalled_backup_holds_is_counted_and_let_go_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for n in 0..20_u32 {
        store.set(&n.to_be_bytes(), &vec![1; 50_000]).unwrap();
    }
    let before = memory(&store);
    let (go, end) = stalled(&store);
    for round in 0..3 {
        for n in 0..20_u32 {
            store
                .set(&n.to_be_bytes(), &vec![2 + round; 50_000])
                .unwrap();
        }
    }
    let held = memory(&store);
    assert!(held >= before + 20 * 50_000, "{before} then {held}");
    assert!(held <= 2 * before + 100_000, "{before} then {held}");
    go.send(()).unwrap();
    end.recv().unwrap().unwrap();
    // A fold may still hold what it holds.
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while memory(&store) > before + 100_000 {
        assert!(std::time::Instant::now() < deadline, "never let go");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_write_that_needs_the_memory_of_a_stalled_backup_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.max_memory = 1_500_000;
    let store = Store::open(dir.path(), options).unwrap();
    for n in 0..20_u32 {
        store.set(&n.to_be_bytes(), &vec![1; 50_000]).unwrap();
    }
    let (go, end) = stalled(&store);
    for n in 0..20_u32 {
        store.set(&n.to_be_bytes(), &vec![2; 50_000]).unwrap();
        let memory = memory(&store);
        assert!(memory <= 1_500_000 + 60_000, "{memory}");
    }
    go.send(()).unwrap();
    let error = end.recv().unwrap().unwrap_err();
    assert!(error.is(Code::MemoryFull), "{error:?}");
    store.backup(&mut io::sink()).unwrap();
}

#[test]
fn the_committer_frees_what_is_held_for_too_long() {
    let mut sim = filled(quick(), 1);
    let shared = sim.engine.shared.clone();
    let deadline = Duration::from_secs(10);
    let held = backup::hold(&shared, deadline);
    let batch = || Batch::new().set("key-05", vec![9; 40_000]);
    sim.run(batch()).unwrap();
    assert!(shared.holds.bytes() >= 40_000);
    sim.clock.advance(9_999);
    sim.run(batch()).unwrap();
    assert!(shared.holds.bytes() >= 80_000);
    sim.clock.advance(1);
    sim.run(batch()).unwrap();
    assert_eq!(shared.holds.bytes(), 0, "though its holder sleeps");
    let error = held.view(Duration::ZERO).err().unwrap();
    assert!(error.is(Code::Deadline), "{error:?}");
}
