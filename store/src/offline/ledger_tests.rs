//! A ledger's directory, verified with and without keys, and against what is known of it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Verification, inspect, verify_against};
use crate::keyring::{Encryption, Key, KeyId, Keyring};
use crate::{Anchor, Code, Options, Store, Strategy};

/// Frames of one small write each are so long, and the first one begins here.
const FRAME: usize = 512;
const FRAMES: usize = 12_288;

fn options() -> Options {
    let key = Key::new(&[7; 32]).unwrap();
    let keyring = Keyring::single(KeyId::new("k").unwrap(), key);
    let mut options = Options::new(Encryption::Keyring(keyring));
    options.strategy = Strategy::Ledger;
    options.max_disk = 64 << 20;
    options
}

/// An owner of a ledger: five revisions, with the anchor behind each.
fn own(dir: &Path) -> Vec<Anchor> {
    let store = Store::open(dir, options()).unwrap();
    let write = |n: u8| {
        store.set(&[n], &[n; 9]).unwrap();
        assert_eq!(store.status().anchor, Some(store.anchor()));
        store.anchor()
    };
    let anchors = (0..5).map(write).collect();
    store.close().unwrap();
    anchors
}

/// A ledger of three segments, and the anchors of its revisions, from 1 on.
fn ledger() -> (tempfile::TempDir, Vec<Anchor>) {
    let dir = tempfile::tempdir().unwrap();
    let anchors = (0..3).flat_map(|_| own(dir.path())).collect();
    (dir, anchors)
}

/// An image of all, behind which the segments are history.
fn fold(dir: &Path) {
    fs::write(dir.join("suspect"), b"").unwrap();
    let store = Store::open(dir, options()).unwrap();
    while store.status().folds == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    store.close().unwrap();
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut segments: Vec<_> = files.filter(|p| name(p).starts_with("ledger-")).collect();
    segments.sort();
    segments
}

/// Cuts so many bytes off.
fn cut(file: &Path, bytes: usize) {
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[..whole.len() - bytes]).unwrap();
}

fn without(dir: &Path, anchor: Option<&Anchor>) -> Verification {
    verify_against(dir, None, anchor, &mut |_, _| {}).unwrap()
}

fn with(dir: &Path, anchor: Option<&Anchor>) -> Verification {
    verify_against(dir, Some(&options().encryption), anchor, &mut |_, _| {}).unwrap()
}

/// The one thing that is wrong.
#[track_caller]
fn fault(found: &Verification) -> &str {
    let [fault] = &found.faults[..] else {
        panic!("{found:?}")
    };
    &fault.what
}

fn opens(dir: &Path, anchor: Anchor) -> crate::Result<()> {
    let mut options = options();
    options.anchor = Some(anchor);
    Store::open(dir, options)?.close()
}

#[test]
fn a_ledger_passes_through_all_its_anchors_and_tells_one_without_a_key() {
    let (dir, anchors) = ledger();
    let dir = dir.path();
    let keyless = without(dir, None);
    assert!(keyless.faults.is_empty() && keyless.anchor_held.is_none());
    let keyed = with(dir, None);
    let (told, exact) = (keyless.anchor.unwrap(), keyed.anchor.unwrap());
    assert_eq!(inspect(dir, &mut |_, _| {}).unwrap().anchor, Some(told));
    // Of the last segment, the revisions are encrypted.
    assert_eq!((told.revision, exact.revision), (10, 15));
    let revision = exact.revision;
    assert_eq!(Anchor { revision, ..told }, exact);
    // The closing frame is behind the last revision.
    let last = anchors.last().unwrap();
    let sequence = last.link.sequence + 1;
    assert_eq!(exact.link.sequence, sequence);
    assert_eq!(
        (exact.store, exact.epoch, exact.link.file),
        (last.store, last.epoch, last.link.file)
    );
    for anchor in anchors.iter().chain([&told, &exact]) {
        for found in [without(dir, Some(anchor)), with(dir, Some(anchor))] {
            assert!(found.faults.is_empty(), "{found:?}");
            assert_eq!(found.anchor_held, Some(true));
        }
    }
    fold(dir);
    for anchor in anchors.iter().chain([&told, &exact]) {
        assert_eq!(without(dir, Some(anchor)).anchor_held, Some(true));
        opens(dir, *anchor).unwrap();
    }
}

#[test]
fn a_segment_that_is_cut_or_changed_is_a_fault_without_a_key() {
    let (dir, _) = ledger();
    let dir = dir.path();
    for image in [false, true] {
        if image {
            fold(dir);
        }
        let segments = segments(dir);
        let earlier = segments.split_last().unwrap().1;
        assert!(earlier.len() >= 2);
        for file in earlier {
            let good = fs::read(file).unwrap();
            // Its closing frame, a whole frame more, and a part of one.
            for bytes in [FRAME, 2 * FRAME, 2 * FRAME - 100] {
                cut(file, bytes);
                let found = without(dir, None);
                assert!(!found.faults.is_empty(), "{bytes} of {}", file.display());
                assert_eq!(found.anchor, None, "of a ledger that is damaged");
                fs::write(file, &good).unwrap();
            }
            let mut bad = good.clone();
            bad[FRAMES + FRAME + 80] ^= 1;
            fs::write(file, &bad).unwrap();
            assert!(!without(dir, None).faults.is_empty());
            fs::write(file, &good).unwrap();
        }
        assert!(without(dir, None).faults.is_empty());
    }
}

