//! What is written is read: every cipher with every compression, appended to, closed, rewrapped.

// Helpers outside `#[test]` functions count as production code for these lints.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)] // small, fixed files
#![allow(clippy::type_complexity)] // what a helper reads, or after how many frames it failed

mod format_common;

use codexstore::format::record::{self, EntryRef, Op};
use codexstore::format::{self, FileKind, FrameKind, MAX_PAYLOAD, Reader, SECTOR, Step, Tail};
use codexstore::{Code, Compression, Encryption, KeySize};
use format_common::*;
use proptest::prelude::*;

fn sample_payloads() -> Vec<Vec<u8>> {
    let mut payloads = noise(&[0, 1, 380, 390, 512, 5000, 300_000]);
    payloads.push(b"compressible ".repeat(400));
    payloads.push(vec![0; 70_000]);
    payloads
}

#[test]
fn every_cipher_and_compression_reads_what_it_wrote() {
    for (encryption, size) in protections() {
        for compression in Compression::ALL {
            let spec = spec(FileKind::Journal, compression, size);
            let what = format!("{size:?} {compression:?}");
            for (close, zeros) in [(false, 0), (false, 4096), (true, 0), (true, 8192)] {
                let new = format::create(&spec, &encryption, &Seed::new(5)).unwrap();
                let header = new.header.clone();
                let (file, _) = build(new, &sample_payloads(), close, zeros);
                let open = format::open(prefix(&file), &encryption).unwrap();
                assert_eq!(open.header, header);
                assert!(!open.damaged_slot);
                let (payloads, tail) = read_frames(open, &file).unwrap();
                assert!(payloads == sample_payloads(), "{what}");
                assert_eq!(matches!(tail, Tail::Closed(_)), close, "{what}: {tail:?}");
                if let Tail::Closed(totals) = tail {
                    assert_eq!(totals.frames, payloads.len() as u64);
                    let bytes: usize = payloads.iter().map(Vec::len).sum();
                    assert_eq!(totals.bytes, bytes as u64);
                }
            }
        }
    }
}

#[test]
fn compression_makes_the_file_smaller_and_ciphertext_hides_the_payload() {
    let payload = vec![b"a value that repeats itself ".repeat(100)];
    for (encryption, size) in protections() {
        let mut lens = Vec::new();
        for compression in Compression::ALL {
            let new = format::create(
                &spec(FileKind::Journal, compression, size),
                &encryption,
                &Seed::new(5),
            )
            .unwrap();
            let (file, _) = build(new, &payload, false, 0);
            assert!(!file.windows(9).any(|w| w == b"a value t"));
            lens.push(file.len());
        }
        assert!(lens[1..].iter().all(|len| *len < lens[0]), "{lens:?}");
    }
}

#[test]
fn the_chain_is_checked_without_a_key() {
    for (encryption, size) in protections() {
        let spec = spec(FileKind::Image, Compression::Zstd, size);
        let new = format::create(&spec, &encryption, &Seed::new(5)).unwrap();
        let (mut file, starts) = build(new, &sample_payloads(), true, 0);
        let open = format::open_without_key(prefix(&file)).unwrap();
        let encrypted = matches!(encryption, Encryption::Keyring(_));
        assert_eq!(
            open.key_id.as_ref().map(codexstore::KeyId::as_str),
            encrypted.then_some("k1")
        );
        let (payloads, tail) = read_frames(open, &file).unwrap();
        assert_eq!(payloads.len(), sample_payloads().len());
        assert!(
            payloads
                .iter()
                .all(|p| p.is_empty() == (encrypted || p.is_empty()))
        );
        assert!(matches!(tail, Tail::Closed(totals) if totals.frames == payloads.len() as u64));
        file[starts[3] + 100] ^= 1;
        let open = format::open_without_key(prefix(&file)).unwrap();
        assert_eq!(read_frames(open, &file).unwrap_err().1.code(), "corrupt");
    }
}

#[test]
fn a_log_goes_on_where_reading_ended() {
    for (encryption, _) in protections() {
        let payloads = noise(&[10, 600, 30, 2000]);
        let (mut file, _) = build(journal(&encryption), &payloads[..2], false, 0);
        let end = file.len();
        file.resize(end + 8192, 0);
        let open = format::open(prefix(&file), &encryption).unwrap();
        let mut reader = Reader::new(open, file.as_slice());
        while let Step::Frame(_) = reader.step().unwrap() {}
        assert_eq!(reader.offset(), end as u64);
        let mut sealer = reader.into_sealer().unwrap();
        assert_eq!(sealer.link().sequence, 2);
        let mut more = Vec::new();
        for payload in &payloads[2..] {
            sealer
                .seal(FrameKind::Batches, payload, &Seed::new(8), &mut more)
                .unwrap();
        }
        let link = sealer.link();
        let (_, behind) = sealer.close(&Seed::new(9), &mut more).unwrap();
        assert_eq!(behind.sequence, link.sequence + 1);
        file[end..end + more.len()].copy_from_slice(&more);
        let (read, tail) = read(&file, &encryption).unwrap();
        assert_eq!(read, payloads);
        assert!(matches!(tail, Tail::Closed(totals) if totals.frames == 4));
    }
}

