//! Bounds of the format, and states that only a damaged or forged file brings about.

use super::close::Tally;
use super::file::rewrap_to;
use super::frame::{self, HEAD, Head};
use super::resume::Resume;
use super::tests::{Fixed, encrypted, new, of_kind, sealed};
use super::wire::{Fields, Page};
use super::*;
use crate::compress::Compression;
use crate::error::{Code, Error, Result};
use crate::keyring::Encryption;

/// Bytes before the first frame.
const PREFIX: usize = 3 * PAGE;

#[test]
fn a_file_is_left_at_half_of_what_it_may_hold_and_never_grows_beyond_all_of_it() {
    let at = |sequence, offset| {
        let link = Link {
            sequence,
            ..Link::default()
        };
        let sealer = new(&encrypted(), Compression::None).sealer;
        sealer.resume(link, offset, Tally::default())
    };
    let seal = |mut sealer: Sealer| {
        let mut out = Vec::new();
        let sealed = sealer.seal(FrameKind::Batches, b"payload", &Fixed, &mut out);
        sealed.map(|_| out.len())
    };
    let first = FRAMES_AT;
    assert!(!at(MAX_FRAMES / 2 - 1, first).exhausted());
    assert!(at(MAX_FRAMES / 2, first).exhausted());
    assert!(!at(0, MAX_FILE / 2 - 1).exhausted());
    assert!(at(0, MAX_FILE / 2).exhausted());
    let sector = SECTOR as u64;
    for (sequence, offset, fits) in [
        (MAX_FRAMES - 1, first, true),
        (MAX_FRAMES, first, false),
        (0, MAX_FILE - sector, true),
        (0, MAX_FILE - sector + 1, false),
    ] {
        match seal(at(sequence, offset)) {
            Ok(len) => assert!(fits && len == SECTOR, "{sequence} {offset}"),
            Err(error) => assert!(!fits && error.is(Code::Internal), "{error:?}"),
        }
    }
}

#[test]
fn what_is_not_encrypted_has_no_key_to_wrap_and_what_is_needs_one() {
    let plain = new(&Encryption::None, Compression::None).prefix;
    let wrapped = rewrap_to(&plain, &Encryption::None, &encrypted(), true, &Fixed);
    assert_eq!(wrapped.unwrap(), None);
    let secret = new(&encrypted(), Compression::None).prefix;
    let error = rewrap_to(&secret, &encrypted(), &Encryption::None, true, &Fixed).unwrap_err();
    assert!(error.is(Code::EncryptionMismatch), "{error:?}");
}

#[test]
fn ids_and_kinds_are_printed_for_people() {
    assert_eq!(
        format!("{:?}", StoreId([0xab; 16])),
        format!("StoreId({})", "ab".repeat(16))
    );
    let kinds = [
        FileKind::Journal,
        FileKind::Image,
        FileKind::Ledger,
        FileKind::Backup,
        FileKind::Archive,
    ];
    let names = kinds.map(FileKind::as_str);
    for (n, name) in names.iter().enumerate() {
        assert!(!name.is_empty() && !names[..n].contains(name), "{names:?}");
    }
}

#[test]
fn a_stream_ends_once_and_a_log_is_none() {
    let mut made = of_kind(FileKind::Image, &encrypted(), Compression::None);
    let mut file = made.prefix.clone();
    let payload = b"";
    let sealed = made
        .sealer
        .seal(FrameKind::Entries, payload, &Fixed, &mut file);
    sealed.unwrap();
    made.sealer.close(&Fixed, &mut file).unwrap();
    let mut stream = Stream::begin(&file[..], Some(&encrypted())).unwrap();
    let mut steps = 0;
    while stream.step().unwrap().is_some() {
        steps += 1;
    }
    assert_eq!(steps, 1);
    assert!(stream.step().unwrap().is_none(), "it stays at its end");
    let log = sealed_log();
    let error = Stream::begin(&log[..], Some(&encrypted())).err().unwrap();
    assert!(error.is(Code::Corrupt), "{error:?}");
}

fn sealed_log() -> Vec<u8> {
    sealed(&mut new(&encrypted(), Compression::None), b"payload")
}

#[test]
fn a_head_says_no_more_than_it_checks() {
    let file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    let frame = &file[PREFIX..];
    assert!(Head::begins(frame));
    for len in 0..HEAD.min(24) {
        assert!(!Head::begins(&frame[..len]), "{len}");
        assert!(Head::parse(&frame[..len]).is_none(), "{len}");
    }
    // With a checksum that is right: a body that no frame has, and bytes that have no meaning yet.
    let forged = |at: usize, bytes: &[u8]| {
        let mut head = frame[..HEAD].to_vec();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c::crc32c(&head[..20]);
        head[20..24].copy_from_slice(&crc.to_le_bytes());
        assert!(Head::begins(&head));
        Head::parse(&head).is_some()
    };
    assert!(forged(4, &frame[4..8]));
    assert!(!forged(4, &0_u32.to_le_bytes()));
    assert!(!forged(4, &u32::MAX.to_le_bytes()));
    assert!(!forged(16, &[9]));
    assert!(!forged(17, &[1]));
    let head = Head::parse(frame).unwrap();
    assert_eq!(
        frame::check(&head, &frame[..8], &[0; 32]),
        Err("its end marker is wrong")
    );
    assert!(!frame::closes(&frame[..SECTOR - 1]) && !frame::closes(frame));
}