#[test]
fn a_gap_in_the_history_is_a_fault_without_a_key_and_its_missing_beginning_is_not() {
    let (dir, anchors) = ledger();
    let dir = dir.path();
    fold(dir);
    let segments = segments(dir);
    let (first, second) = (&segments[0], &segments[1]);
    let good = fs::read(second).unwrap();
    fs::remove_file(second).unwrap();
    let found = without(dir, None);
    let told = fault(&found).to_owned();
    let error = Store::open(dir, options()).err().unwrap();
    assert_eq!(told, error.to_string(), "an open says the same");
    assert!(told.contains("a log file beside it is missing"), "{told}");
    // What is whole begins behind it, and the gap counts.
    assert!(without(dir, Some(&anchors[7])).anchor_held.is_none());
    fs::write(second, &good).unwrap();

    // As retention takes it.
    fs::remove_file(first).unwrap();
    assert!(without(dir, None).faults.is_empty());
    assert_eq!(without(dir, Some(&anchors[7])).anchor_held, Some(true));
    for keys in [None, Some(&options().encryption)] {
        let error = verify_against(dir, keys, Some(&anchors[2]), &mut |_, _| {}).unwrap_err();
        assert!(error.is(Code::PastGone), "{error:?}");
    }
    assert!(opens(dir, anchors[2]).unwrap_err().is(Code::PastGone));
    cut(second, FRAME);
    let found = without(dir, Some(&anchors[2]));
    assert!(!found.faults.is_empty() && found.anchor_held.is_none());
    let note = |note: &super::Fault| note.what.contains("cannot be checked");
    assert!(found.notes.iter().any(note), "{found:?}");
}

#[test]
fn a_ledger_whose_end_is_cut_is_whole_for_all_but_its_anchor() {
    for (bytes, left) in [(2 * FRAME, 14), (3 * FRAME, 13), (2 * FRAME - 100, 14)] {
        let (dir, anchors) = ledger();
        let dir = dir.path();
        cut(segments(dir).last().unwrap(), bytes);
        assert!(without(dir, None).faults.is_empty() && with(dir, None).faults.is_empty());
        for (revision, anchor) in (1..).zip(&anchors) {
            let (keyless, keyed) = (without(dir, Some(anchor)), with(dir, Some(anchor)));
            let held = Some(revision <= left);
            assert_eq!((keyless.anchor_held, keyed.anchor_held), (held, held));
            if revision <= left {
                continue;
            }
            let told = fault(&keyless);
            assert!(told.contains("was cut, rolled back"), "{told}");
            let lost = format!("revisions {} to {revision} are lost", left + 1);
            assert!(fault(&keyed).contains(&lost), "{keyed:?}");
            let error = opens(dir, *anchor).unwrap_err();
            assert_eq!(error.message(), fault(&keyed));
        }
    }
}

#[test]
fn a_ledger_that_went_another_way_is_whole_for_all_but_its_anchor() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    own(dir);
    let before: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let anchors = own(dir);
    for file in fs::read_dir(dir).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    for (path, bytes) in before {
        fs::write(path, bytes).unwrap();
    }
    own(dir);
    own(dir);
    assert!(without(dir, None).faults.is_empty());
    let (keyless, keyed) = (
        without(dir, Some(&anchors[0])),
        with(dir, Some(&anchors[0])),
    );
    assert!(fault(&keyless).contains("another way"), "{keyless:?}");
    let told = "it is at revision 15, but does not pass through the anchor at revision 6";
    assert!(fault(&keyed).contains(told), "{keyed:?}");
    assert!(keyed.opened);
}

#[test]
fn an_anchor_of_another_store_or_of_none_is_told_and_makes_no_store() {
    let (dir, anchors) = ledger();
    let anchor = anchors.last().unwrap();
    let other = ledger().0;
    let of_another = "the anchor is of store";
    assert!(fault(&without(other.path(), Some(anchor))).contains(of_another));
    let names = segments(other.path());
    let error = opens(other.path(), *anchor).unwrap_err();
    assert!(error.is(Code::Corrupt) && error.message().contains(of_another));
    assert_eq!(segments(other.path()), names);

    let none = tempfile::tempdir().unwrap();
    let told = "there is no store";
    assert!(fault(&without(none.path(), Some(anchor))).contains(told));
    let error = opens(none.path(), *anchor).unwrap_err();
    assert!(error.is(Code::Corrupt) && error.message().contains(told));
    assert!(
        !Store::exists(none.path()).unwrap(),
        "it can be restored to"
    );

    let mut snapshot = options();
    snapshot.strategy = Strategy::Snapshot;
    let mut told = Vec::new();
    crate::convert(dir.path(), snapshot.clone(), &mut |done, of| {
        told.push((done, of));
    })
    .unwrap();
    assert!(told.is_sorted() && told[0].0 == 0, "{told:?}");
    let (done, of) = told[told.len() - 1];
    assert!(done == of && told.iter().any(|(done, of)| *done > 0 && done < of));
    let found = verify_against(dir.path(), None, Some(anchor), &mut |_, _| {});
    assert!(found.unwrap_err().is(Code::InvalidArgument));
    assert_eq!(without(dir.path(), None).anchor, None);
    let store = Store::open(dir.path(), snapshot).unwrap();
    assert_eq!(store.status().anchor, None);
    // What may change while it is read is nothing to be kept.
    let (live, _) = ledger();
    let open = Store::open(live.path(), options()).unwrap();
    assert_eq!(inspect(live.path(), &mut |_, _| {}).unwrap().anchor, None);
    open.close().unwrap();
}
