//! Damage of every kind in every kind of file, and what salvage makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::disk::ReadOnly;
use super::salvage::{Proven, prove};
use super::{salvage, verify};
use crate::keyring::{Encryption, Key, KeyId, Keyring};
use crate::{Code, Compression, Options, Store, Strategy};

type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store with an image and logs, and all that ever was in it.
struct Truth {
    dir: tempfile::TempDir,
    options: Options,
    changes: Vec<(u64, Vec<u8>, Option<Vec<u8>>)>,
    /// The image's revision.
    image: u64,
    /// The logs behind the image are there as well.
    past: bool,
}

fn keyring() -> Encryption {
    let key = Key::new(&[7; 32]).unwrap();
    Encryption::Keyring(Keyring::single(KeyId::new("k").unwrap(), key))
}

/// Bytes that do not compress and differ for each revision.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

impl Truth {
    fn make(encryption: Encryption, past: bool, strategy: Strategy) -> Truth {
        let mut options = Options::new(encryption);
        options.compression = Compression::Zstd;
        options.strategy = strategy;
        if !past {
            options.keep_log = 0;
        }
        let mut truth = Truth {
            dir: tempfile::tempdir().unwrap(),
            options,
            changes: Vec::new(),
            image: 0,
            past,
        };
        let store = truth.open();
        for n in 0..30_u64 {
            truth.set(&store, n % 24, 30_000);
            if n % 7 == 6 {
                truth.delete(&store, n - 3);
            }
        }
        store.close().unwrap();
        // The next open rewrites everything: an image.
        fs::write(truth.dir.path().join("suspect"), b"").unwrap();
        let store = truth.open();
        while store.status().folds == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        truth.image = truth.changes.last().unwrap().0;
        for n in 0..12_u64 {
            truth.set(&store, n * 2, 2_000);
        }
        truth.delete(&store, 4);
        truth.delete(&store, 5);
        store.close().unwrap();
        let store = truth.open();
        for n in 0..6_u64 {
            truth.set(&store, 100 + n, 100);
        }
        store.close().unwrap();
        truth
    }

    fn open(&self) -> Store {
        Store::open(self.dir.path(), self.options.clone()).unwrap()
    }

    fn set(&mut self, store: &Store, key: u64, len: usize) {
        let key = format!("key/{key:03}").into_bytes();
        let value = value(self.changes.len() as u64 + 1, len);
        let revision = store.set(&key, &value).unwrap().revision;
        self.changes.push((revision, key, Some(value)));
    }

    fn delete(&mut self, store: &Store, key: u64) {
        let key = format!("key/{key:03}").into_bytes();
        let done = store.delete(&key).unwrap();
        if done.deleted == 1 {
            self.changes.push((done.revision, key, None));
        }
    }

