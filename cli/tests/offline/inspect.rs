//! `inspect`.

use std::fs;

use super::place::{Place, file, flip, snapshot};

#[test]
fn a_closed_store_is_told_without_a_key_and_without_a_change() {
    let place = Place::with_store();
    fs::remove_file(place.data().join("LOCK")).unwrap();
    let before = snapshot(&place.data());
    let text = place.run(["inspect", "data"]).ok();
    for wanted in [
        "nobody has it open",
        "AES-256-GCM",
        "2026-11",
        "closed",
        "20 frames",
        "would:",
    ] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    assert!(!text.contains("secret") && !text.contains("k/1"), "{text}");
    assert_eq!(snapshot(&place.data()), before);

    let json = place.run(["inspect", "data", "-o", "json"]).json();
    assert_eq!(json["live"], false);
    assert_eq!(json["epoch"], 1);
    assert_eq!(json["open"]["refusals"], serde_json::json!([]));
    let log = &json["files"][0];
    assert_eq!(log["role"], "log");
    assert_eq!(log["frames"], 20);
    assert_eq!(log["keyId"], "2026-11");
    assert_eq!(log["header"]["kind"], "journal");
    assert_eq!(log["header"]["store"], json["store"]);
    assert_eq!(log["end"]["state"], "closed");
}

#[test]
fn a_store_that_is_open_is_told_with_a_warning() {
    let place = Place::with_store();
    let store = place.open("data");
    store.set(b"more", b"1").unwrap();
    let text = place.run(["inspect", "data"]).ok();
    assert!(text.contains("open in another process"), "{text}");
    store.close().unwrap();
    assert_eq!(
        place.run(["inspect", "data", "-o", "json"]).json()["live"],
        false
    );
}

#[test]
fn damage_is_shown_with_its_place_and_what_an_open_says_to_it() {
    let place = Place::with_store();
    let journal = file(&place.data(), "journal-");
    flip(&journal, 12288 + 512 * 3 + 100);
    let json = place.run(["inspect", "data", "-o", "json"]).json();
    let end = &json["files"][0]["end"];
    assert_eq!(end["state"], "damaged");
    assert_eq!(end["offset"], 12288 + 512 * 3);
    assert_eq!(end["sequence"], 4);
    let refusal = json["open"]["refusals"][0].as_str().unwrap();
    let error = codexstore::Store::open(&place.data(), place.options());
    assert_eq!(refusal, error.err().unwrap().to_string());
    let text = place.run(["inspect", "data"]).ok();
    assert!(text.contains("would refuse"), "{text}");
    assert!(text.contains("damaged at offset 13824, frame 4"), "{text}");
}

#[test]
fn a_torn_end_is_dropped_and_said() {
    let place = Place::with_store();
    let journal = file(&place.data(), "journal-");
    let bytes = fs::read(&journal).unwrap();
    // Without the closing frame, and with the last frame's second half never written.
    let mut cut = bytes[..bytes.len() - 512].to_vec();
    let end = cut.len();
    cut[end - 200..].fill(0);
    fs::write(&journal, cut).unwrap();
    let text = place.run(["inspect", "data"]).ok();
    assert!(text.contains("torn at offset"), "{text}");
    assert!(text.contains("bytes at offset 22016 of"), "{text}");
    assert_eq!(place.open("data").len(), 19);
}

#[test]
fn a_missing_file_is_noticed() {
    let place = Place::with_store();
    fs::remove_file(file(&place.data(), "journal-")).unwrap();
    let text = place.run(["inspect", "data"]).ok();
    assert!(
        text.contains("all of its images and log files are missing"),
        "{text}"
    );
}

#[test]
fn what_is_not_there_is_not_made() {
    let place = Place::new();
    place.run(["inspect", "data"]).fails(3);
    assert!(!place.data().exists());
    fs::create_dir(place.data()).unwrap();
    let text = place.run(["inspect", "data"]).ok();
    assert!(text.contains("make a new store"), "{text}");
    assert_eq!(snapshot(&place.data()).len(), 0);
}
