//! What only someone who knows the format can forge: frames whose checksums and chain are right.

use proptest::prelude::*;

use super::close::Tally;
use super::frame::{self, HEAD, Head, INNER, TRAILER};
use super::*;
use crate::compress::Compression;
use crate::crypto::Random;
use crate::error::{Error, Result};
use crate::keyring::{Encryption, Key, KeyId, KeySize, Keyring};

/// [`FRAMES_AT`] as a length.
const PREFIX: usize = 3 * PAGE;

pub(super) struct Fixed;

impl Random for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        out.fill(0x3c);
        Ok(())
    }
}

pub(super) fn encrypted() -> Encryption {
    let key = Key::new(&[5; 32]).unwrap();
    Encryption::Keyring(Keyring::single(KeyId::new("k").unwrap(), key))
}

pub(super) fn new(encryption: &Encryption, compression: Compression) -> NewFile {
    of_kind(FileKind::Journal, encryption, compression)
}

pub(super) fn of_kind(
    kind: FileKind,
    encryption: &Encryption,
    compression: Compression,
) -> NewFile {
    let spec = FileSpec {
        kind,
        store: StoreId([1; 16]),
        lineage: Lineage(2),
        file: FileId([3; 16]),
        epoch: 1,
        first_revision: 1,
        link: Link::default(),
        compression,
        key_size: KeySize::Aes256,
        created_ms: 0,
    };
    create(&spec, encryption, &Fixed).unwrap()
}

pub(super) fn sealed(new: &mut NewFile, payload: &[u8]) -> Vec<u8> {
    let mut file = new.prefix.clone();
    new.sealer
        .seal(FrameKind::Batches, payload, &Fixed, &mut file)
        .unwrap();
    file
}

/// Makes the only frame's chain hash right again.
pub(super) fn rechain(file: &mut [u8]) {
    let hash: Digest = file[PAGE - 32..PAGE].try_into().unwrap();
    let at = PREFIX;
    let end = file.len() - TRAILER;
    let chain = frame::chain(&hash, &file[at..end]);
    file[end..end + 32].copy_from_slice(&chain);
}

fn first_error(file: &[u8], encryption: &Encryption) -> Error {
    let open = open(&file[..PREFIX], encryption).unwrap();
    let mut reader = Reader::new(open, file);
    loop {
        match reader.step() {
            Ok(Step::Frame(_)) => {}
            Ok(Step::End(tail)) => panic!("read to {tail:?}"),
            Err(error) => return error,
        }
    }
}

#[track_caller]
fn check_refused(file: &[u8], encryption: &Encryption, what: &str) {
    let error = first_error(file, encryption);
    assert_eq!(error.code(), "corrupt", "{error:?}");
    assert!(error.message().contains(what), "{error:?}");
}

#[test]
fn a_changed_body_with_a_chain_made_to_fit_does_not_authenticate() {
    let mut file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    let at = PREFIX;
    // The nonce, the inner fields, the payload, the tag.
    for byte in [24, HEAD, HEAD + INNER, HEAD + INNER + 7 + 15] {
        file[at + byte] ^= 1;
        rechain(&mut file);
        check_refused(&file, &encrypted(), "does not authenticate");
        file[at + byte] ^= 1;
    }
}

