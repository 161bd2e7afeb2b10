//! Sealed keyrings and the program `age`: each opens what the other sealed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codexstore_escrow::{Identity, Keys, Recipient, identities, seal, unseal};
use codexstore_tests::run;

/// False where the program is missing, which is said loudly, and a failure where CI=true.
fn possible() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = ["age", "age-keygen"]
        .into_iter()
        .filter(|program| !there(program))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{missing:?} are missing: package age");
    eprintln!("SKIPPED: sealed keyrings and age: {missing:?} are missing (package age)");
    false
}

/// The standard output of a program that gets `input`.
#[track_caller]
fn output(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", done.status);
    done.stdout
}

fn keyring(keys: u8) -> Keys {
    let mut keyring = Keys::new("shop/orders", "k0");
    for n in 0..keys {
        keyring.insert(format!("k{n}"), &[n; 32]);
    }
    keyring
}

/// An identity's file as `age-keygen` makes it, and what is sealed to it.
fn keygen(dir: &Path) -> (PathBuf, Recipient) {
    let file = dir.join("me.txt");
    let path = file.to_str().unwrap();
    output("age-keygen", &["-o", path], b"");
    let public = output("age-keygen", &["-y", path], b"");
    let public = String::from_utf8(public).unwrap();
    (file, Recipient::parse(&public).unwrap())
}

#[test]
fn age_opens_what_we_sealed_and_we_open_what_age_sealed() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, recipient) = keygen(dir.path());
    let own = identities(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(own[0].recipient().unwrap(), recipient);
    let (file, to) = (file.to_str().unwrap(), recipient.to_string());
    let other = Identity::random().unwrap();
    let both = [other.recipient().unwrap(), recipient];
    for keyring in [keyring(1), keyring(200)] {
        let sealed = seal(&keyring, &both).unwrap();
        let json = output("age", &["-d", "-i", file], sealed.as_bytes());
        assert_eq!(Keys::from_json(&json).unwrap(), keyring);
        for armor in [&["-a"][..], &[]] {
            let other = both[0].to_string();
            let args = [&["-r", &other, "-r", &to], armor].concat();
            let sealed = output("age", &args, &json);
            assert_eq!(unseal(&sealed, &own).unwrap(), keyring);
        }
    }
    // age makes sure itself that nothing was changed.
    let sealed = seal(&keyring(1), &both[1..]).unwrap();
    let mut bad = sealed.clone();
    let at = sealed.len() - 60;
    bad.replace_range(
        at..=at,
        if sealed[at..].starts_with('A') {
            "B"
        } else {
            "A"
        },
    );
    assert_ne!(sealed, bad);
    let path = dir.path().join("bad.age");
    std::fs::write(&path, bad).unwrap();
    let refused = Command::new("age")
        .args(["-d", "-i", file, path.to_str().unwrap()])
        .output();
    assert!(!refused.unwrap().status.success());
}

#[test]
fn codexctl_makes_a_keyring_by_itself_and_from_what_age_printed() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, recipient) = keygen(dir.path());
    let sealed = dir.path().join("keyring-1a2b3c4d.age");
    std::fs::write(&sealed, seal(&keyring(2), &[recipient]).unwrap()).unwrap();
    let codexctl = run::root().join("target/debug/codexctl");
    let codexctl = codexctl.to_str().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, sealed) = (file.to_str().unwrap(), sealed.to_str().unwrap());
    let args = ["key", "unseal", sealed, "--identity", file, &at("one")];
    let told = String::from_utf8(output(codexctl, &args, b"")).unwrap();
    assert!(
        told.ends_with("one: 2 keys of shop/orders, current k0\n"),
        "{told}"
    );
    let json = output("age", &["-d", "-i", file, sealed], b"");
    output(codexctl, &["key", "unseal", "-", &at("two")], &json);
    for ring in ["one", "two"] {
        let read = |name: &str| std::fs::read(dir.path().join(ring).join(name)).unwrap();
        assert_eq!(read("current"), b"k0");
        assert_eq!((read("k0"), read("k1")), (vec![0; 32], vec![1; 32]));
    }
}
