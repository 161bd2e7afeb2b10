//! Torn writes: the last three frames of a log cut and holed at every place, in units of a byte, a
//! sector and a page.

// Helpers outside `#[test]` functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)] // small, fixed files
#![allow(clippy::type_complexity)] // what a helper reads, or after how many frames it failed

mod format_common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::sync::atomic::{AtomicU64, Ordering};

use codexstore::format::Tail;
use codexstore::{Encryption, KeySize};
use format_common::*;
use scale::{on_all_cores, say, scale};

/// The last three are what is spoilt.
const LENS: [usize; 5] = [100, 700, 5000, 9000, 6000];

struct Log {
    encryption: Encryption,
    file: Vec<u8>,
    starts: Vec<usize>,
    payloads: Vec<Vec<u8>>,
    torn: AtomicU64,
    refused: AtomicU64,
}

impl Log {
    fn new(encryption: Encryption) -> Log {
        let payloads = noise(&LENS);
        let (file, starts) = build(journal(&encryption), &payloads, false, 2048);
        Log {
            encryption,
            file,
            starts,
            payloads,
            torn: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// The frame that holds a byte.
    fn frame(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }

    fn spoilt(&self) -> std::ops::Range<usize> {
        self.starts[2]..self.starts[5]
    }

    /// The frames before `good` are read and the rest is dropped as torn.
    fn is_torn(&self, bad: &[u8], good: usize, what: &str) {
        let (payloads, tail) =
            read(bad, &self.encryption).unwrap_or_else(|(_, e)| panic!("{what}: {e:?}"));
        assert!(payloads == self.payloads[..good], "{what}: {good} expected");
        let torn = bad[self.starts[good].min(bad.len())..]
            .iter()
            .any(|byte| *byte != 0);
        assert_eq!(matches!(tail, Tail::Torn { .. }), torn, "{what}: {tail:?}");
        self.torn.fetch_add(1, Ordering::Relaxed);
    }

    fn is_refused(&self, bad: &[u8], good: usize, what: &str) {
        assert_corrupt(bad, &self.encryption, good, what);
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every byte of the last three frames, or every `step`th, to `each`.
fn every_byte(log: &Log, step: usize, each: impl Fn(usize) + Sync) {
    let range = log.spoilt();
    on_all_cores(|chunk| {
        let first = range.start + chunk as usize * 256;
        for at in (first..range.end.min(first + 256)).filter(|at| at % step == 0) {
            each(at);
        }
        first + 256 < range.end
    });
}

fn both() -> [Log; 2] {
    [Encryption::None, keyring("k1", KeySize::Aes256)].map(Log::new)
}

fn step() -> usize {
    scale(11, 1, 1) as usize
}

#[test]
fn a_cut_at_any_byte_is_torn_at_the_end_and_damage_before_it() {
    for log in both() {
        every_byte(&log, step(), |at| {
            let frame = log.frame(at);
            for unit in [1, 512, 4096] {
                let cut = at - at % unit;
                let good = log.frame(cut.max(log.starts[0]));
                let what = format!("cut at {cut}");
                // Everything from there on is missing: zeros, or the end of the file.
                let mut bad = log.file.clone();
                bad[cut..].fill(0);
                log.is_torn(&bad, good, &what);
                bad.truncate(cut);
                log.is_torn(&bad, good, &what);
                // Only the rest of that frame is missing, and a good one follows.
                if good == frame && frame < LENS.len() - 1 {
                    let mut bad = log.file.clone();
                    bad[cut..log.starts[frame + 1]].fill(0);
                    log.is_refused(&bad, frame, &format!("{what}, followed"));
                }
            }
        });
        say(&format!(
            "cuts: torn and dropped {}, refused {}",
            log.torn.into_inner(),
            log.refused.into_inner()
        ));
    }
}

#[test]
fn a_hole_is_torn_at_the_end_and_damage_before_it() {
    for log in both() {
        for unit in [512, 4096] {
            for from in (log.starts[2] / unit * unit..log.starts[5]).step_by(unit) {
                // One or more blocks that never landed.
                for to in (from + unit..=log.starts[5].next_multiple_of(unit)).step_by(unit) {
                    let mut bad = log.file.clone();
                    let (first, end) = (from.max(log.starts[2]), to.min(log.starts[5]));
                    bad[first..end].fill(0);
                    let what = format!("hole {first} to {end}");
                    let frame = log.frame(first);
                    // Without any head left it is like zeros to the end, which nothing tells.
                    let headless = first == log.starts[frame] && end > log.starts[4];
                    if end == log.starts[5] || frame == LENS.len() - 1 || headless {
                        log.is_torn(&bad, frame, &what);
                    } else {
                        log.is_refused(&bad, frame, &what);
                    }
                }
            }
        }
        say(&format!(
            "holes: torn and dropped {}, refused {}",
            log.torn.into_inner(),
            log.refused.into_inner()
        ));
    }
}

#[test]
fn a_stale_block_is_damage_or_torn_and_never_read() {
    for log in both() {
        let kept = log.file.clone();
        for unit in [512, 4096] {
            for at in (log.starts[2].next_multiple_of(unit)..log.starts[5]).step_by(unit) {
                let end = (at + unit).min(log.starts[5]);
                let frame = log.frame(at);
                // What another place of the same file held, and what it held before with bytes of
                // no meaning.
                for from in (log.starts[0]..log.starts[5] - unit).step_by(512) {
                    if from == at {
                        continue;
                    }
                    let mut bad = kept.clone();
                    bad.copy_within(from..from + (end - at), at);
                    let what = format!("block {from} at {at}");
                    match read(&bad, &log.encryption) {
                        Ok((payloads, Tail::Torn { .. })) if end == log.starts[5] => {
                            assert!(payloads == log.payloads[..frame], "{what}");
                            log.torn.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok((payloads, tail)) => panic!("{what}: {} {tail:?}", payloads.len()),
                        Err(_) => log.is_refused(&bad, frame, &what),
                    }
                }
                let mut bad = kept.clone();
                bad[at..end].fill(0xa5);
                log.is_refused(&bad, frame, &format!("stale bytes at {at}"));
            }
        }
        say(&format!(
            "stale blocks: torn and dropped {}, refused {}",
            log.torn.into_inner(),
            log.refused.into_inner()
        ));
    }
}
