//! Files: their first page, one frame, whole images and logs.

use codexstore::archive;
use codexstore::format::record::{self, Batch, EntryRef, Op};
use codexstore::format::{
    self, FileId, FileKind, FileSpec, FrameKind, Header, Lineage, Link, NewFile, OpenFile, PAGE,
    Reader, Step, StoreId, Tail,
};
use codexstore::{Compression, Encryption, Key, KeyId, KeySize, Keyring, OsRandom};
use sha2::Digest as _;

const FRAMES_AT: usize = 3 * PAGE;

fn encryption(on: bool) -> Encryption {
    if !on {
        return Encryption::None;
    }
    let id = KeyId::new("k1").expect("an id");
    Encryption::Keyring(Keyring::single(id, Key::new(&[7; 32]).expect("a key")))
}

fn new(kind: FileKind, compression: Compression, on: bool) -> NewFile {
    create(kind, compression, on, (1, 0, 5))
}

/// A file with these as first revision, sequence of its link, and time.
fn create(
    kind: FileKind,
    compression: Compression,
    on: bool,
    (first_revision, sequence, created_ms): (u64, u64, u64),
) -> NewFile {
    let spec = FileSpec {
        kind,
        store: StoreId([1; 16]),
        lineage: Lineage(2),
        file: FileId([3; 16]),
        epoch: 1,
        first_revision,
        link: Link {
            file: FileId([0; 16]),
            sequence,
            chain: [0; 32],
        },
        compression,
        key_size: KeySize::Aes256,
        created_ms,
    };
    format::create(&spec, &encryption(on), &OsRandom).expect("a file")
}

/// Puts a page's checksum right.
fn seal_page(file: &mut [u8], at: usize) {
    let (bytes, sum) = file[at..at + PAGE].split_at_mut(PAGE - 32);
    sum.copy_from_slice(&sha2::Sha256::digest(bytes));
}

/// A header and two key slots, over a good file: each three bytes say where and what.
pub fn header(data: &[u8]) {
    let [on, data @ ..] = data else { return };
    let mut file = new(FileKind::Image, Compression::Zstd, on % 2 == 1).prefix;
    for edit in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % FRAMES_AT;
        file[at] = edit[2];
    }
    if on & 2 == 0 {
        for page in 0..3 {
            // A slot that was never written stays zero.
            if file[page * PAGE..(page + 1) * PAGE]
                .iter()
                .any(|byte| *byte != 0)
            {
                seal_page(&mut file, page * PAGE);
            }
        }
    }
    if let Ok(header) = Header::decode(&file) {
        assert_eq!(header.encode(), file[..PAGE], "a header has one form");
    }
    let _ = format::open_without_key(&file);
    let _ = format::open(&file, &encryption(true));
    let _ = format::open(&file, &Encryption::None);
    let Encryption::Keyring(ring) = encryption(true) else {
        return;
    };
    if let Ok(Some((offset, page))) = format::rewrap(&file, &ring, &OsRandom) {
        assert!(offset as usize >= PAGE && offset as usize + page.len() <= FRAMES_AT);
    }
}

/// What a file's frames hold; an error if anything in it does not verify.
fn read(open: OpenFile, file: &[u8]) -> Result<(Vec<Vec<u8>>, Tail), Vec<Vec<u8>>> {
    let mut reader = Reader::new(open, file);
    let mut payloads = Vec::new();
    loop {
        match reader.step() {
            Ok(Step::Frame(frame)) => payloads.push(frame.payload.to_vec()),
            Ok(Step::End(tail)) => return Ok((payloads, tail)),
            Err(_) => return Err(payloads),
        }
    }
}

/// Payloads of the bytes themselves: sealed, they come back; the file damaged as the bytes say, nothing else does.
pub fn frame(data: &[u8]) {
    let [how, edits, data @ ..] = data else {
        return;
    };
    let (edits, data) = data.split_at((*edits as usize % 8 * 4).min(data.len()));
    let compression = [
        Compression::None,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Snappy,
    ][*how as usize % 4];
    let on = how & 4 == 0;
    let mut file = new(FileKind::Journal, compression, on);
    let mut bytes = file.prefix;
    let payloads: Vec<&[u8]> = data.chunks((*how as usize >> 3) * 37 + 1).collect();
    for payload in &payloads {
        file.sealer
            .seal(FrameKind::Batches, payload, &OsRandom, &mut bytes)
            .expect("sealed");
    }
    bytes.resize(bytes.len() + 1024, 0);
    let open = |bytes: &[u8]| format::open(&bytes[..FRAMES_AT], &encryption(on));
    let (found, tail) = read(open(&bytes).expect("opens"), &bytes).expect("reads");
    assert!(found == payloads && tail == Tail::Open);
    let good = bytes.clone();
    for edit in edits.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize
            % (bytes.len() - FRAMES_AT)
            + FRAMES_AT;
        match edit[3] {
            0 => bytes.truncate(at),
            1 => bytes[at / 512 * 512..]
                .iter_mut()
                .take(512)
                .for_each(|byte| *byte = 0),
            2 => {
                let to = at / 512 * 512;
                let len = 512.min(bytes.len() - to);
                bytes.copy_within(FRAMES_AT..FRAMES_AT + len, to);
            }
            flip => bytes[at] ^= flip,
        }
        if bytes.len() < FRAMES_AT + 1024 {
            break;
        }
    }
    if bytes == good {
        return;
    }
    let found = match read(open(&bytes).expect("the first pages are good"), &bytes) {
        Ok((found, _)) | Err(found) => found,
    };
    assert!(
        payloads.starts_with(&found.iter().map(Vec::as_slice).collect::<Vec<_>>()),
        "never other data"
    );
    if let Ok(open) = format::open_without_key(&bytes[..FRAMES_AT]) {
        let _ = read(open, &bytes);
    }
}

