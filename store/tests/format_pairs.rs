//! Frames in the wrong place: of a log of 256 frames every pair.

// Helpers outside `#[test]` functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)] // small, fixed files
#![allow(clippy::type_complexity)] // what a helper reads, or after how many frames it failed

mod format_common;
#[path = "../src/tests/scale.rs"]
mod scale;

use std::sync::atomic::{AtomicU64, Ordering};

use codexstore::format::{self, FileId, FileKind};
use codexstore::{Compression, Encryption, KeySize};
use format_common::*;
use scale::{on_all_cores, say, scale};

const FRAMES: usize = 256;
const SECTOR: usize = 512;

/// A log of frames of one sector each, and where they begin.
fn log(encryption: &Encryption, file: u8) -> (Vec<u8>, Vec<usize>) {
    let mut spec = spec(FileKind::Ledger, Compression::None, KeySize::Aes256);
    spec.file = FileId([file; 16]);
    let new = format::create(&spec, encryption, &Seed::new(1)).unwrap();
    let (file, starts) = build(new, &noise(&[64; FRAMES]), false, SECTOR);
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == SECTOR));
    (file, starts)
}

/// Every pair of places, or of every `step`th one, to `each`; returns how many.
fn pairs(step: usize, each: impl Fn(usize, usize) -> bool + Sync) -> u64 {
    let count = AtomicU64::new(0);
    on_all_cores(|row| {
        let i = row as usize;
        if i < FRAMES {
            let row = (0..FRAMES).filter(|j| (i * FRAMES + j).is_multiple_of(step));
            let tried = row.filter(|j| each(i, *j)).count();
            count.fetch_add(tried as u64, Ordering::Relaxed);
        }
        i + 1 < FRAMES
    });
    count.into_inner()
}

#[test]
fn no_frame_is_read_in_the_place_of_another() {
    let step = scale(37, 1, 1) as usize;
    for encryption in [keyring("k1", KeySize::Aes256), Encryption::None] {
        let (file, starts) = log(&encryption, 1);
        assert!(read(&file, &encryption).is_ok());
        let (foreign, _) = log(&encryption, 2);
        let place = |i: usize| starts[i]..starts[i] + SECTOR;
        // Frame i in the place of j: misdirected, and so there twice.
        let repeated = pairs(step, |i, j| {
            if i == j {
                return false;
            }
            let mut bad = file.clone();
            bad.copy_within(place(i), starts[j]);
            assert_corrupt(&bad, &encryption, j, &format!("{i} over {j}"));
            true
        });
        let swapped = pairs(step, |i, j| {
            if i >= j {
                return false;
            }
            let mut bad = file.clone();
            bad[place(i)].copy_from_slice(&file[place(j)]);
            bad[place(j)].copy_from_slice(&file[place(i)]);
            assert_corrupt(&bad, &encryption, i, &format!("{i} and {j} swapped"));
            true
        });
        // Frames i to j taken out, what follows moved up: no gap in the file, but in the log.
        let missing = pairs(step, |i, j| {
            if i > j || j + 1 == FRAMES {
                return false;
            }
            let mut bad = file[..starts[i]].to_vec();
            bad.extend_from_slice(&file[starts[j + 1]..]);
            assert_corrupt(&bad, &encryption, i, &format!("{i} to {j} missing"));
            true
        });
        // Of another file with the same content, in the same place and in others.
        let from_elsewhere = pairs(step, |i, j| {
            let mut bad = file.clone();
            bad[place(j)].copy_from_slice(&foreign[place(i)]);
            assert_corrupt(&bad, &encryption, j, &format!("foreign {i} at {j}"));
            true
        });
        say(&format!(
            "frames in wrong places, {}: repeated {repeated}, swapped {swapped}, missing \
             {missing}, foreign {from_elsewhere}; undetected: 0",
            match encryption {
                Encryption::None => "not encrypted",
                _ => "encrypted",
            }
        ));
    }
}
