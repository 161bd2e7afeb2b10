//! `export` and `import`.

use std::{fs, os::unix::fs::PermissionsExt};

use codexstore::{Batch, SetOptions};

use super::place::Place;
use crate::support::{codexctl, run_with};

const KEYS: [&str; 2] = ["--keyring", "keyring"];

/// A store with keys and values of every kind.
fn odd() -> Place {
    let place = Place::new();
    let store = place.open("data");
    store
        .commit(
            Batch::new()
                .set("plain", "text with \"quotes\" and \u{2028}")
                .set("empty", "")
                .set(vec![0, 0xff, b'\n'], vec![0xff; 3000])
                .set("größe", "\0\u{1f}"),
        )
        .unwrap();
    for _ in 0..3 {
        store.set(b"often", b"again").unwrap();
    }
    let hour = SetOptions {
        ttl: Some(std::time::Duration::from_hours(1)),
        keep_ttl: false,
    };
    store.set_with(b"lease", b"mine", hour).unwrap();
    store.close().unwrap();
    place
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_is_exported_comes_back_exactly() {
    let place = odd();
    let text = place.run(["export", "data"].iter().chain(&KEYS)).ok();
    let entries = lines(&text);
    assert_eq!(entries.len(), 6);
    assert_eq!(entries[0]["keyBase64"], "AP8K");
    let often = entries.iter().find(|e| e["key"] == "often").unwrap();
    assert_eq!(
        (&often["version"], &often["createdRevision"]),
        (&3.into(), &2.into())
    );

    let file = ["export", "data", "--to", "out.jsonl"];
    place.run(file.iter().chain(&KEYS)).ok();
    let out = place.path("out.jsonl");
    assert_eq!(fs::read_to_string(&out).unwrap(), text);
    assert_eq!(
        fs::metadata(&out).unwrap().permissions().mode() & 0o777,
        0o600
    );
    place.run(file.iter().chain(&KEYS)).fails(2);

    let import = ["import", "copy", "out.jsonl"];
    let json = place
        .run(import.iter().chain(&["-o", "json"]).chain(&KEYS))
        .json();
    assert_eq!(json["created"], 6);
    let before = place.open("data").scan(&codexstore::Scan::all()).unwrap();
    let after = place.open("copy").scan(&codexstore::Scan::all()).unwrap();
    let content = |page: &codexstore::Page| -> Vec<_> {
        page.items
            .iter()
            .map(|e| (e.key().to_vec(), e.value().to_vec(), e.expires_at()))
            .collect()
    };
    assert_eq!(content(&before), content(&after));

    let some = ["export", "data", "--prefix", "l"];
    let text = place.run(some.iter().chain(&KEYS)).ok();
    assert_eq!(lines(&text)[0]["key"], "lease");
    assert_eq!(lines(&text).len(), 1);
}

#[test]
fn keys_that_are_there_fail_are_skipped_or_replaced() {
    let place = Place::with_store();
    let text = "{\"key\":\"new\",\"text\":\"1\"}\n{\"key\":\"k/1\",\"text\":\"other\"}\n";
    fs::write(place.path("in"), text).unwrap();
    let import = |more: &[&'static str]| {
        let base = ["import", "data", "in"];
        place.run(base.iter().chain(more).chain(&KEYS))
    };
    let error = import(&[]).fails(8);
    assert!(
        error.contains("nothing was imported: line 2: its key is there"),
        "{error}"
    );
    assert!(!place.open("data").has(b"new").unwrap());
    let skipped = import(&["--on-conflict", "skip"]).ok();
    assert_eq!(
        skipped,
        "1 created, 0 replaced, 1 skipped, 0 expired before they came\n"
    );
    assert_eq!(
        place.open("data").get(b"k/1").unwrap().unwrap().value(),
        b"secret 1"
    );
    import(&["--on-conflict", "replace"]).ok();
    assert_eq!(
        place.open("data").get(b"k/1").unwrap().unwrap().value(),
        b"other"
    );
    import(&["--prefix", "k/", "--add-prefix", "old/"]).ok();
    let store = place.open("data");
    assert!(store.has(b"old/k/1").unwrap() && !store.has(b"old/new").unwrap());
}

#[test]
fn a_bad_line_is_named_by_number_and_field_and_a_file_changes_nothing() {
    let place = Place::new();
    let text = "{\"key\":\"a\",\"text\":\"1\"}\n{\"key\":\"b\",\"value\":\"my secret!\"}\n";
    fs::write(place.path("in"), text).unwrap();
    let error = place
        .run(["import", "data", "in"].iter().chain(&KEYS))
        .fails(2);
    assert!(error.contains("line 2: value: not base64"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert!(!place.data().exists());
    place
        .run(["import", "data", "none"].iter().chain(&KEYS))
        .fails(2);
    assert!(!place.data().exists());

    // A pipe is read once: what came before is there, and is said to be.
    let mut piped = codexctl();
    piped
        .current_dir(place.path("."))
        .args(["import", "data"])
        .args(KEYS);
    let ran = run_with(&mut piped, text.as_bytes());
    let error = ran.fails(2);
    assert!(
        error.contains("imported up to line 1: 1 created"),
        "{error}"
    );
    assert_eq!(place.open("data").len(), 1);
}

#[test]
fn what_expired_meanwhile_stays_away() {
    let place = Place::new();
    let text = "{\"key\":\"a\",\"text\":\"1\",\"expiresAt\":\"2020-01-01T00:00:00Z\"}\n{\"key\":\"b\",\"text\":\"1\",\"expiresAt\":4102444800000}\n";
    fs::write(place.path("in"), text).unwrap();
    let said = place.run(["import", "data", "in"].iter().chain(&KEYS)).ok();
    assert_eq!(
        said,
        "1 created, 0 replaced, 0 skipped, 1 expired before they came\n"
    );
    let entry = place.open("data").get(b"b").unwrap().unwrap();
    assert_eq!(entry.expires_at(), Some(4_102_444_800_000));
}

#[test]
fn a_passphrase_and_no_encryption_are_asked_for_in_so_many_words() {
    let place = Place::new();
    fs::write(place.path("pass"), "correct horse battery staple\n").unwrap();
    fs::write(place.path("in"), "{\"key\":\"a\",\"text\":\"1\"}\n").unwrap();
    let asks = place.run(["import", "data", "in"]).fails(2);
    assert!(asks.contains("with which keys?"), "{asks}");
    assert!(!place.path("data").exists());
    for (name, keys) in [
        ("p", &["--passphrase-file", "pass"][..]),
        ("u", &["--unencrypted"]),
    ] {
        place.run(["import", name, "in"].iter().chain(keys)).ok();
        let text = place.run(["export", name].iter().chain(keys)).ok();
        assert_eq!(lines(&text)[0]["text"], "1");
        place.run(["export", name].iter().chain(&KEYS)).fails(6);
    }
}