fn whole(kind: FileKind, data: &[u8], check: impl Fn(&[u8])) {
    let [how, data @ ..] = data else { return };
    // The bytes are a payload, in a file that is good; or they are the file behind good first pages.
    if how % 2 == 0 {
        let frames = if kind.must_close() {
            FrameKind::Entries
        } else {
            FrameKind::Batches
        };
        let mut file = new(kind, Compression::None, false);
        let mut bytes = file.prefix;
        for part in data.chunks(*how as usize * 8 + 1) {
            file.sealer
                .seal(frames, part, &OsRandom, &mut bytes)
                .expect("sealed");
        }
        if kind.must_close() {
            file.sealer.close(&OsRandom, &mut bytes).expect("closed");
        }
        let open = format::open(&bytes[..FRAMES_AT], &Encryption::None).expect("opens");
        for payload in read(open, &bytes).expect("reads").0 {
            check(&payload);
        }
        check(data);
    } else {
        let mut bytes = new(kind, Compression::Zstd, how & 2 == 0).prefix;
        bytes.extend_from_slice(data);
        if let Ok(open) = format::open_without_key(&bytes[..FRAMES_AT]) {
            let _ = read(open, &bytes);
        }
        let open = format::open(&bytes[..FRAMES_AT], &encryption(how & 2 == 0)).expect("opens");
        let _ = read(open, &bytes);
    }
}

/// Entries, in images: what is read can be written again, to the same bytes.
pub fn image(data: &[u8]) {
    whole(FileKind::Image, data, |payload| {
        let entries: Result<Vec<EntryRef<'_>>, _> = record::entries(payload).collect();
        let Ok(entries) = entries else { return };
        let mut again = Vec::new();
        for entry in &entries {
            record::put_entry(&mut again, entry).expect("what was read can be written");
        }
        assert_eq!(again, payload, "an entry has one form");
    });
}

/// Batches, in ledgers: what is read can be written again, to the same bytes.
pub fn ledger(data: &[u8]) {
    whole(FileKind::Ledger, data, |payload| {
        let batches: Result<Vec<Batch<'_>>, _> = record::batches(payload).collect();
        let Ok(batches) = batches else { return };
        let mut again = Vec::new();
        for batch in batches {
            let ops: Vec<Op<'_>> = batch.ops;
            record::put_batch(
                &mut again,
                batch.revision,
                batch.time_ms,
                batch.actor,
                ops.into_iter(),
            )
            .expect("what was read can be written");
        }
        assert_eq!(again, payload, "a batch has one form");
    });
}

/// Pieces of an archive: what verifies holds what its header says, and nothing else.
pub fn piece(data: &[u8]) {
    let [how, from, to, last_ms, data @ ..] = data else {
        return;
    };
    let says = (u64::from(*from), u64::from(*to), u64::from(*last_ms));
    let mut file = create(FileKind::Archive, Compression::None, false, says);
    let mut bytes = file.prefix;
    if how % 2 == 0 {
        for part in data.chunks(usize::from(*how) * 8 + 1) {
            file.sealer
                .seal(FrameKind::Batches, part, &OsRandom, &mut bytes)
                .expect("sealed");
        }
        file.sealer.close(&OsRandom, &mut bytes).expect("closed");
    } else {
        bytes.extend_from_slice(data);
    }
    let chain = archive::verify_chain(&bytes[..]);
    let Ok(info) = archive::verify(&bytes[..], &Encryption::None) else {
        return;
    };
    assert_eq!(chain.expect("its chain is good too"), info.envelope);
    let envelope = info.envelope;
    assert_eq!((envelope.from + 1, envelope.to, envelope.last_ms), says);
    assert!(envelope.from < envelope.to);
    let most = envelope.to - envelope.from;
    assert!((1..=most).contains(&info.contents.batches));
}
