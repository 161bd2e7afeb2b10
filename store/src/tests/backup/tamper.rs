//! Every cut and every changed bit of a backup is noticed, with its key and without.

use super::super::{disk::SimDisk, options, scale::scale, sim::Sim};
use super::backup_of;
use crate::backup::{verify, verify_chain};
use crate::{Batch, Compression, Encryption, Options};

/// A backup of about that many bytes.
fn sized(options: &Options, bytes: usize, seed: u64) -> Vec<u8> {
    let mut sim = Sim::open(&SimDisk::default(), options.clone(), seed).unwrap();
    let mut stream = backup_of(&sim).0;
    let mut n = 0_u64;
    while stream.len() < bytes {
        let value = n.to_le_bytes().repeat((bytes - stream.len()).div_ceil(16));
        sim.run(Batch::new().set(format!("key-{n}"), value))
            .unwrap();
        stream = backup_of(&sim).0;
        n += 1;
    }
    stream
}

/// Flips every `step`th bit and looks whether each is noticed. Returns how many were flipped.
fn flip(stream: &[u8], encryption: &Encryption, step: usize) -> u64 {
    let threads = 2;
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let mut stream = stream.to_vec();
                    let mut flipped = 0;
                    for bit in (part * step..stream.len() * 8).step_by(step * threads) {
                        stream[bit / 8] ^= 1 << (bit % 8);
                        assert!(
                            verify(&stream[..], encryption).is_err(),
                            "with the key, bit {bit} is not noticed"
                        );
                        assert!(
                            verify_chain(&stream[..]).is_err(),
                            "without the key, bit {bit} is not noticed"
                        );
                        stream[bit / 8] ^= 1 << (bit % 8);
                        flipped += 1;
                    }
                    flipped
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap()).sum()
    })
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut plain = Options::new(Encryption::None);
    plain.compression = Compression::None;
    for options in [options(), plain] {
        let stream = sized(&options, 1, 1);
        let flipped = flip(&stream, &options.encryption, 1);
        assert_eq!(flipped, stream.len() as u64 * 8);
        println!("bits flipped: {flipped}, undetected: 0 (backup, with and without key)");
    }
}

#[test]
fn flipped_bits_of_64_kib_are_noticed() {
    let mut options = options();
    options.compression = Compression::None;
    let stream = sized(&options, 64 << 10, 1);
    // Each bit in `make soak`; `make test` flips each through the reader of files.
    let step = usize::try_from(scale(997, 97, 1)).unwrap();
    let flipped = flip(&stream, &options.encryption, step);
    println!("bits flipped: {flipped}, undetected: 0 (backup, with and without key)");
}

#[test]
fn every_cut_and_everything_behind_the_end_is_noticed() {
    let options = options();
    let stream = sized(&options, 20_000, 1);
    let check = |bytes: &[u8]| {
        let with = verify(bytes, &options.encryption).unwrap_err();
        let without = verify_chain(bytes).unwrap_err();
        for error in [with, without] {
            assert!(error.is(crate::Code::Corrupt), "{error:?}");
        }
    };
    let sectors = (0..stream.len()).step_by(512);
    let odd = (0..stream.len()).step_by(97);
    let mut cuts = 0;
    for cut in sectors.chain(odd).chain([stream.len() - 1]) {
        check(&stream[..cut]);
        cuts += 1;
    }
    for more in [1, 512, 100_000] {
        let mut longer = stream.clone();
        longer.resize(stream.len() + more, 0);
        check(&longer);
    }
    let twice = [&stream[..], &stream[..]].concat();
    check(&twice);
    println!("cuts: {cuts}, undetected: 0");
}

/// Frames that are left out, doubled or swapped break the chain; frames of another backup too.
#[test]
fn frames_cannot_be_moved() {
    let mut options = options();
    options.compression = Compression::None;
    let (a, b) = (sized(&options, 600_000, 1), sized(&options, 600_000, 2));
    let frames = |bytes: &[u8]| {
        let mut stream = crate::format::Stream::begin(bytes, None).unwrap();
        let mut places = Vec::new();
        while let Some(frame) = stream.step().unwrap() {
            let at = usize::try_from(frame.offset).unwrap();
            places.push(at..at + usize::try_from(frame.len).unwrap());
        }
        places
    };
    let places = frames(&a);
    assert!(places.len() >= 3, "{places:?}");
    assert_eq!(places, frames(&b), "of the same shape");
    for one in &places {
        let without = [&a[..one.start], &a[one.end..]].concat();
        let doubled = [&a[..one.end], &a[one.start..]].concat();
        let mut foreign = a.clone();
        foreign[one.clone()].copy_from_slice(&b[one.clone()]);
        for changed in [without, doubled, foreign] {
            assert!(verify(&changed[..], &options.encryption).is_err());
            assert!(verify_chain(&changed[..]).is_err());
        }
    }
}
