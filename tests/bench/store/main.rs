//! `make bench`, as a library: the store against redb, fjall, SQLite, BadgerDB and Redis in the same run.
//!
//! Each case alternates rounds of all who take part, since rates follow the disk and the machine of the
//! moment, and compares medians. The rows go to `target/bench/results.json`.
//!
//! `BENCH=full` goes to 10^7 keys with more and longer rounds; `BENCH_ONLY=small` runs one group.
//! `--docs` measures nothing: it writes the rows that are there into docs/PERFORMANCE.md, and the plots.

#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::doc_markdown
)]

mod badger;
mod bars;
mod cases;
mod data;
mod docs;
mod fjall;
#[path = "../go.rs"]
mod go;
mod measure;
mod ours;
mod peer;
mod plots;
mod redb;
#[path = "../redis.rs"]
mod redis;
#[path = "../results.rs"]
mod results;
mod run;
#[path = "../server.rs"]
mod server;
mod sqlite;

use std::path::Path;
use std::{env, fs};

use anyhow::Result;

use crate::badger::Badger;
use crate::run::Run;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target");
    let results = target.join("bench/results.json");
    match args.as_slice() {
        ["--child-memory", dir] => return cases::child_memory(Path::new(dir)),
        ["--child-backup", dir] => return cases::child_backup(Path::new(dir)),
        ["--child-crash", dir] => return cases::child_crash(Path::new(dir)),
        _ if args.contains(&"--docs") => {
            return docs::write(&root, &target.join("bench"), &results::read(&results));
        }
        _ => {}
    }
    fs::create_dir_all(target.join("bench"))?;
    // Beside the build, so that all write to the same real filesystem.
    let dir = tempfile::Builder::new()
        .prefix("s")
        .tempdir_in(target.join("bench"))?;
    let mut run = Run::new(dir.path());
    let badger = Badger::build(dir.path().join("badger"))?;
    let done = cases::all(&mut run, badger.as_ref());
    // What was measured before a failure is worth having.
    results::write(&results, &run.rows)?;
    done?;
    let missed: Vec<_> = run.rows.iter().filter(|r| r.met() == Some(false)).collect();
    println!(
        "\nbars met: {}",
        run.rows.iter().filter(|r| r.met() == Some(true)).count()
    );
    for row in missed {
        println!("{}", row.line());
    }
    println!("\nwritten: target/bench/results.json");
    Ok(())
}
