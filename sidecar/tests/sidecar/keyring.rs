//! Keys: wrong, missing, broken, changed while running.

use codexstore_api::status::State;

use crate::harness::{KEY_ID, Place, ping};

#[test]
fn a_wrong_key_is_an_encryption_error_that_changes_nothing_and_heals() {
    let place = Place::new();
    let mut s = place.ready(&[]);
    s.put("k", b"value");
    assert!(s.terminate().success());
    let before = place.fingerprint();

    place.keyring(KEY_ID, &[(KEY_ID, &[8; 32])]);
    let s = place.start(&[]);
    s.until("it has tried", |s| s.status().state == State::KeyError);
    let refused = s.get("/v1/keys/k");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.problem().kind.as_str(), "Encryption");
    assert_eq!(refused.problem().code, "wrong-key");
    assert_eq!(s.put("k", b"other").problem().code, "wrong-key");
    // The answer to HEAD has no body, and says why all the same.
    let head = crate::harness::runtime().block_on(s.client().head(b"k"));
    assert!(head.unwrap_err().is("wrong-key"));
    assert_eq!(s.get("/v1/keys").problem().code, "wrong-key");
    let ready = s.get("/readyz");
    assert_eq!(
        (ready.status, ready.problem().code.as_str()),
        (503, "wrong-key")
    );
    assert_eq!(s.get("/healthz").status, 200, "alive all the same");
    let (code, said) = ping(&s.socket, &["--ready"]);
    assert!(code == 1 && said.contains("wrong-key"), "{code} {said}");
    assert!(s.status().message.is_some());
    assert_eq!(place.fingerprint(), before, "nothing on disk has changed");

    place.keyring(KEY_ID, &[(KEY_ID, &[7; 32])]);
    s.until("it heals", |s| s.get("/readyz").status == 200);
    assert_eq!(s.get("/v1/keys/k").text(), "value");
}

#[test]
fn a_missing_or_malformed_keyring_keeps_the_process_up_and_is_named() {
    for (current, keys) in [
        ("other", vec![(KEY_ID, vec![7; 32])]),
        (KEY_ID, vec![(KEY_ID, vec![7; 31])]),
        (KEY_ID, vec![]),
    ] {
        let place = Place::new();
        let keys: Vec<(&str, &[u8])> = keys.iter().map(|(id, key)| (*id, &key[..])).collect();
        place.keyring(current, &keys);
        let s = place.start(&[]);
        s.until("it has tried", |s| s.status().state == State::KeyError);
        assert_eq!(s.get("/v1/keys/k").problem().code, "invalid-keyring");
        assert!(
            !place.path("data/LOCK").exists(),
            "nothing is made without a key"
        );
    }
}

#[test]
fn a_changed_keyring_is_loaded_live_and_a_broken_one_is_not() {
    let place = Place::new();
    let s = place.ready(&[]);
    s.put("k", b"value");
    place.keyring("second", &[(KEY_ID, &[7; 32]), ("second", &[9; 16])]);
    s.until("both keys are loaded", |s| {
        s.status().loaded_key_ids == [KEY_ID, "second"]
    });
    assert_eq!(s.get("/v1/keys/k").text(), "value");
    // The status has the new keys before the owner goes on to tell it.
    s.until("it is told", |s| {
        s.log().contains("the keyring was loaded anew")
    });

    place.keyring("second", &[("second", &[9; 15])]);
    s.until("it says so", |s| s.status().message.is_some());
    let status = s.status();
    assert_eq!(
        (status.state, status.loaded_key_ids),
        (State::Ready, vec![KEY_ID.into(), "second".into()])
    );
    assert_eq!(s.put("k", b"more").status, 204, "the old keyring stays");

    // Put right behind the same link, which shows no change: it is tried again.
    let dir = place.path("keyring/..data");
    place.write_whole(&dir.join(KEY_ID), &[7; 32]);
    place.write_whole(&dir.join("second"), &[9; 16]);
    s.until("it is well again", |s| s.status().message.is_none());
    let said = s.log().matches("was not loaded anew; trying").count();
    assert_eq!(said, 1, "once for a reason");
}

#[test]
fn an_unencrypted_store_says_so_and_does_not_open_with_a_keyring() {
    let place = Place::new();
    let mut s = place.ready(&["--no-encryption"]);
    s.put("k", b"value");
    assert_eq!(s.status().cipher, "none");
    assert!(s.log().contains("not encrypted"));
    s.terminate();
    let s = place.start(&[]);
    s.until("it has tried", |s| s.status().state == State::KeyError);
    assert_eq!(s.get("/v1/keys/k").problem().code, "encryption-mismatch");
}

#[test]
fn every_key_size_works() {
    for (bits, bytes) in [("128", 16), ("192", 24), ("256", 32)] {
        let place = Place::new();
        place.keyring(KEY_ID, &[(KEY_ID, &vec![3; bytes])]);
        let mut s = place.ready(&["--key-size", bits]);
        assert_eq!(s.status().cipher, format!("AES-{bits}-GCM"));
        s.put("k", b"value");
        s.terminate();
        assert_eq!(
            place.ready(&["--key-size", bits]).get("/v1/keys/k").text(),
            "value"
        );
    }
}

#[test]
fn a_passphrase_opens_what_it_wrote_and_another_one_does_not() {
    let place = Place::new();
    let path = place.path("passphrase");
    let write = |text: &str| place.write_whole(&path, text.as_bytes());
    write("correct horse battery\n");
    let args = ["--passphrase-file", path.to_str().unwrap()];
    let mut s = place.ready(&args);
    s.put("k", b"value");
    let status = s.status();
    assert!(
        status.key_id.starts_with("passphrase-"),
        "{}",
        status.key_id
    );
    assert_eq!(status.needed_key_ids, Some(vec![status.key_id.clone()]));

    // A store that runs keeps what it was opened with, and says what would become of it.
    write("another horse battery");
    s.until("it says so", |s| s.status().message.is_some());
    let message = s.status().message.unwrap();
    assert!(
        message.contains("will not open it") && !message.contains("horse"),
        "{message}"
    );
    assert_eq!(s.put("k", b"more").status, 204);
    write("correct horse battery");
    s.until("it is well again", |s| s.status().message.is_none());
    assert!(s.terminate().success());

    let before = place.fingerprint();
    for (text, code) in [
        ("another horse battery", "wrong-key"),
        ("short", "invalid-keyring"),
    ] {
        write(text);
        let mut s = place.start(&args);
        s.until("it has tried", |s| s.status().state == State::KeyError);
        assert_eq!(s.get("/v1/keys/k").problem().code, code);
        assert!(!s.log().contains("horse"), "{}", s.log());
        assert!(s.terminate().success());
    }
    let mut keyring = place.start(&[]);
    keyring.until("it has tried", |s| s.status().state == State::KeyError);
    assert_eq!(
        keyring.get("/v1/keys/k").problem().code,
        "encryption-mismatch"
    );
    assert!(keyring.terminate().success());
    assert_eq!(place.fingerprint(), before, "nothing on disk has changed");
    let s = place.start(&args);
    write("correct horse battery");
    s.until("it heals", |s| s.get("/readyz").status == 200);
    assert_eq!(s.get("/v1/keys/k").text(), "more");
}