    fn state(&self, revision: u64) -> State {
        let mut state = State::new();
        for (_, key, value) in self.changes.iter().take_while(|(r, ..)| *r <= revision) {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                ["image", "journal", "ledger"]
                    .iter()
                    .any(|kind| name.starts_with(kind))
            })
            .collect();
        files.sort();
        files
    }

    fn prove(&self, strict: bool) -> Proven {
        let disk = ReadOnly::hold(self.dir.path()).unwrap();
        prove(&disk, &self.options.encryption, strict, &mut |_, _| {}).unwrap()
    }

    /// What was proven is right, and nothing is missing but what is told.
    #[track_caller]
    fn check(&self, damage: &str, cut: bool) {
        let Proven {
            report, entries, ..
        } = self.prove(false);
        let found: State = entries
            .iter()
            .map(|(entry, _)| (entry.key().to_vec(), entry.value().to_vec()))
            .collect();
        let lost_image = report
            .lost
            .iter()
            .any(|lost| lost.file.starts_with("image"));
        let lost_log = |revision: u64| {
            report
                .lost
                .iter()
                .filter(|lost| !lost.file.starts_with("image"))
                .any(|lost| {
                    lost.after_revision.is_none_or(|after| revision > after)
                        && lost.before_revision.is_none_or(|before| revision < before)
                })
        };
        let mut last: BTreeMap<&[u8], (u64, Option<&Vec<u8>>)> = BTreeMap::new();
        for (revision, key, value) in &self.changes {
            last.insert(key, (*revision, value.as_ref()));
        }
        let ever: BTreeSet<(&[u8], &[u8])> = self
            .changes
            .iter()
            .filter_map(|(_, key, value)| Some((&key[..], &value.as_ref()?[..])))
            .collect();
        for (key, value) in &found {
            assert!(
                ever.contains(&(key, value)),
                "{damage}: a value that never was: {report:?}"
            );
        }
        for (key, (revision, value)) in last {
            let got = found.get(key);
            let in_image = revision <= self.image && !lost_image;
            let in_log = (self.past || revision > self.image) && !lost_log(revision);
            if in_image || (in_log && !cut) {
                assert_eq!(
                    got.map(Vec::len),
                    value.map(Vec::len),
                    "{damage}: {} of revision {revision}: {report:?}",
                    String::from_utf8_lossy(key)
                );
                assert!(got == value, "{damage}: {report:?}");
            } else if !self.past && revision <= self.image {
                assert!(
                    got.is_none() || got == value,
                    "{damage}: an old value: {report:?}"
                );
            }
        }
        // Strictly: a state that the store was in.
        let strict: State = self
            .prove(true)
            .entries
            .iter()
            .map(|(entry, _)| (entry.key().to_vec(), entry.value().to_vec()))
            .collect();
        let was = (0..=self.changes.last().unwrap().0).any(|at| self.state(at) == strict);
        assert!(was, "{damage}: strictly, not a state that ever was");
    }

    /// Damages each file at `places` places in four ways, one after the other.
    fn sweep(&self, places: usize) -> u32 {
        let mut count = 0;
        for file in self.files() {
            let good = fs::read(&file).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let used = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            // Each page of the beginning, and sectors over all of the rest.
            let step = ((used - 12288) / places).max(512);
            let mut spots: Vec<usize> = vec![9, 140, 3000, 4070, 4096, 4200, 8100, 9000];
            spots.extend((12288..used).step_by(step).enumerate().map(|(n, at)| {
                // Everywhere in a sector: head, body, trailer.
                at / 512 * 512 + [0, 5, 21, 40, 300, 480, 511][n % 7]
            }));
            for at in spots.into_iter().filter(|at| *at < used) {
                let sector = at / 512 * 512..(at / 512 * 512 + 512).min(good.len());
                let mut flipped = good.clone();
                flipped[at] ^= 0x10;
                let mut zeroed = good.clone();
                zeroed[sector.clone()].fill(0);
                let mut noisy = good.clone();
                noisy[sector.clone()].copy_from_slice(&value(at as u64, sector.len()));
                let cut = good[..at].to_vec();
                for (kind, bytes) in [
                    ("flip", flipped),
                    ("zeros", zeroed),
                    ("noise", noisy),
                    ("cut", cut),
                ] {
                    fs::write(&file, bytes).unwrap();
                    // Zeros at the end of a log are not told from a write that never ended.
                    let ends = kind == "cut" || kind == "zeros";
                    self.check(&format!("{kind} at {at} of {name}"), ends);
                    count += 1;
                }
            }
            fs::write(&file, good).unwrap();
        }
        count
    }
}

#[test]
fn without_damage_everything_is_there_and_in_its_newest_state() {
    for strategy in [Strategy::Snapshot, Strategy::Ledger] {
        let truth = Truth::make(keyring(), true, strategy);
        truth.check("none", false);
        let proven = truth.prove(false);
        assert!(proven.report.lost.is_empty() && proven.report.refusals.is_empty());
        assert_eq!(proven.report.behind_gap, 0);
        assert_eq!(proven.entries.len(), truth.state(u64::MAX).len());
        assert_eq!(proven.strategy, strategy);
    }
}

#[test]
fn damage_in_every_file_loses_what_it_hits_and_never_shows_what_was_not() {
    let mut count = 0;
    for (encryption, past, strategy) in [
        (keyring(), true, Strategy::Snapshot),
        (keyring(), false, Strategy::Snapshot),
        (Encryption::None, false, Strategy::Snapshot),
        (keyring(), true, Strategy::Ledger),
    ] {
        count += Truth::make(encryption, past, strategy).sweep(5);
    }
    println!("stores salvaged after damage: {count}, wrong values: 0");
}

#[test]
fn a_file_that_is_gone_costs_only_what_no_other_holds() {
    for past in [true, false] {
        let truth = Truth::make(keyring(), past, Strategy::Snapshot);
        for file in truth.files() {
            let good = fs::read(&file).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            fs::remove_file(&file).unwrap();
            let proven = truth.prove(false);
            let found: State = proven
                .entries
                .iter()
                .map(|(entry, _)| (entry.key().to_vec(), entry.value().to_vec()))
                .collect();
            if past && name.starts_with("image") {
                assert!(found == truth.state(u64::MAX), "{name}");
            }
            for (key, value) in &found {
                let ever = truth
                    .changes
                    .iter()
                    .any(|(_, k, v)| k == key && v.as_ref() == Some(value));
                assert!(ever, "{name}: a value that never was");
            }
            fs::write(&file, good).unwrap();
        }
    }
}

