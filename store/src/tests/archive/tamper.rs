//! Every cut and every changed bit of a piece is noticed, with its key and without.

use super::super::options;
use super::super::scale::on_all_cores;
use super::{open, piece, set};
use crate::archive::{verify, verify_chain};
use crate::{Batch, Compression, Encryption, Options};

/// A piece of a few batches, one of them of so many bytes.
fn sized(options: &Options, bytes: usize) -> Vec<u8> {
    let mut sim = open(options.clone());
    set(&mut sim, "a", 1);
    sim.run(Batch::new().set("b", vec![7; bytes])).unwrap();
    sim.run(Batch::new().delete("a")).unwrap();
    piece(&sim, 1).bytes
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut plain = Options::new(Encryption::None);
    plain.compression = Compression::None;
    for options in [options(), plain] {
        let piece = sized(&options, 100);
        verify(&piece[..], &options.encryption).unwrap();
        let bits = piece.len() * 8;
        on_all_cores(|byte| {
            let at = usize::try_from(byte).unwrap();
            if at >= piece.len() {
                return false;
            }
            let mut piece = piece.clone();
            for bit in 0..8 {
                piece[at] ^= 1 << bit;
                let with = verify(&piece[..], &options.encryption);
                assert!(with.is_err(), "with the key: bit {bit} of byte {at}");
                let without = verify_chain(&piece[..]);
                assert!(without.is_err(), "without the key: bit {bit} of byte {at}");
                piece[at] ^= 1 << bit;
            }
            true
        });
        println!("bits flipped: {bits}, undetected: 0 (piece, with and without key)");
    }
}

#[test]
fn every_cut_and_everything_behind_the_end_is_noticed() {
    let options = options();
    let piece = sized(&options, 2000);
    let check = |bytes: &[u8]| {
        let with = verify(bytes, &options.encryption).unwrap_err();
        let without = verify_chain(bytes).unwrap_err();
        for error in [with, without] {
            assert!(error.is(crate::Code::Corrupt), "{error:?}");
        }
    };
    for cut in 0..piece.len() {
        check(&piece[..cut]);
    }
    for more in [1, 512, 100_000] {
        let mut longer = piece.clone();
        longer.resize(piece.len() + more, 0);
        check(&longer);
    }
    check(&[&piece[..], &piece[..]].concat());
    println!("cuts: {}, undetected: 0 (piece)", piece.len());
}

/// A header that says other revisions, or another time, than the batches have is not believed, though its own sum is right.
#[test]
fn a_header_that_claims_more_than_there_is_does_not_verify() {
    use crate::format::{FileKind, FrameKind, Link, record};
    let sim = open(super::quick());
    let seat = &sim.engine.seat;
    let random = &*seat.env.random;
    let make = |first, to, last_ms, revisions: &[u64]| {
        let link = Link {
            sequence: to,
            ..Link::default()
        };
        let made = seat
            .create_at(FileKind::Archive, first, link, last_ms)
            .unwrap();
        let (mut bytes, mut sealer) = (made.prefix, made.sealer);
        let mut payload = Vec::new();
        for revision in revisions {
            record::put_batch(&mut payload, *revision, 40 + revision, None, [].into_iter())
                .unwrap();
        }
        sealer
            .seal(FrameKind::Batches, &payload, random, &mut bytes)
            .unwrap();
        sealer.close(random, &mut bytes).unwrap();
        verify(&bytes[..], &Encryption::None)
    };
    let good = make(3, 5, 45, &[3, 4, 5]).unwrap();
    assert_eq!((good.contents.batches, good.contents.first_ms), (3, 43));
    // Revisions that were never given out lie before the first batch.
    make(1, 5, 45, &[4, 5]).unwrap();
    for (first, to, last_ms, revisions) in [
        (3, 6, 46, &[3, 4, 5][..]),
        (3, 4, 44, &[3, 4, 5]),
        (4, 5, 45, &[3, 4, 5]),
        (3, 5, 44, &[3, 4, 5]),
        (3, 5, 45, &[3, 5]),
        (3, 5, 45, &[]),
        (0, 5, 45, &[3, 4, 5]),
        (6, 5, 45, &[3, 4, 5]),
    ] {
        let error = make(first, to, last_ms, revisions).unwrap_err();
        assert!(error.is(crate::Code::Corrupt), "{revisions:?}: {error:?}");
    }
}
