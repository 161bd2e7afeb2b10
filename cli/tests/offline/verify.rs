//! `verify` and `salvage`.

use std::fs;

use super::place::{Place, file, flip, snapshot};

const KEYS: [&str; 2] = ["--keyring", "keyring"];

#[test]
fn a_good_store_verifies_with_a_key_and_its_chain_without() {
    let place = Place::with_store();
    let before = snapshot(&place.data());
    let text = place.run(["verify", "data"].iter().chain(&KEYS)).ok();
    assert!(
        text.contains("everything was opened and replayed"),
        "{text}"
    );
    let json = place
        .run(["verify", "data", "-o", "json"].iter().chain(&KEYS))
        .json();
    assert_eq!(json["opened"], true);
    assert_eq!(json["content"]["entries"], 20);
    let text = place.run(["verify", "data"]).ok();
    assert!(text.contains("without a key nothing was opened"), "{text}");
    assert_eq!(snapshot(&place.data()), before);
    let store = place.open("data");
    let root = store.content().unwrap().1;
    let shown = json["content"]["root"].as_str().unwrap();
    let shown: Vec<u8> = (0..shown.len() / 2)
        .map(|at| u8::from_str_radix(&shown[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert_eq!(shown, root);
    // Not while somebody works with it.
    let error = place.run(["verify", "data"].iter().chain(&KEYS)).fails(8);
    assert!(error.contains("open in another process"), "{error}");
}

#[test]
fn each_fault_is_listed_and_the_exit_code_is_7() {
    let place = Place::with_store();
    flip(&file(&place.data(), "journal-"), 12288 + 512 * 3 + 100);
    for keys in [&KEYS[..], &[]] {
        let ran = place.run(["verify", "data"].iter().chain(keys));
        assert_eq!(ran.code, Some(7), "{ran:?}");
        let text = String::from_utf8(ran.out).unwrap();
        assert!(text.contains("1 fault"), "{text}");
        assert!(text.contains("frame 4 at offset 13824"), "{text}");
    }
    fs::write(place.keyring().join("2026-11"), [8; 32]).unwrap();
    place.run(["verify", "data"].iter().chain(&KEYS)).fails(6);
}

#[test]
fn what_can_be_proven_is_written_anew_and_the_rest_is_listed() {
    let place = Place::with_store();
    flip(&file(&place.data(), "journal-"), 12288 + 512 * 3 + 100);
    let before = snapshot(&place.data());
    let salvage = ["salvage", "data", "--into"];
    let ran = place.run(salvage.iter().chain(&["new"]).chain(&KEYS));
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let text = String::from_utf8(ran.out).unwrap();
    for wanted in [
        "Written to       new",
        "frame 4, 512 B at offset 13824, revision 4: ",
        "16 entries recovered behind a gap",
        "may hold an older value",
    ] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    assert_eq!(place.open("new").len(), 19);
    assert!(place.open("new").get(b"k/3").unwrap().is_none());
    let strict = ["strict", "--strict", "-o", "json"];
    let ran = place.run(salvage.iter().chain(&strict).chain(&KEYS));
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert_eq!(place.open("strict").len(), 3);
    assert_eq!(snapshot(&place.data()), before);
    // Nothing is written over.
    place
        .run(salvage.iter().chain(&["new"]).chain(&KEYS))
        .fails(2);
}

#[test]
fn a_store_becomes_a_ledger_and_a_snapshot_again() {
    let place = Place::with_store();
    let convert = ["convert", "data", "--strategy"];
    let to = |strategy: &'static str| place.run(convert.iter().chain(&[strategy]).chain(&KEYS));
    assert_eq!(to("ledger").ok(), "it was a snapshot and is a ledger\n");
    assert_eq!(to("ledger").ok(), "it is a ledger already\n");
    let json = place.run(["inspect", "data", "-o", "json"]).json();
    assert_eq!(json["strategy"], "ledger");
    assert_eq!(json["open"]["refusals"], serde_json::json!([]));
    assert_eq!(to("snapshot").ok(), "it was a ledger and is a snapshot\n");
    assert_eq!(place.open("data").len(), 20);
    place
        .run(["convert", "none", "--strategy", "ledger", "--unencrypted"])
        .fails(3);
}
