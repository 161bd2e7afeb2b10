//! Every bit of a file of each kind flipped, alone, in bounded memory.

// Helpers outside `#[test]` functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)] // small, fixed files
#![allow(clippy::type_complexity)] // what a helper reads, or after how many frames it failed

mod format_common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::sync::atomic::{AtomicUsize, Ordering};

use codexstore::format::{self, FileKind, Tail};
use codexstore::{Code, Compression, Encryption, KeySize};
use format_common::*;
use peak_alloc::PeakAlloc;
use scale::{on_all_cores, say, scale};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that are written: header, key slots and frames.
const WRITTEN: usize = 64 << 10;

/// Zeros behind them in logs.
const AHEAD: usize = 4 << 10;

/// A file of [`WRITTEN`] bytes, with space ahead if it is a log.
fn whole(kind: FileKind, encryption: &Encryption) -> (Vec<u8>, Vec<Vec<u8>>) {
    let spec = spec(kind, Compression::Zstd, KeySize::Aes256);
    let new = format::create(&spec, encryption, &Seed::new(1)).unwrap();
    let close = kind.must_close();
    let mut lens = vec![5000; 9];
    lens.push(if close { 1900 } else { 2400 });
    let payloads = noise(&lens);
    let (file, starts) = build(new, &payloads, close, if close { 0 } else { AHEAD });
    assert_eq!(*starts.last().unwrap(), WRITTEN);
    (file, payloads)
}

/// What came of a flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flip {
    Refused,
    /// The file opened with the other key slot, and said so.
    Reported,
    /// In space never written; the file reads as before.
    Harmless,
    Undetected,
}

fn outcome(file: &[u8], encryption: &Encryption, payloads: &[Vec<u8>], at: usize) -> Flip {
    let open = match format::open(prefix(file), encryption) {
        Ok(open) => open,
        Err(error) => {
            assert!(error.is(Code::Corrupt), "byte {at}: {error:?}");
            return Flip::Refused;
        }
    };
    let reported = open.damaged_slot;
    if at < prefix(file).len() {
        return if reported {
            Flip::Reported
        } else {
            Flip::Undetected
        };
    }
    match read_frames(open, file) {
        Err((_, error)) => {
            assert!(error.is(Code::Corrupt), "byte {at}: {error:?}");
            Flip::Refused
        }
        Ok((read, Tail::Torn { .. })) if at >= WRITTEN && read == payloads => Flip::Harmless,
        Ok(_) => Flip::Undetected,
    }
}

/// Flips every `step`th bit of a file of a kind. Returns how many, of those in what was written.
fn rot(kind: FileKind, step: usize) -> usize {
    let encryption = keyring("k1", KeySize::Aes256);
    let (file, payloads) = whole(kind, &encryption);
    let counts: [AtomicUsize; 4] = Default::default();
    on_all_cores(|chunk| {
        let bits = file.len() * 8;
        let first = chunk as usize * 4096;
        let mut file = file.clone();
        for bit in (first..bits.min(first + 4096)).filter(|bit| bit % step == 0) {
            file[bit / 8] ^= 1 << (bit % 8);
            let flip = outcome(&file, &encryption, &payloads, bit / 8);
            assert!(
                (flip == Flip::Harmless) == (bit / 8 >= WRITTEN),
                "{kind:?}, bit {bit}: {flip:?}"
            );
            counts[flip as usize].fetch_add(1, Ordering::Relaxed);
            file[bit / 8] ^= 1 << (bit % 8);
        }
        first + 4096 < bits
    });
    let [refused, reported, harmless, undetected] = counts.map(AtomicUsize::into_inner);
    let flipped = refused + reported + undetected;
    say(&format!(
        "{kind:?}: bits flipped: {flipped}, undetected: {undetected} (refused {refused}, other \
         key slot used and reported {reported}; harmless in space never written: {harmless})"
    ));
    assert_eq!(undetected, 0);
    flipped
}

#[test]
fn every_flipped_bit_is_detected_in_bounded_memory() {
    let step = scale(101, 1, 1) as usize;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let kinds = [
        FileKind::Image,
        FileKind::Journal,
        FileKind::Ledger,
        FileKind::Backup,
    ];
    let flipped: usize = kinds.into_iter().map(|kind| rot(kind, step)).sum();
    say(&format!("bits flipped: {flipped}, undetected: 0"));
    let peak = MEMORY.peak_usage() - before;
    assert!(peak < 4 << 20, "{peak} bytes of memory for 68 KiB");
}

#[test]
fn a_length_that_a_file_does_not_have_is_not_allocated() {
    let encryption = Encryption::None;
    let (file, starts) = build(journal(&encryption), &noise(&[100]), false, 4096);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    for shift in 0..32 {
        for len in [1_u32 << shift, (1 << shift) - 1, u32::MAX - (1 << shift)] {
            let mut bad = file.clone();
            let head = &mut bad[starts[0]..][..24];
            head[4..8].copy_from_slice(&len.to_le_bytes());
            let crc = crc32c::crc32c(&head[..20]);
            head[20..].copy_from_slice(&crc.to_le_bytes());
            // Torn or damage; never a frame.
            let frames = match read(&bad, &encryption) {
                Ok((frames, _)) => frames.len(),
                Err((frames, error)) => {
                    assert!(error.is(Code::Corrupt), "{len}: {error:?}");
                    frames
                }
            };
            assert_eq!(frames, 0, "{len}");
        }
    }
    // The other test of this file may run at the same time.
    let peak = MEMORY.peak_usage() - before;
    assert!(peak < 8 << 20, "{peak} bytes of memory for 17 KiB");
}
