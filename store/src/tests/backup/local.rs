//! Backups in a directory: whole or not there, and only the right ones go.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command};

use super::super::disk::{Fault, Keep, SimDisk};
use super::super::options;
use super::{filled, quick};
use crate::backup::{self, BackupOptions, LocalBackup, list, verify};
use crate::{Code, Disk, Store};

fn keep(count: usize) -> BackupOptions {
    BackupOptions {
        keep: NonZeroUsize::new(count),
        ..BackupOptions::default()
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn revisions(dir: &Path) -> Vec<u64> {
    let found = list(dir).unwrap();
    assert!(found.iter().all(|found| found.complete));
    found.into_iter().map(|found| found.revision).collect()
}

#[test]
fn the_last_backups_are_kept_and_sort_by_time() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = dir.path().join("new/backups");
    let store = Store::open(data.path(), options()).unwrap();
    let mut last = None;
    for n in 1..=6_u64 {
        store.set(b"n", &n.to_le_bytes()).unwrap();
        let (path, info) = store.backup_to(&dir, &keep(3)).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        assert_eq!(verify(file, &options().encryption).unwrap(), info);
        let expected: Vec<u64> = (n.saturating_sub(2).max(1)..=n).collect();
        assert_eq!(revisions(&dir), expected);
        last = Some((path, info));
    }
    let (path, info) = last.unwrap();
    let newest: LocalBackup = list(&dir).unwrap().pop().unwrap();
    assert_eq!(newest.path, path);
    assert_eq!(
        (newest.store, newest.bytes, newest.created_ms),
        (
            info.envelope.store,
            info.envelope.bytes,
            info.envelope.created_ms
        )
    );
    assert_eq!(names(&dir).len(), 3, "{:?}", names(&dir));
    // All of them, unless something else is asked for.
    store.backup_to(&dir, &BackupOptions::default()).unwrap();
    assert_eq!(revisions(&dir), [4, 5, 6, 6]);
}

#[test]
fn what_is_not_this_stores_backup_is_not_touched() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let store = Store::open(data.path(), options()).unwrap();
    let other = Store::open(other.path(), options()).unwrap();
    other.set(b"a", b"1").unwrap();
    for _ in 0..3 {
        other.backup_to(dir, &BackupOptions::default()).unwrap();
    }
    store.set(b"a", b"1").unwrap();
    let (path, info) = store.backup_to(dir, &BackupOptions::default()).unwrap();
    let own = path.file_name().unwrap().to_str().unwrap().to_owned();
    // Names like its own, older and newer, with other things in them.
    let stem = &own[..20];
    let bytes = std::fs::read(&path).unwrap();
    for (name, bytes) in [
        (
            "19700101T000000000Z-00000000000000000001-aaaaaaaa.backup",
            &b""[..],
        ),
        (
            "19700101T000000000Z-00000000000000000001-bbbbbbbb.backup",
            b"notes",
        ),
        (
            "19700101T000000000Z-00000000000000000001-cccccccc.backup.gz",
            &bytes,
        ),
        ("notes.txt", b"mine"),
    ] {
        std::fs::write(dir.join(format!("{stem}{name}")), bytes).unwrap();
    }
    let foreign = "codexstore-00000000-19700101T000000000Z-00000000000000000001-dddddddd.backup";
    std::fs::write(dir.join(foreign), &bytes).unwrap();
    let folder = format!("{stem}19700101T000000000Z-00000000000000000001-eeeeeeee.backup");
    std::fs::create_dir(dir.join(&folder)).unwrap();
    let before = names(dir);
    for _ in 0..3 {
        store.backup_to(dir, &keep(1)).unwrap();
    }
    let mut expected = before;
    expected.remove(&own);
    let left = names(dir);
    assert!(left.is_superset(&expected), "{left:?}");
    assert_eq!(left.len(), expected.len() + 1, "{left:?}");
    assert_eq!(
        list(dir)
            .unwrap()
            .iter()
            .filter(|found| found.store == info.envelope.store)
            .count(),
        1
    );
}

