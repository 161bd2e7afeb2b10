//! docs/MIGRATE.md, docs/OFFLINE.md, docs/CODEXCTL.md, and what docs/BACKUP.md says of a cluster that is gone, word for word.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use codexstore::{Encryption, Keyring, Options, Store, archive::Archived, format::Lineage};
use codexstore_api::archive::{PieceName, PiecePath};
use codexstore_escrow::{Identity, Keys, seal};
use codexstore_tests::{document::Document, run};

/// The sections of docs/BACKUP.md that need no cluster, and what they make.
const GONE: &str = "When the cluster is gone";
const BY_AGE: &str = "The keyring by the program age";
const ARCHIVE: &str = "The archive when the cluster is gone";

/// What a section needs beside `codexctl`, and the package that has it.
fn needs(title: &str) -> &'static [(&'static str, &'static str)] {
    match title {
        "From Redis" => &[
            ("redis-server", "redis-server"),
            ("redis-cli", "redis-tools"),
        ],
        "From SQLite" => &[("sqlite3", "sqlite3")],
        "From BadgerDB" => &[("go", "golang-go")],
        BY_AGE => &[("age", "age")],
        _ => &[],
    }
}

fn there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// False where a tool is missing, which is said loudly, and a failure where CI=true.
fn possible(title: &str) -> bool {
    let missing: Vec<_> = needs(title)
        .iter()
        .filter(|(tool, _)| !there(tool))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{title}: {missing:?} are missing");
    eprintln!("SKIPPED: '{title}': {missing:?} are missing (program, package)");
    false
}

#[test]
fn each_command_of_the_migration_guides_prints_what_the_page_says() {
    follow("docs/MIGRATE.md");
}

#[test]
fn each_command_of_the_offline_page_prints_what_the_page_says() {
    follow("docs/OFFLINE.md");
}

#[test]
fn each_command_of_the_page_on_codexctl_prints_what_the_page_says() {
    follow("docs/CODEXCTL.md");
}

#[test]
fn each_command_for_when_the_cluster_is_gone_prints_what_the_page_says() {
    let page = Document::read(&run::root().join("docs/BACKUP.md"));
    let place = tempfile::tempdir().unwrap();
    leave(place.path());
    for title in [GONE, BY_AGE, ARCHIVE] {
        if possible(title) {
            page.run_with(title, Path::new("/dev/null"), &here(place.path()));
        }
    }
    // Both ways lead to the same keys.
    let key = |keyring: &str| fs::read(place.path().join(keyring).join(KEY_ID));
    assert_eq!(key("keyring").unwrap(), KEY);
    assert!(key("keyring-by-age").is_ok_and(|key| key == KEY) || !there("age"));
}

const KEY_ID: &str = "2026-11";
const KEY: [u8; 32] = [7; 32];

/// What is left of a cluster: a backup of web-0 and what was archived behind it, and the keyring, sealed to who has `me.txt`.
fn leave(dir: &Path) {
    let lost = tempfile::tempdir().unwrap();
    let keyring = lost.path().join("keyring");
    fs::create_dir(&keyring).unwrap();
    fs::write(keyring.join("current"), KEY_ID).unwrap();
    fs::write(keyring.join(KEY_ID), KEY).unwrap();
    let options = Options::new(Encryption::Keyring(Keyring::load(&keyring).unwrap()));
    let store = Store::open(&lost.path().join("data"), options).unwrap();
    store.set(b"order/1", b"2 flat whites").unwrap();
    store.set(b"order/2", b"1 cortado").unwrap();
    let mut backup = Vec::new();
    let mut after = store.backup(&mut backup).unwrap().envelope.revision;
    fs::write(dir.join("web-0-1a2b3c4d.backup"), backup).unwrap();
    for (key, value) in [("order/3", "1 espresso"), ("order/4", "3 ristretti")] {
        store.set(key.as_bytes(), value.as_bytes()).unwrap();
        let next = store.archive(Lineage(store.lineage()), after).unwrap();
        let Archived::Piece(piece) = next else {
            panic!("{next:?}");
        };
        let envelope = &piece.info.envelope;
        after = envelope.to;
        let path = PiecePath {
            lineage: envelope.lineage.to_string(),
            epoch: envelope.epoch,
            name: PieceName {
                from: envelope.from,
                to: envelope.to,
                last_ms: envelope.last_ms,
                key_id: envelope.key_id.as_ref().map(ToString::to_string),
            },
        };
        let path = dir.join("web-0").join(path.to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &piece.bytes).unwrap();
    }
    store.close().unwrap();

    let me = Identity::random().unwrap();
    fs::write(dir.join("me.txt"), me.to_text().as_bytes()).unwrap();
    let mut keys = Keys::new("shop/orders", KEY_ID);
    keys.insert(KEY_ID, &KEY);
    let sealed = seal(&keys, &[me.recipient().unwrap()]).unwrap();
    fs::write(dir.join("keyring-1a2b3c4d.age"), sealed).unwrap();
}

/// Has a command run in a directory, with codexctl on its `PATH`.
fn here(dir: &Path) -> impl Fn(&mut Command) {
    let codexctl = binary();
    move |command: &mut Command| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = vec![codexctl.clone()];
        dirs.extend(std::env::split_paths(&path));
        command
            .current_dir(dir)
            .env("PATH", std::env::join_paths(dirs).unwrap());
    }
}

/// Runs a page's sections in an empty directory that has `docs` in it.
fn follow(page: &str) {
    let page = Document::read(&run::root().join(page));
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(run::root().join("docs"), place.path().join("docs")).unwrap();
    let here = here(place.path());
    let mut whole = true;
    for title in page.titles() {
        // The last section of the guides looks at what all others made.
        if !possible(title) || (title == "Whether all is there" && !whole) {
            whole = false;
            continue;
        }
        page.run_with(title, Path::new("/dev/null"), &here);
    }
}

/// The directory of codexctl, which `cargo test` of this crate does not build by itself.
fn binary() -> std::path::PathBuf {
    let dir = std::env::current_exe().unwrap();
    let dir = dir.parent().unwrap().parent().unwrap().to_path_buf();
    if !dir.join("codexctl").is_file() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "codexctl"])
            .current_dir(run::root())
            .stdin(Stdio::null())
            .status();
        assert!(built.unwrap().success(), "cargo build -p codexctl");
    }
    dir
}
