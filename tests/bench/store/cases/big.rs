//! A million keys: from nothing to open, from a stop to open, and what they take in memory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};

use crate::badger::Badger;
use crate::data::{VALUE, key, value};
use crate::fjall::Fjall;
use crate::measure::Side;
use crate::ours::Ours;
use crate::redb::Redb;
use crate::redis;
use crate::run::{Run, fill};
use crate::server::{Server, resident};
use crate::sqlite::Sqlite;

const KEYS: u64 = 1_000_000;

const MIB: f64 = (1 << 20) as f64;

/// Runs the group.
pub fn run(run: &mut Run, badger: Option<&Badger>) -> Result<()> {
    memory(run)?;
    reopen(run)?;
    open(run, badger)
}

/// What this program prints as a process of its own.
pub fn child(what: &str, dir: &Path) -> Result<String> {
    let output = Command::new(env::current_exe()?)
        .arg(what)
        .arg(dir)
        .output()
        .context("running a child")?;
    ensure!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// In a process of its own: fills a store and prints what the process takes.
pub fn child_memory(dir: &Path) -> Result<()> {
    let ours = Ours::open(dir)?;
    fill(&ours, KEYS, VALUE)?;
    let mut folds = u64::MAX;
    // Until the folds that the filling brought are done.
    while ours.0.status().folds != folds {
        folds = ours.0.status().folds;
        thread::sleep(Duration::from_millis(500));
    }
    println!("{}", resident("self")?);
    Ok(())
}

/// In a process of its own: fills a store, and ends without closing it.
pub fn child_crash(dir: &Path) -> Result<()> {
    let ours = Ours::open(dir)?;
    fill(&ours, KEYS, VALUE)?;
    std::process::exit(0)
}

fn memory(run: &mut Run) -> Result<()> {
    let dir = run.fresh("big-memory")?;
    let ours: f64 = child("--child-memory", &dir)?.trim().parse()?;
    let server = redis::start(
        &run.fresh("big-redis")?,
        &["--save", "", "--appendonly", "no"],
    )?;
    fill_redis(&server)?;
    let theirs = server.resident()? as f64;
    run.row("store.memory.1m", "MiB", ours / MIB, "Redis", theirs / MIB);
    // Kept for the case that opens it.
    redis::ask(&server.socket, b"SAVE\r\n")?;
    fs::remove_dir_all(dir)?;
    Ok(())
}

fn fill_redis(server: &Server) -> Result<()> {
    let stream = UnixStream::connect(&server.socket)?;
    let mut answers = stream.try_clone()?;
    let expected = KEYS * b"+OK\r\n".len() as u64;
    let reader = thread::spawn(move || {
        let (mut buffer, mut seen) = (vec![0; 64 << 10], 0);
        while seen < expected {
            match answers.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => seen += n as u64,
            }
        }
        seen
    });
    let mut out = std::io::BufWriter::new(stream);
    for n in 0..KEYS {
        let key = key(n);
        write!(out, "*3\r\n$3\r\nSET\r\n${}\r\n", key.len())?;
        out.write_all(&key)?;
        write!(out, "\r\n${VALUE}\r\n")?;
        out.write_all(&value(n, VALUE))?;
        out.write_all(b"\r\n")?;
    }
    out.flush()?;
    let seen = reader.join().unwrap_or_default();
    ensure!(
        seen == expected,
        "Redis answered {seen} bytes to {KEYS} sets"
    );
    Ok(())
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// From the call that closes the store to the store that is open again.
fn reopen(run: &mut Run) -> Result<()> {
    let dir = run.fresh("big-ours")?;
    let mut open = Some(Ours::open(&dir)?);
    if let Some(ours) = &open {
        fill(ours, KEYS, VALUE)?;
    }
    let round = || {
        let start = Instant::now();
        if let Some(ours) = open.take() {
            ours.0.close()?;
        }
        open = Some(Ours::open(&dir)?);
        Ok(millis(start))
    };
    let sides = vec![Side::new("ours", round), Side::new("bar", || Ok(600.0))];
    run.versus("store.reopen.1m", "ms", sides)
}

/// Opens of what was filled. Ours was left by a process that did not close it: each round fills anew. The
/// peers read their entries when they are asked for them, ours at once.
fn open(run: &mut Run, badger: Option<&Badger>) -> Result<()> {
    let dir = run.dir.join("big-crashed");
    let redis = run.dir.join("big-redis");
    let [sqlite, redb, fjall, badgers] =
        ["sqlite", "redb", "fjall", "badger"].map(|name| run.fresh(&format!("big-{name}")));
    let (sqlite, redb, fjall, badgers) = (sqlite?, redb?, fjall?, badgers?);
    fill(&Sqlite::shared(&sqlite)?, KEYS, VALUE)?;
    fill(&Redb::open(&redb)?, KEYS, VALUE)?;
    fill(&Fjall::open(&fjall)?, KEYS, VALUE)?;
    let badger = badger.map(|badger| badger.at(badgers));
    if let Some(badger) = &badger {
        badger.run("fill", Duration::ZERO, &[("keys", KEYS)])?;
    }
    let mut sides = vec![
        Side::new("ours", || {
            if dir.exists() {
                fs::remove_dir_all(&dir)?;
            }
            child("--child-crash", &dir)?;
            let start = Instant::now();
            let ours = Ours::open(&dir)?;
            let took = millis(start);
            ensure!(ours.0.len() == KEYS, "{} keys are there", ours.0.len());
            Ok(took)
        }),
        Side::new("bar", || Ok(1000.0)),
        Side::new("SQLite", || {
            let start = Instant::now();
            let _open = Sqlite::shared(&sqlite)?;
            Ok(millis(start))
        }),
        Side::new("redb", || {
            let start = Instant::now();
            let _open = Redb::open(&redb)?;
            Ok(millis(start))
        }),
        Side::new("fjall", || {
            let start = Instant::now();
            let _open = Fjall::open(&fjall)?;
            Ok(millis(start))
        }),
    ];
    sides.push(Side::new("Redis", || {
        let server = redis::start(&redis, &["--save", "", "--appendonly", "no"])?;
        Ok(server.ready_after.as_secs_f64() * 1e3)
    }));
    if let Some(badger) = &badger {
        sides.push(Side::new("BadgerDB", || {
            badger.run("open", Duration::ZERO, &[])
        }));
    }
    run.versus("store.open.1m", "ms", sides)
}
