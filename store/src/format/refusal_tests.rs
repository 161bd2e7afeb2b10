//! What is refused although its checksums are right, and what is not begun.

use super::file::rewrap_to;
use super::frame::{self, HEAD};
use super::record::{EntryRef, put_entry};
use super::tests::{Fixed, encrypted, forged, new, of_kind, rechain, sealed};
use super::*;
use crate::compress::Compression;
use crate::crypto::Random;
use crate::error::{Code, Error, Result};
use crate::keyring::Encryption;
use crate::tests::{keyring, passphrase};

/// Bytes before the first frame.
const PREFIX: usize = 3 * PAGE;

fn read(file: &[u8]) -> Reader<&[u8]> {
    Reader::new(open(&file[..PREFIX], &encrypted()).unwrap(), file)
}

#[test]
fn a_key_slot_with_a_name_that_no_key_has_is_no_good_slot() {
    let prefix = new(&encrypted(), Compression::None).prefix;
    let slot = &prefix[PAGE..2 * PAGE];
    let damaged = |page: &[u8]| Slots::decode(&[page, &vec![0; PAGE]].concat()).damaged;
    assert!(!damaged(&forged(slot, 24, b'l')), "another name");
    // The length of the name stands at 16, and the name at 24.
    for (at, byte, what) in [
        (16, 0, "an empty name"),
        (16, 65, "longer than its field"),
        (23, 1, "longer than any memory"),
        (24, 0xff, "not UTF-8"),
        (24, b'/', "a character that no name has"),
        (24, b'.', "a dot at the beginning"),
    ] {
        assert!(damaged(&forged(slot, at, byte)), "{what}");
    }
}

#[test]
fn a_beginning_that_is_cut_or_says_two_things_is_refused() {
    let refused = |prefix: &[u8], with: &Encryption, what: &str| {
        let error = open(prefix, with).err().expect(what);
        assert!(error.is(Code::Corrupt), "{error:?}");
        assert!(error.message().contains(what), "{error:?}");
    };
    let both = [Encryption::None, encrypted()];
    for encryption in &both {
        let made = new(encryption, Compression::None);
        for (len, what) in [
            (0, "shorter than a header"),
            (PAGE - 1, "shorter than a header"),
            (PAGE, "ends before offset 12288"),
            (PREFIX - 1, "ends before offset 12288"),
        ] {
            refused(&made.prefix[..len], encryption, what);
        }
        // A commitment to a key where there is none, and none where there is one.
        let mut header = made.header.clone();
        let none = header.commitment == [0; 32];
        header.commitment = if none { [1; 32] } else { [0; 32] };
        let prefix = [&header.encode()[..], &made.prefix[PAGE..]].concat();
        refused(&prefix, encryption, "a field has a value");
    }
    // Key slots in a file that has no key.
    let [plain, secret] = both.map(|encryption| new(&encryption, Compression::None).prefix);
    let prefix = [&plain[..PAGE], &secret[PAGE..]].concat();
    refused(&prefix, &Encryption::None, "not zero in a file that is not");
}

/// The beginning of an encrypted file with another first slot.
fn with_slot(change: impl FnOnce(&mut KeySlot)) -> Vec<u8> {
    let mut prefix = new(&encrypted(), Compression::None).prefix;
    let mut slot = Slots::decode(&prefix[PAGE..]).newest().unwrap().1.clone();
    change(&mut slot);
    prefix[PAGE..2 * PAGE].copy_from_slice(&slot.encode());
    prefix
}