#[test]
fn a_closed_file_is_not_appended_to() {
    let encryption = keyring("k1", KeySize::Aes256);
    let (file, _) = build(journal(&encryption), &noise(&[10]), true, 0);
    let open = format::open(prefix(&file), &encryption).unwrap();
    let mut reader = Reader::new(open, file.as_slice());
    while let Step::Frame(_) = reader.step().unwrap() {}
    assert!(reader.into_sealer().is_err());
}

#[test]
fn frames_are_whole_sectors_and_no_longer_than_promised() {
    for (encryption, _) in protections() {
        for len in (0..1200).step_by(7) {
            let (_, starts) = build(journal(&encryption), &noise(&[len]), false, 0);
            let frame = starts[1] - starts[0];
            assert_eq!(frame % SECTOR, 0);
            assert!(frame as u64 <= format::frame_len(len));
            assert!(frame as u64 + SECTOR as u64 >= format::frame_len(len));
        }
    }
}

#[test]
fn a_payload_over_the_limit_is_refused() {
    let mut new = journal(&Encryption::None);
    let mut out = Vec::new();
    let error = new
        .sealer
        .seal(
            FrameKind::Batches,
            &vec![0; MAX_PAYLOAD + 1],
            &Seed::new(1),
            &mut out,
        )
        .unwrap_err();
    assert!(error.is(Code::TooLarge));
    assert!(out.is_empty());
    assert_eq!(new.sealer.link().sequence, 0);
}

#[test]
fn a_rewrap_changes_only_the_other_slot_and_the_new_key_opens() {
    for size in KeySize::ALL {
        let old = keyring("old", size);
        let (mut file, _) = build(journal(&old), &noise(&[100, 900]), false, 512);
        let both = ring(&["new", "old"], size);
        for (round, current) in ["new", "old", "new"].into_iter().enumerate() {
            let other = if current == "new" { "old" } else { "new" };
            let ring = ring(&[current, other], size);
            let (at, page) = format::rewrap(prefix(&file), &ring, &Seed::new(3))
                .unwrap()
                .unwrap();
            // Slots in turn: the second page first, since the first is in use.
            assert_eq!(at, if round % 2 == 0 { 8192 } else { 4096 });
            file[at as usize..at as usize + page.len()].copy_from_slice(&page);
            let open = format::open(prefix(&file), &keyring(current, size)).unwrap();
            assert_eq!(open.key_id.unwrap().as_str(), current);
            assert!(
                format::rewrap(prefix(&file), &ring, &Seed::new(3))
                    .unwrap()
                    .is_none()
            );
            let error = format::open(prefix(&file), &keyring(other, size))
                .err()
                .unwrap();
            assert!(error.is(Code::KeyMissing), "{error:?}");
        }
        assert_eq!(
            read(&file, &Encryption::Keyring(both)).unwrap().0,
            noise(&[100, 900])
        );
    }
}

#[test]
fn a_rewrap_that_was_cut_leaves_the_file_open_to_the_old_key() {
    let old = keyring("old", KeySize::Aes256);
    let (file, _) = build(journal(&old), &noise(&[100]), false, 0);
    let both = ring(&["new", "old"], KeySize::Aes256);
    let (at, page) = format::rewrap(prefix(&file), &both, &Seed::new(3))
        .unwrap()
        .unwrap();
    for cut in (1..page.len()).step_by(37) {
        let mut torn = file.clone();
        torn[at as usize..at as usize + cut].copy_from_slice(&page[..cut]);
        let open = format::open(prefix(&torn), &old).unwrap();
        assert_eq!(open.key_id.as_ref().unwrap().as_str(), "old");
        assert!(open.damaged_slot, "cut at {cut}");
        assert_eq!(read_frames(open, &torn).unwrap().0.len(), 1);
        // Rewrapping again mends it, even with the same key.
        let again = format::rewrap(
            prefix(&torn),
            &ring(&["old"], KeySize::Aes256),
            &Seed::new(4),
        );
        let (mend_at, mended) = again.unwrap().unwrap();
        assert_eq!(mend_at, at);
        torn[at as usize..at as usize + mended.len()].copy_from_slice(&mended);
        assert!(!format::open(prefix(&torn), &old).unwrap().damaged_slot);
    }
}

