//! A gibibyte as a whole: backups of it, and new keys for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use codexstore::{Encryption, Key, KeyId, Keyring, Options, Store, backup, migrate_encryption};

use super::big::child;
use super::small::set;
use crate::measure::{Side, rate};
use crate::ours::Ours;
use crate::run::{Run, fill};
use crate::server::{peak, reset_peak, resident};

const KEYS: u64 = 1 << 20;

const VALUE: usize = 1 << 10;

const WRITERS: usize = 8;

const MIB: f64 = (1 << 20) as f64;

/// The defaults, with both keys.
fn options(current: &str) -> Result<Options> {
    Ok(Options::new(Encryption::Keyring(keyring(current)?)))
}

/// Both keys, and which is current.
fn keyring(current: &str) -> Result<Keyring> {
    let keys =
        [("one", 1), ("two", 2)].map(|(id, byte)| Ok((KeyId::new(id)?, Key::new(&[byte; 32])?)));
    let keys = keys.into_iter().collect::<Result<BTreeMap<_, _>>>()?;
    Ok(Keyring::new(KeyId::new(current)?, keys)?)
}

/// The current key is the other one each time.
fn other(turn: &mut bool) -> &'static str {
    *turn = !*turn;
    if *turn { "two" } else { "one" }
}

/// Runs the group.
pub fn run(run: &mut Run) -> Result<()> {
    let dir = run.fresh("whole")?;
    let store = Ours(Store::open(&dir, options("one")?)?);
    fill(&store, KEYS, VALUE)?;
    let file = run.dir.join("whole.backup");
    backups(run, &store.0, &file)?;
    let mut turn = false;
    let rewraps = || {
        store.0.reload_keyring(keyring(other(&mut turn))?)?;
        let start = Instant::now();
        store.0.rewrap()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let sides = vec![Side::new("ours", rewraps), Side::new("bar", || Ok(2000.0))];
    run.versus("store.rewrap.1g", "ms", sides)?;
    reencryptions(run, &store, &dir)?;
    store.0.close()?;
    let extra: f64 = child("--child-backup", &dir)?.trim().parse()?;
    run.row("store.memory.backup.1g", "MiB", extra / MIB, "bar", 64.0);
    migrations(run, &dir)?;
    fs::remove_dir_all(dir)?;
    Ok(fs::remove_file(file)?)
}

/// Seals all of a running store anew, alone and beside writers, and what these do meanwhile.
fn reencryptions(run: &mut Run, store: &Ours, dir: &Path) -> Result<()> {
    let seal = || {
        let start = Instant::now();
        let done = store.0.reencrypt()?;
        ensure!(done.bytes <= files(dir)?, "{done:?}");
        Ok(done.bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
    };
    let sides = vec![Side::new("ours", seal), Side::new("bar", || Ok(150.0))];
    run.versus("store.reencrypt.1g", "MB/s", sides)?;
    let until = run.until;
    let during = || {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let seals = scope.spawn(|| -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    store.0.reencrypt()?;
                }
                Ok(())
            });
            let reached = rate(store, WRITERS, until, &set);
            // The last one may have begun just now, and is measured by nobody.
            stop.store(true, Ordering::Relaxed);
            seals
                .join()
                .map_err(|_| anyhow!("the thread of the re-encryptions panicked"))??;
            reached
        })
    };
    let without = || rate(store, WRITERS, until, &set);
    let sides = vec![
        Side::new("ours", during),
        Side::new("ours, without", without),
    ];
    let name = format!("store.set.during-reencrypt.t{WRITERS}");
    run.versus(&name, "operations/s", sides)
}

/// Makes, verifies and restores a backup in a file, which is on disk in the end.
fn backups(run: &mut Run, store: &Store, file: &Path) -> Result<()> {
    let make = || {
        let start = Instant::now();
        let mut out = File::create(file)?;
        store.backup(&mut out)?;
        out.sync_all()?;
        speed(file, start)
    };
    let plain = file.with_extension("plain");
    let disk = || {
        let piece = vec![7; 1 << 20];
        let start = Instant::now();
        let mut out = File::create(&plain)?;
        for _ in 0..1024 {
            out.write_all(&piece)?;
        }
        out.sync_all()?;
        speed(&plain, start)
    };
    let bar = || Ok(150.0);
    let sides = vec![
        Side::new("ours", make),
        Side::new("bar", bar),
        Side::new("the disk, plain writes", disk),
    ];
    run.versus("store.backup.1g", "MB/s", sides)?;
    fs::remove_file(&plain)?;
    let encryption = options("one")?.encryption;
    let verify = || {
        let start = Instant::now();
        backup::verify(File::open(file)?, &encryption)?;
        speed(file, start)
    };
    run.versus(
        "store.verify-backup.1g",
        "MB/s",
        vec![Side::new("ours", verify), Side::new("bar", bar)],
    )?;
    let into = run.dir.join("whole-restored");
    let options = options("one")?;
    let restore = || {
        if into.exists() {
            fs::remove_dir_all(&into)?;
        }
        let start = Instant::now();
        backup::restore(&into, File::open(file)?, &options)?;
        let restored = Store::open(&into, options.clone())?;
        let took = start.elapsed().as_secs_f64();
        ensure!(
            restored.len() == KEYS,
            "{} keys are restored",
            restored.len()
        );
        restored.close()?;
        Ok(took)
    };
    run.versus(
        "store.restore.1g",
        "s",
        vec![Side::new("ours", restore), Side::new("bar", || Ok(20.0))],
    )?;
    Ok(fs::remove_dir_all(into)?)
}

/// Encrypts all of a closed store anew, with the other key.
fn migrations(run: &mut Run, dir: &Path) -> Result<()> {
    let old = Encryption::Keyring(keyring("one")?);
    let mut turn = false;
    let migrate = || {
        let new = options(other(&mut turn))?;
        let start = Instant::now();
        migrate_encryption(dir, &old, &new, &mut |_| {})?;
        let bytes: u64 = files(dir)?;
        Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64())
    };
    let sides = vec![Side::new("ours", migrate), Side::new("bar", || Ok(150.0))];
    run.versus("store.migrate-encryption.1g", "MB/s", sides)
}

fn files(dir: &Path) -> Result<u64> {
    let sizes = fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len()));
    sizes.sum()
}

/// Bytes of the file in a second since then, in millions.
fn speed(file: &Path, since: Instant) -> Result<f64> {
    let bytes = fs::metadata(file)?.len();
    Ok(bytes as f64 / 1e6 / since.elapsed().as_secs_f64())
}

/// In a process of its own: makes a backup of a store, and prints what the process took for that at most beside what it
/// had when it began.
pub fn child_backup(dir: &Path) -> Result<()> {
    let store = Store::open(dir, options("one")?)?;
    let before = resident("self")?;
    reset_peak()?;
    store.backup(&mut io::sink())?;
    println!("{}", peak("self")?.saturating_sub(before));
    Ok(())
}
