//! `inspect` and `verify` of a ledger: with and without keys, whole and cut, and against an anchor.

use std::{
    fs,
    path::{Path, PathBuf},
};

use codexstore::{Store, Strategy};

use super::place::{Place, snapshot};

const KEYS: [&str; 2] = ["--keyring", "keyring"];
const FRAME: usize = 512;

/// A ledger of two segments, of five revisions each.
fn ledger() -> Place {
    let place = Place::new();
    let mut options = place.options();
    options.strategy = Strategy::Ledger;
    for _ in 0..2 {
        let store = Store::open(&place.data(), options.clone()).unwrap();
        for n in 0..5 {
            store.set(format!("k/{n}").as_bytes(), b"secret").unwrap();
        }
        store.close().unwrap();
    }
    place
}

/// A segment of it, from 0 on.
fn segment(place: &Place, at: usize) -> PathBuf {
    let names = snapshot(&place.data()).into_keys();
    let mut names = names.filter(|name| name.starts_with("ledger-"));
    place.data().join(names.nth(at).unwrap())
}

fn cut(file: &Path, bytes: usize) {
    let whole = fs::read(file).unwrap();
    fs::write(file, &whole[..whole.len() - bytes]).unwrap();
}

/// What a row of a table says.
#[track_caller]
fn row(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .to_owned()
}

#[test]
fn a_whole_ledger_verifies_without_a_key_and_passes_through_its_anchor() {
    let place = ledger();
    let before = snapshot(&place.data());
    let keyless = place.run(["verify", "data"]).ok();
    assert!(
        keyless.contains("the chain of hashes is whole; without a key"),
        "{keyless}"
    );
    let told = row(&keyless, "Anchor");
    assert_eq!(row(&place.run(["inspect", "data"]).ok(), "Anchor"), told);
    let json = place.run(["inspect", "data", "-o", "json"]).json();
    assert_eq!(json["anchor"], told);
    let keyed = place.run(["verify", "data"].iter().chain(&KEYS)).ok();
    let exact = row(&keyed, "Anchor");
    // The third is the revision: without a key, of the last segment only what its header says.
    let fields = |anchor: &str| -> Vec<String> { anchor.split(':').map(str::to_owned).collect() };
    assert_eq!(fields(&told)[2], "5");
    assert_eq!(fields(&exact)[2], "10");
    assert_eq!((fields(&told)[0].len(), fields(&told)[5].len()), (32, 64));
    for anchor in [&told, &exact] {
        let against = ["verify", "data", "--anchor", anchor];
        let text = place.run(against).ok();
        assert!(text.contains("whole and passes through the anchor"));
        let text = place.run(against.iter().chain(&KEYS)).ok();
        assert!(text.contains("the log passes through the anchor"), "{text}");
        let json = place.run(against.iter().chain(&["-o", "json"])).json();
        assert_eq!(json["anchorHeld"], true);
        assert_eq!(json["anchor"], told);
    }
    assert_eq!(snapshot(&place.data()), before);
}

#[test]
fn a_ledger_whose_end_is_cut_fails_against_its_anchor_and_says_what_is_lost() {
    let place = ledger();
    let keyed = place.run(["verify", "data"].iter().chain(&KEYS)).ok();
    let anchor = row(&keyed, "Anchor");
    // The closing frame and two revisions.
    cut(&segment(&place, 1), 3 * FRAME);
    // It is a ledger as it was once: by itself it shows nothing.
    let text = place.run(["verify", "data"]).ok();
    assert!(text.contains("the chain of hashes is whole"), "{text}");
    place.run(["verify", "data"].iter().chain(&KEYS)).ok();

    let against = ["verify", "data", "--anchor", &anchor];
    let ran = place.run(against);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let text = String::from_utf8(ran.out).unwrap();
    assert!(text.contains("1 fault, without a key"), "{text}");
    assert!(
        text.contains("the ledger was cut, rolled back or went another way"),
        "{text}"
    );
    assert!(!text.contains("Anchor"), "no anchor of what is cut: {text}");
    let ran = place.run(against.iter().chain(&KEYS));
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let text = String::from_utf8(ran.out).unwrap();
    assert!(
        text.contains("1 fault, although everything was opened"),
        "{text}"
    );
    assert!(text.contains("revisions 9 to 10 are lost"), "{text}");
    let ran = place.run(against.iter().chain(&["-o", "json"]));
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let json: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!(json["anchorHeld"], false);
    assert_eq!(json["anchor"], serde_json::Value::Null);
}

#[test]
fn a_ledger_that_is_cut_before_its_end_fails_without_a_key_and_without_an_anchor() {
    let place = ledger();
    cut(&segment(&place, 0), 2 * FRAME);
    for keys in [&KEYS[..], &[]] {
        let ran = place.run(["verify", "data"].iter().chain(keys));
        assert_eq!(ran.code, Some(7), "{ran:?}");
        let text = String::from_utf8(ran.out).unwrap();
        assert!(text.contains("ends at sequence 4 before"), "{text}");
    }
    let text = place.run(["inspect", "data"]).ok();
    assert!(
        text.contains("would refuse") && !text.contains("Anchor"),
        "{text}"
    );
}

#[test]
fn what_is_no_anchor_or_no_ledger_is_refused() {
    let place = ledger();
    let ran = place.run(["verify", "data", "--anchor", "10"]);
    assert!(ran.err.contains("STORE:EPOCH:REVISION"), "{ran:?}");
    assert_eq!(ran.code, Some(2));
    let anchor = row(&place.run(["verify", "data"]).ok(), "Anchor");
    let other = Place::with_store();
    let ran = other.run(["verify", "data", "--anchor", &anchor]);
    let error = ran.fails(2);
    assert!(error.contains("for the ledger strategy"), "{error}");
    let text = other.run(["inspect", "data"]).ok();
    assert!(!text.contains("Anchor"), "{text}");
    fs::create_dir(other.path("empty")).unwrap();
    let ran = other.run(["verify", "empty", "--anchor", &anchor]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let text = String::from_utf8(ran.out).unwrap();
    assert!(text.contains("there is no store"), "{text}");
}
