//! A hundred thousand keys: sets, gets, scans, batches, all mixed; each peer in its turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::badger::Badger;
use crate::data::{self, VALUE, key, spread};
use crate::fjall::Fjall;
use crate::measure::{Side, Until, paced, rate};
use crate::ours::Ours;
use crate::peer::{Peer, Session};
use crate::redb::{Redb, Snapshot};
use crate::redis;
use crate::run::{Run, fill};
use crate::server::Server;
use crate::sqlite::Sqlite;

const KEYS: u64 = 100_000;

/// Operations of the mixed case.
const MIXED: u64 = 320_000;

/// Sets a second of all writers beside readers.
const PACE: f64 = 1000.0;

/// All who take part.
struct Field<'a> {
    ours: Ours,
    /// SQLite in both ways, redb, fjall.
    peers: Vec<Box<dyn Peer>>,
    redb: Redb,
    badger: Option<&'a Badger>,
    redis: Server,
}

/// Runs the group.
pub fn run(run: &mut Run, badger: Option<&Badger>) -> Result<()> {
    let at = |name: &str| run.fresh(&format!("small-{name}"));
    let field = Field {
        ours: Ours::open(&at("ours")?)?,
        peers: vec![
            Box::new(Sqlite::shared(&at("sqlite")?)?),
            Box::new(Sqlite::many(&at("sqlite-many")?)?),
            Box::new(Fjall::open(&at("fjall")?)?),
        ],
        redb: Redb::open(&at("redb")?)?,
        badger,
        redis: redis::always(&at("redis")?)?,
    };
    fill(&field.ours, KEYS, VALUE)?;
    for peer in field.peers() {
        fill(peer, KEYS, VALUE)?;
    }
    if let Some(badger) = badger {
        badger.run("fill", Duration::ZERO, &[("keys", KEYS)])?;
    }
    for (threads, requests) in [(1, 4_000), (8, 20_000), (32, 60_000)] {
        sets(run, &field, threads, requests)?;
    }
    interval(run, &field)?;
    gets(run, &field)?;
    scans(run, &field)?;
    for size in [1, 100, 10_000] {
        batches(run, &field, size)?;
    }
    mixed(run, &field)
}

impl Field<'_> {
    fn peers(&self) -> impl Iterator<Item = &dyn Peer> {
        let redb: &dyn Peer = &self.redb;
        self.peers.iter().map(|peer| &**peer).chain([redb])
    }
}

/// Sets the n-th key to a value of its own.
pub fn set(session: &mut dyn Session, n: u64, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.resize(VALUE, 0);
    data::fill(n, buffer);
    session.set(&key(spread(n, KEYS)), buffer)
}

fn get(session: &mut dyn Session, n: u64, _: &mut Vec<u8>) -> Result<()> {
    let found = session.get(&key(spread(n, KEYS)))?;
    found.map(|_| ()).ok_or_else(|| anyhow!("a key is gone"))
}

fn sets(run: &mut Run, field: &Field<'_>, threads: usize, requests: usize) -> Result<()> {
    let until = run.until;
    let name = format!("store.set.durable.t{threads}");
    let before = field.ours.0.status();
    let mut sides = vec![Side::new("ours", || {
        rate(&field.ours, threads, until, &set)
    })];
    for peer in field.peers() {
        // With one thread the two ways of SQLite differ by its locks alone.
        sides.push(Side::new(peer.name(), move || {
            rate(peer, threads, until, &set)
        }));
    }
    if let Some(badger) = field.badger {
        let more = [("threads", threads as u64), ("keys", KEYS)];
        sides.push(Side::new("BadgerDB", move || {
            badger.run("set", until.time, &more)
        }));
    }
    sides.push(Side::new("Redis over its socket", || {
        redis::benchmark(&field.redis, "set", threads, requests, 100_000, VALUE)
    }));
    run.versus(&name, "operations/s", sides)?;
    let after = field.ours.0.status();
    let size = (after.commits - before.commits) as f64 / (after.groups - before.groups) as f64;
    let name = format!("store.set.group-size.t{threads}");
    run.row(&name, "sets/sync", size, "a sync for each set", 1.0);
    Ok(())
}

/// `interval` against `always`, both ours.
fn interval(run: &mut Run, field: &Field<'_>) -> Result<()> {
    let until = run.until;
    let ours = Ours::interval(&run.fresh("small-interval")?)?;
    fill(&ours, KEYS, VALUE)?;
    let sides = vec![
        Side::new("ours", || rate(&ours, 1, until, &set)),
        Side::new("ours, always", || rate(&field.ours, 1, until, &set)),
    ];
    run.versus("store.set.interval.t1", "operations/s", sides)
}