fn ops() -> impl Strategy<Value = Vec<(u8, Vec<u8>, Vec<u8>, u64, u64, Option<u64>)>> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    let key = prop::collection::vec(any::<u8>(), 1..40);
    let op = (
        0..3_u8,
        key,
        bytes(300),
        1..u64::MAX,
        1..u64::MAX,
        any::<Option<u64>>(),
    );
    prop::collection::vec(op, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_round_trip(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..6),
        protection in 0..4_usize,
        compression in 0..4_usize,
        close in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (encryption, size) = protections().swap_remove(protection);
        let spec = spec(FileKind::Ledger, Compression::ALL[compression], size);
        let new = format::create(&spec, &encryption, &Seed::new(seed)).unwrap();
        let (file, _) = build(new, &payloads, close, 1024);
        let (back, tail) = read(&file, &encryption).unwrap();
        prop_assert_eq!(back, payloads);
        prop_assert_eq!(matches!(tail, Tail::Closed(_)), close);
    }

    #[test]
    fn batches_round_trip(
        list in prop::collection::vec((ops(), any::<u64>(), "[a-z]{0,20}"), 0..4)
    ) {
        let mut payload = Vec::new();
        let mut expected = Vec::new();
        for (i, (ops, time_ms, actor)) in list.iter().enumerate() {
            let revision = u64::MAX - 10 + i as u64;
            let actor = (!actor.is_empty()).then_some(actor.as_str());
            let ops: Vec<Op<'_>> = ops
                .iter()
                .map(|(tag, key, value, created, version, expires_at)| match tag {
                    0 => Op::Set {
                        key,
                        value,
                        created: (*created).min(revision),
                        version: *version,
                        expires_at: *expires_at,
                    },
                    1 => Op::Delete { key },
                    _ => Op::Expire { key },
                })
                .collect();
            record::put_batch(&mut payload, revision, *time_ms, actor, ops.iter().copied()).unwrap();
            expected.push(record::Batch { revision, time_ms: *time_ms, actor, ops });
        }
        let back: Vec<_> = record::batches(&payload).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&back, &expected);
        // A payload that is cut anywhere else than between batches does not read.
        let mut ends = vec![0];
        for count in 1..=expected.len() {
            let mut part = Vec::new();
            for batch in &expected[..count] {
                record::put_batch(
                    &mut part, batch.revision, batch.time_ms, batch.actor, batch.ops.iter().copied(),
                ).unwrap();
            }
            ends.push(part.len());
        }
        for cut in 0..payload.len() {
            let whole = record::batches(&payload[..cut]).all(|batch| batch.is_ok());
            prop_assert_eq!(whole, ends.contains(&cut));
        }
    }

    #[test]
    fn entries_round_trip(list in ops()) {
        let mut payload = Vec::new();
        let entries: Vec<EntryRef<'_>> = list
            .iter()
            .map(|(_, key, value, created, version, expires_at)| EntryRef {
                key,
                value,
                created: *created,
                modified: created.saturating_add(5),
                version: *version,
                expires_at: *expires_at,
            })
            .collect();
        for entry in &entries {
            let before = payload.len();
            record::put_entry(&mut payload, entry).unwrap();
            let overhead = payload.len() - before - entry.key.len() - entry.value.len();
            prop_assert!(overhead <= record::MAX_OVERHEAD);
        }
        let back: Vec<_> = record::entries(&payload).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(back, entries);
    }

    #[test]
    fn no_decoder_panics_on_arbitrary_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        splice in 0..20_000_usize,
    ) {
        let _ = format::Header::decode(&bytes);
        let _ = format::open_without_key(&bytes);
        let _ = format::Slots::decode(&bytes);
        record::batches(&bytes).for_each(drop);
        record::entries(&bytes).for_each(drop);
        // Arbitrary bytes over a good file, anywhere.
        for (encryption, _) in protections() {
            let (mut file, _) = build(journal(&encryption), &noise(&[300, 700, 40]), false, 2048);
            let at = splice % file.len();
            let len = bytes.len().min(file.len() - at);
            file[at..at + len].copy_from_slice(&bytes[..len]);
            let _ = read(&file, &encryption);
            file.truncate(at);
            let _ = read(&file, &encryption);
        }
    }
}

#[test]
fn records_that_no_writer_makes_are_refused() {
    let set = |created, version| Op::Set {
        key: b"k",
        value: b"",
        created,
        version,
        expires_at: None,
    };
    for (created, version) in [(0, 1), (1, 0)] {
        let mut out = vec![9];
        let error = record::put_batch(&mut out, 1, 0, None, [set(created, version)].into_iter());
        assert!(error.unwrap_err().is(Code::Internal));
        assert_eq!(out, [9], "a refused batch leaves nothing behind");
    }
    for key in [&[][..], &[0; 1025]] {
        let error = record::put_batch(
            &mut Vec::new(),
            1,
            0,
            None,
            [Op::Delete { key }].into_iter(),
        );
        assert!(error.unwrap_err().is(Code::InvalidKey));
    }
    // Revisions that do not rise; a creation after the batch.
    let mut out = Vec::new();
    for revision in [5, 5] {
        record::put_batch(&mut out, revision, 0, None, [set(5, 1)].into_iter()).unwrap();
    }
    assert!(record::batches(&out).nth(1).unwrap().is_err());
    let mut out = Vec::new();
    record::put_batch(&mut out, 4, 0, None, [set(5, 1)].into_iter()).unwrap();
    assert!(record::batches(&out).next().unwrap().is_err());
    // An entry that was modified before it was created.
    let mut out = Vec::new();
    let entry = EntryRef {
        key: b"k",
        value: b"",
        created: 5,
        modified: 4,
        version: 1,
        expires_at: None,
    };
    record::put_entry(&mut out, &entry).unwrap();
    assert!(record::entries(&out).next().unwrap().is_err());
}
