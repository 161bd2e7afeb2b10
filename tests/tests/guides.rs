//! docs/MIGRATE.md, docs/OFFLINE.md and docs/CODEXCTL.md, word for word.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use codexstore_tests::{document::Document, run};

/// What a section needs beside `codexctl`, and the package that has it.
fn needs(title: &str) -> &'static [(&'static str, &'static str)] {
    match title {
        "From Redis" => &[
            ("redis-server", "redis-server"),
            ("redis-cli", "redis-tools"),
        ],
        "From SQLite" => &[("sqlite3", "sqlite3")],
        "From BadgerDB" => &[("go", "golang-go")],
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

/// Runs a page's sections in an empty directory that has `docs` in it.
fn follow(page: &str) {
    let page = Document::read(&run::root().join(page));
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(run::root().join("docs"), place.path().join("docs")).unwrap();
    let codexctl = binary();
    let here = |command: &mut Command| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs = vec![codexctl.clone()];
        dirs.extend(std::env::split_paths(&path));
        command
            .current_dir(place.path())
            .env("PATH", std::env::join_paths(dirs).unwrap());
    };
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