#[test]
fn a_damaged_backup_does_not_count_and_the_newest_good_one_stays() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = dir.path();
    let store = Store::open(data.path(), options()).unwrap();
    let mut paths = Vec::new();
    for n in 0..5_u64 {
        store.set(b"n", &n.to_le_bytes()).unwrap();
        let (path, info) = store.backup_to(dir, &BackupOptions::default()).unwrap();
        paths.push((path, info.envelope.store));
    }
    let id = paths[0].1;
    // The newest is cut, the one before it is changed in the middle.
    let bytes = std::fs::read(&paths[4].0).unwrap();
    std::fs::write(&paths[4].0, &bytes[..bytes.len() - 512]).unwrap();
    let mut bytes = std::fs::read(&paths[3].0).unwrap();
    bytes[12_288 + 60] ^= 1;
    std::fs::write(&paths[3].0, &bytes).unwrap();
    assert_eq!(
        list(dir)
            .unwrap()
            .iter()
            .filter(|found| !found.complete)
            .count(),
        1
    );
    let gone = backup::rotate(dir, id, NonZeroUsize::MIN).unwrap();
    assert_eq!(gone.len(), 2, "{gone:?}");
    let left: Vec<bool> = paths.iter().map(|(path, _)| path.exists()).collect();
    assert_eq!(left, [false, false, true, true, true]);
    // With a good one above them, the damaged ones go as well.
    store.backup_to(dir, &keep(1)).unwrap();
    assert_eq!(names(dir).len(), 1);
}

#[test]
fn a_clock_that_went_back_does_not_cost_the_backup_just_written() {
    let sim = filled(quick(), 1);
    let disk = SimDisk::default();
    sim.clock.advance(3_600_000);
    let shared = &sim.engine.shared;
    let (future, _) = backup::write_to(shared, &disk, &keep(1)).unwrap();
    // The same store, from an older copy, with a clock that is behind.
    let behind = filled(quick(), 1);
    let (name, info) = backup::write_to(&behind.engine.shared, &disk, &keep(1)).unwrap();
    assert_eq!(info.envelope.store, sim.engine.seat.store, "seeded alike");
    assert!(name < future);
    assert_eq!(disk.list().unwrap(), [name, future]);
}

#[test]
fn an_error_at_any_call_leaves_no_partial_file() {
    let sim = filled(quick(), 1);
    let shared = &sim.engine.shared;
    let first = SimDisk::default();
    for _ in 0..3 {
        sim.clock.advance(1000);
        backup::write_to(shared, &first, &BackupOptions::default()).unwrap();
    }
    let clean = first.restart();
    backup::write_to(shared, &clean, &keep(2)).unwrap();
    let calls = clean.calls();
    assert_eq!(clean.list().unwrap().len(), 2);
    for call in 1..=calls {
        let disk = first.restart();
        disk.arm(call, Fault::ErrorOnce);
        let result = backup::write_to(shared, &disk, &keep(2));
        disk.disarm();
        let left = disk.list().unwrap();
        assert!(left.len() >= 2, "call {call}: {left:?}");
        for name in &left {
            assert!(
                name.ends_with(".backup"),
                "call {call}, {result:?}: {left:?}"
            );
            verify(&disk.content(name)[..], &quick().encryption).unwrap();
        }
    }
    let room = first.used();
    let one = room / 3;
    for more in (0..one).step_by(one / 20) {
        let disk = first.restart();
        disk.set_capacity(room + more);
        let error = backup::write_to(shared, &disk, &keep(1)).unwrap_err();
        assert!(error.is(Code::DiskFull), "{error:?}");
        assert_eq!(disk.list().unwrap(), first.list().unwrap());
    }
    println!("backup into a directory: errors injected: {calls}");
}