#[test]
fn numbers_and_pages_that_are_cut_are_none() {
    let varint = |bytes: &[u8]| Fields::new(bytes).varint();
    assert_eq!(
        varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        Some(u64::MAX)
    );
    assert_eq!(
        varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        None
    );
    // It goes on where no number is that long.
    assert_eq!(
        varint(&[
            0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x81, 0
        ]),
        None
    );
    assert_eq!(varint(&[0x80]), None);
    assert_eq!(varint(&[0x80, 0]), None, "not the shortest form");
    let page = &new(&encrypted(), Compression::None).prefix[..PAGE];
    assert!(Page::verify(page) && !Page::verify(&page[..PAGE - 1]));
}

/// A source that fails from some place on.
struct Failing<'a>(&'a [u8], u64);

impl Source for Failing<'_> {
    fn len(&self) -> Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset + buf.len() as u64 > self.1 {
            return Err(Error::new(Code::Io, "no more can be read"));
        }
        self.0.read_at(offset, buf)
    }
}

#[test]
fn a_place_to_go_on_at_is_told_from_one_that_is_not() {
    let mut made = new(&encrypted(), Compression::None);
    let mut file = sealed(&mut made, b"first");
    let second = file.len() as u64;
    let payload = vec![7; 3 * SECTOR];
    made.sealer
        .seal(FrameKind::Batches, &payload, &Fixed, &mut file)
        .unwrap();
    let opened = || open(&file[..PREFIX], &encrypted()).unwrap();
    let mut reader = Reader::new(opened(), &file[..]);
    let chain = reader.stored_chain(second).unwrap().unwrap();
    let place = |offset| Resume {
        offset,
        sequence: 0,
        chain,
    };
    assert_eq!(reader.verifies_at(&place(second)).unwrap(), Some(2));
    assert_eq!(
        reader.verifies_at(&place(second + 1)).unwrap(),
        None,
        "no head"
    );
    assert_eq!(
        reader.verifies_at(&place(FRAMES_AT)).unwrap(),
        None,
        "another chain"
    );
    let end = file.len() as u64;
    assert_eq!(
        reader.verifies_at(&place(end)).unwrap(),
        None,
        "behind the end"
    );
    assert_eq!(
        reader.stored_chain(FRAMES_AT).unwrap(),
        None,
        "the header's"
    );
    // It has not moved.
    assert!(matches!(reader.step().unwrap(), Step::Frame(frame) if frame.sequence == 1));
    let mut reader = Reader::new(opened(), Failing(&file, second + HEAD as u64));
    let error = reader.verifies_at(&place(second)).unwrap_err();
    assert!(
        error.is(Code::Io),
        "what cannot be read is not taken for damage: {error:?}"
    );
}

fn read(file: &[u8]) -> Reader<&[u8]> {
    Reader::new(open(&file[..PREFIX], &encrypted()).unwrap(), file)
}

#[test]
fn a_frame_opens_by_itself_only_where_it_is_encrypted_and_in_its_place() {
    let mut made = new(&Encryption::None, Compression::None);
    let plain = sealed(&mut made, b"payload");
    let mut reader = Reader::new(
        open(&plain[..PREFIX], &Encryption::None).unwrap(),
        &plain[..],
    );
    assert!(reader.open_by_itself().unwrap().is_none());

    let file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    assert!(read(&file[..]).open_by_itself().unwrap().is_some());
    let mut elsewhere = read(&file[..]);
    elsewhere.seek(&Resume {
        offset: FRAMES_AT,
        sequence: 2,
        chain: elsewhere.link().chain,
    });
    assert!(elsewhere.open_by_itself().unwrap().is_none(), "the second");
    assert!(
        read(&file[..PREFIX + 8])
            .open_by_itself()
            .unwrap()
            .is_none()
    );
    let without = open_without_key(&file[..PREFIX]).unwrap();
    assert!(
        Reader::new(without, &file[..])
            .open_by_itself()
            .unwrap()
            .is_none()
    );
}

#[test]
fn only_a_log_that_was_read_to_an_open_end_goes_on() {
    let file = sealed(&mut new(&encrypted(), Compression::None), b"payload");
    let reader = Reader::new(open(&file[..PREFIX], &encrypted()).unwrap(), &file[..]);
    let error = reader.into_sealer().err().unwrap();
    assert!(error.is(Code::Internal), "{error:?}");
}
