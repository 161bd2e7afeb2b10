//! `key`: keyrings as directories, and as the manifest of a Secret.

use codexstore_api::encoding::hex;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use codexstore::Keyring;
use codexstore_api::encoding::unbase64;
use serde_json::{Value, json};

use super::place::{Place, snapshot};

#[test]
fn keys_are_made_listed_and_made_current_and_none_is_overwritten() {
    let place = Place::new();
    let first = place.run(["key", "new", "ring", "-o", "json"]).json();
    let first = first["id"].as_str().unwrap().to_owned();
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("ring"), 0o700);
    for name in ["current".to_owned(), first.clone()] {
        assert_eq!(mode(&format!("ring/{name}")), 0o600, "{name}");
    }
    let second = ["key", "new", "--bits", "128", "--id", "k2", "ring"];
    let said = place.run(second).ok();
    assert!(said.contains("codexctl key use k2 ring"), "{said}");
    let before = snapshot(&place.path("ring"));
    assert_eq!(before.len(), 3, "nothing else is left: {:?}", before.keys());
    assert_eq!(before["k2"].len(), 16);
    let error = place.run(second).fails(8);
    assert!(
        error.contains("has a key k2: nothing was changed"),
        "{error}"
    );
    assert_eq!(snapshot(&place.path("ring")), before);
    let list = place.run(["key", "list", "ring", "-o", "json"]).json();
    assert_eq!(
        list,
        json!({"current": first, "keys": [
            {"id": first, "bits": 256, "current": true}, {"id": "k2", "bits": 128, "current": false}]})
    );
    place.run(["key", "use", "k2", "ring"]).ok();
    let table = place.run(["key", "list", "ring"]).ok();
    assert!(table.ends_with("k2              128    *\n"), "{table}");
    let error = place.run(["key", "use", "k3", "ring"]).fails(3);
    assert!(error.contains("no key k3"), "{error}");
    let rotated = place.run(["key", "rotate", "ring", "-o", "json"]).json();
    assert_eq!(rotated["current"], true);
    let ring = Keyring::load(&place.path("ring")).unwrap();
    assert_eq!(json!(ring.current().as_str()), rotated["id"]);
    let now = snapshot(&place.path("ring"));
    assert_eq!(now.len(), 4);
    for id in [first.as_str(), "k2"] {
        assert_eq!(now[id], before[id], "{id}");
    }
}

#[test]
fn a_keyring_that_was_made_opens_a_store_before_and_after_a_rotation() {
    let place = Place::new();
    place.run(["key", "new", "--bits", "192", "ring"]).ok();
    let lines = "{\"key\":\"a\",\"text\":\"1\"}\n";
    fs::write(place.path("in.jsonl"), lines).unwrap();
    place
        .run(["import", "store", "in.jsonl", "--keyring", "ring"])
        .ok();
    place.run(["key", "rotate", "ring"]).ok();
    let verified = ["verify", "store", "--keyring", "ring", "-o", "json"];
    assert_eq!(place.run(verified).json()["content"]["entries"], 1);
}

