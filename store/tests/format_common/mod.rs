//! Files made from fixed inputs, for the tests of the format.
#![allow(dead_code)] // each test binary uses its own part

use std::sync::atomic::{AtomicU64, Ordering};

use codexstore::format::{
    self, FRAMES_AT, FileId, FileKind, FileSpec, FrameKind, Lineage, Link, NewFile, Reader, Step,
    StoreId, Tail,
};
use codexstore::{Compression, Encryption, Error, Key, KeyId, KeySize, Keyring, Random, Result};

/// Random bytes that are the same in every run.
pub struct Seed(AtomicU64);

impl Seed {
    pub fn new(seed: u64) -> Seed {
        Seed(AtomicU64::new(seed))
    }
}

impl Random for Seed {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        for byte in out {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            *byte = ((n ^ (n >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8;
        }
        Ok(())
    }
}

/// `None`, then one keyring per size of AES key; each with the frame's key size.
pub fn protections() -> Vec<(Encryption, KeySize)> {
    let mut all = vec![(Encryption::None, KeySize::Aes256)];
    all.extend(KeySize::ALL.map(|size| (keyring("k1", size), size)));
    all
}

/// A keyring of one key, whose bytes follow from its name.
pub fn keyring(id: &str, size: KeySize) -> Encryption {
    Encryption::Keyring(ring(&[id], size))
}

/// A keyring of several keys; the first is current.
pub fn ring(ids: &[&str], size: KeySize) -> Keyring {
    let keys = ids.iter().map(|id| {
        let mut bytes = vec![0; size.bytes()];
        Seed::new(
            id.bytes()
                .map(u64::from)
                .fold(7_u64, |a, b| a.wrapping_mul(257).wrapping_add(b)),
        )
        .fill(&mut bytes)
        .unwrap();
        (KeyId::new(*id).unwrap(), Key::new(&bytes).unwrap())
    });
    Keyring::new(KeyId::new(ids[0]).unwrap(), keys.collect()).unwrap()
}

pub fn spec(kind: FileKind, compression: Compression, key_size: KeySize) -> FileSpec {
    FileSpec {
        kind,
        store: StoreId([0x11; 16]),
        lineage: Lineage(0x0123_4567_89ab_cdef),
        file: FileId([0x22; 16]),
        epoch: 3,
        first_revision: 41,
        link: Link {
            file: FileId([0x33; 16]),
            sequence: 7,
            chain: [0x44; 32],
        },
        compression,
        key_size,
        created_ms: 1_790_000_000_000,
    }
}

pub fn journal(encryption: &Encryption) -> NewFile {
    let spec = spec(FileKind::Journal, Compression::None, KeySize::Aes256);
    format::create(&spec, encryption, &Seed::new(1)).unwrap()
}

/// A whole file with one frame per payload, and where each frame begins (and the last one ends).
pub fn build(
    mut new: NewFile,
    payloads: &[Vec<u8>],
    close: bool,
    zeros: usize,
) -> (Vec<u8>, Vec<usize>) {
    let kind = if new.header.kind.must_close() {
        FrameKind::Entries
    } else {
        FrameKind::Batches
    };
    let random = Seed::new(99);
    let mut bytes = new.prefix;
    let mut starts = vec![bytes.len()];
    for payload in payloads {
        let sealed = new.sealer.seal(kind, payload, &random, &mut bytes).unwrap();
        assert_eq!(sealed.offset + sealed.len as u64, bytes.len() as u64);
        starts.push(bytes.len());
    }
    if close {
        new.sealer.close(&random, &mut bytes).unwrap();
        starts.push(bytes.len());
    }
    bytes.resize(bytes.len() + zeros, 0);
    (bytes, starts)
}

/// Payloads of these lengths whose bytes do not compress.
pub fn noise(lens: &[usize]) -> Vec<Vec<u8>> {
    lens.iter()
        .enumerate()
        .map(|(i, len)| {
            let mut payload = vec![0; *len];
            Seed::new(i as u64 * 31 + 5).fill(&mut payload).unwrap();
            payload
        })
        .collect()
}

pub fn prefix(file: &[u8]) -> &[u8] {
    &file[..file.len().min(FRAMES_AT as usize)]
}

/// Everything that a file holds, or the first error and how many frames came before it.
pub fn read(file: &[u8], encryption: &Encryption) -> Result<(Vec<Vec<u8>>, Tail), (usize, Error)> {
    let open = format::open(prefix(file), encryption).map_err(|e| (0, e))?;
    read_frames(open, file)
}

pub fn read_frames(
    open: format::OpenFile,
    file: &[u8],
) -> Result<(Vec<Vec<u8>>, Tail), (usize, Error)> {
    let mut reader = Reader::new(open, file);
    let mut payloads = Vec::new();
    loop {
        match reader.step() {
            Ok(Step::Frame(frame)) => {
                assert_eq!(frame.sequence, payloads.len() as u64 + 1);
                payloads.push(frame.payload.to_vec());
            }
            Ok(Step::End(tail)) => return Ok((payloads, tail)),
            Err(error) => return Err((payloads.len(), error)),
        }
    }
}

/// The file must be refused as corrupt, after that many good frames.
#[track_caller]
pub fn assert_corrupt(file: &[u8], encryption: &Encryption, good: usize, what: &str) {
    match read(file, encryption) {
        Err((frames, error)) => {
            assert_eq!(error.code(), "corrupt", "{what}: {error:?}");
            assert_eq!(frames, good, "{what}: {error:?}");
            let message = error.to_string();
            assert!(message.contains("at offset"), "{what}: {message}");
        }
        Ok((frames, tail)) => panic!("{what}: read {} frames and {tail:?}", frames.len()),
    }
}
