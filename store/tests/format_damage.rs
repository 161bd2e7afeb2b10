//! What was not written so is not read: flipped bits, moved frames, wrong keys, cut files; and
//! the one thing that is forgiven, a last frame whose write never ended.

// Helpers outside `#[test]` functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)] // small, fixed files
#![allow(clippy::type_complexity)] // what a helper reads, or after how many frames it failed

mod format_common;

use codexstore::format::{self, FileKind, FileSpec, FrameKind, Tail};
use codexstore::{Code, Compression, Encryption, KeySize, Keyring, Passphrase};
use format_common::*;

/// Every kind of key slot.
fn all() -> [Encryption; 3] {
    let passphrase = Passphrase::new(b"correct horse battery").unwrap();
    let passphrase = passphrase.with_iterations(Passphrase::MIN_ITERATIONS);
    let [none, keyring] = both();
    [none, keyring, Encryption::Passphrase(passphrase.unwrap())]
}

/// Both kinds of frame protection; the sizes of AES differ only in the key.
fn both() -> [Encryption; 2] {
    [Encryption::None, keyring("k1", KeySize::Aes256)]
}

fn make(spec: &FileSpec, encryption: &Encryption, seed: u64) -> format::NewFile {
    format::create(spec, encryption, &Seed::new(seed)).unwrap()
}

#[test]
fn every_flipped_bit_of_header_and_key_slots_is_detected() {
    for encryption in all() {
        let (file, _) = build(journal(&encryption), &noise(&[5]), false, 0);
        let mut prefix = prefix(&file).to_vec();
        let mut reported = 0;
        for bit in 0..prefix.len() * 8 {
            prefix[bit / 8] ^= 1 << (bit % 8);
            match format::open(&prefix, &encryption) {
                Ok(open) => {
                    assert!(open.damaged_slot, "bit {bit} went unnoticed");
                    assert!(bit / 8 >= 8192, "bit {bit} is not in the unused slot");
                    reported += 1;
                }
                Err(error) => assert!(error.is(Code::Corrupt), "bit {bit}: {error:?}"),
            }
            prefix[bit / 8] ^= 1 << (bit % 8);
        }
        let encrypted = !matches!(encryption, Encryption::None);
        assert_eq!(reported, if encrypted { 4096 * 8 } else { 0 });
    }
}