/// Keys that `hashlib.pbkdf2_hmac` of Python makes.
#[test]
fn a_derived_key_is_that_of_another_implementation_and_is_made_again() {
    let place = Place::new();
    fs::write(place.path("words"), "correct horse battery\n").unwrap();
    let salt = "000102030405060708090a0b0c0d0e0f";
    let derive = |ring: &str, more: &[&str]| {
        let mut all = vec!["key", "derive", ring, "--passphrase-file", "words"];
        all.extend(more);
        place.run(all)
    };
    let again = ["--salt", salt, "--iterations", "100000"];
    for (bits, key) in [
        ("128", "c8d122ecdb9477cd48a6b1750c5985c0"),
        ("192", "c8d122ecdb9477cd48a6b1750c5985c0b8b05158d040d205"),
        (
            "256",
            "c8d122ecdb9477cd48a6b1750c5985c0b8b05158d040d20517ccdb49865de436",
        ),
    ] {
        let ring = format!("ring-{bits}");
        let more = [&again[..], &["--bits", bits, "-o", "json"][..]].concat();
        let said = derive(&ring, &more).json();
        assert_eq!(
            said,
            json!({"id": "derived-0001020304050607", "bits": bits.parse::<u16>().unwrap(), "current": true,
                "derivation": {"function": "PBKDF2-HMAC-SHA256", "iterations": 100_000, "salt": salt}})
        );
        let path = place.path(&format!("{ring}/derived-0001020304050607"));
        assert_eq!(hex(&fs::read(&path).unwrap()), key);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
    let twice = derive("ring-256", &again).fails(8);
    assert!(twice.contains("nothing was changed"), "{twice}");

    // A salt that was drawn is printed, and makes the key again elsewhere.
    let drawn = derive("ring", &["--iterations", "100000", "-o", "json"]).json();
    let salt = drawn["derivation"]["salt"].as_str().unwrap().to_owned();
    let id = drawn["id"].as_str().unwrap().to_owned();
    derive("copy", &["--iterations", "100000", "--salt", &salt]).ok();
    assert_eq!(snapshot(&place.path("ring")), snapshot(&place.path("copy")));
    let lines = "{\"key\":\"a\",\"text\":\"1\"}\n";
    fs::write(place.path("in.jsonl"), lines).unwrap();
    place
        .run(["import", "store", "in.jsonl", "--keyring", "ring"])
        .ok();
    let verified = ["verify", "store", "--keyring", "copy", "-o", "json"];
    assert_eq!(place.run(verified).json()["content"]["entries"], 1);
    let other = derive("ring", &["--iterations", "100000", "--id", "k2"]).ok();
    assert!(other.contains("codexctl key use k2 ring"), "{other}");
    assert!(other.contains("--id k2 --bits 256 --iterations 100000 --salt "));
    let list = place.run(["key", "list", "ring", "-o", "json"]).json();
    assert_eq!(list["current"], json!(id));

    // What is no passphrase, count or salt makes nothing.
    fs::write(place.path("words"), "short").unwrap();
    let short = derive("none", &[]).fails(6);
    assert!(short.contains("12 to 1024 bytes"), "{short}");
    fs::write(place.path("words"), "correct horse battery").unwrap();
    for wrong in ["99999", "10000001"] {
        let count = derive("none", &["--iterations", wrong]);
        assert!(count.code == Some(2) && count.out.is_empty(), "{count:?}");
        assert!(count.err.contains("100000..=10000000"), "{count:?}");
    }
    let salt = derive("none", &["--salt", "00"]);
    assert!(salt.code == Some(2) && salt.out.is_empty(), "{salt:?}");
    assert!(
        salt.err.contains("a salt has 32 hexadecimal digits"),
        "{salt:?}"
    );
    assert!(!place.path("none").exists());
}

#[test]
fn nothing_is_made_where_it_would_not_be_a_keyring() {
    let place = Place::with_store();
    for args in [
        &["key", "new", "--bits", "100", "ring"][..],
        &["key", "new", "--id", "current", "ring"],
        &["key", "new", "--id", "a/b", "ring"],
        &["key", "new"],
        &["key", "new", "--secret", "Not_A_Name"],
        &["key", "new", "--secret", "cxs-orders-keyring"],
    ] {
        let ran = place.run(args);
        assert!(
            ran.code == Some(2) && ran.out.is_empty(),
            "{args:?}: {ran:?}"
        );
    }
    let error = place.run(["key", "rotate", "ring"]).fails(3);
    assert!(error.contains("make one with `key new`"), "{error}");
    assert!(!place.path("ring").exists());
    // A store's directory is none.
    let before = snapshot(&place.data());
    place.run(["key", "new", "data"]).fails(6);
    place.run(["key", "list", "data"]).fails(6);
    place.run(["key", "list", "nowhere"]).fails(6);
    assert_eq!(snapshot(&place.data()), before);
    // Nor is a mounted Secret, which is changed elsewhere.
    let mount = place.path("mount");
    fs::create_dir_all(mount.join("..1")).unwrap();
    symlink("..1", mount.join("..data")).unwrap();
    for (name, content) in [("current", &b"a"[..]), ("a", &[7; 32])] {
        fs::write(mount.join("..1").join(name), content).unwrap();
        symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    for args in [
        &["key", "new", "mount"][..],
        &["key", "rotate", "mount"],
        &["key", "use", "a", "mount"],
    ] {
        let error = place.run(args).fails(2);
        assert!(error.contains("mounted Secret"), "{error}");
    }
    let checked = place.run(["key", "check", "mount"]).ok();
    assert_eq!(checked, "mount: 1 key, and a store can use them\n");
}

#[test]
fn what_is_wrong_is_said_all_at_once_and_no_key_is_shown() {
    const CANARY: &[u8] = b"canary-canary-canary-canary-0123";
    let place = Place::new();
    let check = |files: &[(&str, &[u8])]| {
        let _ = fs::remove_dir_all(place.path("ring"));
        fs::create_dir(place.path("ring")).unwrap();
        for (name, content) in files {
            let path = place.path("ring").join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let loads = Keyring::load(&place.path("ring")).is_ok();
        let ran = place.run(["key", "check", "ring"]);
        assert_eq!(ran.code, Some(if loads { 0 } else { 6 }), "{ran:?}");
        let text = String::from_utf8(ran.out).unwrap();
        assert!(
            ran.err.is_empty() && !text.contains("canary"),
            "{text}{}",
            ran.err
        );
        text
    };
    let good = check(&[("current", b"a\n"), ("a", CANARY)]);
    assert_eq!(good, "ring: 1 key, and a store can use them\n");
    for (files, wanted) in [
        (&[][..], &["no file named current"][..]),
        (&[("a", CANARY)], &["no file named current"]),
        (
            &[("current", b"b"), ("a", CANARY)],
            &["current does not name"],
        ),
        (
            &[("current", CANARY), ("a", CANARY)],
            &["current does not name"],
        ),
        (
            &[("current", b"b"), ("a", &CANARY[..31]), ("b c", CANARY)],
            &[
                "a: a key is 16, 24 or 32 raw bytes, not 31",
                "the name of a file: a key id is",
                "current does not name",
            ],
        ),
        (&[("current", b"a"), ("a", &[b'x'; 500])], &["a: a key is"]),
    ] {
        let said = check(files);
        assert_eq!(said.lines().count(), wanted.len(), "{said}");
        for words in wanted {
            assert!(said.contains(words), "`{words}` is not in {said}");
        }
    }
    let same = check(&[("current", b"a"), ("a", CANARY), ("b", CANARY)]);
    assert!(
        same.starts_with("warning: a and b are the same key\n"),
        "{same}"
    );
    let path = place.path("ring/a");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let json = place.run(["key", "check", "ring", "-o", "json"]).json();
    assert_eq!(json["faults"], json!([]));
    assert!(
        json["warnings"].to_string().contains("chmod 600 ring/a"),
        "{json}"
    );
    // What is wrong with `current` is put right by naming a key.
    check(&[("a", CANARY)]);
    place.run(["key", "use", "a", "ring"]).ok();
    place.run(["key", "check", "ring"]).ok();
    place.run(["key", "check", "nowhere"]).fails(3);
}

/// The entries of a Secret's manifest.
fn entries(manifest: &Value) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(manifest["kind"], "Secret");
    let data = manifest["data"].as_object().unwrap();
    data.iter()
        .map(|(id, value)| (id.clone(), unbase64(value.as_str().unwrap()).unwrap()))
        .collect()
}

#[test]
fn a_secrets_manifest_is_printed_only_when_asked_for() {
    let place = Place::new();
    let text = place
        .run(["key", "new", "--secret", "orders-keys", "--id", "1e5"])
        .ok();
    let manifest: Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(manifest["metadata"], json!({"name": "orders-keys"}));
    assert_eq!(manifest["type"], "Opaque");
    let made = entries(&manifest);
    assert_eq!(made["current"], b"1e5");
    assert_eq!((made.len(), made["1e5"].len()), (2, 32));
    let again = place
        .run(["key", "new", "--secret", "orders-keys", "-o", "json"])
        .json();
    let again = entries(&again);
    let id = String::from_utf8(again["current"].clone()).unwrap();
    assert_ne!(again[&id], made["1e5"], "another key");

    // With a directory: all that is in it, as a sidecar would find it mounted.
    place.run(["key", "new", "ring", "--id", "a"]).ok();
    for args in [
        &["key", "new", "ring", "--id", "b", "--secret", "s"][..],
        &["key", "rotate", "ring", "--id", "c", "--secret", "s"],
        &["key", "use", "b", "ring", "--secret", "s"],
    ] {
        let text = place.run(args).ok();
        let manifest: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(
            entries(&manifest),
            snapshot(&place.path("ring")),
            "{args:?}"
        );
    }
    assert_eq!(snapshot(&place.path("ring")).len(), 4);
    let said = ["new", "list", "rotate", "check"].map(|what| {
        let ran = place.run(["key", what, "ring"]);
        String::from_utf8(ran.out).unwrap()
    });
    assert!(!said.concat().contains("data:"), "{said:?}");
}
