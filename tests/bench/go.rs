//! Peers that are written in Go: a program of the bench's own for each, in `tests/bench/NAME`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// Builds a program; `None`, said aloud, where there is no Go.
pub fn build(name: &str) -> Result<Option<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("../target/bench").join(name);
    let built = Command::new("go")
        .args(["build", "-gcflags=all=-dwarf=false", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(root.join("bench").join(name))
        .env("CGO_ENABLED", "0")
        .status();
    let Ok(status) = built else {
        println!("NOT RUN: {name}, since there is no Go here");
        return Ok(None);
    };
    ensure!(status.success(), "go build of tests/bench/{name} failed");
    Ok(Some(program))
}