fn gets(run: &mut Run, field: &Field<'_>) -> Result<()> {
    let until = run.until;
    let snapshot = Snapshot(&field.redb);
    for threads in [1, 2] {
        let mut sides = vec![Side::new("ours", || {
            rate(&field.ours, threads, until, &get)
        })];
        if threads > 1 {
            sides.push(Side::new("ours, one thread", || {
                rate(&field.ours, 1, until, &get)
            }));
        }
        for peer in field.peers().chain([&snapshot as &dyn Peer]) {
            sides.push(Side::new(peer.name(), move || {
                rate(peer, threads, until, &get)
            }));
        }
        if let Some(badger) = field.badger {
            let more = [("threads", threads as u64), ("keys", KEYS)];
            sides.push(Side::new("BadgerDB", move || {
                badger.run("get", until.time, &more)
            }));
        }
        run.versus(&format!("store.get.100k.t{threads}"), "operations/s", sides)?;
    }
    let sides = vec![
        Side::new("ours", || {
            beside_writers(&field.ours, || rate(&field.ours, 1, until, &get))
        }),
        Side::new("ours, no writers", || rate(&field.ours, 1, until, &get)),
    ];
    run.versus("store.get.100k-while-writing.t1", "operations/s", sides)
}

/// Measures while another thread sets at a fixed pace.
fn beside_writers(peer: &dyn Peer, measure: impl FnOnce() -> Result<f64>) -> Result<f64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut sets = 0;
            while !stop.load(Ordering::Relaxed) {
                let time = Duration::from_millis(100);
                sets += paced(peer, 1, PACE, time, &set)?.len() as u64;
            }
            Ok(sets)
        });
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        writer
            .join()
            .map_err(|_| anyhow!("the writer panicked"))??;
        measured
    })
}

fn scans(run: &mut Run, field: &Field<'_>) -> Result<()> {
    let until = run.until;
    let scan = |peer: &dyn Peer| -> Result<f64> {
        // The steps of a round are whole scans, at least eight.
        let step = |session: &mut dyn Session, _: u64, _: &mut Vec<u8>| {
            let (entries, _) = session.scan()?;
            anyhow::ensure!(entries == KEYS, "a scan saw {entries} entries");
            Ok(())
        };
        Ok(rate(peer, 1, until, &step)? * KEYS as f64)
    };
    let mut sides = vec![Side::new("ours", || scan(&field.ours))];
    for peer in field.peers() {
        sides.push(Side::new(peer.name(), move || scan(peer)));
    }
    if let Some(badger) = field.badger {
        sides.push(Side::new("BadgerDB", move || {
            badger.run("scan", until.time, &[("keys", KEYS)])
        }));
    }
    sides.push(Side::new("bar", || Ok(5e6)));
    run.versus("store.scan.100k.t1", "entries/s", sides)
}

fn batches(run: &mut Run, field: &Field<'_>, size: u64) -> Result<()> {
    let until = run.until;
    let step = move |session: &mut dyn Session, n: u64, _: &mut Vec<u8>| {
        let mut items =
            (n * size..(n + 1) * size).map(|n| (key(spread(n, KEYS)), data::value(n, VALUE)));
        session.batch(&mut items)
    };
    let batch = |peer: &dyn Peer| Ok(rate(peer, 1, until, &step)? * size as f64);
    let mut sides = vec![Side::new("ours", || batch(&field.ours))];
    for peer in field.peers() {
        sides.push(Side::new(peer.name(), move || batch(peer)));
    }
    if let Some(badger) = field.badger {
        let more = [("batch", size), ("keys", KEYS)];
        sides.push(Side::new("BadgerDB", move || {
            badger.run("batch", until.time, &more)
        }));
    }
    if size == 10_000 {
        sides.push(Side::new("ours, single sets by 8 threads", || {
            rate(&field.ours, 8, until, &set)
        }));
    }
    run.versus(&format!("store.batch.{size}.t1"), "operations/s", sides)
}

/// Nine gets for each set, by 32 threads, to a fixed number of operations.
fn mixed(run: &mut Run, field: &Field<'_>) -> Result<()> {
    let until = Until {
        time: Duration::from_secs(if run.full { 120 } else { 10 }),
        operations: MIXED,
    };
    let step = |session: &mut dyn Session, n: u64, buffer: &mut Vec<u8>| {
        if n.is_multiple_of(10) {
            set(session, n, buffer)
        } else {
            get(session, n, buffer)
        }
    };
    let mut sides = vec![Side::new("ours", || rate(&field.ours, 32, until, &step))];
    for peer in field.peers() {
        sides.push(Side::new(peer.name(), move || rate(peer, 32, until, &step)));
    }
    if let Some(badger) = field.badger {
        let more = [("threads", 32), ("keys", KEYS), ("operations", MIXED)];
        sides.push(Side::new("BadgerDB", move || {
            badger.run("mixed", until.time, &more)
        }));
    }
    let rounds = std::mem::replace(&mut run.rounds, 1);
    let result = run.versus("store.mixed.90-10.t32", "operations/s", sides);
    run.rounds = rounds;
    result
}
