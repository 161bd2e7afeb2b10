//! `backup verify`, `backup list` and `restore`.

use std::{fs, io::Write, path::PathBuf, process::Stdio};

use codexstore::{Store, Strategy, backup::BackupOptions};

use super::place::{Place, flip};
use crate::support::{codexctl, run_with};

/// A backup of the store, and what the store said of it.
fn backed_up(place: &Place) -> (PathBuf, codexstore::backup::BackupInfo) {
    let store = place.open("data");
    let result = store.backup_to(&place.path("backups"), &BackupOptions::default());
    let backup = result.unwrap();
    store.close().unwrap();
    backup
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat()
}

#[test]
fn a_backup_is_verified_with_its_key_and_without() {
    let place = Place::with_store();
    let (path, info) = backed_up(&place);
    let path = path.to_str().unwrap();
    let told = place
        .run([
            "backup",
            "verify",
            path,
            "--keyring",
            "keyring",
            "-o",
            "json",
        ])
        .json();
    assert_eq!(told["entries"], 20);
    assert_eq!(told["revision"], 20);
    assert_eq!(told["keyId"], "2026-11");
    assert_eq!(told["root"], hex(&info.contents.root));
    assert_eq!(told["sha256"], hex(&info.envelope.sha256));
    let text = place.run(["backup", "verify", path]).ok();
    assert!(text.contains("forgery"), "{text}");
    assert!(text.contains(&hex(&info.envelope.sha256)), "{text}");
    place
        .run(["backup", "verify", path, "--unencrypted"])
        .fails(6);
    place.run(["backup", "verify", "nothing"]).fails(3);
    flip(path.as_ref(), 12_300);
    for keys in [&["--keyring", "keyring"][..], &[]] {
        let ran = place.run(["backup", "verify", path].iter().chain(keys));
        let complaint = ran.fails(7);
        assert!(complaint.contains("frame 1 at offset 12288"), "{complaint}");
    }
}

#[test]
fn backups_are_listed() {
    let place = Place::with_store();
    backed_up(&place);
    let (path, _) = backed_up(&place);
    let told = place
        .run(["backup", "list", "backups", "-o", "json"])
        .json();
    assert_eq!(told.as_array().unwrap().len(), 2);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(told[1]["path"].as_str().unwrap().ends_with(name));
    assert_eq!(told[1]["complete"], true);
    let text = place.run(["backup", "list", "backups"]).ok();
    assert!(text.contains("REVISION") && text.contains(name), "{text}");
    place.run(["backup", "list", "nothing"]).fails(3);
}

#[test]
fn a_store_is_restored_from_a_file_and_from_stdin() {
    let place = Place::with_store();
    let (path, backup) = backed_up(&place);
    let file = path.to_str().unwrap();
    let into = |dir| ["restore", file, "--into", dir, "--keyring", "keyring"];
    let text = place.run(into("new")).ok();
    assert!(text.contains("Its lineage"), "{text}");
    let check = |dir: &str| {
        let store = place.open(dir);
        assert_eq!(store.content().unwrap(), (20, backup.contents.root));
        assert_ne!(store.lineage(), backup.envelope.lineage.0);
        store.close().unwrap();
    };
    check("new");
    // Not over a store, and not with another strategy.
    place.run(into("new")).fails(2);
    let ran = place.run(into("ledger").iter().chain(&["--strategy", "ledger"]));
    let complaint = ran.fails(2);
    assert!(complaint.contains("with strategy snapshot"), "{complaint}");
    let error = Store::open(&place.path("ledger"), place.options()).err();
    assert_eq!(error.unwrap().code(), "restore-unfinished");
    place.run(into("ledger")).ok();
    check("ledger");

    let mut child = codexctl()
        .current_dir(place.path(""))
        .args(["restore", "-", "--into", "piped", "--keyring", "keyring"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let bytes = fs::read(&path).unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(child.wait().unwrap().success());
    check("piped");
}

#[test]
fn a_ledger_is_restored_with_its_history() {
    let place = Place::new();
    let mut options = place.options();
    options.strategy = Strategy::Ledger;
    let store = Store::open(&place.data(), options.clone()).unwrap();
    store.set(b"a", b"1").unwrap();
    store.set(b"a", b"2").unwrap();
    let (path, _) = store
        .backup_to(&place.path("backups"), &BackupOptions::default())
        .unwrap();
    let path = path.to_str().unwrap();
    // It says itself what it is, from a pipe too.
    let into = |file, dir| ["restore", file, "--into", dir, "--keyring", "keyring"];
    let told = place.run(into(path, "new").iter().chain(&["-o", "json"]));
    assert_eq!(told.json()["strategy"], "ledger");
    let mut command = codexctl();
    command.current_dir(place.path("")).args(into("-", "piped"));
    let text = run_with(&mut command, &fs::read(path).unwrap()).ok();
    assert!(text.contains("ledger"), "{text}");
    for dir in ["new", "piped"] {
        let copy = Store::open(&place.path(dir), options.clone()).unwrap();
        assert_eq!(copy.history(b"a", 0, 9).unwrap().len(), 2);
    }
    let snapshot = ["--strategy", "snapshot"];
    let ran = place.run(into(path, "other").iter().chain(&snapshot));
    let complaint = ran.fails(2);
    assert!(complaint.contains("with strategy ledger"), "{complaint}");
}

#[test]
fn a_ledger_that_has_no_history_yet_is_restored_as_one() {
    let place = Place::with_store();
    let (path, _) = backed_up(&place);
    let into = |file, dir| ["restore", file, "--into", dir, "--keyring", "keyring"];
    place.run(into(path.to_str().unwrap(), "copy")).ok();
    let keys = ["--strategy", "ledger", "--keyring", "keyring"];
    place.run(["convert", "copy"].iter().chain(&keys)).ok();
    let mut options = place.options();
    options.strategy = Strategy::Ledger;
    let store = Store::open(&place.path("copy"), options.clone()).unwrap();
    let mut bytes = Vec::new();
    let told = store.backup(&mut bytes).unwrap();
    assert_eq!(told.contents.history, Some(0));
    fs::write(place.path("ledger.backup"), &bytes).unwrap();
    let told = place.run(into("ledger.backup", "new").iter().chain(&["-o", "json"]));
    assert_eq!(told.json()["strategy"], "ledger");
    Store::open(&place.path("new"), options).unwrap();
    // What comes through a pipe comes once.
    let mut command = codexctl();
    command.current_dir(place.path("")).args(into("-", "piped"));
    let complaint = run_with(&mut command, &bytes).fails(2);
    assert!(complaint.contains("with strategy ledger"), "{complaint}");
}