#[test]
fn a_changed_head_with_checksums_made_to_fit_does_not_authenticate() {
    let mut file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    let at = PREFIX;
    assert_eq!(file[at + 16], 1, "the kind");
    file[at + 16] = 2;
    let crc = crc32c::crc32c(&file[at..at + 20]);
    file[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
    rechain(&mut file);
    check_refused(&file, &encrypted(), "does not authenticate");
}

/// What is left to notice it where nothing is encrypted, and where the chain is made anew.
#[test]
fn a_payload_without_its_sum_is_refused_even_if_the_chain_covers_it() {
    let mut file = sealed(&mut new(&Encryption::None, Compression::None), b"payload");
    file[PREFIX + HEAD + INNER] ^= 1;
    rechain(&mut file);
    check_refused(&file, &Encryption::None, "does not have its sum");
}

#[test]
fn padding_is_zero_even_if_the_chain_covers_it() {
    let mut file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    let end = file.len();
    file[end - TRAILER - 1] = 1;
    rechain(&mut file);
    check_refused(&file, &encrypted(), "padding");
}

#[test]
fn a_closing_frame_over_other_frames_is_refused() {
    for encryption in [Encryption::None, encrypted()] {
        for forget in [true, false] {
            let mut new = new(&encryption, Compression::Zstd);
            let mut file = sealed(&mut new, b"payload");
            if forget {
                let link = new.sealer.link();
                let offset = new.sealer.offset();
                new.sealer = new.sealer.resume(link, offset, Tally::default());
            }
            new.sealer.close(&Fixed, &mut file).unwrap();
            if forget {
                check_refused(&file, &encryption, "do not add up");
            } else {
                let open = open(&file[..PREFIX], &encryption).unwrap();
                let mut reader = Reader::new(open, file.as_slice());
                assert!(matches!(reader.step(), Ok(Step::Frame(_))));
                assert!(matches!(reader.step(), Ok(Step::End(Tail::Closed(_)))));
                assert!(
                    matches!(reader.step(), Ok(Step::End(Tail::Closed(_)))),
                    "and again"
                );
            }
        }
    }
}

#[test]
fn a_data_key_that_the_header_does_not_commit_to_is_refused_before_any_frame() {
    // A header with another commitment, and the data key wrapped for that very header: only the
    // commitment tells.
    use crate::crypto::DataKey;
    let made = new(&encrypted(), Compression::None);
    let mut header = made.header.clone();
    header.commitment[0] ^= 1;
    let mut prefix = header.encode();
    let kek = Key::new(&[5; 32]).unwrap();
    let slot = KeySlot {
        generation: 1,
        key_id: KeyId::new("k").unwrap(),
        derivation: None,
        nonce: [0x3c; 12],
        wrapped: DataKey::generate(&Fixed)
            .unwrap()
            .wrap(&kek, &[0x3c; 12], &header.hash())
            .unwrap(),
    };
    prefix.extend(slot.encode());
    prefix.resize(PREFIX, 0);
    let error = open(&prefix, &encrypted()).err().unwrap();
    assert_eq!(error.code(), "wrong-key");
    assert!(error.message().contains("commits"), "{error:?}");
}

#[test]
fn the_newest_good_slot_counts() {
    let slot = |generation, id: &str| KeySlot {
        generation,
        key_id: KeyId::new(id).unwrap(),
        derivation: None,
        nonce: [1; 12],
        wrapped: [2; 48],
    };
    for (a, b, newest) in [(1, 2, 1), (3, 2, 0)] {
        let pages = [slot(a, "a").encode(), slot(b, "b").encode()].concat();
        let slots = Slots::decode(&pages);
        assert_eq!(slots.newest().unwrap().0, newest);
        assert!(!slots.damaged);
    }
    let long = "x".repeat(KeyId::MAX);
    let pages = [slot(u64::MAX, &long).encode(), vec![0; PAGE]].concat();
    assert_eq!(
        Slots::decode(&pages).newest().unwrap().1.key_id.as_str(),
        long
    );
    assert!(Slots::decode(&vec![0; 2 * PAGE]).is_empty());
    assert!(Slots::decode(&[]).damaged);
}

/// A page with a byte changed and its checksum made to fit.
pub(super) fn forged(page: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut page = page[..PAGE].to_vec();
    page[at] = byte;
    let sum = crate::crypto::sha256(&[&page[..PAGE - 32]]);
    page[PAGE - 32..].copy_from_slice(&sum);
    page
}

#[test]
fn a_header_or_slot_with_bytes_that_have_no_meaning_yet_is_refused() {
    let file = new(&encrypted(), Compression::None).prefix;
    // Kind, cipher, compression, and bytes that are zero in this version; behind the fields too.
    for (at, byte) in [
        (10, 0x7f),
        (11, 0x7f),
        (12, 0x7f),
        (13, 1),
        (15, 1),
        (PAGE - 33, 1),
    ] {
        let prefix = [&forged(&file, at, byte)[..], &file[PAGE..]].concat();
        let error = open(&prefix, &encrypted()).err().expect("refused");
        assert_eq!(error.code(), "corrupt", "byte {at}: {error:?}");
    }
    let slot = &file[PAGE..2 * PAGE];
    let slots = |page: &[u8]| Slots::decode(&[page, &vec![0; PAGE]].concat());
    assert!(!slots(slot).damaged);
    // Its magic, a generation of 0, and what follows the key's id.
    for (at, byte) in [(0, b'X'), (8, 0), (30, 1), (PAGE - 33, 1)] {
        assert!(slots(&forged(slot, at, byte)).damaged, "byte {at}");
    }
}

#[test]
fn a_derivation_is_kept_and_one_beyond_the_limits_is_no_good_slot() {
    use crate::passphrase::{Derivation, Passphrase};
    let slot = |iterations| KeySlot {
        generation: 1,
        key_id: KeyId::new("passphrase-0909090909090909").unwrap(),
        derivation: Some(Derivation {
            iterations,
            salt: [9; 16],
        }),
        nonce: [1; 12],
        wrapped: [2; 48],
    };
    let decode = |page: &[u8]| Slots::decode(&[page, &vec![0; PAGE]].concat());
    let (least, most) = (Passphrase::MIN_ITERATIONS, Passphrase::MAX_ITERATIONS);
    for good in [least, 600_000, most] {
        assert_eq!(
            decode(&slot(good).encode()).newest(),
            Some((0, &slot(good)))
        );
    }
    for forged in [0, 1, least - 1, most + 1, u32::MAX] {
        assert!(decode(&slot(forged).encode()).damaged, "{forged}");
    }
    // Bytes of a derivation in a slot that has none, an unknown method, bytes that must be zero.
    for (at, byte) in [(148, 0), (148, 2), (149, 1), (151, 1), (172, 1)] {
        let page = forged(&slot(least).encode(), at, byte);
        assert!(decode(&page).damaged, "byte {at} is {byte}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Arbitrary inner fields and data behind a good chain: what someone with write access can
    /// do to a file that is not encrypted.
    #[test]
    fn no_inner_bytes_make_the_reader_panic_or_accept_a_wrong_payload(
        inner in prop::collection::vec(any::<u8>(), INNER..400),
        compression in 0..4_usize,
        encoding in 0..3_u8,
        len in 0..2000_u32,
        plausible in any::<bool>(),
    ) {
        let encryption = Encryption::None;
        let mut file = new(&encryption, Compression::ALL[compression]).prefix;
        let at = file.len();
        let head =
            Head { kind: FrameKind::Batches, body: inner.len(), sequence: 1, nonce: [1; 12] };
        head.put(&mut file);
        let body_at = file.len();
        file.extend_from_slice(&inner);
        if plausible {
            file[body_at + 32..body_at + 36].copy_from_slice(&[encoding, 0, 0, 0]);
            file[body_at + 36..body_at + 40].copy_from_slice(&len.to_le_bytes());
        }
        crate::crypto::FrameCipher::None.seal(&[1; 12], &[], &mut file, body_at).unwrap();
        file.resize(at + head.total(), 0);
        *file.last_mut().unwrap() = frame::END_MARKER;
        rechain(&mut file);
        check_refused(&file, &encryption, "frame 1 at offset 12288");
    }
}

#[test]
fn what_is_printed_of_a_record_has_lengths_and_no_key_or_value() {
    use super::record::{EntryRef, Op};
    let (key, value): (&[u8], &[u8]) = (b"secret-key", b"secret-value");
    let entry = EntryRef {
        key,
        value,
        created: 1,
        modified: 2,
        version: 3,
        expires_at: None,
    };
    let all = [
        format!("{entry:?}"),
        format!("{:?}", entry.as_op()),
        format!("{:?}", Op::Delete { key }),
        format!("{:?}", Op::Expire { key }),
    ];
    for text in all {
        assert!(
            text.contains("key of 10") && !text.contains("secret"),
            "{text}"
        );
    }
}

#[test]
fn what_could_not_be_read_back_is_never_written() {
    use super::record::{MAX_ACTOR, MAX_VALUE, Op, put_batch};
    let set = |value| Op::Set {
        key: b"k",
        value,
        created: 1,
        version: 1,
        expires_at: None,
    };
    let mut out = b"before".to_vec();
    let long = "x".repeat(MAX_ACTOR + 1);
    let refused = put_batch(&mut out, 1, 1, Some(&long), [set(b"v")].into_iter()).unwrap_err();
    assert_eq!(refused.code(), "invalid-argument");
    let huge = vec![0; MAX_VALUE + 1];
    let both = [set(b"v"), set(&huge)];
    let refused = put_batch(&mut out, 1, 1, None, both.into_iter()).unwrap_err();
    assert_eq!(refused.code(), "too-large");
    assert_eq!(out, b"before", "half a batch is left");
}