#[test]
fn verify_and_salvage_name_the_same_place_and_the_new_store_opens() {
    let truth = Truth::make(keyring(), false, Strategy::Snapshot);
    let dir = truth.dir.path();
    let good = verify(dir, Some(&truth.options.encryption), &mut |_, _| {}).unwrap();
    assert!(good.opened && good.faults.is_empty(), "{good:?}");
    let content = good.content.unwrap();
    assert_eq!(content.entries, truth.state(u64::MAX).len() as u64);

    let log = truth.files().pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[12288 + 512 + 60] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let before = snapshot(dir);
    for encryption in [None, Some(&truth.options.encryption)] {
        let bad = verify(dir, encryption, &mut |_, _| {}).unwrap();
        assert!(!bad.opened && bad.content.is_none());
        let [fault] = &bad.faults[..] else {
            panic!("{bad:?}")
        };
        assert_eq!((fault.offset, fault.sequence), (Some(12800), Some(2)));
    }
    let into = tempfile::tempdir().unwrap();
    let target = into.path().join("new");
    let report = salvage(dir, &target, &truth.options, false, &mut |_, _| {}).unwrap();
    assert!(report.written);
    let [lost] = &report.lost[..] else {
        panic!("{report:?}")
    };
    assert_eq!(
        (lost.offset, lost.sequence, lost.until),
        (12800, 2, Some(2))
    );
    assert_eq!((lost.bytes, report.behind_gap), (512, 4));
    let store = Store::open(&target, truth.options.clone()).unwrap();
    let mut wanted = truth.state(u64::MAX);
    wanted.remove(&b"key/101"[..]);
    let found: State = store
        .scan(&crate::Scan::all())
        .unwrap()
        .items
        .iter()
        .map(|entry| (entry.key().to_vec(), entry.value().to_vec()))
        .collect();
    assert!(found == wanted);
    store.close().unwrap();
    assert!(snapshot(dir) == before, "the damaged store was modified");

    // Not over something, and not into the patient.
    for bad in [&target, &dir.join("new")] {
        let error = salvage(dir, bad, &truth.options, false, &mut |_, _| {}).unwrap_err();
        assert!(error.is(Code::InvalidArgument), "{error:?}");
    }
}

#[test]
fn a_wrong_key_is_an_error_and_not_a_loss() {
    let truth = Truth::make(keyring(), true, Strategy::Snapshot);
    let dir = truth.dir.path();
    let key = Key::new(&[8; 32]).unwrap();
    let wrong = Encryption::Keyring(Keyring::single(KeyId::new("k").unwrap(), key));
    let into = tempfile::tempdir().unwrap();
    let error = salvage(
        dir,
        &into.path().join("new"),
        &Options::new(wrong.clone()),
        false,
        &mut |_, _| {},
    );
    assert!(error.unwrap_err().is(Code::WrongKey));
    assert!(
        verify(dir, Some(&wrong), &mut |_, _| {})
            .unwrap_err()
            .is(Code::WrongKey)
    );
    assert!(verify(dir, None, &mut |_, _| {}).unwrap().faults.is_empty());
}

/// A copy of a store's directory, without its lock.
fn copy(dir: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for (path, bytes) in snapshot(dir) {
        fs::write(to.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    to
}

#[test]
fn what_an_owner_wrote_that_another_had_overtaken_is_not_salvaged() {
    let options = Options::new(keyring());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options.clone()).unwrap();
    store.set(b"a", b"1").unwrap();
    store.close().unwrap();
    // Two owners from here, the second of a higher epoch.
    let other = copy(dir.path());
    let store = Store::open(other.path(), options.clone()).unwrap();
    store.set(b"a", b"overtaken").unwrap();
    store.set(b"b", b"overtaken").unwrap();
    store.close().unwrap();
    fs::write(dir.path().join(crate::layout::epoch(2)), b"").unwrap();
    let store = Store::open(dir.path(), options.clone()).unwrap();
    store.set(b"c", b"2").unwrap();
    store.close().unwrap();
    let log = |number| crate::layout::log(crate::format::FileKind::Journal, number);
    fs::copy(other.path().join(log(2)), dir.path().join(log(3))).unwrap();

    let disk = ReadOnly::hold(dir.path()).unwrap();
    let proven = prove(&disk, &options.encryption, false, &mut |_, _| {}).unwrap();
    let found: Vec<(&[u8], &[u8])> = proven
        .entries
        .iter()
        .map(|(entry, _)| (entry.key(), entry.value()))
        .collect();
    assert_eq!(found, [(&b"a"[..], &b"1"[..]), (b"c", b"2")]);
    assert!(proven.report.is_complete(), "{:?}", proven.report);
    drop(disk);
    let verified = verify(dir.path(), Some(&options.encryption), &mut |_, _| {}).unwrap();
    assert!(verified.faults.is_empty(), "{verified:?}");
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!(store.len(), 2);
}

#[test]
fn only_the_end_of_a_frame_damaged_loses_nothing() {
    let truth = Truth::make(keyring(), false, Strategy::Snapshot);
    let log = truth.files().pop().unwrap();
    let good = fs::read(&log).unwrap();
    // The chain hash, the end marker, and the padding before them.
    for at in [511, 500, 480, 470] {
        let mut bytes = good.clone();
        bytes[12288 + 512 + at] ^= 1;
        fs::write(&log, bytes).unwrap();
        let proven = truth.prove(false);
        assert!(proven.report.is_complete(), "{at}: {:?}", proven.report);
        assert_eq!(proven.report.mended.len(), 1, "{at}");
        assert_eq!(proven.entries.len(), truth.state(u64::MAX).len(), "{at}");
    }
}

fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}