#[test]
fn a_power_loss_at_any_call_leaves_only_whole_backups_under_their_names() {
    let sim = filled(quick(), 1);
    let shared = &sim.engine.shared;
    let first = SimDisk::default();
    let (old, _) = backup::write_to(shared, &first, &BackupOptions::default()).unwrap();
    sim.clock.advance(1000);
    let mut states = 0;
    for change in 1.. {
        let disk = first.restart();
        disk.arm(change, Fault::PowerLoss);
        let done = backup::write_to(shared, &disk, &keep(1));
        for seed in 0..8 {
            let keep = match seed {
                0 => Keep::Nothing,
                1 => Keep::Everything,
                _ => Keep::Some(change * 100 + seed),
            };
            states += 1;
            let found = disk.power_loss(keep);
            let names = found.list().unwrap();
            let whole = names.iter().filter(|name| name.ends_with(".backup"));
            let mut count = 0;
            for name in whole {
                verify(&found.content(name)[..], &quick().encryption).unwrap();
                count += 1;
            }
            assert!(count > 0, "change {change}: none is left");
            if let Ok((name, _)) = &done {
                assert!(names.contains(name), "what was promised is there");
            } else {
                assert!(names.contains(&old) || count == 1);
            }
        }
        if done.is_ok() {
            break;
        }
    }
    println!("backup into a directory: crash states checked: {states}");
}

#[test]
fn what_a_dead_writer_left_goes_after_a_day() {
    let sim = filled(quick(), 1);
    let shared = &sim.engine.shared;
    let disk = SimDisk::default();
    disk.arm(5, Fault::PowerLoss);
    backup::write_to(shared, &disk, &keep(1)).unwrap_err();
    let disk = disk.power_loss(Keep::Everything);
    let partial = disk.list().unwrap();
    assert_eq!(partial.len(), 1, "{partial:?}");
    disk.create("codexstore-00000000-19700101T000000000Z-aaaaaaaa.backup-tmp")
        .unwrap();
    sim.clock.advance(23 * 3_600_000);
    backup::write_to(shared, &disk, &keep(1)).unwrap();
    assert!(
        disk.list().unwrap().contains(&partial[0]),
        "its writer may live"
    );
    sim.clock.advance(2 * 3_600_000);
    backup::write_to(shared, &disk, &keep(1)).unwrap();
    let left = disk.list().unwrap();
    assert!(!left.contains(&partial[0]), "{left:?}");
    assert_eq!(left.len(), 2, "another store's stays: {left:?}");
}

/// What a process of the next test does.
const CHILD: &str = "CODEXSTORE_TEST_ROTATE";

#[test]
fn rotation_by_many_processes_and_threads_never_costs_the_last_ones() {
    if let Ok(arguments) = std::env::var(CHILD) {
        let (data, dir) = arguments.split_once('|').unwrap();
        let store = Store::open(Path::new(data), options()).unwrap();
        return rotate_often(&store, Path::new(dir));
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("backups");
    // Copies of one store, so that each process takes all backups for its own.
    let origin = Store::open(&root.path().join("0"), options()).unwrap();
    origin.set(b"a", &[1; 3000]).unwrap();
    let mut stream = Vec::new();
    let id = origin.backup(&mut stream).unwrap().envelope.store;
    let children: Vec<Child> = (1..4)
        .map(|n| {
            let data = root.path().join(n.to_string());
            backup::restore(&data, &stream[..], &options()).unwrap();
            let name = "rotation_by_many_processes_and_threads_never_costs_the_last_ones";
            Command::new(std::env::current_exe().unwrap())
                .args([&format!("tests::backup::local::{name}"), "--exact"])
                .env(CHILD, format!("{}|{}", data.display(), dir.display()))
                .spawn()
                .unwrap()
        })
        .collect();
    rotate_often(&origin, &dir);
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let left = list(&dir).unwrap();
    assert!(left.len() >= 3, "{left:?}");
    for found in &left {
        let file = std::fs::File::open(&found.path).unwrap();
        verify(file, &options().encryption).unwrap();
    }
    backup::rotate(&dir, id, NonZeroUsize::new(3).unwrap()).unwrap();
    let last = list(&dir).unwrap();
    assert_eq!(last, left[left.len() - 3..], "the newest stay");
    assert_eq!(names(&dir).len(), 3, "{:?}", names(&dir));
}

/// Four threads that back up and rotate at the same time, and look at what is left.
fn rotate_often(store: &Store, dir: &Path) {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    store.set(b"n", b"x").unwrap();
                    store.backup_to(dir, &keep(3)).unwrap();
                    assert!(!list(dir).unwrap().is_empty());
                }
            });
        }
    });
}
