//! Sets at a fixed offered load, half the peak, while a fold or a backup goes on.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use codexstore::backup::BackupOptions;
use codexstore::{Batch, Store};

use super::small::set;
use crate::data::{self, VALUE, key};
use crate::measure::{Timed, paced, percentile, rate};
use crate::ours::{Ours, options};
use crate::run::{Run, fill};

/// Large enough that an image takes a while.
const KEYS: u64 = 500_000;
const THREADS: usize = 8;

/// Bytes of log after which the store folds: an eighth of its budget.
const BUDGET: u64 = 512 << 20;

/// Times between which a fold went on.
type Spans = Vec<(Instant, Instant)>;

/// Runs the group.
pub fn run(run: &mut Run) -> Result<()> {
    let dir = run.fresh("busy-ours")?;
    let mut options = options()?;
    options.max_disk = BUDGET;
    let ours = Ours(Store::open(&dir, options)?);
    fill(&ours, KEYS, VALUE)?;
    settle(&ours.0, &dir)?;
    let peak = rate(&ours, THREADS, run.until, &set)?;
    let time = Duration::from_secs(if run.full { 10 } else { 4 });
    println!("peak by {THREADS} threads: {peak:.0}/s");
    let quiet = paced(&ours, THREADS, peak / 2.0, time, &set)?;
    let (mut during, mut spent) = (Vec::new(), Duration::ZERO);
    for _ in 0..run.rounds {
        fold_soon(&ours.0)?;
        let (all, folds) = beside(&dir, || paced(&ours, THREADS, peak / 2.0, time / 2, &set))?;
        during.append(&mut within(&all, &folds));
        spent += folds.iter().map(|(from, to)| *to - *from).sum::<Duration>();
        settle(&ours.0, &dir)?;
    }
    ensure!(!during.is_empty(), "no fold went on under the load");
    report(run, "fold", peak / 2.0, &quiet, &during, spent);
    let backups = run.fresh("busy-backups")?;
    let (mut during, mut spent) = (Vec::new(), Duration::ZERO);
    for _ in 0..run.rounds {
        let load = || paced(&ours, THREADS, peak / 2.0, time / 2, &set);
        let (all, spans) = beside_backups(&ours.0, &backups, load)?;
        during.append(&mut within(&all, &spans));
        spent += spans.iter().map(|(from, to)| *to - *from).sum::<Duration>();
        settle(&ours.0, &dir)?;
    }
    report(run, "backup", peak / 2.0, &quiet, &during, spent);
    Ok(())
}

/// Does something while one backup after the other is made; when they were.
fn beside_backups<T>(
    store: &Store,
    dir: &Path,
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, Spans)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let backups = scope.spawn(|| -> Result<Spans> {
            let mut spans = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let from = Instant::now();
                store.backup_to(dir, &BackupOptions::default())?;
                spans.push((from, Instant::now()));
            }
            Ok(spans)
        });
        let done = act();
        stop.store(true, Ordering::Relaxed);
        let spans = backups
            .join()
            .map_err(|_| anyhow!("the thread of the backups panicked"))??;
        Ok((done?, spans))
    })
}

/// Rows of what was measured during `what`, which took `spent` in all.
fn report(
    run: &mut Run,
    what: &str,
    offered: f64,
    quiet: &[Timed],
    during: &[Timed],
    spent: Duration,
) {
    let reached = during.len() as f64 / spent.as_secs_f64();
    run.noted(
        &format!("store.rate.during-{what}.t{THREADS}"),
        "operations/s",
        reached.min(offered),
        "offered load, half the peak",
        offered,
        format!(
            "{} sets in {:.2} s of it",
            during.len(),
            spent.as_secs_f64()
        ),
    );
    for share in [0.5, 0.99, 0.999] {
        let name = if share > 0.99 {
            format!("store.set.during-{what}.t{THREADS}")
        } else {
            format!("store.set-p{:.0}.during-{what}.t{THREADS}", share * 100.0)
        };
        let (with, without) = (percentile(during, share), percentile(quiet, share));
        run.noted(
            &name,
            "µs",
            with,
            &format!("ours, without a {what}"),
            without,
            format!("within which {:.1} % of sets were answered", share * 100.0),
        );
    }
}

/// Waits until no fold goes on.
fn settle(store: &Store, dir: &Path) -> Result<()> {
    loop {
        let folds = store.status().folds;
        thread::sleep(Duration::from_millis(300));
        if store.status().folds == folds && !folding(dir)? {
            return Ok(());
        }
    }
}

/// Fills the log to the brim, so that the next sets bring a fold.
fn fold_soon(store: &Store) -> Result<()> {
    let mut n = 0;
    while store.status().journal_bytes < BUDGET / 8 {
        let mut batch = Batch::new();
        for _ in 0..2_000 {
            n += 1;
            batch = batch.set(key(n % KEYS).to_vec(), data::value(n, VALUE));
        }
        store.commit(batch)?;
    }
    Ok(())
}

/// An image that is being written has a name of its own.
fn folding(dir: &Path) -> Result<bool> {
    for file in fs::read_dir(dir)? {
        let name = file?.file_name();
        let name = name.to_string_lossy();
        if name.contains("image") && Path::new(&*name).extension().is_some_and(|e| e == "tmp") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does something, and notes beside it when folds went on.
fn beside<T>(dir: &Path, act: impl FnOnce() -> Result<T>) -> Result<(T, Spans)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| -> Result<Spans> {
            let (mut spans, mut since) = (Vec::new(), None);
            loop {
                let now = Instant::now();
                let stopped = stop.load(Ordering::Relaxed);
                match (folding(dir)? && !stopped, since) {
                    (true, None) => since = Some(now),
                    (false, Some(from)) => {
                        spans.push((from, now));
                        since = None;
                    }
                    _ => {}
                }
                if stopped {
                    return Ok(spans);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        let done = act();
        stop.store(true, Ordering::Relaxed);
        let spans = watcher
            .join()
            .map_err(|_| anyhow!("the watcher panicked"))??;
        Ok((done?, spans))
    })
}

/// The operations that began within the spans.
fn within(all: &[Timed], spans: &Spans) -> Vec<Timed> {
    all.iter()
        .filter(|timed| {
            spans
                .iter()
                .any(|(from, to)| (*from..*to).contains(&timed.at))
        })
        .copied()
        .collect()
}
