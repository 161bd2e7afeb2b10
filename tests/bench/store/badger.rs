//! BadgerDB, which is written in Go: a program of the bench's own in `tests/bench/badger`, built once and
//! run for each round.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::go;

/// The built program and a database's directory.
pub struct Badger {
    program: PathBuf,
    dir: PathBuf,
}

impl Badger {
    /// Builds the program; `None` where there is no Go.
    pub fn build(dir: PathBuf) -> Result<Option<Badger>> {
        let program = go::build("badger")?;
        Ok(program.map(|program| Badger { program, dir }))
    }

    /// The same program on another database.
    pub fn at(&self, dir: PathBuf) -> Badger {
        Badger {
            program: self.program.clone(),
            dir,
        }
    }

    /// Runs a case; what it measured.
    pub fn run(&self, case: &str, time: Duration, more: &[(&str, u64)]) -> Result<f64> {
        let output = Command::new(&self.program)
            .arg("-dir")
            .arg(&self.dir)
            .args(["-case", case, "-for", &format!("{}ms", time.as_millis())])
            .args(more.iter().map(|(name, value)| format!("-{name}={value}")))
            .output()
            .context("running the BadgerDB program")?;
        ensure!(
            output.status.success(),
            "BadgerDB, {case}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        answer
            .get("value")
            .and_then(Value::as_f64)
            .context("no value in the BadgerDB program's answer")
    }
}