#[test]
fn every_flipped_bit_of_frames_is_detected() {
    for encryption in both() {
        for (kind, close) in [(FileKind::Journal, false), (FileKind::Image, true)] {
            let spec = spec(kind, Compression::None, KeySize::Aes256);
            let (mut file, starts) = build(
                make(&spec, &encryption, 1),
                &noise(&[200, 600, 31]),
                close,
                0,
            );
            for bit in starts[0] * 8..file.len() * 8 {
                file[bit / 8] ^= 1 << (bit % 8);
                let good = starts[1..].iter().filter(|end| **end <= bit / 8).count();
                assert_corrupt(&file, &encryption, good, &format!("{kind:?} bit {bit}"));
                file[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_space_never_written_is_harmless() {
    for encryption in both() {
        let (mut file, starts) = build(journal(&encryption), &noise(&[200, 600]), false, 1024);
        for bit in starts[2] * 8..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            let (payloads, tail) = read(&file, &encryption)
                .unwrap_or_else(|(_, error)| panic!("bit {bit}: {error:?}"));
            assert_eq!(payloads.len(), 2);
            assert!(matches!(tail, Tail::Torn { .. }), "bit {bit}: {tail:?}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn swapped_repeated_and_missing_frames_are_detected() {
    for encryption in both() {
        let count = 32;
        let payloads = noise(&vec![150; count]);
        let (file, starts) = build(journal(&encryption), &payloads, false, 4096);
        let frame = |i: usize| starts[i]..starts[i + 1];
        for i in 0..count {
            for j in (0..count).filter(|j| *j != i) {
                // Frame i repeated in the place of j.
                let mut bad = file.clone();
                bad.copy_within(frame(i), starts[j]);
                assert_corrupt(&bad, &encryption, j, &format!("{i} over {j}"));
                if i < j {
                    let moved = bad[frame(i)].to_vec();
                    bad[frame(i)].copy_from_slice(&file[frame(j)]);
                    assert_eq!(moved, file[frame(i)]);
                    assert_corrupt(&bad, &encryption, i, &format!("{i} and {j} swapped"));
                }
            }
            // Frame i taken out, what follows moved up.
            if i + 1 < count {
                let mut bad = file[..starts[i]].to_vec();
                bad.extend_from_slice(&file[starts[i + 1]..]);
                assert_corrupt(&bad, &encryption, i, &format!("{i} removed"));
                // Frame i zeroed: an end, if nothing followed.
                let mut bad = file.clone();
                bad[frame(i)].fill(0);
                assert_corrupt(&bad, &encryption, i, &format!("{i} zeroed"));
            }
        }
    }
}

#[test]
fn a_frame_of_another_file_is_detected_even_at_the_same_place() {
    for encryption in both() {
        let payloads = noise(&[100, 100, 100]);
        let (file, starts) = build(journal(&encryption), &payloads, false, 512);
        // Same keys, same payloads, same places; only the file's id, or its data key, differs.
        let mut other = spec(FileKind::Journal, Compression::None, KeySize::Aes256);
        other.file = format::FileId([0x77; 16]);
        let (foreign, _) = build(make(&other, &encryption, 1), &payloads, false, 512);
        assert!(read(&foreign, &encryption).is_ok());
        for i in 0..3 {
            let mut bad = file.clone();
            bad[starts[i]..starts[i + 1]].copy_from_slice(&foreign[starts[i]..starts[i + 1]]);
            assert_corrupt(&bad, &encryption, i, "foreign frame");
        }
        let mut bad = file.clone();
        bad[starts[0]..].copy_from_slice(&foreign[starts[0]..]);
        assert_corrupt(&bad, &encryption, 0, "foreign frames");
        // And a foreign header over own frames.
        let mut bad = file.clone();
        bad[..4096].copy_from_slice(&foreign[..4096]);
        match read(&bad, &encryption).unwrap_err() {
            (0, error) if matches!(encryption, Encryption::Keyring(_)) => {
                assert!(error.is(Code::WrongKey), "{error:?}");
            }
            (0, error) => assert!(error.is(Code::Corrupt), "{error:?}"),
            (frames, error) => panic!("{frames} frames read, {error:?}"),
        }
    }
}

#[test]
fn a_chain_made_again_by_someone_without_the_key_does_not_authenticate() {
    // Two files of one store with the same chain as far as anyone without the key can tell: the
    // second file's frames were sealed under another data key and a header of the same content.
    let encryption = keyring("k1", KeySize::Aes256);
    let (file, starts) = build(journal(&encryption), &noise(&[100]), false, 512);
    let spec = spec(FileKind::Journal, Compression::None, KeySize::Aes256);
    let (other, _) = build(make(&spec, &encryption, 2), &noise(&[100]), false, 512);
    let mut bad = file.clone();
    bad[starts[0]..].copy_from_slice(&other[starts[0]..]);
    assert_corrupt(&bad, &encryption, 0, "another data key");
    // The other file's key slot under this header: bound to its own header.
    let mut bad = file;
    bad[4096..12288].copy_from_slice(&other[4096..12288]);
    let error = format::open(prefix(&bad), &encryption).err().unwrap();
    assert!(error.is(Code::WrongKey), "{error:?}");
}

#[test]
fn wrong_missing_and_mismatched_keys_are_encryption_errors_before_any_frame() {
    for size in KeySize::ALL {
        let good = keyring("k1", size);
        let (file, _) = build(journal(&good), &noise(&[100]), false, 512);
        let wrong = |bytes: usize| {
            let key = codexstore::Key::new(&vec![9; bytes]).unwrap();
            let id = codexstore::KeyId::new("k1").unwrap();
            Encryption::Keyring(Keyring::single(id, key))
        };
        for bytes in [16, 24, 32] {
            let error = format::open(prefix(&file), &wrong(bytes)).err().unwrap();
            assert!(error.is(Code::WrongKey), "{error:?}");
            assert!(error.to_string().contains("k1"), "{error}");
        }
        let error = format::open(prefix(&file), &keyring("k2", size))
            .err()
            .unwrap();
        assert!(error.is(Code::KeyMissing), "{error:?}");
        assert!(error.to_string().contains("k1") && error.to_string().contains("k2"));
        let error = format::open(prefix(&file), &Encryption::None)
            .err()
            .unwrap();
        assert!(error.is(Code::EncryptionMismatch), "{error:?}");
        let (plain, _) = build(journal(&Encryption::None), &noise(&[100]), false, 512);
        let error = format::open(prefix(&plain), &good).err().unwrap();
        assert!(error.is(Code::EncryptionMismatch), "{error:?}");
        assert_eq!(error.kind(), codexstore::Kind::Encryption);
    }
}

#[test]
fn a_newer_format_is_refused_by_its_version_and_a_damaged_version_as_damage() {
    let (file, _) = build(journal(&Encryption::None), &[], false, 0);
    let mut newer = prefix(&file).to_vec();
    newer[8] = 2;
    let error = format::open(&newer, &Encryption::None).err().unwrap();
    assert!(error.is(Code::Corrupt), "{error:?}");
    let sum = <sha2::Sha256 as sha2::Digest>::digest(&newer[..4064]);
    newer[4064..4096].copy_from_slice(&sum);
    let error = format::open(&newer, &Encryption::None).err().unwrap();
    assert!(error.is(Code::UnsupportedVersion), "{error:?}");
}

/// Five sectors: enough for holes of every shape.
const LAST: usize = 2300;

#[test]
fn a_last_frame_cut_at_any_byte_is_torn_and_what_came_before_is_kept() {
    for encryption in both() {
        let (file, starts) = build(journal(&encryption), &noise(&[100, 700, LAST]), false, 2048);
        assert_eq!(starts[3] - starts[2], 5 * 512);
        for cut in starts[2]..starts[3] {
            let mut torn = file.clone();
            torn[cut..starts[3]].fill(0);
            check_torn(
                &torn,
                &encryption,
                cut > starts[2],
                &format!("cut at {cut}"),
            );
            // The same where the file was not filled ahead.
            torn.truncate(cut);
            check_torn(
                &torn,
                &encryption,
                cut > starts[2],
                &format!("ends at {cut}"),
            );
        }
    }
}

fn check_torn(file: &[u8], encryption: &Encryption, torn: bool, what: &str) {
    let (payloads, tail) =
        read(file, encryption).unwrap_or_else(|(_, error)| panic!("{what}: {error:?}"));
    assert_eq!(payloads, noise(&[100, 700]), "{what}");
    assert_eq!(matches!(tail, Tail::Torn { .. }), torn, "{what}: {tail:?}");
    assert_eq!(matches!(tail, Tail::Open), !torn, "{what}: {tail:?}");
}

#[test]
fn a_last_frame_with_any_sectors_missing_is_torn() {
    for encryption in both() {
        let (file, starts) = build(journal(&encryption), &noise(&[100, 700, LAST]), false, 2048);
        for written in 0..31_u32 {
            let mut torn = file.clone();
            for sector in (0..5).filter(|sector| written & (1 << sector) == 0) {
                torn[starts[2] + sector * 512..][..512].fill(0);
            }
            check_torn(
                &torn,
                &encryption,
                written != 0,
                &format!("sectors {written:05b}"),
            );
        }
    }
}

#[test]
fn sectors_missing_before_a_later_frame_are_damage() {
    for encryption in both() {
        let (file, starts) = build(journal(&encryption), &noise(&[100, LAST, 700]), false, 2048);
        for written in 0..31_u32 {
            let mut bad = file.clone();
            for sector in (0..5).filter(|sector| written & (1 << sector) == 0) {
                bad[starts[1] + sector * 512..][..512].fill(0);
            }
            assert_corrupt(&bad, &encryption, 1, &format!("sectors {written:05b}"));
            // Also when the later frame is itself cut behind its head, or has lost its head but
            // the damaged frame's own head tells where it ended.
            bad[starts[2] + 512..starts[3]].fill(0);
            assert_corrupt(
                &bad,
                &encryption,
                1,
                &format!("sectors {written:05b}, then torn"),
            );
            if written & 1 != 0 {
                bad[starts[2]..].copy_from_slice(&file[starts[2]..]);
                bad[starts[2]..starts[2] + 512].fill(0);
                assert_corrupt(
                    &bad,
                    &encryption,
                    1,
                    &format!("sectors {written:05b}, no head"),
                );
            }
        }
    }
}

#[test]
fn a_last_frame_whose_write_ended_is_never_dropped() {
    for encryption in both() {
        let (file, starts) = build(journal(&encryption), &noise(&[100, LAST]), false, 2048);
        // Any byte changed to any other, as long as no sector and not the end marker is zero.
        for at in (starts[1]..starts[2]).step_by(3) {
            let mut bad = file.clone();
            bad[at] ^= 0x5a;
            assert_corrupt(&bad, &encryption, 1, &format!("byte {at}"));
        }
        // Part of a sector zeroed is no tear: disks write sectors whole.
        for sector in 0..5 {
            let mut bad = file.clone();
            bad[starts[1] + sector * 512..][..511].fill(0);
            if bad[starts[1] + sector * 512 + 511] != 0 {
                assert_corrupt(&bad, &encryption, 1, &format!("most of sector {sector}"));
            }
        }
    }
}

#[test]
fn a_value_of_zeros_without_encryption_is_not_taken_for_a_hole() {
    // Without whitening, this frame would have zero sectors, and damage in it would look torn.
    let encryption = Encryption::None;
    let (file, starts) = build(journal(&encryption), &[vec![0; 4000]], false, 2048);
    assert!(
        file[starts[0]..starts[1]]
            .chunks(512)
            .all(|s| s.iter().any(|b| *b != 0))
    );
    let mut bad = file;
    bad[starts[0] + 900] ^= 1;
    assert_corrupt(&bad, &encryption, 0, "zeros, damaged");
}

#[test]
fn a_payload_that_looks_like_a_frame_is_not_one() {
    // A stored copy of a journal, as a value: none of its frames may count as a later frame.
    for encryption in both() {
        let (inner, _) = build(journal(&Encryption::None), &noise(&[100, 100]), false, 0);
        let payloads = vec![noise(&[100]).remove(0), inner];
        let (file, starts) = build(journal(&encryption), &payloads, false, 512);
        let mut torn = file;
        torn[starts[2] - 512..starts[2]].fill(0);
        let (read, tail) = read(&torn, &encryption).unwrap();
        assert_eq!(read.len(), 1);
        assert!(matches!(tail, Tail::Torn { .. }));
    }
}

#[test]
fn an_image_that_is_cut_or_continued_is_refused() {
    for encryption in both() {
        let spec = spec(FileKind::Image, Compression::Zstd, KeySize::Aes256);
        let (file, starts) = build(make(&spec, &encryption, 1), &noise(&[100, 700]), true, 0);
        assert!(read(&file, &encryption).is_ok());
        for cut in (starts[0]..file.len())
            .step_by(13)
            .chain(starts[..3].iter().copied())
        {
            let good = starts[1..].iter().filter(|end| **end <= cut).count();
            assert_corrupt(&file[..cut], &encryption, good, &format!("cut at {cut}"));
            let mut zeroed = file.clone();
            zeroed[cut..].fill(0);
            assert_corrupt(&zeroed, &encryption, good, &format!("zero from {cut}"));
        }
        for cut in (0..starts[0]).step_by(111) {
            assert!(
                format::open(prefix(&file[..cut]), &encryption).is_err(),
                "prefix {cut}"
            );
        }
        for more in [&[0][..], &[1], &file[starts[0]..starts[1]]] {
            let longer = [&file[..], more].concat();
            assert_corrupt(&longer, &encryption, 2, "goes on");
        }
    }
}

#[test]
fn only_closing_makes_a_closing_frame() {
    for encryption in both() {
        let mut new = journal(&encryption);
        let mut bytes = new.prefix;
        let random = Seed::new(99);
        // A payload like a closing frame's, in a data frame: not taken for one.
        new.sealer
            .seal(FrameKind::Batches, &[0; 48], &random, &mut bytes)
            .unwrap();
        assert!(
            new.sealer
                .seal(FrameKind::Close, &[0; 48], &random, &mut bytes)
                .is_err()
        );
        let (payloads, tail) = read(&bytes, &encryption).unwrap();
        assert_eq!((payloads.len(), tail), (1, Tail::Open));
    }
}

#[test]
fn no_frame_may_follow_a_closed_journal() {
    for encryption in both() {
        let (file, starts) = build(journal(&encryption), &noise(&[100, 100]), true, 2048);
        assert!(matches!(read(&file, &encryption), Ok((_, Tail::Closed(_)))));
        for at in [starts[3], starts[3] + 512, starts[3] + 1024] {
            let mut bad = file.clone();
            bad.copy_within(starts[0]..starts[1], at);
            assert_corrupt(&bad, &encryption, 2, &format!("a frame at {at}"));
        }
    }
}

#[test]
fn a_head_that_promises_more_than_the_file_holds_is_refused_without_allocating_it() {
    // The largest body that a head can name, with a good CRC, in a file of a few KiB: reading
    // allocates no more than the file has (a run with limited memory would show it).
    let encryption = Encryption::None;
    let (file, starts) = build(journal(&encryption), &noise(&[100]), false, 512);
    let mut bad = file;
    let at = starts[0];
    bad[at + 4..at + 8].copy_from_slice(&((72_u32 << 20) + 56).to_le_bytes());
    let crc = crc32c::crc32c(&bad[at..at + 20]);
    bad[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
    // Its end was never written, as far as the file tells: torn.
    assert!(matches!(
        read(&bad, &encryption),
        Ok((_, Tail::Torn { .. }))
    ));
    bad[at + 4..at + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&bad[at..at + 20]);
    bad[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
    assert_corrupt(&bad, &encryption, 0, "a length beyond the limit");
}