#[test]
fn a_slot_that_cannot_be_followed_by_another_is_not_rewrapped() {
    use crate::passphrase::Derivation;
    let rewrap = |prefix: &[u8], new: &Encryption| {
        rewrap_to(prefix, &encrypted(), new, true, &Fixed).unwrap_err()
    };
    let last = with_slot(|slot| slot.generation = u64::MAX);
    let other = Encryption::Keyring(keyring("other", 9));
    let error = rewrap(&last, &other);
    assert!(error.is(Code::Corrupt), "{error:?}");
    assert!(error.message().contains("cannot be raised"), "{error:?}");
    // An error that is not about keys is told, and the old keys are not tried.
    let passphrase = passphrase("correct horse battery");
    let salted = |n: u8| Derivation {
        iterations: crate::Passphrase::MIN_ITERATIONS,
        salt: [n; 16],
    };
    let mut salts = (0..).map(salted);
    let one_more = salts.find(|salt| passphrase.derive(salt).is_err());
    let prefix = with_slot(|slot| slot.derivation = one_more);
    let error = rewrap(&prefix, &Encryption::Passphrase(passphrase));
    assert!(error.is(Code::Corrupt), "{error:?}");
    assert!(error.message().contains("salts"), "{error:?}");
}

#[test]
fn nothing_is_read_past_the_end_of_a_slice() {
    let bytes = [7_u8; 8];
    let read = |offset, len| {
        let mut buf = vec![0; len];
        bytes[..].read_at(offset, &mut buf).map(|()| buf)
    };
    assert_eq!(read(0, 8).unwrap(), bytes);
    assert!(read(8, 0).unwrap().is_empty());
    for (offset, len) in [(0, 9), (1, 8), (8, 1), (9, 0), (u64::MAX, 1)] {
        let error = read(offset, len).unwrap_err();
        assert!(error.is(Code::Internal), "{offset} {len}: {error:?}");
    }
}

