//! Load on a peer, as fast as it goes or at a fixed rate, and rounds that alternate.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::peer::{Peer, Session};
use crate::results::median;

/// One operation: what number it has, and a buffer for its value.
pub type Step = dyn Fn(&mut dyn Session, u64, &mut Vec<u8>) -> Result<()> + Sync;

/// When a round ends.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    /// After this long.
    pub time: Duration,
    /// Or after so many operations.
    pub operations: u64,
}

/// How often a thread looks at the clock while it reads.
const LOOK_EVERY: u64 = 64;

/// Most operations of a round.
const ROUND: u64 = 320_000_000;

/// The number of a round's first operation. No number comes twice in a run: where a key is set to what it is already, SQLite writes
/// nothing and syncs nothing.
fn first_number() -> u64 {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    ROUNDS.fetch_add(1, Ordering::Relaxed) * ROUND
}

/// Operations a second of `threads` that do one after the other.
pub fn rate(peer: &dyn Peer, threads: usize, until: Until, step: &Step) -> Result<f64> {
    let base = first_number();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let ready = Barrier::new(threads + 1);
    let took = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let session = peer.session();
                    ready.wait();
                    let mut session = session?;
                    let start = Instant::now();
                    let mut buffer = Vec::new();
                    // Numbers are taken by the block: a counter that all touch is no part of the work.
                    loop {
                        let first = next.fetch_add(LOOK_EVERY, Ordering::Relaxed);
                        for n in first..first + LOOK_EVERY {
                            if n >= until.operations {
                                done.fetch_add(n - first, Ordering::Relaxed);
                                return Ok(());
                            }
                            step(&mut *session, base + n, &mut buffer)?;
                            // Slow operations look each time.
                            if n % 8 == 0 && start.elapsed() > until.time {
                                done.fetch_add(n - first + 1, Ordering::Relaxed);
                                return Ok(());
                            }
                        }
                        done.fetch_add(LOOK_EVERY, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(start.elapsed())
    })?;
    Ok(done.into_inner() as f64 / took.as_secs_f64())
}

/// An operation that was due at a time of its own.
#[derive(Debug, Clone, Copy)]
pub struct Timed {
    /// When it began.
    pub at: Instant,
    /// From when it could have begun until it was done.
    pub took: Duration,
}

/// Operations at `rate` a second by `threads` together for `time`, begun at fixed times whatever the
/// ones before took. Where one is late because the one before it was slow, its time counts from when it was due;
/// where the system woke its thread late, from when it began.
pub fn paced(
    peer: &dyn Peer,
    threads: usize,
    rate: f64,
    time: Duration,
    step: &Step,
) -> Result<Vec<Timed>> {
    let every = Duration::from_secs_f64(threads as f64 / rate);
    let base = first_number();
    let ready = Barrier::new(threads);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let ready = &ready;
                scope.spawn(move || -> Result<Vec<Timed>> {
                    let session = peer.session();
                    ready.wait();
                    let mut session = session?;
                    let start = Instant::now();
                    let mut due = every.mul_f64(thread as f64 / threads as f64);
                    let mut buffer = Vec::new();
                    let mut all = Vec::new();
                    let mut n = base + thread as u64;
                    while due < time {
                        let now = start.elapsed();
                        let at = match due.checked_sub(now) {
                            Some(early) => {
                                thread::sleep(early);
                                Instant::now()
                            }
                            None => start + due,
                        };
                        step(&mut *session, n, &mut buffer)?;
                        all.push(Timed {
                            at,
                            took: at.elapsed(),
                        });
                        // Hopelessly late: what is not done counts against the rate.
                        if start.elapsed() > time * 2 {
                            break;
                        }
                        due += every;
                        n += threads as u64;
                    }
                    Ok(all)
                })
            })
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.append(&mut thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(all)
    })
}

/// The time that the given share of operations stayed within, in microseconds.
pub fn percentile(times: &[Timed], share: f64) -> f64 {
    let mut took: Vec<f64> = times.iter().map(|t| t.took.as_secs_f64() * 1e6).collect();
    took.sort_by(f64::total_cmp);
    let at = (took.len().saturating_sub(1) as f64 * share) as usize;
    took.get(at).copied().unwrap_or_default()
}

/// One of those that are compared, and a round of it.
pub struct Side<'a> {
    /// What rows call it.
    pub name: String,
    /// Does a round; the figure of it.
    pub round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Side<'a> {
    /// A side.
    pub fn new(name: impl Into<String>, round: impl FnMut() -> Result<f64> + 'a) -> Side<'a> {
        Side {
            name: name.into(),
            round: Box::new(round),
        }
    }
}

/// Alternates rounds of all sides, so that each meets the disk and the machine in the same moods; the
/// median of each.
pub fn alternate(sides: &mut [Side<'_>], rounds: usize) -> Result<Vec<f64>> {
    let mut values = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        for (side, values) in sides.iter_mut().zip(&mut values) {
            let value = (side.round)().map_err(|e| e.context(side.name.clone()))?;
            values.push(value);
        }
    }
    Ok(values.into_iter().map(median).collect())
}
