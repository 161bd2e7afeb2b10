//! Each folder of examples/ with a program in it: on the store that its manifest declares, it prints what stands beside it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Command;

use codexstore_tests::run;

/// What a program needs besides codexctl: where the tests have it, and who installs it.
fn missing(example: &Path, program: &str) -> Option<&'static str> {
    let root = run::root();
    let has = |name: &str| {
        let path = path();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    if program.contains("python3") && !root.join("target/test/python/wanted").exists() {
        return Some("clients in Python");
    }
    if program.contains("node") && !root.join("target/test/node/wanted").exists() {
        return Some("clients in JavaScript");
    }
    if example.join("pom.xml").exists() && !(has("java") && has("mvn")) {
        return Some("Java and Maven");
    }
    (example.join("go.mod").exists() && !has("go")).then_some("go")
}

/// The interpreters that the tests have: first the Python that has the clients.
fn path() -> std::ffi::OsString {
    let python = run::root().join("target/test/python/bin");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(python).chain(std::env::split_paths(&paths));
    std::env::join_paths(all).unwrap()
}

fn check(example: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(run::root().join("target/debug/codexctl"))
        .arg("dev")
        .arg("-f")
        .arg(example.join("codexstore.yaml"))
        .arg("--dir")
        .arg(dir.path().join("store"))
        .arg("--")
        .arg(example.join("run"))
        .env("PATH", path())
        .env(
            "NODE_PATH",
            run::root().join("target/test/node/node_modules"),
        )
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = std::fs::read_to_string(example.join("output")).unwrap();
    assert!(
        output.status.success() && said == wanted,
        "{}: {}\n--- printed\n{said}\n--- wanted\n{wanted}\n--- errors\n{}",
        example.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn each_example_prints_what_stands_beside_it() {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let mut checked = 0;
    for entry in std::fs::read_dir(run::root().join("examples")).unwrap() {
        let example = entry.unwrap().path();
        let Ok(program) = std::fs::read_to_string(example.join("run")) else {
            continue;
        };
        if let Some(what) = missing(&example, &program) {
            let name = example.display();
            assert!(!ci, "{name}: {what} is missing");
            eprintln!("SKIPPED: {name}: {what} is missing: tests/setup examples");
            continue;
        }
        check(&example);
        checked += 1;
    }
    assert!(checked >= 8 || !ci, "{checked} examples");
}