#[test]
fn packed_frames_end_as_others_do_and_are_not_taken_out_without_a_key() {
    let mut made = new(&encrypted(), Compression::Zstd);
    let mut file = sealed(&mut made, b"payload");
    made.sealer.close(&Fixed, &mut file).unwrap();
    let mut reader = read(&file);
    let frame = reader.step_packed().unwrap();
    assert!(matches!(frame, PackedStep::Frame { inner, .. } if inner.data == b"payload"));
    for _ in 0..2 {
        let end = reader.step_packed().unwrap();
        assert!(matches!(end, PackedStep::End(Tail::Closed(_))));
    }
    let without = open_without_key(&file[..PREFIX]).unwrap();
    let error = Reader::new(without, &file[..]).step_packed().err().unwrap();
    assert!(error.is(Code::Internal), "{error:?}");
    // A changed body, and a closing frame over other frames.
    for at in [PREFIX + HEAD, file.len() - SECTOR + HEAD] {
        let mut file = file.clone();
        file[at] ^= 1;
        let mut reader = read(&file);
        let error = loop {
            match reader.step_packed() {
                Ok(PackedStep::Frame { .. }) => {}
                Ok(PackedStep::End(tail)) => panic!("read to {tail:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.message().contains("does not match"), "{error:?}");
    }
}

#[test]
fn an_entry_that_was_never_set_is_not_written() {
    for (created, version, good) in [(1, 1, true), (0, 1, false), (1, 0, false)] {
        let entry = EntryRef {
            key: b"k",
            value: b"v",
            created,
            modified: 1,
            version,
            expires_at: None,
        };
        let mut out = Vec::new();
        match put_entry(&mut out, &entry) {
            Ok(()) => assert!(good && !out.is_empty()),
            Err(error) => assert!(!good && out.is_empty() && error.is(Code::Internal)),
        }
    }
}

#[test]
fn a_stream_tells_that_one_of_its_key_slots_is_damaged() {
    let made = of_kind(FileKind::Backup, &encrypted(), Compression::None);
    let mut file = made.prefix.clone();
    made.sealer.close(&Fixed, &mut file).unwrap();
    let walked = |file: &[u8]| {
        let stream = Stream::begin(file, Some(&encrypted())).unwrap();
        stream.walked().unwrap().check_slots("backup")
    };
    walked(&file).unwrap();
    file[2 * PAGE] = 1;
    let error = walked(&file).unwrap_err();
    assert!(error.is(Code::Corrupt), "{error:?}");
    let what = "the backup can still be restored";
    assert!(error.message().contains(what), "{error:?}");
}

/// A key is lost where no random bytes can be had, and never made of none.
#[test]
fn without_random_bytes_no_file_is_begun_and_no_frame_sealed() {
    /// Gives so many times, and then no more.
    struct Few(parking_lot::Mutex<u32>);
    impl Random for Few {
        fn fill(&self, out: &mut [u8]) -> Result<()> {
            let mut left = self.0.lock();
            *left = left
                .checked_sub(1)
                .ok_or_else(|| Error::new(Code::Io, "no random bytes"))?;
            Fixed.fill(out)
        }
    }
    let after = |n| Few(parking_lot::Mutex::new(n));
    let header = new(&encrypted(), Compression::None).header;
    let spec = |kind| FileSpec {
        kind,
        store: header.store,
        lineage: header.lineage,
        file: header.file,
        epoch: 1,
        first_revision: 1,
        link: Link::default(),
        compression: Compression::None,
        key_size: crate::KeySize::Aes256,
        created_ms: 0,
    };
    let passphrase = Encryption::Passphrase(passphrase("correct horse battery"));
    // The data key and the nonce; and the salt before them.
    for (encryption, calls) in [(encrypted(), 2), (passphrase, 3)] {
        for n in 0..=calls {
            let made = create(&spec(FileKind::Journal), &encryption.for_store(), &after(n));
            let failed = made.err().map(|error| error.as_code());
            assert_eq!(failed, (n < calls).then_some(Code::Io), "{n} of {calls}");
        }
    }
    let mut made = new(&encrypted(), Compression::None);
    let (link, mut out) = (made.sealer.link(), Vec::new());
    let sealed = made
        .sealer
        .seal(FrameKind::Batches, b"x", &after(0), &mut out);
    assert!(sealed.is_err_and(|error| error.is(Code::Io)));
    assert!(out.is_empty() && made.sealer.link() == link, "half a frame");
    let ended = made.sealer.close(&after(0), &mut out);
    assert!(ended.is_err_and(|error| error.is(Code::Io)) && out.is_empty());
}

#[test]
fn a_packed_frame_that_does_not_authenticate_is_not_taken_out() {
    let mut file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    file[PREFIX + HEAD] ^= 1;
    rechain(&mut file);
    let mut reader = read(&file);
    let error = reader.step_packed().err().unwrap();
    assert!(
        error.message().contains("does not authenticate"),
        "{error:?}"
    );
}

#[test]
fn a_place_with_a_torn_frame_is_none_to_go_on_at() {
    let mut made = new(&encrypted(), Compression::None);
    let mut file = sealed(&mut made, b"first");
    let second = file.len() as u64;
    let payload = vec![7; 3 * SECTOR];
    made.sealer
        .seal(FrameKind::Batches, &payload, &Fixed, &mut file)
        .unwrap();
    let mut verifies = |torn: usize| {
        let end = file.len();
        file[end - torn..].fill(0);
        let mut reader = read(&file);
        let chain = reader.stored_chain(second).unwrap().unwrap();
        let place = Resume {
            offset: second,
            sequence: 2,
            chain,
        };
        reader.verifies_at(&place).unwrap()
    };
    assert_eq!(verifies(0), Some(2));
    assert_eq!(verifies(SECTOR), None);
}

#[test]
fn a_stray_byte_is_a_torn_frame_but_not_where_an_end_marker_stands() {
    let ended = |at: usize, byte| {
        let mut file = new(&encrypted(), Compression::None).prefix;
        file.resize(PREFIX + 2 * SECTOR, 0);
        file[PREFIX + at] = byte;
        match read(&file).step() {
            Ok(Step::End(tail)) => Some(tail),
            Ok(Step::Frame(_)) => panic!("no frame is there"),
            Err(error) => {
                assert!(error.is(Code::Corrupt), "{error:?}");
                None
            }
        }
    };
    let marker = frame::END_MARKER;
    let torn = |len| Some(Tail::Torn { len });
    assert_eq!(ended(SECTOR - 1, 1), torn(512));
    assert_eq!(ended(SECTOR - 2, marker), torn(511));
    assert_eq!(ended(SECTOR - 1, marker), None);
}
